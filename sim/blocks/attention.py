"""Multi-head attention with grouped key and value heads: projections, RoPE, core, output."""

from __future__ import annotations

from sim.blocks import context
from sim.blocks.attention_type import AttentionType
from sim.blocks.kernels import Kernel
from sim.blocks.linear import linear
from sim.blocks.modules import OpRole, Position
from sim.blocks.norm import norm
from sim.blocks.ops import Exchange, Map, softcap
from sim.blocks.padding import padded, unpadded
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.blocks.tensor import leave, makes_sums, read_by, summed_tokens
from sim.inputs.model import Model

#: FlashAttention's backward recomputes the scores: five products for the forward's two.
BACKWARD_PRODUCTS = 2.5


def attention(t: Tape, x: int, window: int | None) -> int:
    """The branch from the norm's output to what is added to the residual stream."""
    s, model = t.setting, t.setting.model
    d, e = model.hidden_size, s.element
    kv_heads, dim = model.key_heads(window is not None)
    heads, kv_heads = s.split(model.heads), s.split(kv_heads)
    one = model.values_are_keys and window is None
    q_width, kv_width = heads * dim, kv_heads * dim
    separate = ("wq", "wk") if one else ("wq", "wk", "wv")
    read = read_by(t, x, *(("wqkv",) if model.fused_qkv else separate))
    bias = model.bias or model.qkv_bias
    if model.fused_qkv:
        width = q_width + 2 * kv_width
        # views of one tensor cost nothing; their gradients are joined
        q = k = v = linear(t, "wqkv", read("wqkv"), d, width, targets=("q", "k", "v"), bias=bias)
        t.unseen("qkv.cat", (), [Map("qkv.cat", 2.0 * e * s.tokens * width)])
        if s.copies_heads == "apart":
            put_apart(t, q_width, kv_width)
        elif s.copies_heads and model.positions == "rope":
            v = _copied(t, "v.copy", v, kv_width)
            if kv_heads > 1:  # queries of several groups do not follow each other
                q = _copied(t, "q.copy", q, q_width)
    else:
        columns = q_width * (2 if model.attention_gate else 1)
        q = both = linear(t, "wq", read("wq"), d, columns, targets=("q",), bias=bias)
        k = linear(t, "wk", read("wk"), d, kv_width, targets=("k",), bias=bias)
        v = k if one else linear(t, "wv", read("wv"), d, kv_width, targets=("v",), bias=bias)
        # so many linears read one input: gradient sums, one fewer
        sums = len(separate) - 1
        summed = [Map("qkv.sum", 3.0 * sums * e * summed_tokens(t) * d, sums)]
        t.unseen("qkv.sum", (), summed, module="wq")
    if model.qk_norm_whole:
        q = norm(t, "q_norm", q, q_width, Position.INNER)
        k = norm(t, "k_norm", k, kv_width, Position.INNER)
    elif model.qk_norm:
        q = norm(t, "q_norm", q, dim, Position.INNER, heads=heads)
        k = norm(t, "k_norm", k, dim, Position.INNER, heads=kv_heads)
    if model.positions == "rope":
        q, k = rope(t, (q, q_width), (k, kv_width), model.rope_fraction)
    out = core(t, q, k, v, (heads, kv_heads, dim, dim), window)
    if model.attention_sinks:
        out = sinks(t, out, heads)
    if model.attention_gate:
        out = gated(t, out, both)
    makes_sums(t, "wo")
    made = linear(
        t, "wo", out, q_width, d, Position.OUTPUT, targets=("o",),
        bias=model.bias or model.output_bias, wide=False,
    )  # fmt: skip
    return leave(t, made)


def _copied(t: Tape, name: str, x: int, width: int) -> int:
    """Columns of a tensor, in a row; their gradients are joined with those of the others."""
    size = t.size(width)
    return t.op(name, (x,), size, (), [Map(name, 2 * size, 1, "strided", "copy")])


def gated(t: Tape, out: int, both: int) -> int:
    """Attention's output times a sigmoid, of columns that the projection of queries makes too.

    Source: transformers 5.24, modeling_qwen3_next.py: ``attn_output * torch.sigmoid(gate)``.
    """
    size = t.sizes[out]
    copy = [Map("gate.copy", 2 * size, 1, "strided", "copy")]
    back = [Map("gate.cat", 4 * size, 1, "strided", "copy")]
    # views of one tensor, whose gradients are put together where the queries' arrive
    opened = t.op("gate.copy", (both,), size, (), copy, back)
    opened = t.op(
        "gate.sigmoid", (opened,), size, (), [Map("gate.sigmoid", 2 * size)],
        [Map("gate.sigmoid", 3 * size)], own=True,
    )  # fmt: skip
    return t.op(
        "gate", (out, opened), size, (out, opened), [Map("gate.mul", 3 * size)],
        [Map("gate.mul", 6 * size, 2)],
    )  # fmt: skip


