"""Multi-head attention with grouped key and value heads: projections, RoPE, core, output."""

from __future__ import annotations

from sim.blocks.kernels import Kernel
from sim.blocks.linear import linear
from sim.blocks.modules import OpRole, Position
from sim.blocks.norm import norm
from sim.blocks.ops import Exchange, Map, When
from sim.blocks.padding import padded, unpadded
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.blocks.tensor import enter, leave

#: FlashAttention's backward recomputes the scores: five products for the forward's two.
BACKWARD_PRODUCTS = 2.5
#: kernels that read key and value heads without repeating them
NATIVE_GROUPS = ("flash2", "flash3", "cudnn")
#: modules as the reference model registers them
REGISTERED = ("wqkv", "wq", "wk", "wv", "wo", "q_norm", "k_norm")


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


def attention(t: Tape, x: int, window: int | None) -> int:
    """The branch from the norm's output to what is added to the residual stream."""
    s, model = t.setting, t.setting.model
    d, e, dim = model.hidden_size, s.element, model.head_dim
    heads, kv_heads = s.split(model.heads), s.split(model.kv_heads)
    q_width, kv_width = heads * dim, kv_heads * dim
    x = enter(t, x, "wqkv") if model.fused_qkv else enter(t, x, "wq", "wv")
    bias = model.bias or model.qkv_bias
    if model.fused_qkv:
        width = q_width + 2 * kv_width
        # views of one tensor cost nothing; their gradients are joined
        q = k = v = linear(t, "wqkv", x, d, width, targets=("q", "k", "v"), bias=bias)
        t.unseen("qkv.cat", (), [Map("qkv.cat", 2.0 * e * s.tokens * width)])
    else:
        q = linear(t, "wq", x, d, q_width, targets=("q",), bias=bias)
        k = linear(t, "wk", x, d, kv_width, targets=("k",), bias=bias)
        v = linear(t, "wv", x, d, kv_width, targets=("v",), bias=bias)
        # three linears read one input: two gradient sums
        t.unseen("qkv.sum", (), [Map("qkv.sum", 6.0 * e * s.tokens * d, 2)], module="wq")
    if model.qk_norm:
        q = norm(t, "q_norm", q, dim, Position.INNER, heads=heads)
        k = norm(t, "k_norm", k, dim, Position.INNER, heads=kv_heads)
    if model.positions == "rope":
        q, k = rope(t, (q, q_width), (k, kv_width), model.rope_fraction)
    out = core(t, q, k, v, (heads, kv_heads, dim, dim), window)
    made = linear(
        t, "wo", out, q_width, d, Position.OUTPUT, targets=("o",),
        bias=model.bias or model.output_bias, wide=False,
    )  # fmt: skip
    return leave(t, made)


def rope(t: Tape, q: tuple[int, int], k: tuple[int, int], fraction: float = 1.0) -> tuple[int, int]:
    """Rotation of (tensor, width) q and k.

    Eager: x cos, rotate half (neg, cat), x sin, add; or, as complex numbers, a cast to fp32, the
    product and a cast back.
    """
    e = t.setting.element
    made = []
    both = q[1] + k[1]
    for name, (x, width) in (("rope.q", q), ("rope.k", k)):
        n = t.setting.tokens * float(width) * fraction
        forward = [Map(name, 10 * e * n, 5, "strided")]
        backward = [Map(name, 11.5 * e * n, 7, "strided")]
        if t.setting.complex_rope:
            casts = 2 * (e + 4) * n if e != 4 else 0.0
            forward = backward = [Map(name, casts + 8 * n, 3 if casts else 1)]
        if t.setting.fused_rope:
            one = [Map("rope", 2 * e * (t.setting.tokens * both * fraction), 1, "fused")]
            forward = backward = one if name == "rope.q" else []
        made.append(t.op(name, (x,), t.size(width), (), forward, backward))
    return made[0], made[1]


