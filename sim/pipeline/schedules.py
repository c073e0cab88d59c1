"""Pipeline schedules: which stages a rank holds, and what it computes in which order.

p ranks, M micro-batches, v stages a rank. A schedule is one object with the order of each rank;
the runtime (`actions.with_runtime`) adds the rest.

Source: torch 2.13, ``distributed/pipelining/schedules.py``; every order is held to recorded tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache

from sim.pipeline.actions import (
    BACKWARD,
    FORWARD,
    INPUT,
    PAIR,
    WEIGHT,
    Action,
    Orders,
    deferred,
    with_runtime,
)
from sim.records import NamedTuple
from sim.shelf import Shelf


class PipelineShape(NamedTuple):
    """Ranks, micro-batches and stages a rank. [1]"""

    ranks: int
    micro: int
    virtual: int

    @property
    def stages(self) -> int:
        """In all."""
        return self.ranks * self.virtual


Order = Callable[[PipelineShape, int], list[Action]]


class Schedule(NamedTuple):
    """A schedule.

    Attributes
    ----------
    name, title : str
        As ``parallelism.pipeline_schedule`` and as reports write it.
    order : callable
        (shape, rank) -> what the rank computes.
    virtual : int
        Stages a rank by default. [1]
    several : bool
        Takes other numbers of stages a rank.
    turns : bool
        Stages lie along a V: rank r has stages r and 2p - 1 - r; else stage s is on rank s mod p.
    fewest : callable
        Least micro-batches for so many ranks. [1]
    splits : bool
        Backward is split into inputs and weights.
    cycle : callable
        Micro-batches after which the order of a shape repeats itself once the pipeline is full; 0
        where it fills for as long as there are any.
    table : bool
        torch's runtime executes the order; GPipe's and 1F1B's own loops are in
        `sim.strategies.pipeline_play`.
    """

    name: str
    title: str
    order: Order
    virtual: int = 2
    several: bool = True
    turns: bool = False
    fewest: Callable[[int], int] = lambda ranks: 1
    splits: bool = False
    cycle: Callable[[PipelineShape], int] = lambda shape: 1
    table: bool = True

    @property
    def torch_name(self) -> str:
        """As ``get_schedule_class`` of torch and torchtitan's files have it."""
        return {
            "interleaved-1f1b": "Interleaved1F1B",
            "looped-bfs": "LoopedBFS",
            "interleaved-zero-bubble": "InterleavedZeroBubble",
            "zbv": "ZBVZeroBubble",
        }.get(self.name, self.title)

    def rank_of(self, shape: PipelineShape) -> Callable[[int], int]:
        """The rank of each stage."""
        p, last = shape.ranks, shape.stages - 1
        if self.turns:
            return lambda stage: stage if stage < p else last - stage
        return lambda stage: stage % p

    def stages_of(self, shape: PipelineShape, rank: int) -> tuple[int, ...]:
        """The stages of a rank, as the model has them."""
        return _stages(self, shape)[rank]

    def computed(self, shape: PipelineShape) -> Orders:
        """What each rank computes."""
        return {rank: self.order(shape, rank) for rank in range(shape.ranks)}

    def executed(self, shape: PipelineShape, defer: bool = False) -> Orders:
        """What each rank executes: with gathers, reductions and messages, received late or not.

        Shared by all ranks, not to be changed.
        """
        return _executed.get((self, shape, defer), lambda: _with_all(self, shape, defer))


@lru_cache(maxsize=256)
def _stages(schedule: Schedule, shape: PipelineShape) -> tuple[tuple[int, ...], ...]:
    """The stages of every rank."""
    rank_of = schedule.rank_of(shape)
    found: list[list[int]] = [[] for _ in range(shape.ranks)]
    for stage in range(shape.stages):
        found[rank_of(stage)].append(stage)
    return tuple(map(tuple, found))


