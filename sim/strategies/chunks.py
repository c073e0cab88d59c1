"""What a stage issues for a micro-batch, recorded once and copied from then on.

A stage's forward or backward (a chunk) issues the same ops for every micro-batch, but for those in
which parameters are gathered or gradients begun. Whether it would is seen before it runs: from the
stage's own state, and from what the streams that it uses wait for. Where both are as they were
before an earlier chunk, its ops, its allocations and what it leaves behind are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sim.strategies.allocations import MARK
from sim.strategies.copied import Copy
from sim.strategies.plan import Calls, Recorder, StreamState


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
    """What a chunk leaves behind; ops as the recorded chunk has them."""

    pending: Mapping[str, tuple[int, ...]]  # of streams that it uses, all
    added: Mapping[str, tuple[int, ...]]  # to what others wait for
    tail: Mapping[str, int]
    seen: Mapping[str, Mapping[str, int]]  # where it changed
    calls: Calls
    host_after: int
    moment: int


class _Chunk(NamedTuple):
    """A recorded chunk."""

    first: int
    size: int
    log: Sequence[tuple[Any, ...]]
    uses: tuple[str, ...]  # streams on which it issues
    met: Hashable  # what these waited for before, see `_met`
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
            met, new = _met(r, chunk.uses)
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
        copy = Copy(at, chunk.first, chunk.size, r.micro_step, chunk.old, new)
        r.again(copy)
        shift = at - chunk.first
        r.memory.log += [
            (MARK, entry[1], entry[2] + shift, entry[3]) if entry[0] == MARK else entry
            for entry in chunk.log
        ]
        r.memory.moment = after.moment
        for name, pending in after.pending.items():
            r.lane(name).pending = [copy.moved(op) for op in pending]
        for name, added in after.added.items():
            r.wait(name, tuple(copy.moved(op) for op in added))
            _shorten(r, r.lane(name))
        for name, tail in after.tail.items():
            r.lane(name).tail = copy.moved(tail)
        for name, seen in after.seen.items():
            r.lane(name).seen.update((other, copy.moved(op)) for other, op in seen.items())
        r.calls, r.host_after = after.calls, copy.moved(after.host_after)


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


def _met(
    r: Recorder, uses: Sequence[str], before: _Before | None = None
) -> tuple[Hashable, tuple[int, ...]]:
    """What streams have before them, and the ops that it speaks of; now, or then.

    Two chunks that meet the same wait for the same: the ops of the second answer differ, but each
    has its place there.
    """
    ends: list[int] = []
    waits: list[Sequence[int]] = []
    seen: list[Mapping[str, int]] = []
    for name in uses:
        if before is not None:
            ends.append(before.tail.get(name, -1))
            waits.append(before.pending.get(name, ()))
            seen.append(before.seen.get(name, {}))
            continue
        lane = r.lane(name)
        _shorten(r, lane)
        ends.append(lane.tail)
        waits.append(lane.pending)
        seen.append(lane.seen)
    host_after = r.host_after if before is None else before.host_after
    every = (*ends, *(op for pending in waits for op in pending), host_after)
    streams = [r.ops[op].stream if op >= 0 else "" for op in every]
    met = (
        tuple(streams),
        tuple(map(every.index, every)),
        tuple(map(len, waits)),
        tuple(
            each.get(stream, -1) >= op
            for each in seen for op, stream in zip(every, streams, strict=True)
        ),
    )  # fmt: skip
    return met, every


def _chunk(r: Recorder, before: _Before) -> _Chunk | None:
    """What was issued since; None where it refers to ops that another chunk may not have."""
    first = before.ops
    ops = r.ops[first:]
    uses = tuple(dict.fromkeys(op.stream for op in ops))
    met, old = _met(r, uses, before)
    added, seen = {}, {}
    for name, lane in r.lanes.items():
        _shorten(r, lane)
        if name not in uses:
            known = before.pending.get(name, ())
            more = tuple(op for op in lane.pending if op not in known)
            if more:
                added[name] = more
        known_seen = before.seen.get(name, {})
        changed = {o: op for o, op in lane.seen.items() if known_seen.get(o, -1) != op}
        if changed:
            seen[name] = changed
    after = _After(
        {name: tuple(r.lane(name).pending) for name in uses},
        added,
        {name: r.lane(name).tail for name in uses},
        seen,
        r.calls,
        r.host_after,
        r.memory.moment,
    )
    refers = {
        *(dep for op in ops for dep in op.deps),
        *(op.host_after for op in ops),
        *(op for each in (after.pending, after.added) for ops in each.values() for op in ops),
        *(op for changed in seen.values() for op in changed.values()),
        after.host_after,
    }  # fmt: skip
    if any(-1 < op < first and op not in old for op in refers):
        return None
    return _Chunk(first, len(ops), r.memory.log[before.log :], uses, met, old, after)
