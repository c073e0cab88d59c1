"""What a stage issues for a micro-batch, recorded once and copied from then on.

A stage's forward or backward (a chunk) issues the same ops for every micro-batch, but for those in
which parameters are gathered or gradients begun. Whether it would is seen before it runs: from the
stage's own state, and from what the streams that it uses wait for. Where both are as they were
before an earlier chunk, its ops, its allocations and what it leaves behind are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from sim.records import NamedTuple
from sim.strategies.allocations import MARK
from sim.strategies.copied import Copy
from sim.strategies.plan import Calls
from sim.strategies.recorder import Recorder, StreamState


class Copied(Protocol):
    """What may be copied, and says when."""

    def condition(self) -> Hashable | None:
        """What decides the ops of its next chunk; None where they are its alone."""

    def skip(self, kind: str) -> None:
        """A chunk of a kind was copied: count it."""


class _Before(NamedTuple):
    """Streams before a chunk."""

    ops: int
    log: int
    pending: Mapping[str, tuple[int, ...]]
    tail: Mapping[str, int]
    seen: Mapping[str, Mapping[str, int]]
    host_after: int


class _After(NamedTuple):
    """What a chunk leaves behind; ops are places in `refers`."""

    #: ops of it, counted from its first, and, as -1, -2, ..., what it met before (`_Chunk.old`)
    refers: tuple[int, ...]
    pending: Sequence[tuple[StreamState, Sequence[int]]]  # of streams that it uses, all
    added: Sequence[tuple[StreamState, Sequence[int]]]  # to what others wait for
    tail: Sequence[tuple[StreamState, int]]
    seen: Sequence[tuple[StreamState, Sequence[tuple[str, int]]]]  # where it changed
    calls: Calls
    host_after: int
    moment: int


class _Chunk(NamedTuple):
    """A recorded chunk."""

    first: int
    size: int
    log: Sequence[tuple[Any, ...]]
    uses: Sequence[StreamState]  # streams on which it issues
    met: _Met  # what these waited for before
    old: tuple[int, ...]  # ops before it that it may refer to
    after: _After


class Chunks:
    """Chunks of a rank's stages.

    Parameters
    ----------
    recorder : Recorder
        Where they are issued.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._known: dict[Hashable, list[_Chunk]] = {}

    def play(self, stage: Copied, kind: str, number: int, run: Callable[[], None]) -> None:
        """Run a chunk, or copy what an earlier one issued.

        Parameters
        ----------
        stage : Copied
            Whose it is.
        kind : str
            Of action.
        number : int
            Of the stage.
        run : callable
            What issues it.
        """
        r, condition = self.recorder, stage.condition()
        key = (number, kind, condition, r.calls)
        known = self._known.get(key, ()) if condition is not None else ()
        for chunk in known:
            for lane in chunk.uses:
                if len(lane.pending) > 1:
                    _shorten(r, lane)
            met, new = _met_now(r, chunk.uses)
            if met == chunk.met:
                self._copy(chunk, new)
                stage.skip(kind)
                return
        before = _before(r)
        run()
        if condition is not None and stage.condition() == condition:
            found = _chunk(r, before)
            if found is not None:
                self._known.setdefault(key, []).append(found)

    def _copy(self, chunk: _Chunk, new: tuple[int, ...]) -> None:
        r, after = self.recorder, chunk.after
        at = len(r.ops)
        r.again(Copy(at, chunk.first, chunk.size, r.micro_step, chunk.old, new))
        shift = at - chunk.first
        r.memory.log += [
            (MARK, entry[1], entry[2] + shift, entry[3]) if entry[0] == MARK else entry
            for entry in chunk.log
        ]
        r.memory.moment = after.moment
        ops = [at + ref if ref >= 0 else new[~ref] for ref in after.refers]
        for lane, pending in after.pending:
            lane.pending = [ops[i] for i in pending]
        for lane, added in after.added:
            lane.pending += [ops[i] for i in added]
            _shorten(r, lane)
        for lane, tail in after.tail:
            lane.tail = ops[tail]
        for lane, seen in after.seen:
            for other, i in seen:
                lane.seen[other] = ops[i]
        r.calls = after.calls
        r.host_after = -1 if after.host_after < 0 else ops[after.host_after]


