"""Mixture of experts: router, permutation, products, weighted sum.

``grouped``: tokens are permuted once, all experts' products of a kind are one kernel and their
matrices one parameter (torchtitan's `GroupedExperts`). ``eager``: Hugging Face's loop over the
experts, each of which finds its tokens (the host waits for how many), gathers them, multiplies, and
adds its share to the whole output; in backward each makes and adds a gradient of all tokens.
``sorted``: a group whose products run one by one, where the grouped kernel does not; the host waits
once a product for where each expert's tokens are. ``all``: every expert multiplies every token,
scaled by its score, zero for most, in one batch. A loop that takes an expert's matrix from a stack
by its index has a gradient of the whole stack of each, zeros but for it, which autograd adds. Where
ranks hold parts of the experts, `sim.blocks.dispatch` says how tokens reach them.

Source of the loop's kernels: sim/data/host/modelling.json, recorded from Mixtral; of ``sorted``:
transformers 5.24, integrations/moe.py, ``_grouped_mm_fallback``; of ``all``: modeling_llama4.py.
"""

from __future__ import annotations

from sim.blocks import dispatch
from sim.blocks.adapters import Routed, adapter
from sim.blocks.ffn import GATED, mlp
from sim.blocks.linear import adapted, linear, matrix
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map, joined
from sim.blocks.tape import Tape
from sim.blocks.tensor import enter, leave, scores_back
from sim.units import DTYPE_BYTES

#: modules as the reference model registers them
REGISTERED = ("router", "experts", *dispatch.REGISTERED, "shared_experts", "shared_gate")
#: kernels of an accumulating index_put on a GPU, which sorts its indices first
INDEX_PUT = 6
TARGETS = {"w1": ("gate",), "w2": ("down",), "w3": ("up",)}


def mixture(t: Tape, x: int) -> int:
    """The routed and the shared experts; all routed ones are one module, fetched as a whole."""
    read = x
    if t.setting.expert > 1:
        out = _spread(t, x)
    else:
        read = enter(t, x, "router")
        out = _routed(t, read)
    return _shared(t, x, read, out) if t.setting.model.shared_experts else out


def _routed(t: Tape, x: int) -> int:
    """The experts of this rank's tokens, all of them here (or a part of each, tensor-parallel)."""
    s, model = t.setting, t.setting.model
    weights = _route(t, x, s.splits_stream)
    scores_back(t, model.experts_per_token, "router")
    sent = _permute(t, x)
    t.apart = model.experts if s.experts == "eager" else 1
    made = _experts(t, sent, model.experts, s.split(_width(t)))
    t.apart = 1
    return leave(t, _unpermute(t, made, weights))


