"""Mixture of experts: router, permutation, grouped products over equally loaded experts."""

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
    active = top / n_experts
    module = t.register("experts", OpRole.LINEAR, Position.WHOLE, every, active=active)
    low = [name for name in names if adapted(t, TARGETS[name])]
    for suffix in "AB" if low else "":
        r = s.method.rank
        shapes = {n: (r, sides[n][0]) if suffix == "A" else (sides[n][1], r) for n in low}
        pairs = [(f"{i}.{n}", shapes[n]) for i in range(n_experts) for n in low]
        t.register(
            f"{module}.{suffix}", OpRole.ADAPTER, Position.WHOLE, pairs, base=module, active=active
        )
    routed = tokens * top
    n = float(routed * d)
    sent = t.op(
        "dispatch", (x,), t.size(d) * top, (),
        [Map("permute", 2 * e * n, 2, "gather")],
        [Map("permute", 2 * e * n + e * tokens * d, 2, "gather")], extra=8.0 * tokens * top,
    )  # fmt: skip
    by = Routed(n_experts, max(1, -(-routed // n_experts)), float(top))

    def grouped(name: str, read: int) -> int:
        out = matrix(t, name, read, *sides[name], by)
        if name not in low:
            return out
        return adapter(t, name, read, out, *sides[name], f"{module}.A", f"{module}.B", by)

    made = mlp(t, sent, grouped, float(f * top))
    out = t.op(
        "combine", (made, weights), t.size(d), (made,),
        [Map("unpermute", (2 * e + 2 * e) * n, 3, "gather")],
        [Map("unpermute", (3 * e + 2 * e) * n, 3, "gather")],
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