def sinks(t: Tape, out: int, heads: int) -> int:
    """A logit of each head that softmax runs over too, and that has no value.

    Attention's kernel leaves it out; its output is scaled by what is left, sigmoid(lse - sink).

    Source: torchtitan, models/gpt_oss: ``output * sigmoid(lse - sinks)``.
    """
    t.register("sinks", OpRole.OTHER, Position.INNER, [("weight", (heads,))])
    size, lse = t.sizes[out], 4.0 * t.setting.tokens * heads
    return t.op(
        "sinks", (out,), size, (out,), [Map("sinks.scale", lse, 2), Map("sinks", 2 * size)],
        [Map("sinks", 5 * size, 2), Map("sinks.scale", 3 * lse, 3, kind="reduction")],
        weight_gradient=t.setting.element * heads * (not t.setting.frozen), extra=lse,
    )  # fmt: skip


def put_apart(t: Tape, q: int, kv: int) -> None:
    """Copies around q, k and v of so many columns, as nanotron's attention has them.

    Forward: q, k and v from one another, k and v together, and their dimensions turned round; of
    several sequences the output too, whose outermost dimension is the sequence. Backward: the
    gradients of k and v together, and all three turned back.
    """
    s = t.setting
    column, whole = 2.0 * s.element * s.tokens, q + 2 * kv
    output = [q] if s.sequences > 1 else []

    def copy(*widths: int) -> list[Map]:
        return [Map("heads.copy", column * width, 1, "strided", "copy") for width in widths]

    t.unseen("heads.copy", copy(whole, 2 * kv, 2 * kv, *output), copy(*output, 2 * kv, whole))


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
    widths = (n_heads * dim, kv_heads * dim, kv_heads * value_dim, n_heads * value_dim)
    sizes = moved = context.TensorBytes(*(e * rows * width for width in widths))
    if s.upcast:  # flash kernels take no fp32; what they return is as they computed it
        q, k, v = (narrowed(t, x, rows * w) for x, w in zip((q, k, v), widths, strict=False))
    ring = context.travels(s)  # which is inside the kernel's call, and sees what that sees
    if not ring:
        context.open_parts(t)
    k, v, sizes = context.gathered(t, k, v, sizes)
    if kv_heads < n_heads and s.repeats_heads:
        more = n_heads / kv_heads
        copy = (1.0 + more) * sizes.pairs
        forward = [Map("repeat_kv", copy, 2, "strided", "copy")]
        backward = [Map("repeat_kv", copy, 2, "", "reduction")]
        sizes = sizes._replace(keys=more * sizes.keys, values=more * sizes.values)
        k = t.op("repeat.k", (k,), sizes.keys, (), forward, backward)
        v = t.op("repeat.v", (v,), sizes.values)
    if ring:
        context.open_parts(t)
        moved = sizes
    exchanges = context.exchanged(s, moved, kv_heads)
    turns = context.turns(s, moved, kv_heads)
    if s.attention == "eager":
        t.unseen("cp.turn", turns, turns)
        return _eager(t, q, k, v, heads, window, exchanges)
    if s.checks_positions:
        t.unseen("positions", [Map("positions.ascend", 26.0 * rows, 3),
                               Map("positions.item", 1.0, kind="copy", waits=True)])  # fmt: skip
    if s.unpads:
        q, k, v = unpadded(t, *((x, size / e) for x, size in zip((q, k, v), sizes, strict=False)))
    qkv = tuple(dict.fromkeys((q, k, v)))
    ahead, back = ([*turns, *calls] for calls in _calls(t, sizes, heads, window))
    scratch, backward_scratch = context.buffers(s, sizes)
    out = t.op(
        "attention", qkv, sizes.outputs, qkv, ahead, back,
        role=OpRole.ATTENTION, own=True, extra=4.0 * rows * n_heads, gradients=2,
        kept_by_policy=s.attention != "te",  # whose kernel is no operator of torch
        flops=counted(t, n_heads * (dim + value_dim), window), exchanges=exchanges,
        scratch=scratch, backward_scratch=backward_scratch,
    )  # fmt: skip
    return padded(t, out, sizes.outputs / e) if s.unpads else out