def _with_all(schedule: Schedule, shape: PipelineShape, defer: bool) -> Orders:
    rank_of = schedule.rank_of(shape)
    orders = with_runtime(schedule.computed(shape), rank_of, shape.stages, shape.micro)
    return deferred(orders, rank_of) if defer else orders


# an action takes some 100 B; of 16 stages and 64 micro-batches 300 orders fit
_executed = Shelf[Orders](1_000_000, lambda orders: sum(map(len, orders.values())))


def _gpipe(shape: PipelineShape, rank: int) -> list[Action]:
    every = range(shape.micro)
    return [Action(FORWARD, rank, m) for m in every] + [Action(BACKWARD, rank, m) for m in every]


def _one_forward_one_backward(shape: PipelineShape, rank: int) -> list[Action]:
    warm = min(shape.micro, shape.ranks - rank)
    out = [Action(FORWARD, rank, m) for m in range(warm)]
    for m in range(shape.micro):
        out.append(Action(BACKWARD, rank, m))
        if warm + m < shape.micro:
            out.append(Action(FORWARD, rank, warm + m))
    return out


def _looped(shape: PipelineShape, rank: int) -> list[Action]:
    stages = [rank + i * shape.ranks for i in range(shape.virtual)]
    every = range(shape.micro)
    out = [Action(FORWARD, s, m) for s in stages for m in every]
    return out + [Action(BACKWARD, s, m) for s in reversed(stages) for m in reversed(every)]


#: what an action counts as: a whole backward is both of its parts, gradients of inputs begin one
_COUNTED = {BACKWARD: (BACKWARD, INPUT, WEIGHT), INPUT: (BACKWARD, INPUT)}


class _Counting:
    """A list of actions in which each stage counts its micro-batches up, kind by kind."""

    def __init__(self) -> None:
        self.out: list[Action] = []
        self.next: Counter[tuple[str, int]] = Counter()

    def made(self, kind: str, stage: int) -> Action:
        found = Action(kind, stage, self.next[kind, stage])
        for counted in _COUNTED.get(kind, (kind,)):
            self.next[counted, stage] += 1
        return found

    def add(self, *what: tuple[str, int]) -> None:
        self.out += [self.made(kind, stage) for kind, stage in what]


def rounds(shape: PipelineShape) -> int:
    """Micro-batches that a stage runs before the rank's next stage. [1]"""
    return shape.micro // max(1, shape.micro // shape.ranks)


def _never(_: PipelineShape) -> int:
    return 0


