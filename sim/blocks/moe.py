"""Mixture of experts, equally loaded: router, permutation, products, weighted sum.

``grouped``: tokens are permuted once and all experts' products of a kind are one kernel. ``eager``:
Hugging Face's loop over the experts, each of which finds its tokens (the host waits for how many),
gathers them, multiplies, and adds its share to the whole output; in backward each makes and adds a
gradient of all tokens.

Source of the loop's kernels: sim/data/host/modelling.json, recorded from Mixtral.
"""

from __future__ import annotations

from sim.blocks.adapters import Routed, adapter
from sim.blocks.ffn import GATED, mlp
from sim.blocks.linear import adapted, linear, matrix
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map
from sim.blocks.tape import Tape
from sim.blocks.tensor import enter, leave

#: modules as the reference model registers them
REGISTERED = ("router", "experts", "shared_experts")
#: kernels of an accumulating index_put on a GPU, which sorts its indices first
INDEX_PUT = 6
TARGETS = {"w1": ("gate",), "w2": ("down",), "w3": ("up",)}


def mixture(t: Tape, x: int) -> int:
    """The routed and the shared experts; all routed ones are one module, fetched as a whole."""
    s, model = t.setting, t.setting.model
    e, tokens, d, top = s.element, s.tokens, model.hidden_size, model.experts_per_token
    n_experts, f = model.experts, s.split(model.expert_ffn_size or model.ffn_size)
    x = enter(t, x, "router")
    names = ("w1", "w2", "w3") if model.ffn in GATED else ("w1", "w2")
    sides = {"w1": (d, f), "w2": (f, d), "w3": (d, f)}
    router = linear(t, "router", x, d, n_experts, role=OpRole.ROUTER)
    choice = 4.0 * tokens * n_experts
    weights = t.op(
        "router.softmax", (router,), choice, (),
        [Map("router.choose", 6 * choice, 8)], [Map("router.choose", 4 * choice, 4)],
        role=OpRole.ROUTER, own=True,
    )  # fmt: skip
    every = [(f"{i}.{name}", sides[name][::-1]) for i in range(n_experts) for name in names]
    active, one_by_one = top / n_experts, s.experts == "eager"
    each = n_experts * len(names)
    module = t.register("experts", OpRole.LINEAR, Position.WHOLE, every, active=active, calls=each)
    low = [name for name in names if adapted(t, TARGETS[name])]
    for suffix in "AB" if low else "":
        r = s.method.rank
        shapes = {n: (r, sides[n][0]) if suffix == "A" else (sides[n][1], r) for n in low}
        pairs = [(f"{i}.{n}", shapes[n]) for i in range(n_experts) for n in low]
        t.register(
            f"{module}.{suffix}", OpRole.ADAPTER, Position.WHOLE, pairs, base=module, active=active,
            calls=n_experts * len(low),
        )  # fmt: skip
    routed = tokens * top
    n = float(routed * d)
    whole = e * float(tokens * d) * n_experts
    forward = [Map("permute", 2 * e * n, 2, "gather")]
    backward = [Map("permute", 2 * e * n + e * tokens * d, 2, "gather")]
    if one_by_one:
        found = Map("permute.where", 8.0 * tokens * top, 3, "gather", waits=True)
        forward = [found] * n_experts + [Map("permute", 2 * e * n, n_experts, "gather")]
        # a gradient of zeros for all tokens, filled and added: for each expert
        backward = [
            Map("permute.put", 2 * e * n, INDEX_PUT * n_experts, "gather"),
            Map("permute.whole", 4 * whole, 2 * n_experts),
        ]
    sent = t.op("dispatch", (x,), t.size(d) * top, (), forward, backward, extra=8.0 * tokens * top)
    t.apart = n_experts if one_by_one else 1
    by = Routed(n_experts, max(1, -(-routed // n_experts)), float(top))

    def grouped(name: str, read: int) -> int:
        out = matrix(t, name, read, *sides[name], by)
        if name not in low:
            return out
        return adapter(t, name, read, out, *sides[name], f"{module}.A", f"{module}.B", by)

    made = mlp(t, sent, grouped, float(f * top))
    t.apart = 1
    forward = [Map("unpermute", (2 * e + 2 * e) * n, 3, "gather")]
    backward = [Map("unpermute", (3 * e + 2 * e) * n, 3, "gather")]
    if one_by_one:
        # weights gathered and applied, the sum; the whole output of zeros first
        forward = [
            Map("unpermute.zeros", e * tokens * d),
            Map("unpermute", 5 * e * n, 3 * n_experts, "gather"),
        ]
        backward = [Map("unpermute", 9 * e * n, (5 + INDEX_PUT) * n_experts, "gather")]
    out = t.op(
        "combine", (made, weights), t.size(d), (made,), forward, backward,
        extra=8.0 * tokens * top if one_by_one else 0.0,
    )  # fmt: skip
    out = leave(t, out)
    if not model.shared_experts:
        return out
    wide = model.shared_experts * f
    sides = {"w1": (d, wide), "w2": (wide, d), "w3": (d, wide)}
    own = [(name, sides[name][::-1]) for name in names]
    t.register("shared_experts", OpRole.LINEAR, Position.WHOLE, own)
    once = Routed(1, tokens, 1.0)
    shared = mlp(t, x, lambda name, read: matrix(t, name, read, *sides[name], once), float(wide))
    return t.add("shared_experts.add", out, leave(t, shared))
