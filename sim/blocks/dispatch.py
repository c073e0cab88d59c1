"""Expert parallelism inside a mixture: tokens travel to the ranks that hold their experts and back.

Every rank routes the tokens it holds, sorts them by expert and tells the others how many come. The
host waits for those counts, as it needs the sizes of what is sent. Two all-to-alls carry tokens
there and what experts made of them back; in backward, gradients the same ways. Each is waited for
by what comes next, so nothing of the block hides it.

Source: torchtitan, ``AllToAllTokenDispatcher``.
"""

from __future__ import annotations

from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Exchange, Map, When
from sim.blocks.tape import Tape

AXIS = "ep"
COUNT = 8.0  # an int64 [B]
INDEX = 8.0  # the same, of a token
#: modules without parameters, between which exchanges stand
REGISTERED = ("dispatch", "combine")


def dispatch(t: Tape, x: int) -> int:
    """Tokens sorted by expert, sent, and sorted by expert again where they arrive; the tensor."""
    s, model = t.setting, t.setting.model
    d, top = model.hidden_size, model.experts_per_token
    n = t.size(d * top)
    choices = INDEX * s.tokens * top
    ordered = t.op(
        "permute", (x,), n, (), [Map("permute", 2 * n, 2, "gather")],
        [Map("permute", 2 * n + t.size(d), 2, "gather")], extra=choices,
    )  # fmt: skip
    counts = COUNT * model.experts
    t.op(
        "dispatch.counts", (), counts, (), [Map("dispatch.counts", choices, 2)],
        kept_by_policy=True,
        exchanges=(Exchange("all_to_all", AXIS, counts, counts, When.AFTER, dtype="i64"),),
    )  # fmt: skip
    t.register("dispatch", OpRole.OTHER, Position.WHOLE, ())
    t.op(
        "dispatch.sizes", (), 2 * COUNT * s.expert, (),
        [Map("dispatch.sizes", 2 * COUNT * s.expert, 1, kind="copy", waits=True)],
        kept_by_policy=True,
    )  # fmt: skip
    return t.op(
        "dispatch", (ordered,), s.load * n, (), kept_by_policy=True,
        exchanges=_both_ways(n, s.load * n),
    )  # fmt: skip


def arrange(t: Tape, x: int, module: str) -> int:
    """What arrives comes by rank: put by expert, or back again; the tensor."""
    size = t.sizes[x]
    copy = [Map("permute.expert", 2 * size, 1, "gather")]
    extra = INDEX * size / t.size(t.setting.model.hidden_size) * t.setting.tokens
    return t.op("permute.expert", (x,), size, (), copy, copy, extra=extra, module=module)


def combine(t: Tape, made: int, weights: int) -> int:
    """What experts made, sent back, weighted and summed; the tensor."""
    s, model = t.setting, t.setting.model
    d, top = model.hidden_size, model.experts_per_token
    n = t.size(d * top)
    back = t.op(
        "combine.send", (made,), n, (), kept_by_policy=True,
        exchanges=_both_ways(s.load * n, n),
    )  # fmt: skip
    t.register("combine", OpRole.OTHER, Position.WHOLE, ())
    return t.op(
        "combine", (back, weights), t.size(d), (back,),
        [Map("unpermute", 4 * n, 3, "gather")], [Map("unpermute", 5 * n, 3, "gather")],
    )  # fmt: skip


def _both_ways(sent: float, received: float) -> tuple[Exchange, ...]:
    """Tokens, and in backward their gradients the other way."""
    return (
        Exchange("all_to_all", AXIS, sent, received, When.AFTER),
        Exchange("all_to_all", AXIS, received, sent, When.BEFORE, True),
    )
