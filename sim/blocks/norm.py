"""RMSNorm and LayerNorm."""

from __future__ import annotations

from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map
from sim.blocks.tape import Tape


def norm(
    t: Tape, name: str, x: int, width: int, place: Position = Position.STREAM, *, heads: int = 1
) -> int:
    """A norm over rows of `width`, `heads` of them a token; its output's tensor.

    Bytes per element of the tensor named, reads plus writes; `e` is the activation's size. Checked
    against kernel timings by ``bench/fit/elementwise.py``.
    """
    s, model = t.setting, t.setting.model
    inner = place is Position.INNER
    e, tokens, trained = s.element, s.tokens if inner else s.stream_tokens, not s.frozen
    layernorm = model.norm == "layernorm"
    bias = layernorm and (model.bias if model.norm_bias is None else model.norm_bias)
    shapes = [("weight", (width,)), ("bias", (width,))]
    partial = s.splits_stream or (inner and s.tensor > 1)
    t.register(name, OpRole.NORM, place, shapes if bias else shapes[:1], partial=partial)
    n, rows, size = float(tokens * width * heads), tokens * heads, float(e * tokens * width * heads)
    gradient = float(e * width * (2 if bias else 1)) if trained else 0.0
    if layernorm or s.fused_norms:
        a = "fused" if t.fused else "rows"
        back = [Map(f"{name}.dx", 3 * e * n, 1, a, "norm")]
        back += [Map(f"{name}.dw", 2 * e * n, 1, a, "norm")] * trained
        return t.op(
            name, (x,), size, (x,), [Map(name, 2 * e * n, 1, a, "norm")], back,
            role=OpRole.NORM, weight_gradient=gradient, extra=4.0 * rows * (2 if layernorm else 1),
        )  # fmt: skip

    def composite(*table: tuple[str, float, int]) -> list[Map]:
        return [Map(f"{name}.{what}", b, count, "composite", "norm") for what, b, count in table]

    # cast up, x / rms(x), times the weight, cast down: the first two are kept in fp32
    up, casts = x, []
    if e != 4:
        casts = [("cast", 2 * (4 + e) * n, 2)]
        up = t.op(f"{name}.cast", (x,), 2 * size, (), composite(*casts), role=OpRole.NORM)
    scaled = t.op(
        f"{name}.scale", (up,), t.sizes[up], (up,),
        [*composite(("square", 8 * n, 1), ("mean", 4 * n, 1)),
         Map(f"{name}.rsqrt", 16.0 * rows, 2, "", "norm"), *composite(("scale", 8 * n, 1))],
        composite(*casts, ("scale", (8 + 12 + 4) * n, 3),
                  ("rsqrt", 48.0 * rows, 4), ("square", (4 + 8 + 8 + 12) * n, 4),
                  ("sum", 12 * n, 1)),
        role=OpRole.NORM, extra=4.0 * rows,
    )  # fmt: skip
    return t.op(
        name, (scaled,), size, (scaled,) if trained else (),
        [Map(f"{name}.weight", 2 * e * n, 1, "", "norm")],
        composite(("weight", 2 * e * n, 1), *[("dw", 4 * e * n, 2)] * trained),
        role=OpRole.NORM, weight_gradient=gradient,
    )  # fmt: skip
