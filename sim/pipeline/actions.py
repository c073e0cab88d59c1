"""Actions of a pipeline rank, and what the runtime adds to an order of computations.

The runtime of torch.distributed.pipelining takes what a schedule computes, rank by rank, and adds
when parameters are gathered and dropped, when gradients are reduced, and what is sent and received.

Source: torch 2.13, ``distributed/pipelining/schedules.py``: ``_add_unshard_reshard``,
``_add_reduce_grad``, ``_add_send_recv``, ``_defer_recv_ops``. Recorded tables:
``tests/data/pipeline_tables.json``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from sim.records import NamedTuple

FORWARD, BACKWARD, INPUT, WEIGHT = "F", "B", "I", "W"
PAIR = "OVERLAP_F_B"
UNSHARD, RESHARD, REDUCE = "UNSHARD", "RESHARD", "REDUCE_GRAD"
EXCHANGE, WAIT = "EXCHANGE", "WAIT"  # of the loops that have no table
SEND_F, RECV_F, SEND_B, RECV_B = "SEND_F", "RECV_F", "SEND_B", "RECV_B"
RESIDENT_STAGES = 3  # of a rank whose parameters are gathered at a time


class Action(NamedTuple):
    """One thing that a rank does.

    Attributes
    ----------
    kind : str
        ``F`` forward, ``B`` backward, ``I`` and ``W`` its parts for inputs and weights; ``PAIR``;
        what the runtime adds.
    stage : int
        Of the pipeline; -1 for a pair.
    micro : int
        Micro-batch, -1 for all.
    pair : tuple of Action
        What a pair runs one after the other; messages of an exchange, which go at once.
    """

    kind: str
    stage: int
    micro: int = -1
    pair: tuple[Action, ...] = ()

    @property
    def parts(self) -> tuple[Action, ...]:
        """What is computed: the action itself, or both of a pair."""
        return self.pair or (self,)

    @property
    def computes(self) -> bool:
        """Whether it is a stage's forward or backward, or part of one."""
        return self.kind in (FORWARD, BACKWARD, INPUT, WEIGHT)

    def __str__(self) -> str:
        """As torch prints it."""
        if self.pair:
            return f"({';'.join(map(str, self.pair))}){PAIR}"
        return f"{self.stage}{self.kind}{'' if self.micro < 0 else self.micro}"


Orders = dict[int, list[Action]]
"""By pipeline rank."""


def with_runtime(orders: Orders, rank_of: Callable[[int], int], stages: int, micro: int) -> Orders:
    """What the runtime executes of an order of computations.

    Parameters
    ----------
    orders : Orders
        Computations of each pipeline rank.
    rank_of : callable
        The rank of a stage.
    stages, micro : int
        Stages in all, and micro-batches. [1]
    """
    for rank, order in orders.items():
        orders = orders | {rank: _with_reductions(_with_gathers(order), micro)}
    return _with_messages(orders, rank_of, stages)


def _with_gathers(order: Sequence[Action]) -> list[Action]:
    """The next distinct stages are gathered ahead, in order; those no longer among them dropped."""
    out: list[Action] = []
    resident: list[int] = []
    for action, coming in zip(order, _next_stages(order), strict=True):
        for stage in [s for s in resident if s not in coming]:
            resident.remove(stage)
            out.append(Action(RESHARD, stage))
        for stage in coming:
            if stage not in resident:
                resident.append(stage)
                out.append(Action(UNSHARD, stage))
        out.append(action)
    return out + [Action(RESHARD, stage) for stage in resident]


def _next_stages(order: Sequence[Action]) -> list[list[int]]:
    """From each action on, the first distinct stages that are computed."""
    found: list[list[int]] = []
    coming: list[int] = []
    for action in reversed(order):
        now = [part.stage for part in action.parts]
        if now != coming[:1]:
            coming = list(dict.fromkeys((*now, *coming)))[:RESIDENT_STAGES]
        found.append(coming)
    return found[::-1]


