"""What a stage issues for a micro-batch, recorded once and copied from then on.

A stage's forward or backward (a chunk) issues the same ops for every micro-batch, but for those in
which parameters are gathered or gradients begun. Whether it would is seen before it runs: from the
stage's own state, and from what the streams that it uses wait for. Where both are as they were
before an earlier chunk, its ops, its allocations and what it leaves behind are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import takewhile
from operator import attrgetter
from typing import Protocol

from sim.records import NamedTuple
from sim.strategies.copied import Copy
from sim.strategies.plan import Calls, PlanOp
from sim.strategies.recorder import Recorder, StreamState

#: ops that a stream on which nothing is issued may wait for, before the latest ones are looked for
_LONG = 64
_new_copy = tuple.__new__
_STREAM = attrgetter("stream")


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

    #: ops of it, counted from its first, and, as -1, -2, ..., what it met before (`Chunk.old`)
    refers: tuple[int, ...]
    pending: Sequence[tuple[StreamState, Sequence[int]]]  # of streams that it uses, all
    added: Sequence[tuple[StreamState, Sequence[int]]]  # to what others wait for
    tail: Sequence[tuple[StreamState, int]]
    seen: Sequence[tuple[dict[str, int], str, int]]  # where it changed: whose, of which stream
    calls: Calls
    host_after: int
    moment: int
    more: Sequence[int]  # what else is asked for


class _Met(NamedTuple):
    """What streams have before them.

    Two chunks that meet the same wait for the same: the ops of the second answer differ, but each
    has its place there.
    """

    waits: tuple[int, ...]  # for how many ops each stream waits
    streams: tuple[str, ...]  # of the ops: streams' last ones, what they wait for, the host
    same: tuple[int, ...]  # places where each of them stands first; none if all differ
    #: of each stream: another one, an op of it, by place, and whether it has waited for that
    ahead: tuple[tuple[tuple[str, int, bool], ...], ...]


class Chunk(NamedTuple):
    """A recorded chunk."""

    first: int
    size: int
    micro: int
    log: tuple[int, int]  # its first entry, and the one behind its last
    uses: Sequence[StreamState]  # streams on which it issues
    met: _Met  # what these waited for before
    old: tuple[int, ...]  # ops before it that it may refer to
    after: _After

    def meets(self, r: Recorder, events: Sequence[int] = ()) -> tuple[int, ...] | None:
        """Ops that stand where `old` did, if its streams have before them what it met.

        `events` are ops that it is to wait for itself.
        """
        waits, streams, same, all_ahead = self.met
        every = [lane.tail for lane in self.uses]
        for lane, length in zip(self.uses, waits, strict=True):
            if len(lane.pending) > 1:
                _shorten(r, lane)
            if len(lane.pending) != length:
                return None
            every += lane.pending
        every.append(r.host_after)
        ops = r.ops
        if ops:  # nobody waits where none are written down
            every += events
        if len(every) != len(streams):
            return None
        for op, stream in zip(every, streams, strict=True):
            if (ops[op][1] if op >= 0 else "") != stream:
                return None
        if same != _places(every):
            return None
        for lane, ahead in zip(self.uses, all_ahead, strict=True):
            for stream, place, waited in ahead:
                if (lane.seen.get(stream, -1) >= every[place]) is not waited:
                    return None
        return tuple(every)


class Chunks:
    """Chunks of a rank's stages.

    Parameters
    ----------
    recorder : Recorder
        Where they are issued.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._known: dict[Hashable, list[Chunk]] = {}

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
            new = chunk.meets(r)
            if new is not None:
                self.copy(chunk, new)
                stage.skip(kind)
                return
        before = self.before()
        run()
        if condition is not None and stage.condition() == condition:
            found = self.since(before)
            if found is not None:
                self._known.setdefault(key, []).append(found)

    def before(self) -> _Before:
        """Streams as they are before something that may be copied."""
        return _before(self.recorder)

    def since(
        self, before: _Before, events: Sequence[int] = (), more: Sequence[int] = ()
    ) -> Chunk | None:
        """What was issued since; None where it refers to ops that another may not have.

        Parameters
        ----------
        before : _Before
            Of `before`.
        events : sequence of int
            Ops from before it that it was told to wait for.
        more : sequence of int
            Ops that are asked for when it is copied.
        """
        return _chunk(self.recorder, before, events, more)

    def copy(self, chunk: Chunk, new: tuple[int, ...]) -> list[int]:
        """Issue it once more; `new` is of `Chunk.meets`. What stands for `more` of `since`."""
        r, after = self.recorder, chunk.after
        at = len(r.ops)
        later = r.micro_step - chunk.micro
        r.again(_new_copy(Copy, (at, chunk.first, chunk.size, later, chunk.old, new)))
        r.memory.again(*chunk.log, at - chunk.first)
        r.memory.moment = after.moment
        ops = [at + ref if ref >= 0 else new[~ref] for ref in after.refers]
        for lane, pending in after.pending:
            lane.pending = [ops[i] for i in pending]
        for lane, added in after.added:
            lane.pending += [ops[i] for i in added]
            if len(lane.pending) > _LONG:
                _shorten(r, lane)
        for lane, tail in after.tail:
            lane.tail = ops[tail]
        for seen, other, i in after.seen:
            seen[other] = ops[i]
        r.calls = after.calls
        r.host_after = -1 if after.host_after < 0 else ops[after.host_after]
        return [ops[i] for i in after.more]


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