def _interleaved(shape: PipelineShape, rank: int, split: bool = False) -> list[Action]:
    p, M, v = shape
    m, n = rounds(shape), M * v
    warm = min(n, (v - 1) * m + (1 if split else 2) * (p - 1 - rank))
    c, back = _Counting(), INPUT if split else BACKWARD
    forward = [((i // m) % v) * p + rank for i in range(n)]
    backward = [(v - 1 - (j // m) % v) * p + rank for j in range(n)]
    weights = 0
    for i in range(n + warm):
        if i < n:
            c.add((FORWARD, forward[i]))
        if i >= warm:
            c.add((back, backward[i - warm]))
            if split and i - warm >= rank:
                c.add((WEIGHT, backward[weights]))
                weights += 1
    if split:
        c.add(*((WEIGHT, stage) for stage in backward[weights:]))
    return c.out


def _zero_bubble(shape: PipelineShape, rank: int) -> list[Action]:
    return _interleaved(shape, rank, split=True)


def _zbv(shape: PipelineShape, rank: int) -> list[Action]:
    """Made for at least 2p - 1 micro-batches; what is too many is left out."""
    p, near, far = shape.ranks, rank, shape.stages - 1 - rank
    c, n = _Counting(), max(2 * p - 1, shape.micro)
    c.add(*[(FORWARD, near)] * (2 * (p - rank) - 1))
    c.add(*[(FORWARD, far), (FORWARD, near)] * rank)
    c.add(*[(FORWARD, far), (INPUT, far), (WEIGHT, far)] * (p - rank))
    done = c.next
    while done[FORWARD, far] < done[FORWARD, near] or done[FORWARD, near] < n:
        if done[FORWARD, near] < n:
            c.add((FORWARD, near))
        c.add((INPUT, near), (WEIGHT, near), (FORWARD, far), (INPUT, far), (WEIGHT, far))
    c.add(*[(INPUT, near), (INPUT, far)] * rank)
    c.add(*[(INPUT, near), (WEIGHT, near)] * (p - rank))
    for stage in (far, near):
        c.add(*[(WEIGHT, stage)] * (done[INPUT, stage] - done[WEIGHT, stage]))
    return [action for action in c.out if action.micro < shape.micro]


def _dual_pipe_v(shape: PipelineShape, rank: int) -> list[Action]:
    """DualPipe's half with a V of stages; pairs run one after the other in stock PyTorch."""
    p, near, far = shape.ranks, rank, shape.stages - 1 - rank
    c = _Counting()
    waiting: list[int] = []  # stages whose weight gradients are outstanding

    def pair(forward: int, backward: int) -> None:
        both = (c.made(FORWARD, forward), c.made(BACKWARD, backward))
        c.out.append(Action(PAIR, -1, -1, both))

    def back(stage: int, split: bool) -> None:
        c.add((INPUT if split else BACKWARD, stage))
        if split:
            waiting.append(stage)

    def weight() -> None:
        c.add((WEIGHT, waiting.pop(0)))

    c.add(*[(FORWARD, near)] * (2 * (p - rank - 1)))
    c.add(*[(FORWARD, near), (FORWARD, far)] * (rank + 1))
    for _ in range(p - rank - 1):
        back(far, split=True)
        weight()
        c.add((FORWARD, far))
    for i in range(shape.micro - 2 * p + rank + 1):
        if i == 0 and rank == p - 1:
            c.add((FORWARD, near))
            back(far, split=False)
        else:
            pair(near, far)
        pair(far, near)
    for _ in range(p - rank - 1):
        back(far, split=False)
        pair(far, near)
    split, half = False, (rank + 1) // 2
    for i in range(rank + 1):
        split = split or (i == half and rank % 2 == 1)
        back(far, split)
        split = split or (i == half and rank % 2 == 0)
        back(near, split)
    for _ in range(p - rank - 1):
        weight()
        back(near, split=True)
    for _ in range(rank + 1):
        weight()
    return c.out


SCHEDULES = {
    s.name: s
    for s in (
        Schedule("gpipe", "GPipe", _gpipe, 1, False, cycle=_never, table=False),
        Schedule("1f1b", "1F1B", _one_forward_one_backward, 1, False, fewest=int, table=False),
        Schedule("interleaved-1f1b", "interleaved 1F1B", _interleaved, cycle=rounds),
        Schedule("looped-bfs", "looped BFS", _looped, cycle=_never),
        Schedule(
            "interleaved-zero-bubble", "interleaved zero bubble", _zero_bubble, splits=True,
            cycle=rounds,
        ),
        Schedule("zbv", "ZBV", _zbv, several=False, turns=True, splits=True),
        Schedule(
            "dualpipev", "DualPipeV", _dual_pipe_v, several=False, turns=True, splits=True,
            fewest=lambda ranks: 2 * ranks,
        ),
    )
}  # fmt: skip


def in_flight(shape: PipelineShape, schedule: Schedule, rank: int) -> Iterator[tuple[int, int]]:
    """Micro-batches kept for backward after each computation of a rank: stage, how many."""
    kept: Counter[int] = Counter()
    for action in schedule.order(shape, rank):
        for kind, stage, *_ in action.parts:
            kept[stage] += (kind == FORWARD) - (kind in (BACKWARD, WEIGHT))
            yield stage, kept[stage]