def _spread(t: Tape, x: int) -> int:
    """Experts on other ranks, of the tokens that this rank holds of the residual stream."""
    s = t.setting
    if s.splits_stream and s.model.shared_experts:
        t.unseen("shared_experts.join", module="router", exchanges=(joined("tp"),))
    with t.of_stream():
        weights = _route(t, x, s.splits_stream)
        sent = dispatch.dispatch(t, x)
        sorted_by = dispatch.arrange(t, sent, "experts")
        made = _experts(t, sorted_by, s.model.experts // s.expert, _width(t), s.load)
        return dispatch.combine(t, made, weights)


def _width(t: Tape) -> int:
    """Columns of a routed expert."""
    model = t.setting.model
    return model.expert_ffn_size or model.ffn_size


def _route(t: Tape, x: int, partial: bool) -> int:
    """Scores of each token's experts; `partial`: other ranks' routers see other positions."""
    model = t.setting.model
    n_experts = model.experts
    router = linear(
        t, "router", x, model.hidden_size, n_experts, role=OpRole.ROUTER, partial=partial,
        bias=model.router_bias,
    )  # fmt: skip
    choice = 4.0 * t.setting.tokens * n_experts
    return t.op(
        "router.softmax", (router,), choice, (),
        [Map("router.choose", 6 * choice, 8)], [Map("router.choose", 4 * choice, 4)],
        role=OpRole.ROUTER, own=True,
    )  # fmt: skip


def _experts(t: Tape, sent: int, held: int, f: int, load: float = 1.0) -> int:
    """Products of the experts held here, `f` columns each, on `load` times the mean's tokens."""
    s, model = t.setting, t.setting.model
    d, top = model.hidden_size, _copies(t)
    names = ("w1", "w2", "w3") if model.ffn in GATED else ("w1", "w2")
    sides = {"w1": (d, f), "w2": (f, d), "w3": (d, f)}
    active, bias = model.experts_per_token / model.experts, model.mlp_bias
    every: list[tuple[str, tuple[int, ...]]]
    # adapters stand beside matrices; bitsandbytes packs `nn.Linear` alone, and leaves a stack whole
    unpacked = s.stacked and s.method.quantization == "nf4"
    if unpacked or (s.stacked and not s.method.frozen):
        every = [(name, (held, *sides[name][::-1])) for name in names]
        every += [(f"{name}.bias", (held, sides[name][1])) for name in names if bias]
        calls = 1
    else:
        every = [(f"{i}.{name}", sides[name][::-1]) for i in range(held) for name in names]
        ends = [(i, name) for i in range(held) for name in names if bias]
        every += [(f"{i}.{name}.bias", sides[name][1:]) for i, name in ends]
        calls = held * len(names)
    module = t.register(
        "experts", OpRole.LINEAR, Position.WHOLE, every, active=active, calls=calls,
        expert=s.expert > 1,
    )  # fmt: skip
    low = [name for name in names if adapted(t, TARGETS[name])]
    for suffix in "AB" if low else "":
        r = s.method.rank
        shapes = {n: (r, sides[n][0]) if suffix == "A" else (sides[n][1], r) for n in low}
        pairs = [(f"{i}.{n}", shapes[n]) for i in range(held) for n in low]
        t.register(
            f"{module}.{suffix}", OpRole.ADAPTER, Position.WHOLE, pairs, base=module, active=active,
            calls=held * len(low),
        )  # fmt: skip
    rows = max(1, -(-round(s.tokens * top * load) // held))
    by = Routed(held, rows, top * load)
    looped = s.expert_gradients and not s.method.frozen
    stacks = _stacks(t, float(held * d * f)) if looped else {}
    # the gradient being made, and how much wider than a product's those are that are there
    beside = stacks.get("w1", 0.0) + (1 - s.element / _parameter(t)) * sum(stacks.values())

    def grouped(name: str, read: int) -> int:
        if s.experts == "sorted":
            ends = [Map(f"{name}.ends", 4.0 * held, kind="copy", waits=True)]
            t.unseen(f"{name}.ends", ends, ends)
        t.singly = s.experts == "sorted"
        last = beside if name == "w1" else 0.0
        out = matrix(
            t, name, read, *sides[name], by, bias=bias, packs=not unpacked, beside=last
        )  # fmt: skip
        t.singly = False
        if name in stacks:
            _join_gradient(t, name, held, stacks[name])
        if name not in low:
            return out
        return adapter(t, name, read, out, *sides[name], f"{module}.A", f"{module}.B", by)

    return mlp(t, sent, grouped, f * top * load)


def _parameter(t: Tape) -> float:
    """Bytes of an element of what autograd has a gradient of: under autocast the fp32 weight."""
    return DTYPE_BYTES["fp32"] if t.setting.autocast else t.setting.element


def _stacks(t: Tape, each: float) -> dict[str, float]:
    """Bytes of the stacks, `each` elements a matrix, under the first of the matrices in one.

    Gate and up are one parameter (``gate_up_proj``, Granite's ``input_linear``), but DBRX'.
    """
    model, size = t.setting.model, each * _parameter(t)
    if model.ffn not in GATED:
        return {"w1": size, "w2": size}
    if model.expert_loop == "chunked":
        return {"w1": size, "w2": size, "w3": size}
    return {"w1": 2 * size, "w2": size}


def _join_gradient(t: Tape, name: str, held: int, whole: float) -> None:
    """What autograd makes of its experts' parts of a stack's gradient, of `whole` bytes."""
    apart, t.apart = t.apart, 1
    if t.setting.expert_gradients == "added":  # zeros; then read, read and written
        t.unseen(f"{name}.part", (), [Map(f"{name}.part", 4 * held * whole, 2 * held)])
    else:
        t.unseen(f"{name}.cat", (), [Map(f"{name}.cat", 2 * whole)])
    t.apart = apart


def _copies(t: Tape) -> int:
    """How many experts multiply each token."""
    model = t.setting.model
    return model.experts if t.setting.experts == "all" else model.experts_per_token


def _permute(t: Tape, x: int) -> int:
    """Tokens in the order of their experts, each as often as it has experts."""
    s, model = t.setting, t.setting.model
    e, tokens, d, n_experts = s.element, s.tokens, model.hidden_size, model.experts
    top = _copies(t)
    n, whole = float(tokens * top * d), e * float(tokens * d) * n_experts
    forward = [Map("permute", 2 * e * n, 2, "gather")]
    backward = [Map("permute", 2 * e * n + e * tokens * d, 2, "gather")]
    kept = 8.0 * tokens * top
    if s.experts == "all":  # copies of the tokens, kept, times their scores
        kept = e * n
        forward = [Map("permute", 3 * e * n + e * tokens * d, 2)]
        backward = [Map("permute", 5 * e * n + e * tokens * d, 3)]
    elif s.experts == "eager":
        found = Map("permute.where", 8.0 * tokens * top, 3, "gather", waits=True)
        forward = [found] * n_experts + [Map("permute", 2 * e * n, n_experts, "gather")]
        # a gradient of zeros for all tokens, filled and added: for each expert
        backward = [
            Map("permute.put", 2 * e * n, INDEX_PUT * n_experts, "gather"),
            Map("permute.whole", 4 * whole, 2 * n_experts),
        ]
    return t.op(
        "dispatch", (x,), t.size(d) * top, (), forward, backward, extra=kept, module="experts"
    )  # fmt: skip


def _unpermute(t: Tape, made: int, weights: int) -> int:
    """Each token's outputs, weighted and summed."""
    s, model = t.setting, t.setting.model
    e, tokens, d, n_experts = s.element, s.tokens, model.hidden_size, model.experts
    top = _copies(t)
    n = float(tokens * top * d)
    forward = [Map("unpermute", (2 * e + 2 * e) * n, 3, "gather")]
    backward = [Map("unpermute", (3 * e + 2 * e) * n, 3, "gather")]
    one_by_one, scaled = s.experts == "eager", s.experts == "all"
    if scaled:
        forward, backward = [Map("unpermute", e * (n + tokens * d))], [Map("unpermute", 2 * e * n)]
    if one_by_one:
        # weights gathered and applied, the sum; the whole output of zeros first
        forward = [
            Map("unpermute.zeros", e * tokens * d),
            Map("unpermute", 5 * e * n, 3 * n_experts, "gather"),
        ]
        backward = [Map("unpermute", 9 * e * n, (5 + INDEX_PUT) * n_experts, "gather")]
    return t.op(
        "combine", (made, weights), t.size(d), () if scaled else (made,), forward, backward,
        extra=8.0 * tokens * top if one_by_one else 0.0,
    )  # fmt: skip


def _shared(t: Tape, stream: int, x: int, out: int) -> int:
    """The experts that every token meets, which read `x`, of `stream`; their sum with `out`."""
    s, model = t.setting, t.setting.model
    d, wide = model.hidden_size, model.shared_experts * s.split(_width(t))
    names = ("w1", "w2", "w3") if model.ffn in GATED else ("w1", "w2")
    sides = {"w1": (d, wide), "w2": (wide, d), "w3": (d, wide)}
    own = [(name, sides[name][::-1]) for name in names]
    t.register("shared_experts", OpRole.LINEAR, Position.WHOLE, own)
    if s.expert > 1:
        x = enter(t, x, "shared_experts", late=True)
    once = Routed(1, s.tokens, 1.0)
    shared = mlp(t, x, lambda name, read: matrix(t, name, read, *sides[name], once), float(wide))
    shared = leave(t, shared)
    if model.shared_expert_gate:
        partial = s.splits_stream
        with t.of_stream():
            shared = _gated(t, stream, shared, partial)
    return t.add("shared_experts.add", out, shared)


def _gated(t: Tape, x: int, shared: int, partial: bool) -> int:
    """What shared experts made times a sigmoid of a number a token, where the stream is read.

    Source: transformers 5.24, modeling_qwen2_moe.py; Megatron-LM, moe/shared_experts.py, whose
    tensor-parallel ranks each have the gate whole and gate the positions that are left to them.
    """
    opened = linear(
        t, "shared_gate", x, t.setting.model.hidden_size, 1, role=OpRole.ROUTER, partial=partial
    )
    n, size = t.size(1), t.sizes[shared]
    opened = t.op(
        "shared_gate.sigmoid", (opened,), n, (), [Map("shared_gate.sigmoid", 2 * n)],
        [Map("shared_gate.sigmoid", 3 * n)], own=True,
    )  # fmt: skip
    # the gate's gradient is a sum over columns of a product that is written out
    back = [Map("shared_gate", 5 * size, 2), Map("shared_gate.sum", size, 1, "", "reduction")]
    return t.op(
        "shared_gate", (shared, opened), size, (shared, opened), [Map("shared_gate", 2 * size)],
        back,
    )  # fmt: skip