def _with_reductions(order: Sequence[Action], micro: int) -> list[Action]:
    """Gradients of a stage are reduced after its last weight gradient."""
    out: list[Action] = []
    done: Counter[int] = Counter()
    for action in order:
        out.append(action)
        for part in action.parts:
            if part.kind in (BACKWARD, WEIGHT):
                done[part.stage] += 1
                if done[part.stage] == micro:
                    out.append(Action(REDUCE, part.stage))
    return out


def _with_messages(orders: Orders, rank_of: Callable[[int], int], stages: int) -> Orders:
    """A send right behind what it sends; its receive where the receiver's list is by then."""
    left = {rank: deque(orders[rank]) for rank in sorted(orders)}
    out: Orders = {rank: [] for rank in left}
    placed: dict[int, set[Action]] = {rank: set() for rank in left}

    def place(rank: int, action: Action) -> None:
        out[rank].append(action)
        placed[rank].add(action)
        placed[rank].update(action.pair)

    while any(left.values()):
        progress = False
        for rank, queue in left.items():
            if not queue or not all(_ready(p, placed[rank], stages) for p in queue[0].parts):
                continue
            progress = True
            action = queue.popleft()
            place(rank, action)
            for part in action.parts:
                send, receive = _messages(part, rank_of, stages)
                if send is not None and receive is not None:
                    place(rank, send)
                    place(rank_of(receive.stage), receive)
        if not progress:
            msg = "the schedule waits for itself"
            raise ValueError(msg)
    return out


def deferred(orders: Orders, rank_of: Callable[[int], int]) -> Orders:
    """Receives as late as possible: before what needs them.

    The lower of two ranks posts its receives from the other before it sends to it, so that they
    do not wait for each other.
    """
    return {rank: list(_deferred(rank, order, rank_of)) for rank, order in orders.items()}


def _deferred(
    rank: int, order: Iterable[Action], rank_of: Callable[[int], int]
) -> Iterator[Action]:  # fmt: skip
    waiting: dict[Action, int] = {}  # the rank that sends it
    for action in order:
        kind, stage, *_ = action
        if kind in (RECV_F, RECV_B):
            waiting[action] = rank_of(stage - 1 if kind == RECV_F else stage + 1)
            continue
        needed: list[Action] = []
        if kind in (SEND_F, SEND_B):
            peer = rank_of(stage + 1 if kind == SEND_F else stage - 1)
            needed = [a for a, source in waiting.items() if source == peer and rank < peer]
        for part in action.parts:
            what = {FORWARD: RECV_F, BACKWARD: RECV_B, INPUT: RECV_B}.get(part.kind, "")
            needed.append(Action(what, part.stage, part.micro))
        yield from (a for a in needed if waiting.pop(a, None) is not None)
        yield action


def _ready(action: Action, placed: set[Action], stages: int) -> bool:
    """Whether the input of a computation has been placed on its rank."""
    kind, stage, micro, _ = action
    if kind == FORWARD and stage > 0:
        needed = (RECV_F, stage, micro, ()), (FORWARD, stage - 1, micro, ())
        return not placed.isdisjoint(needed)
    if kind in (BACKWARD, INPUT) and stage < stages - 1:
        before = [(each, stage + 1, micro, ()) for each in (INPUT, BACKWARD)]
        return not placed.isdisjoint([(RECV_B, stage, micro, ()), *before])
    return True


def _messages(
    action: Action, rank_of: Callable[[int], int], stages: int
) -> tuple[Action | None, Action | None]:
    """What a computation sends, and what the other rank receives; nothing within a rank."""
    kind, stage, micro, _ = action
    if kind == FORWARD and stage < stages - 1 and rank_of(stage + 1) != rank_of(stage):
        return Action(SEND_F, stage, micro), Action(RECV_F, stage + 1, micro)
    if kind in (BACKWARD, INPUT) and stage > 0 and rank_of(stage - 1) != rank_of(stage):
        return Action(SEND_B, stage, micro), Action(RECV_B, stage - 1, micro)
    return None, None