def _calls(
    t: Tape, sizes: context.TensorBytes, heads: tuple[int, int, int, int], window: int | None
) -> tuple[list[Map | Kernel], list[Map | Kernel]]:
    """Calls of the fused kernel, forward and backward, with what is between them."""
    s = t.setting
    many, length, seen = _attended(s)
    n_heads, kv_heads, dim, value_dim = heads
    delta = 2 * sizes.outputs + 4.0 * s.tokens * n_heads
    ahead: list[Map | Kernel] = []
    back: list[Map | Kernel] = []
    for call, piece in enumerate(context.pieces(s, length, seen, window)):
        flops = 2.0 * many * n_heads / piece.heads * (dim + value_dim) * piece.pairs
        traffic = sizes.queries + sizes.outputs + piece.share * sizes.pairs
        traffic *= s.attended_share
        what = (
            max(1, round(many)), *(max(1, h // piece.heads) for h in (n_heads, kv_heads)),
            piece.queries, piece.keys, dim, int(piece.causal), window or 0,
        )  # fmt: skip
        one, two = (context.part(s, call, way) for way in (False, True))
        ahead.append(_kernel(t, one, "forward", flops, traffic, what))
        ahead += context.merged(s, call, sizes)
        back.append(Map("attention.delta", delta, 1, "fused", "reduction", part=two))
        traffic = 2 * traffic + 4.0 * sizes.queries / s.product
        back.append(_kernel(t, two, "backward", BACKWARD_PRODUCTS * flops, traffic, what))
        back += context.added(s, call, sizes)
    return ahead, back


def _kernel(
    t: Tape, part: str, direction: str, flops: float, traffic: float, what: tuple[int, ...]
) -> Kernel:
    return Kernel(
        "attention", part or t.module, "attention", flops, traffic, what, t.setting.dtype,
        direction, access=t.setting.attention, role=OpRole.ATTENTION,
    )  # fmt: skip


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


def _eager(
    t: Tape, q: int, k: int, v: int, heads: tuple[int, int, int, int], window: int | None,
    exchanges: tuple[Exchange, ...],
) -> int:  # fmt: skip
    """Scores in memory: q k^T, scale, mask, softmax in fp32, cast, p v; masked ones as well.

    Megatron-LM's kernel reads scores and writes probabilities, in their dtype
    (``scaled_upper_triang_masked_softmax``, which its own scripts leave on), where it runs.
    """
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
    if "scores" in s.model.softcaps:
        scores = t.op(
            "scores.softcap", (scores,), e * n, (), *softcap("scores.softcap", e * n, t.fused),
            role=role, own=True,
        )  # fmt: skip
    fuses = s.fuses_softmax and _softmax_kernel(s.dtype, length, keys, batch)
    if fuses:  # from scores to probabilities, and from one gradient to the other
        forward = [Map("softmax", 2 * e * n, 1, "fused")]
        backward = [Map("softmax", 3 * e * n, 1, "fused")]
    elif t.fused:
        forward = backward = [Map("softmax", 3 * e * n, 1, "fused")]
    else:
        forward = [Map("softmax", (2 * e + 3 * e + (e + 4 + 8 + 4 + e)) * n, 5)]
        backward = [Map("softmax", (e + 4 + 12 + 4 + e + 2 * e) * n, 4)]
    # softmax in fp32, kept, and its cast, kept for the product with v
    kept = e if fuses else 4.0
    soft = t.op("softmax", (scores,), kept * n, (), forward, backward, role=role, own=True)
    if e != kept:
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


def _softmax_kernel(dtype: str, queries: int, keys: int, batch: float) -> bool:
    """Whether Megatron-LM's fused softmax takes scores of a shape; else torch's, in fp32.

    Source: Megatron-LM, core/fusions/fused_softmax.py, `FusedScaleMaskSoftmax.is_kernel_available`.
    """
    whole = not (queries % 4 or keys % 4 or batch % 4)
    return dtype in ("fp16", "bf16") and 16 < keys <= 16384 and whole


def _cached(model: Model, tensor: int, slides: bool) -> float:
    """Keys and values of the heads that a GPU has."""
    kv_heads, dim = model.key_heads(slides)
    return 2.0 * -(-kv_heads // tensor) * dim


HEADS = AttentionType(
    takes=lambda model: True,
    play=attention,
    registered=("wqkv", "wq", "wk", "wv", "wo", "sinks", "q_norm", "k_norm"),
    cached=_cached,
)
