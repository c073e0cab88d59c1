"""Rounds of a pipeline rank's actions: recorded once, copied whole from then on.

A full pipeline repeats itself: the same computations and messages in one order, each time a few
micro-batches later (`_Course` finds these rounds). One is recorded as it is issued (`_Round`). A
later one issues the same ops and leaves the same behind, if its streams have before them what that
one met and it takes messages as that one did; if not, its actions are done one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from sim.pipeline.actions import EXCHANGE, WAIT, Action
from sim.records import NamedTuple
from sim.strategies.chunks import Chunk, Chunks, Copied
from sim.strategies.recorder import Event, Recorder

#: rounds in a row that are worth a look, and how many are recorded before it is given up
_WORTH, _TRIES = 4, 3

#: what a message that has come is for: a forward or a backward, its stage, its micro-batch
Use = tuple[bool, int, int]


class _Round(NamedTuple):
    """A recorded round."""

    chunk: Chunk
    taken: Sequence[Use]  # messages that came before it and are used in it
    left: Sequence[tuple[Use, int]]  # those that come in it and are not, each so many ops long
    waited: Sequence[int] | None  # for those sent before it, each so many ops long; None: for none
    sent: Sequence[int]  # those sent and not waited for, each so many ops long
    before: int  # of which micro-step the op before it is, if any
    after: int  # of which micro-step its last action is
    computed: Sequence[tuple[Copied, str]]  # stages, and kinds of action


class _Course:
    """Actions of a rank, told apart but for their micro-batches."""

    def __init__(self, actions: Sequence[Action]) -> None:
        kinds: dict[Hashable, int] = {}
        apart: Hashable
        self.kind: list[int] = []
        self.micro: list[int] = []  # the first of a pair's
        self.last: list[int] = []  # the last of a pair's
        self.next: list[int] = [0] * len(actions)  # where an action of its kind stands next
        for kind, stage, micro, pair in actions:
            apart, first, last = (kind, stage), micro, micro
            if pair:
                first, last = pair[0].micro, max([each.micro for each in pair])
                apart = tuple([(each.kind, each.stage, each.micro - first) for each in pair])
            self.kind.append(kinds.setdefault(apart, len(kinds)))
            self.micro.append(first)
            self.last.append(last)
        found: dict[int, int] = {}
        for i in range(len(actions) - 1, -1, -1):
            self.next[i] = found.get(self.kind[i], len(actions))
            found[self.kind[i]] = i
        #: size, micro-batches and end: up to the end an action is that of so many before, as many
        #: micro-batches later
        self._known = (0, 0, 0)

    def rounds(self, begin: int) -> tuple[int, int, int]:
        """Actions of a round that begins there, rounds in a row, and micro-batches of each."""
        size = self.next[begin] - begin
        kind, micro, end = self.kind, self.micro, len(self.kind) - size
        if end <= begin:
            return size, 1, 0
        later = micro[begin + size] - micro[begin]
        at = begin
        if self._known[:2] == (size, later):
            at = max(at, self._known[2])
        while at < end and kind[at] == kind[at + size] and micro[at + size] - micro[at] == later:
            at += 1
        self._known = size, later, at
        return size, 1 + (at - begin) // size, later


class Rounds:
    """Plays the actions of a rank, rounds of them once.

    Parameters
    ----------
    recorder : Recorder
        Where they are issued.
    chunks : Chunks
        Of the rank.
    stages : mapping of int to Copied
        Its stages.
    arrived : dict
        Messages that have come and not been used; it changes.
    sent : list of Event
        Messages that have been sent; it grows.
    do : callable
        Does one action.
    """

    def __init__(
        self, recorder: Recorder, chunks: Chunks, stages: Mapping[int, Copied],
        arrived: dict[Use, Event], sent: list[Event], do: Callable[[Action], None],
    ) -> None:  # fmt: skip
        self.recorder, self.chunks, self.stages = recorder, chunks, stages
        self.arrived, self.sent, self.do = arrived, sent, do

    def play(self, actions: Sequence[Action], micro: int) -> None:
        """All of them, of so many micro-batches."""
        places = _Course(actions)
        at = 0
        while at < len(actions):
            size, count, later = places.rounds(at)
            # the first micro-batch waits for no other, the last one may reduce gradients
            most = max(places.last[at : at + size])
            count = min(count, 1 + (micro - 2 - most) // later if later > 0 else 0)
            if count < _WORTH or min(places.micro[at : at + size]) < 1:
                self.do(actions[at])
                at += 1
                continue
            self._again([actions[at + i * size : at + (i + 1) * size] for i in range(count)], later)
            at += count * size

    def _again(self, rounds: Sequence[Sequence[Action]], later: int) -> None:
        known: tuple[_Round, int] | None = None
        tries = 0
        for number, actions in enumerate(rounds):
            if known is not None and self._copy(known[0], (number - known[1]) * later, actions):
                continue
            known = None
            if tries < _TRIES:
                found = self._record(actions)
                known = None if found is None else (found, number)
                tries += 1
                continue
            for action in actions:
                self.do(action)

    def _record(self, actions: Sequence[Action]) -> _Round | None:
        """Do them, and say what was done; None where others like them may do something else."""
        r = self.recorder
        computed = [
            (self.stages[part.stage], part.kind)
            for action in actions for part in action.parts if part.computes
        ]  # fmt: skip
        conditions = [stage.condition() for stage, _ in computed]
        arrived, sent = dict(self.arrived), list(self.sent)
        step, before = r.micro_step, self.chunks.before()
        for action in actions:
            self.do(action)
        if None in conditions or conditions != [stage.condition() for stage, _ in computed]:
            return None
        taken = [use for use in arrived if use not in self.arrived]
        left = [(use, event) for use, event in self.arrived.items() if use not in arrived]
        waits = any(action.kind == WAIT for action in actions)
        mine = self.sent[0 if waits else len(sent) :]
        behind = [op for event in (*(event for _, event in left), *mine) for op in event]
        events = [*(arrived[use] for use in taken), *(sent if waits else ())]
        met = [op for event in events for op in event]
        now, r.micro_step = r.micro_step, _first(actions)
        chunk = self.chunks.since(before, met, behind)
        r.micro_step = now
        if chunk is None:
            return None
        return _Round(
            chunk, taken, [(use, len(event)) for use, event in left],
            list(map(len, sent)) if waits else None, list(map(len, mine)), step, now, computed,
        )  # fmt: skip

    def _copy(self, known: _Round, later: int, actions: Sequence[Action]) -> bool:
        """Copy a round so many micro-batches later, if it would issue the same."""
        r = self.recorder
        if actions[0].kind == EXCHANGE and r.micro_step - known.before != later:
            return False
        uses = [(forward, stage, micro + later) for forward, stage, micro in known.taken]
        events = [self.arrived.get(use) for use in uses]
        if None in events:
            return False
        if known.waited is not None:
            events += self.sent
            if known.waited != list(map(len, self.sent)):
                return False
        new = known.chunk.meets(r, [op for event in events for op in event or ()])
        if new is None:
            return False
        r.micro_step = _first(actions)
        left = iter(self.chunks.copy(known.chunk, new))
        r.micro_step = known.after + later
        for use in uses:
            del self.arrived[use]
        for (forward, stage, micro), length in known.left:
            self.arrived[forward, stage, micro + later] = tuple([next(left) for _ in range(length)])
        if known.waited is not None:
            self.sent.clear()
        self.sent += [tuple([next(left) for _ in range(length)]) for length in known.sent]
        for computed, kind in known.computed:
            computed.skip(kind)
        return True


def _first(actions: Sequence[Action]) -> int:
    """The micro-batch of the first."""
    return actions[0].parts[0].micro
