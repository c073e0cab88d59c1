"""From which block on ZeRO-3 does the same in each: seen where the coordinator is as it was.

It is played over a few blocks. Where it enters a block as it entered the one before, all that it
knows being as far from the one as from the other, it goes on in the same way. Where buckets end at
another place of every block (8B: one takes 2.3), it may do so several blocks on: of shipped models
that are deep enough none is like that by default.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from sim.blocks.parameters import tree_of
from sim.inputs.strategy import BlockRhythm
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.strategies.recorder import Quiet
from sim.strategies.zero3_coordinator import AVAILABLE, NOT_AVAILABLE, Coordinator
from sim.strategies.zero3_settings import Settings, settings_of
from sim.strategies.zero3_trace import FORWARD, ModuleTrace, trace_of

SETTLED = 4  # blocks after which streams may have found their rhythm, too
PLAYED = 16  # blocks
FEWER = 4  # times as many as a model has at least, to be worth it


def zero3_rhythm(workload: Workload, mesh: Mesh) -> BlockRhythm | None:
    """The rhythm in which a steady micro-step runs blocks that are alike; None if it has none.

    Parameters
    ----------
    workload, mesh : Workload, Mesh
        A job without stages.
    """
    model = workload.model
    if model.layers < FEWER * PLAYED:
        return None
    settings = settings_of(workload, mesh)
    few = replace(settings, world=settings.hpz, gpus_per_node=settings.hpz)
    job = workload.model_copy(update={"model": model.model_copy(update={"layers": PLAYED})})
    trace = trace_of(job, tree_of(job))
    key = "rhythm", few
    if key not in trace.derived:
        watched = _Watched(trace, few, PLAYED)
        watched.micro_batch()
        trace.derived[key] = _rhythm(watched.states())
    found: BlockRhythm | None = trace.derived[key]
    return found


def _rhythm(passes: Sequence[Sequence[Hashable]]) -> BlockRhythm | None:
    """That of forward and backward, with the fewest blocks that have it."""
    (forward, ahead), (backward, back) = map(_span, passes)
    room = min(ahead - forward, back - backward) - 3
    return BlockRhythm(forward, backward, PLAYED - room) if room >= 0 else None


def _span(states: Sequence[Hashable]) -> tuple[int, int]:
    """From which block on to which they are alike."""
    begin = SETTLED
    while begin + 1 < len(states) and states[begin] != states[begin + 1]:
        begin += 1
    end = begin
    while end + 1 < len(states) and states[end] == states[end + 1]:
        end += 1
    return begin, end


class _Watched(Coordinator):
    """One that is looked at whenever a block begins."""

    def __init__(self, trace: ModuleTrace, settings: Settings, layers: int) -> None:
        super().__init__(trace, settings, Quiet({}))
        self._layers = layers
        self._containers: dict[int, int] = {}
        self._parameters = [0] * len(trace.numel)  # their blocks
        for unit, block in enumerate(trace.unit_blocks):
            self._containers.setdefault(block, unit)
            for p in trace.unit_parameters[unit]:
                self._parameters[p] = max(block, 0)
        first: dict[int, int] = {}
        for p, block in enumerate(self._parameters):
            first.setdefault(block, p)
        self._first = first
        self._blocks = {unit: block for block, unit in self._containers.items()}
        self._seen: dict[tuple[bool, int], Hashable] = {}

    def states(self) -> tuple[list[Hashable], list[Hashable]]:
        """As it entered each block, forward and backward, in the order of running."""
        forward = [s for (ahead, _), s in self._seen.items() if ahead]
        return forward, [s for (ahead, _), s in self._seen.items() if not ahead]

    def fetch(self, unit: int, direction: int) -> None:
        """As `Coordinator.fetch`, looked at before."""
        block = self._blocks.get(unit, 0)
        place = direction == FORWARD, block
        if 0 < block <= self._layers and place not in self._seen:
            self._seen[place] = self._state(block)
        super().fetch(unit, direction)

    def _state(self, block: int) -> Hashable:
        """All that it knows, by how far it is from a block."""
        queue, at, bucket = self.trace.queue, self._next, self.gradients
        handles: dict[int, int] = {}  # in the order in which they were issued
        for p in sorted(self.in_flight):
            handles.setdefault(id(self.in_flight[p]), len(handles))
        held = [
            (self._parameter(p, block), self.status[p], max(self.latest[p] - self.step, -1),
             frozenset(self._unit(u, block) for u in self.active[p]),
             handles.get(id(self.in_flight.get(p)), -1))
            for p, keep in enumerate(self.persistent)
            if self.active[p] or self.latest[p] >= self.step
            or self.status[p] != (AVAILABLE if keep else NOT_AVAILABLE)
        ]  # fmt: skip
        return (
            tuple(held), self.counted, bucket.elements, len(self._fetches),
            tuple(self._parameter(p, block) for p in bucket.parameters),
            (self._parameter(queue[at][0], block), queue[at][1] - self.step)
            if at < len(queue) else None,
            tuple(
                (self._unit(u, block), frozenset(self._parameter(p, block) for p in parameters))
                for u, parameters in self.running.items()
            ),
            tuple(self._parameter(p, block) for p in self._staged),
        )  # fmt: skip

    def _parameter(self, p: int, block: int) -> tuple[int, int]:
        """Its block, from this one, and which it is there; 0 and which it is, at either end."""
        mine = self._parameters[p]
        if 0 < mine <= self._layers:
            return mine - block, p - self._first[mine]
        return self._layers + mine, p - self._first[mine]

    def _unit(self, unit: int, block: int) -> tuple[int, int]:
        mine = self.trace.unit_blocks[unit]
        if 0 < mine <= self._layers:
            return mine - block, unit - self._containers[mine]
        return self._layers + mine, unit - self._containers[mine]