def _shorten(r: Recorder, lane: StreamState) -> None:
    """Of what a stream waits for, the latest op of each other stream alone, by its name."""
    if len(lane.pending) > 1:
        latest = {r.ops[op].stream: op for op in sorted(lane.pending)}
        lane.pending = [latest[name] for name in sorted(latest)]


def _before(r: Recorder) -> _Before:
    lanes = r.lanes
    for lane in lanes.values():
        _shorten(r, lane)
    return _Before(
        len(r.ops),
        len(r.memory.log),
        {name: tuple(lane.pending) for name, lane in lanes.items()},
        {name: lane.tail for name, lane in lanes.items()},
        {name: dict(lane.seen) for name, lane in lanes.items()},
        r.host_after,
    )


#: streams of ops that are met, which are the same, how many each waits for, and what it has seen
_Met = tuple[list[str], list[int], list[int], list[list[bool]]]


def _met_now(r: Recorder, lanes: Sequence[StreamState]) -> tuple[_Met, tuple[int, ...]]:
    """What streams have before them, and the ops that it speaks of.

    Two chunks that meet the same wait for the same: the ops of the second answer differ, but each
    has its place there.
    """
    return _met(
        r, [lane.tail for lane in lanes], [lane.pending for lane in lanes],
        [lane.seen for lane in lanes], r.host_after,
    )  # fmt: skip


def _met(
    r: Recorder, tails: Sequence[int], waits: Sequence[Sequence[int]],
    seen: Sequence[Mapping[str, int]], host_after: int,
) -> tuple[_Met, tuple[int, ...]]:  # fmt: skip
    every = list(tails)
    for pending in waits:
        every += pending
    every.append(host_after)
    ops = r.ops
    streams = [ops[op][1] if op >= 0 else "" for op in every]
    ahead = [
        [each.get(stream, -1) >= op for op, stream in zip(every, streams, strict=True)]
        for each in seen
    ]
    return (streams, list(map(every.index, every)), list(map(len, waits)), ahead), tuple(every)


def _chunk(r: Recorder, before: _Before) -> _Chunk | None:
    """What was issued since; None where it refers to ops that another chunk may not have."""
    first = before.ops
    ops = r.ops[first:]
    uses = tuple(dict.fromkeys(op.stream for op in ops))
    met, old = _met(
        r, [before.tail.get(name, -1) for name in uses],
        [before.pending.get(name, ()) for name in uses],
        [before.seen.get(name, {}) for name in uses], before.host_after,
    )  # fmt: skip
    refers: dict[int, int] = {}  # ops that it leaves behind, and their places

    def places(left: Iterable[int]) -> list[int]:
        return [refers.setdefault(op, len(refers)) for op in left]

    lanes = [r.lane(name) for name in uses]
    pending, added, tails, seen = [], [], [], []
    for name, lane in r.lanes.items():
        _shorten(r, lane)
        if name in uses:
            pending.append((lane, places(lane.pending)))
            tails.append((lane, places([lane.tail])[0]))
        else:
            known = before.pending.get(name, ())
            more = [op for op in lane.pending if op not in known]
            if more:
                added.append((lane, places(more)))
        known_seen = before.seen.get(name, {})
        changed = {o: op for o, op in lane.seen.items() if known_seen.get(o, -1) != op}
        if changed:
            seen.append((lane, list(zip(changed, places(changed.values()), strict=True))))
    host_after = places([r.host_after])[0] if r.host_after >= 0 else -1
    all_refers = {*refers, *(dep for op in ops for dep in op.deps), *(op.host_after for op in ops)}
    if any(-1 < op < first and op not in old for op in all_refers):
        return None
    after = _After(
        tuple([op - first if op >= first else ~old.index(op) for op in refers]),
        pending, added, tails, seen, r.calls, host_after, r.memory.moment,
    )  # fmt: skip
    return _Chunk(first, len(ops), r.memory.log[before.log :], lanes, met, old, after)
