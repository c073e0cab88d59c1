"""Attention as kernels: projections, RoPE, and the core by implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.blocks.kernels import Kernel
from sim.blocks.linear import LinearStyle, linear
from sim.blocks.tape import Tape
from sim.inputs.workload import Workload

if TYPE_CHECKING:
    from sim.blocks.layer import Shape

#: FlashAttention's backward recomputes the scores: five products for the forward's two.
BACKWARD_PRODUCTS = 2.5


def visible_pairs(queries: int, keys: int, window: int | None, causal: bool = True) -> float:
    """Query-key pairs of a head and sequence that are not masked; `queries` share `keys` fairly.

    Full causal attention counts half the square, as flash kernels do; a window caps the keys a
    query sees.
    """
    if not causal:
        return float(queries) * keys
    if window is None or window >= keys:
        return queries * keys / 2
    return queries / keys * (window * keys - window * window / 2)


def attention(
    tape: Tape, workload: Workload, style: LinearStyle, shape: Shape, *, window: int | None
) -> None:
    """Projections, RoPE, attention core, output projection."""
    model, e = workload.model, tape.element
    d, tokens = model.hidden_size, shape.tokens
    q, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    bias = model.bias or model.qkv_bias
    core_module = "wqkv" if model.fused_qkv else "wv"
    if model.fused_qkv:
        linear(tape, style, "wqkv", tokens, d, q + 2 * kv, bias=bias)
        # autograd puts the three gradients together again
        tape.op(
            [], [tape.map("qkv.cat", "wqkv", 2.0 * e * tokens * (q + 2 * kv), direction="backward")]
        )
    else:
        for name, width in (("wq", q), ("wk", kv), ("wv", kv)):
            linear(tape, style, name, tokens, d, width, bias=bias, saves_input=name == "wq")
        # three linears read one input: two gradient sums
        tape.op(
            [], [tape.map("qkv.sum", "wq", 6.0 * e * tokens * d, count=2, direction="backward")]
        )
    if model.qk_norm:
        core_module = _qk_norm(tape, tokens, q, kv)
    if model.positions == "rope":
        _rope(tape, core_module, tokens, float(q), float(kv), model.rope_fraction)
    _core(tape, workload, shape, core_module, window)
    linear(tape, style, "wo", tokens, q, d, bias=model.bias or model.output_bias, saves_input=False)


def _qk_norm(tape: Tape, tokens: int, q: int, kv: int) -> str:
    e = tape.element
    for name, width in (("q_norm", q), ("k_norm", kv)):
        n = float(tokens * width)
        forward, backward = (2 * e, 5 * e) if tape.fused else (36, 98)
        launches = 1 if tape.fused else 8
        tape.op(
            [
                tape.map(
                    name,
                    name,
                    forward * n,
                    kind="norm",
                    count=launches,
                    saved=(e if tape.fused else 4 + e) * n,
                )
            ],
            [
                tape.map(
                    name, name, backward * n, kind="norm", count=2 * launches, direction="backward"
                )
            ],
        )
    return "k_norm"


def _rope(tape: Tape, module: str, tokens: int, q: float, kv: float, fraction: float) -> None:
    """Rotation of q and k. Eager: x cos, rotate half (neg, cat), x sin, add, on strided views."""
    e = tape.element
    n = tokens * (q + kv) * fraction
    if tape.one_kernel:
        tape.op(
            [tape.map("rope", module, 2 * e * n, access="fused", saved=e * n)],
            [tape.map("rope", module, 2 * e * n, access="fused", direction="backward")],
        )
        return
    access = "strided"
    tape.op(
        [
            tape.map(
                "rope.q",
                module,
                10 * e * tokens * q * fraction,
                access=access,
                count=5,
                saved=e * tokens * q * fraction,
            ),
            tape.map(
                "rope.k",
                module,
                10 * e * tokens * kv * fraction,
                access=access,
                count=5,
                saved=e * tokens * kv * fraction,
            ),
        ],
        [
            tape.map(
                "rope.k",
                module,
                11.5 * e * tokens * kv * fraction,
                access=access,
                count=7,
                direction="backward",
            ),
            tape.map(
                "rope.q",
                module,
                11.5 * e * tokens * q * fraction,
                access=access,
                count=7,
                direction="backward",
            ),
        ],
    )


def _core(tape: Tape, workload: Workload, shape: Shape, module: str, window: int | None) -> None:
    model, e = workload.model, tape.element
    heads, kv_heads, dim = model.heads, model.kv_heads, model.head_dim
    kind = workload.attention
    rows = float(shape.tokens)
    q, kv = rows * heads * dim, rows * kv_heads * dim
    repeat = kv_heads < heads and kind in ("eager", "sdpa", "cudnn", "triton")
    keep = e * (q if repeat else kv)
    if repeat:
        copy = 2.0 * e * (kv + q)
        tape.op(
            [tape.map("repeat_kv", module, copy, kind="copy", access="strided", count=2)],
            [tape.map("repeat_kv", module, copy, kind="reduction", count=2, direction="backward")],
        )
    if kind == "eager":
        _eager_core(tape, shape, module, heads, dim, keep, window)
        return
    pairs = visible_pairs(shape.length, shape.keys, window)
    flops = 4.0 * shape.sequences * heads * dim * pairs
    what = (shape.sequences, heads, kv_heads, shape.length, shape.keys, dim, 1, window or 0)
    traffic = e * (2 * q + 2 * (q if repeat else kv))

    def core(name: str, direction: str, factor: float, moved: float, saved: float = 0.0) -> Kernel:
        return Kernel(
            name=name,
            module=module,
            kind="attention",
            flops=factor * flops,
            bytes=moved,
            shape=what,
            dtype=tape.dtype,
            direction=direction,
            saved_bytes=saved,
            access=kind,
        )

    lse = 4.0 * rows * heads
    # v, the output and the row sums; q and k were saved by RoPE where there is one
    both = 0.0 if model.positions == "rope" and not repeat else e * q + keep
    saved = keep + e * q + lse + (keep if repeat and model.positions == "rope" else both)
    tape.op(
        [core("attention", "forward", 1.0, traffic, saved)],
        [
            tape.map(
                "attention.delta",
                module,
                2 * e * q + lse,
                kind="reduction",
                access="fused",
                direction="backward",
            ),
            core("attention", "backward", BACKWARD_PRODUCTS, 2 * traffic + 4 * q),
        ],
    )


def _eager_core(
    tape: Tape, shape: Shape, module: str, heads: int, dim: int, keep: float, window: int | None
) -> None:
    """Scores in memory: q k^T, scale, mask, softmax in fp32, cast, p v; masked ones as well."""
    e = tape.element
    batch = shape.sequences * heads
    s, t = shape.length, shape.keys
    n = float(batch * s * t)
    gemm = tape.gemm
    q = float(e * batch * s * dim)
    back = "backward"
    tape.op(
        [gemm("scores", module, s, t, dim, batch=batch, saved=q + keep)],
        [
            gemm("scores.dgrad", module, s, dim, t, batch=batch, direction="dgrad"),
            gemm("scores.dkey", module, t, dim, s, batch=batch, direction="dgrad"),
        ],
    )
    maps = 2 * e * n + (3 * e * n) + (e + 4 + 8 + 4 + e) * n
    if tape.fused:
        forward = [tape.map("softmax", module, 3 * e * n, kind="elementwise", saved=e * n)]
        backward = [tape.map("softmax", module, 3 * e * n, direction=back)]
    else:
        forward = [tape.map("softmax", module, maps, access="stream", count=5, saved=(4 + e) * n)]
        backward = [
            tape.map("softmax", module, (e + 4 + 12 + 4 + e + 2 * e) * n, count=4, direction=back)
        ]
    tape.op(forward, backward)
    tape.op(
        [gemm("values", module, s, dim, t, batch=batch, saved=q + keep)],
        [
            gemm("values.dgrad", module, s, t, dim, batch=batch, direction="dgrad"),
            gemm("values.dvalue", module, t, dim, s, batch=batch, direction="dgrad"),
        ],
    )
    out = 2.0 * e * batch * s * dim
    tape.op(
        [tape.map("heads.merge", module, out, kind="copy", access="strided", saved=q)],
        [tape.map("heads.merge", module, out, kind="copy", access="strided", direction=back)],
    )