def core(
    t: Tape, q: int, k: int, v: int, heads: tuple[int, int, int, int], window: int | None
) -> int:
    """Scores, softmax and values; `heads`: of queries, of keys, sizes of a key and of a value.

    A flash-like kernel keeps its inputs, its output and a number a row and head.
    """
    s = t.setting
    e, rows = s.product, float(s.tokens)
    n_heads, kv_heads, dim, value_dim = heads
    queries, keys = rows * n_heads * dim, rows * kv_heads * dim
    outputs, values = rows * n_heads * value_dim, rows * kv_heads * value_dim
    moved = (e * (keys + values), e * queries, e * outputs)
    exchanges = exchanged(t, *moved, kv_heads)
    if s.upcast:  # flash kernels take no fp32; what they return is as they computed it
        q, k, v = narrowed(t, q, queries), narrowed(t, k, keys), narrowed(t, v, values)
    if kv_heads < n_heads and s.attention not in NATIVE_GROUPS:
        copy = 1.0 * e * (keys + values + queries + outputs)
        forward = [Map("repeat_kv", copy, 2, "strided", "copy")]
        backward = [Map("repeat_kv", copy, 2, "", "reduction")]
        k = t.op("repeat.k", (k,), e * queries, (), forward, backward)
        v = t.op("repeat.v", (v,), e * outputs)
        keys, values = queries, outputs
    if s.attention == "eager":
        return _eager(t, q, k, v, heads, window, exchanges)
    if s.checks_positions:
        t.unseen("positions", [Map("positions.ascend", 26.0 * rows, 3),
                               Map("positions.item", 1.0, kind="copy", waits=True)])  # fmt: skip
    if s.unpads:
        q, k, v = unpadded(t, (q, queries), (k, keys), (v, values))
    many, length, seen = _attended(s)
    flops = 2.0 * many * n_heads * (dim + value_dim) * visible_pairs(length, seen, window)
    traffic = e * (queries + keys + values + outputs) * s.attended_share
    what = (max(1, round(many)), n_heads, kv_heads, length, seen, dim, 1, window or 0)
    lse = 4.0 * rows * n_heads
    qkv = tuple(dict.fromkeys((q, k, v)))

    def kernel(direction: str, factor: float, bytes_: float) -> Kernel:
        return Kernel(
            "attention", t.module, "attention", factor * flops, bytes_, what, s.dtype, direction,
            access=s.attention, role=OpRole.ATTENTION,
        )  # fmt: skip

    out = t.op(
        "attention", qkv, e * outputs, qkv,
        [kernel("forward", 1.0, traffic)],
        [Map("attention.delta", 2 * e * outputs + lse, 1, "fused", "reduction"),
         kernel("backward", BACKWARD_PRODUCTS, 2 * traffic + 4 * queries)],
        role=OpRole.ATTENTION, own=True, kept_by_policy=True, extra=lse, gradients=2,
        flops=counted(t, n_heads * (dim + value_dim), window), exchanges=exchanges,
        scratch=_buffers(t, *moved),
    )  # fmt: skip
    return padded(t, out, outputs) if s.unpads else out


def narrowed(t: Tape, x: int, elements: float) -> int:
    """An fp32 activation in the dtype of products; its gradient is cast back."""
    cast = [Map("attention.cast", (t.setting.element + t.setting.product) * elements, 1, "cast")]
    return t.op("attention.cast", (x,), t.setting.product * elements, (), cast, cast)


def counted(t: Tape, width: int, window: int | None) -> float:
    """FLOPs of both products by the convention: all keys a query could see, masked ones too. [1]"""
    s = t.setting
    many, length, keys = _attended(s)
    return 2.0 * width * min(keys, window or keys) * (many * length)


def _attended(s: Setting) -> tuple[float, int, int]:
    """Sequences that attention runs on, their queries and their keys.

    Samples in a row, or rows without padding, are as many sequences of the length at which they
    have the pairs that samples of unequal length have: T / l sequences of l = E[l^2] / E[l].
    """
    if not s.attended:
        return s.sequences, s.length, s.keys
    length = max(1, round(s.attended))
    return s.tokens * s.attended_share / length, length, length


