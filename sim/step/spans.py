"""A simulated step to draw: spans on a track a stream, exposed stretches, bytes over time.

Equal neighbours are one span, so that a step of 20,000 kernels is some hundred bars. It is the
slowest rank that is drawn, and the micro-steps that were simulated: see `sim.step.run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from sim.blocks.parameters import tree_of
from sim.documents import SCHEMAS, Document
from sim.inputs.rows import run_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.parts import CATEGORIES
from sim.memory.ledger import live_bytes
from sim.memory.report import MemoryReport, memory
from sim.program import Timeline
from sim.step.critical import critical_path
from sim.step.intervals import F8, gaps, union
from sim.step.outcome import StepOutcome
from sim.step.run import run_step
from sim.step.variation import Variation
from sim.strategies.plan import Plan
from sim.strategies.terms import TERMS

_COLLECTIVE = CATEGORIES.index("collective")
_JOINED = 1 / 2000  # of the step: gaps that no eye sees
_POINTS = 240  # of bytes over time; peaks are kept


@dataclass(frozen=True, slots=True)
class Span:
    """Work of one kind on one track. [s]"""

    track: str
    start_s: float
    end_s: float
    name: str  # forward, recompute, backward, optimizer; a collective; a copy
    unit: str  # layers.0 ... layers.9
    micro_step: int
    ops: int  # that were joined


@dataclass(frozen=True, slots=True)
class Held:
    """Live bytes by category at one instant. [B]"""

    time_s: float
    total_bytes: float
    by_category: dict[str, float]


@dataclass(frozen=True, slots=True)
class StepTimeline(Document):
    """A step of the slowest rank, as it is drawn.

    Attributes
    ----------
    title : str
        Job and machine.
    rank, alike : int
        Who is drawn, and how many ranks do the same.
    micro_steps, shown : int
        Of the job, and of the drawing; the one in the middle stands for those that are missing.
    end_s : float
        Of what is drawn. [s]
    tracks : tuple of str
        Streams of the rank, from top to bottom.
    spans : tuple of Span
        By track and time.
    exposed : tuple of (start, end)
        The compute stream waits for a collective. [s]
    critical : tuple of (track, start, end)
        The chain of ops that sets the end. [s]
    held : tuple of Held
        Live tensors as their ops start on the GPU.
    memory : MemoryReport
        Peaks and capacity of the same job.
    """

    schema: ClassVar[str] = SCHEMAS["timeline"]

    title: str
    rank: int
    alike: int
    micro_steps: int
    shown: int
    end_s: float
    tracks: tuple[str, ...]
    spans: tuple[Span, ...]
    exposed: tuple[tuple[float, float], ...]
    critical: tuple[tuple[str, float, float], ...]
    held: tuple[Held, ...]
    memory: MemoryReport

    def content(self) -> dict[str, Any]:
        """What is drawn; the memory report has a document of its own."""
        names = [name for name in self.__slots__ if name != "memory"]
        found = {name: getattr(self, name) for name in names}
        return found | {"capacity_bytes": self.memory.capacity_bytes}

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a span."""
        return [asdict(span) for span in self.spans]


def step_timeline(
    topology: Topology, workload: Workload, title: str, all_micro_steps: bool = False,
    variation: Variation | None = None,
) -> StepTimeline:  # fmt: skip
    """Simulate a step and put its drawing together."""
    job, varied = run_on(topology, workload), variation or Variation()
    outcome = run_step(
        topology, job, level=varied.level(None), all_micro_steps=all_micro_steps, variation=varied
    )
    lowered, timeline = outcome.lowered, outcome.timeline
    view = lowered.slowest(timeline)
    end = float(timeline.end.max())
    steps, tracks = job.gradient_accumulation, tracks_of(lowered, view)
    return StepTimeline(
        title=title,
        rank=view.rank,
        alike=view.multiplicity,
        micro_steps=steps,
        shown=steps - outcome.repeats,
        end_s=end,
        tracks=tuple(tracks),
        spans=tuple(
            span
            for track, lane in tracks.items()
            for span in _joined(track, lane, lowered, timeline, view.plan, _JOINED * end)
        ),
        exposed=tuple(exposed_stretches(outcome, view, end)),
        critical=tuple(critical_stretches(lowered, timeline, view, end)),
        held=tuple(held_bytes(outcome, view, job)),
        memory=memory(topology, workload),
    )


def tracks_of(lowered: Lowered, view: RankView) -> dict[str, int]:
    """Lanes of a rank by the name of their stream; those with nothing on them left out."""
    used = set(np.unique(lowered.program.lane).tolist())
    named = {lowered.stream_of(lane): lane for lane in lowered.lanes_of(view) if lane in used}
    order = ["host", "compute"]
    return {k: named[k] for k in (*order, *named) if k in named}