def _places(every: Sequence[int]) -> tuple[int, ...]:
    """Where each stands first; nothing if all differ."""
    return () if len(set(every)) == len(every) else tuple(map(every.index, every))


def _met(
    r: Recorder, uses: Sequence[str], before: _Before, events: Sequence[int]
) -> tuple[_Met, tuple[int, ...]]:
    """What streams had before them, and the ops that it speaks of."""
    every = [before.tail.get(name, -1) for name in uses]
    waits = [before.pending.get(name, ()) for name in uses]
    for pending in waits:
        every += pending
    every.append(before.host_after)
    if r.ops:
        every += events
    streams = [r.ops[op].stream if op >= 0 else "" for op in every]
    ahead = []
    for name in uses:
        seen = before.seen.get(name, {})
        ahead.append(tuple([  # of its own ops none, of no op all is waited for
            (stream, place, seen.get(stream, -1) >= every[place])
            for place, stream in enumerate(streams) if stream and stream != name
        ]))  # fmt: skip
    met = _Met(tuple(map(len, waits)), tuple(streams), _places(every), tuple(ahead))
    return met, tuple(every)


def _waits_for(op: PlanOp) -> tuple[int, ...]:
    """Of an op that was recorded."""
    return (*op.deps, op.host_after)


def _chunk(
    r: Recorder, before: _Before, events: Sequence[int], asked: Sequence[int]
) -> Chunk | None:
    """As `Chunks.since`."""
    first = before.ops
    ops = r.ops[first:]
    uses = tuple(dict.fromkeys(map(_STREAM, ops)))
    met, old = _met(r, uses, before, events)
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
            at = places(changed.values())
            seen += [(lane.seen, other, i) for other, i in zip(changed, at, strict=True)]
    host_after = places([r.host_after])[0] if r.host_after >= 0 else -1
    behind = places(asked)
    all_refers = set(refers)
    end = len(r.ops)
    for copy in takewhile(lambda copy: copy.at >= first, reversed(r.plan.copies)):
        all_refers.update(copy.new, *map(_waits_for, r.ops[copy.at + copy.size : end]))
        end = copy.at
    all_refers.update(*map(_waits_for, r.ops[first:end]))
    if any(-1 < op < first and op not in old for op in all_refers):
        return None
    after = _After(
        tuple([op - first if op >= first else ~old.index(op) for op in refers]),
        pending, added, tails, seen, r.calls, host_after, r.memory.moment,
        behind,
    )  # fmt: skip
    log = before.log, len(r.memory.log)
    return Chunk(first, len(ops), r.micro_step, log, lanes, met, old, after)
