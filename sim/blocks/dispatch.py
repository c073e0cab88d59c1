"""Expert parallelism inside a mixture: tokens travel to the ranks that hold their experts and back.

``all-to-all``: every rank routes the tokens it holds, sorts them by expert and tells the others how
many come. Two all-to-alls carry a copy of a token for each of its experts there and what they made
of it back. ``deepep``: a token travels once to each rank that has any of its experts, which copies
it for them, and sums what they made before it sends that back. Either way the host waits for counts
of tokens, the sizes of what follows, and gradients take the same ways in backward. Each exchange is
waited for by what comes next, so nothing of the block hides it.

Source: torchtitan, ``AllToAllTokenDispatcher``; DeepEP, ``Buffer.dispatch`` and ``combine``.
"""

from __future__ import annotations

from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Exchange, Map, When
from sim.blocks.tape import Tape
from sim.mesh.routing import parts_met

AXIS = "ep"
COUNT = 8.0  # an int64 [B]
INDEX = 8.0  # the same, of a token
#: modules without parameters, between which exchanges stand
REGISTERED = ("dispatch", "combine")


def dispatch(t: Tape, x: int) -> int:
    """Tokens sent to the ranks of their experts, as they arrive there; the tensor."""
    s, model = t.setting, t.setting.model
    choices = INDEX * s.tokens * model.experts_per_token
    sent, size = x, _sent(t)
    if s.dispatch == "all-to-all":
        sent = t.op(
            "permute", (x,), size, (), [Map("permute", 2 * size, 2, "gather")],
            [Map("permute", 2 * size + t.sizes[x], 2, "gather")], extra=choices,
        )  # fmt: skip
        counts = COUNT * model.experts
        told = Exchange("all_to_all", AXIS, counts, counts, When.AFTER, dtype="i64")
        t.op(
            "dispatch.counts", (), counts, (), [Map("dispatch.counts", choices, 2)],
            kept_by_policy=True, exchanges=(told,),
        )  # fmt: skip
    else:
        t.unseen("dispatch.layout", [Map("dispatch.layout", choices, 1)])
    t.register("dispatch", OpRole.OTHER, Position.WHOLE, ())
    t.op(
        "dispatch.sizes", (), 2 * COUNT * s.expert, (),
        [Map("dispatch.sizes", 2 * COUNT * s.expert, 1, kind="copy", waits=True)],
        kept_by_policy=True,
    )  # fmt: skip
    return t.op(
        "dispatch", (sent,), s.load * size, (), kept_by_policy=True,
        exchanges=_both_ways(size, s.load * size),
    )  # fmt: skip


def arrange(t: Tape, x: int, module: str) -> int:
    """What arrives comes by rank: put by expert, a copy for each; the tensor."""
    size = t.setting.load * _copies(t)
    traffic = t.sizes[x] + size
    extra = INDEX * size / t.size(t.setting.model.hidden_size) * t.setting.tokens
    return t.op(
        "permute.expert", (x,), size, (), [Map("permute.expert", traffic, 1, "gather")],
        [Map("permute.expert", traffic, 1, "gather")], extra=extra, module=module,
    )  # fmt: skip


def combine(t: Tape, made: int, weights: int) -> int:
    """What experts made, put by rank, sent back, weighted and summed; the tensor.

    With ``deepep`` the rank of the experts weights and sums what it has of a token.
    """
    s = t.setting
    size, n = _sent(t), t.sizes[made]
    out, back = t.size(s.model.hidden_size), s.load * size
    extra = INDEX * n / out * s.tokens
    once = s.dispatch == "all-to-all"
    traffic = 2 * n if once else n + back
    weighted = t.op(
        "unpermute.expert", (made,) if once else (made, weights), back, () if once else (made,),
        [Map("unpermute.expert", traffic, 1, "gather")],
        [Map("unpermute.expert", traffic if once else traffic + n, 1, "gather")], extra=extra,
    )  # fmt: skip
    returned = t.op(
        "combine.send", (weighted,), size, (), kept_by_policy=True,
        exchanges=_both_ways(back, size),
    )  # fmt: skip
    t.register("combine", OpRole.OTHER, Position.WHOLE, ())
    if not once:
        add = [Map("combine.sum", size + out, 1, "gather")]
        return t.op("combine", (returned,), out, (), add, add)
    return t.op(
        "combine", (returned, weights), out, (returned,),
        [Map("unpermute", 4 * size, 3, "gather")], [Map("unpermute", 5 * size, 3, "gather")],
    )  # fmt: skip


def _copies(t: Tape) -> float:
    """Bytes of a copy of each token for each of its experts."""
    model = t.setting.model
    return t.size(model.hidden_size * model.experts_per_token)


def _sent(t: Tape) -> float:
    """Bytes that a rank sends: all copies, or one for each rank that a token's experts are on."""
    s, model = t.setting, t.setting.model
    if s.dispatch == "all-to-all":
        return _copies(t)
    met = parts_met(model.experts, s.expert, model.experts_per_token)
    return t.size(model.hidden_size * met)


def _both_ways(sent: float, received: float) -> tuple[Exchange, ...]:
    """Tokens, and in backward their gradients the other way."""
    return (
        Exchange("all_to_all", AXIS, sent, received, When.AFTER),
        Exchange("all_to_all", AXIS, received, sent, When.BEFORE, True),
    )