def _joined(
    track: str, lane: int, lowered: Lowered, timeline: Timeline, plan: Plan, least: float
) -> Iterator[Span]:
    """Neighbours with one name and unit as one span."""
    ops = np.flatnonzero(lowered.program.lane == lane)
    ops = ops[timeline.end[ops] > timeline.start[ops]]
    ops = ops[np.argsort(timeline.start[ops], kind="stable")]
    known: Span | None = None
    for i, start, end in zip(
        ops.tolist(), timeline.start[ops].tolist(), timeline.end[ops].tolist(), strict=True
    ):
        op = plan.ops[int(lowered.plan_op[i])]
        name = op.phase if track == "host" else op.name
        unit = op.unit or (f"block {op.block}" if op.block >= 0 else "")
        same = known is not None and (known.name, known.micro_step) == (name, op.micro_step)
        if (
            known is not None
            and same
            and start - known.end_s <= least
            and (known.unit == unit or track == "host" or end - known.start_s <= least)
        ):
            units = unit if track != "host" else ""
            known = Span(track, known.start_s, end, name, units, op.micro_step, known.ops + 1)
            continue
        if known is not None:
            yield known
        known = Span(track, start, end, name, unit, op.micro_step, 1)
    if known is not None:
        yield known


def exposed_stretches(
    outcome: StepOutcome, view: RankView, end: float
) -> Iterator[tuple[float, float]]:
    """Where the compute lane is idle and a collective in flight."""
    lowered, timeline = outcome.lowered, outcome.timeline
    lane = np.arange(view.compute.start, view.compute.stop)
    ops = lane[lowered.category[lane] != _COLLECTIVE]
    idle = gaps(timeline.start[ops], timeline.end[ops], 0.0, end)
    flight = union(timeline.start[view.comm_begin], timeline.end[view.comm_end])
    # both are ascending and disjoint: what is in both is a sweep over their ends
    i = j = 0
    while i < idle[0].size and j < flight[0].size:
        start = max(float(idle[0][i]), float(flight[0][j]))
        stop = min(float(idle[1][i]), float(flight[1][j]))
        if stop > start:
            yield start, stop
        if idle[1][i] < flight[1][j]:
            i += 1
        else:
            j += 1


def critical_stretches(
    lowered: Lowered, timeline: Timeline, view: RankView, end: float
) -> Iterator[tuple[str, float, float]]:
    """Stretches of the critical path on the tracks of a rank."""
    names = {lane: name for name, lane in tracks_of(lowered, view).items()}
    known: tuple[str, float, float] | None = None
    for op in critical_path(lowered.program, timeline).tolist():
        track = names.get(int(lowered.program.lane[op]))
        start, stop = float(timeline.start[op]), float(timeline.end[op])
        if track is None or stop <= start:
            continue
        if known is not None and known[0] == track and start - known[2] <= _JOINED * end:
            known = (track, known[1], stop)
            continue
        if known is not None:
            yield known
        known = (track, start, stop)
    if known is not None:
        yield known


def held_bytes(outcome: StepOutcome, view: RankView, workload: Workload) -> Iterator[Held]:
    """Live bytes when the op that is issued next starts on its stream; a bucket's highest stay."""
    before, live = live_bytes(view.plan, workload, tree_of(workload))
    times = starts_of(outcome, view)[before]
    total = live.sum(axis=0)
    edges = np.linspace(0.0, times[-1], _POINTS + 1)[1:-1]
    bucket = np.searchsorted(edges, times, side="right")
    order = np.lexsort((-total, bucket))
    chosen = np.sort(order[np.unique(bucket[order], return_index=True)[1]])
    categories = [term.category for term in TERMS]
    for at in chosen.tolist():
        held: dict[str, float] = {}
        for name, size in zip(categories, live[:, at].tolist(), strict=True):
            if size > 0.5:
                held[name] = held.get(name, 0.0) + size
        yield Held(float(times[at]), float(total[at]), held)


def starts_of(outcome: StepOutcome, view: RankView) -> F8:
    """When each op of a plan starts on its stream, never before one issued earlier. (P+1,) [s]"""
    lowered, timeline = outcome.lowered, outcome.timeline
    found = np.full(len(view.plan.ops) + 1, np.inf)
    found[-1] = timeline.end.max()
    for track, lane in tracks_of(lowered, view).items():
        if track == "host":
            continue
        ops = np.flatnonzero(lowered.program.lane == lane)
        np.minimum.at(found, lowered.plan_op[ops], timeline.start[ops])
    later = np.minimum.accumulate(found[::-1])[::-1]  # ops that no stream runs: as the next one
    found = np.where(np.isfinite(found), found, later)
    return np.maximum.accumulate(found)