def exchanged(
    t: Tape, pairs: float, queries: float, outputs: float, kv_heads: int
) -> tuple[Exchange, ...]:
    """What ranks that share a sequence send each other for it, forward and backward. [B]

    ``all-gather``: keys and values are gathered before attention, their gradients reduce-scattered
    after its backward; both are waited for (Llama 3, section 3.3.2). ``ring``: keys and values
    travel round the ring beside attention on what has arrived; in backward their gradients travel
    too (ring attention; torch's `context_parallel`). ``ulysses``: all-to-alls turn parts of the
    sequence into parts of the heads before attention, and back after it.
    """
    ranks, kind = t.setting.context, t.setting.context_kind
    if ranks == 1:
        return ()

    def one(what: str, sent: float, got: float, when: When, backward: bool = False) -> Exchange:
        return Exchange(what, "cp", sent, got, when, backward)

    if kind == "ring":
        size = (ranks - 1) * pairs
        return (
            one("send_recv", size, size, When.BESIDE),
            one("send_recv", 2 * size, 2 * size, When.BESIDE, True),
        )
    if kind == "all-gather":
        return (
            one("all_gather", pairs, pairs * ranks, When.BEFORE),
            one("reduce_scatter", pairs * ranks, pairs, When.AFTER, True),
        )
    if kv_heads < ranks:
        pairs *= ranks / kv_heads  # each rank needs a whole head
    there, back = queries + pairs, outputs
    return (
        one("all_to_all", there, there, When.BEFORE),
        one("all_to_all", back, back, When.AFTER),
        one("all_to_all", back, back, When.BEFORE, True),
        one("all_to_all", there, there, When.AFTER, True),
    )


def _buffers(t: Tape, pairs: float, queries: float, outputs: float) -> float:
    """Buffers of an exchange, alive while attention runs.

    Ring: keys and values in use and arriving, and an fp32 output being merged. All-gather: keys
    and values of the whole sequence. Ulysses: the four tensors by heads instead of positions.
    """
    s = t.setting
    if s.context == 1:
        return 0.0
    if s.context_kind == "ring":
        return 2 * pairs + 4.0 * outputs / s.element
    return s.context * pairs if s.context_kind == "all-gather" else pairs + queries + outputs


def _eager(
    t: Tape, q: int, k: int, v: int, heads: tuple[int, int, int, int], window: int | None,
    exchanges: tuple[Exchange, ...],
) -> int:  # fmt: skip
    """Scores in memory: q k^T, scale, mask, softmax in fp32, cast, p v; masked ones as well."""
    s = t.setting
    e, length, keys = s.element, s.length, s.keys
    n_heads, _, dim, value_dim = heads
    batch = s.sequences * n_heads
    n = float(batch * length * keys)
    role = OpRole.ATTENTION

    def gemm(name: str, m: int, n: int, k: int, way: str = "forward") -> Kernel:
        return t.gemm(name, m, n, k, way, batch=batch, role=role)

    qk = tuple(dict.fromkeys((q, k)))
    scores = t.op(
        "scores", qk, e * n, qk,
        [gemm("scores", length, keys, dim)],
        [gemm("scores.dgrad", length, dim, keys, "dgrad"),
         gemm("scores.dkey", keys, dim, length, "dgrad")],
        role=role, product=True, gradients=2, flops=counted(t, n_heads * dim, window),
        exchanges=exchanges,
    )  # fmt: skip
    if t.fused:
        forward = backward = [Map("softmax", 3 * e * n, 1, "fused")]
    else:
        forward = [Map("softmax", (2 * e + 3 * e + (e + 4 + 8 + 4 + e)) * n, 5)]
        backward = [Map("softmax", (e + 4 + 12 + 4 + e + 2 * e) * n, 4)]
    # softmax in fp32, kept, and its cast, kept for the product with v
    soft = t.op("softmax", (scores,), 4.0 * n, (), forward, backward, role=role, own=True)
    if e != 4:
        soft = t.op("softmax.cast", (soft,), e * n, role=role)
    out = float(e * batch * length * value_dim)
    made = t.op(
        "values", (soft, v), out, (soft, v),
        [gemm("values", length, value_dim, keys)],
        [gemm("values.dgrad", length, keys, value_dim, "dgrad"),
         gemm("values.dvalue", keys, value_dim, length, "dgrad")],
        role=role, product=True, gradients=2, flops=counted(t, n_heads * value_dim, window),
    )  # fmt: skip
    merge = [Map("heads.merge", 2 * out, 1, "strided", "copy")]
    t.unseen("heads.merge", merge, merge, role=role)
    return made
