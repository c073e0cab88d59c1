"""A pipeline's step as a Gantt chart: what each of its ranks computes when, and where it waits.

One rank of each pipeline stage is drawn; its data-parallel and tensor-parallel sisters do the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document
from sim.errors import InputError
from sim.inputs.pipeline import blocks_of, shape_of
from sim.inputs.rows import run_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.lowered import RankView
from sim.pipeline.actions import BACKWARD, FORWARD, INPUT, WEIGHT
from sim.pipeline.schedules import SCHEDULES
from sim.step.outcome import StepOutcome
from sim.step.run import run_step
from sim.step.variation import Progress
from sim.strategies.plan import SEGMENT

#: names of segments -> action of the schedule; a recompute belongs to what follows it
ACTIONS = {"forward": FORWARD, "backward": BACKWARD, "input": INPUT, "weight": WEIGHT}
_RECOMPUTE = "recompute"


@dataclass(frozen=True, slots=True)
class StageRun:
    """One action of a pipeline rank. [s]"""

    rank: int  # along the pipeline
    stage: int
    micro_batch: int
    kind: str  # F, B, or I and W, the parts of a backward for inputs and for weights
    start_s: float
    end_s: float

    @property
    def name(self) -> str:
        """As torch prints it."""
        return f"{self.stage}{self.kind}{self.micro_batch}"


@dataclass(frozen=True, slots=True)
class StageChart(Document):
    """What the ranks of a pipeline compute in a step.

    Attributes
    ----------
    title : str
        Job and machine.
    schedule : str
        As reports write it.
    ranks, virtual, micro_batches : int
        Of the pipeline; stages a rank.
    end_s : float
        Of the step. [s]
    runs : tuple of StageRun
        By rank and time.
    idle : tuple of float
        Share of the time from the first action to the last of any that each rank computes nothing:
        other stages, messages, and collectives that nothing hides.
    """

    schema: ClassVar[str] = SCHEMAS["stages"]

    title: str
    schedule: str
    ranks: int
    virtual: int
    micro_batches: int
    end_s: float
    runs: tuple[StageRun, ...]
    idle: tuple[float, ...]

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row an action."""
        return [asdict(run) for run in self.runs]


def stage_chart(
    topology: Topology, workload: Workload, title: str, progress: Progress | None = None
) -> StageChart:
    """Simulate a step and put its chart together; `progress` is that of `step`.

    Raises
    ------
    InputError
        If the job has no pipeline.
    """
    if workload.parallelism.pipeline_parallel == 1:
        message = "nothing to draw: the job has no pipeline; write 2 or more"
        raise InputError.single(workload.name, message, "parallelism.pipeline_parallel")
    job = run_on(topology, workload)
    outcome = run_step(topology, job, all_micro_steps=True, progress=progress)
    runs = tuple(stage_runs(outcome, job))
    shape = shape_of(job)
    first, last = min(run.start_s for run in runs), max(run.end_s for run in runs)
    busy = [sum(r.end_s - r.start_s for r in runs if r.rank == k) for k in range(shape.ranks)]
    return StageChart(
        title=title,
        schedule=SCHEDULES[job.parallelism.pipeline_schedule].title,
        ranks=shape.ranks,
        virtual=shape.virtual,
        micro_batches=shape.micro,
        end_s=float(outcome.timeline.end.max()),
        runs=runs,
        idle=tuple(1.0 - seconds / (last - first) for seconds in busy),
    )


def stage_runs(outcome: StepOutcome, workload: Workload) -> Iterator[StageRun]:
    """Actions of one rank of each pipeline rank, by rank and time."""
    stage_of = {block: s for s, own in enumerate(blocks_of(workload)) for block in own}
    drawn: dict[int, RankView] = {}
    for view in outcome.lowered.views:
        drawn.setdefault(view.plan.stage, view)
    for rank in sorted(drawn):
        yield from _runs(outcome, drawn[rank], rank, stage_of)


def _runs(
    outcome: StepOutcome, view: RankView, rank: int, stage_of: Mapping[int, int]
) -> Iterator[StageRun]:
    lowered, timeline = outcome.lowered, outcome.timeline
    known: StageRun | None = None
    repeats = -1.0  # since when a block is recomputed
    rows = zip(
        lowered.plan_op[view.compute].tolist(),
        timeline.start[view.compute].tolist(),
        timeline.end[view.compute].tolist(),
        strict=True,
    )
    for at, start, end in rows:
        op = view.plan.ops[at]
        if op.kind != SEGMENT or op.block < 0:
            continue
        if op.name == _RECOMPUTE:
            repeats = start if repeats < 0.0 else repeats
            continue
        kind, stage = ACTIONS[op.name], stage_of[op.block]
        since, repeats = (repeats if repeats >= 0.0 else start), -1.0
        if known and (known.stage, known.micro_batch, known.kind) == (stage, op.micro_step, kind):
            known = StageRun(rank, stage, op.micro_step, kind, known.start_s, end)
            continue
        if known:
            yield known
        known = StageRun(rank, stage, op.micro_step, kind, since, end)
    if known:
        yield known
