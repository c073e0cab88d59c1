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

    # cast up, x / rms(x), times the weight, cast down: the first two are kept in fp32
    a, up, casts = "composite", x, []
    if e != 4:
        casts = [Map(f"{name}.cast", 2 * (4 + e) * n, 2, a, "norm")]
        up = t.op(f"{name}.cast", (x,), 2 * size, (), casts, role=OpRole.NORM)
    scale, square, rsqrt = f"{name}.scale", f"{name}.square", f"{name}.rsqrt"
    scaled = t.op(
        scale, (up,), t.sizes[up], (up,),
        [Map(square, 8 * n, 1, a, "norm"), Map(f"{name}.mean", 4 * n, 1, a, "norm"),
         Map(rsqrt, 16.0 * rows, 2, "", "norm"), Map(scale, 8 * n, 1, a, "norm")],
        [*casts, Map(scale, (8 + 12 + 4) * n, 3, a, "norm"),
         Map(rsqrt, 48.0 * rows, 4, a, "norm"), Map(square, (4 + 8 + 8 + 12) * n, 4, a, "norm"),
         Map(f"{name}.sum", 12 * n, 1, a, "norm")],
        role=OpRole.NORM, extra=4.0 * rows,
    )  # fmt: skip
    weight = f"{name}.weight"
    return t.op(
        name, (scaled,), size, (scaled,) if trained else (),
        [Map(weight, 2 * e * n, 1, "", "norm")],
        [Map(weight, 2 * e * n, 1, a, "norm"),
         *[Map(f"{name}.dw", 4 * e * n, 2, a, "norm")] * trained],
        role=OpRole.NORM, weight_gradient=gradient,
    )  # fmt: skip
