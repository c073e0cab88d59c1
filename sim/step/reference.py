"""The passes of a frozen model beside a step: forwards without gradients, simulated by themselves.

A trainer runs them between the forward and the backward of each micro-step, one after the other:
what they take is added to the step.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from sim.inputs.reference import passes_before, reference_of
from sim.inputs.rows import run_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.table import table_of
from sim.program import Timeline
from sim.quantities import counted, duration
from sim.step.breakdown import Breakdown
from sim.step.measures import WindowMeasures, weighted
from sim.step.outcome import of_windows
from sim.step.ready import ready_of
from sim.step.run import run_replicas
from sim.step.variation import Slow, Variation
from sim.step.waiting import regrouped, waiting_in_windows
from sim.step.windows import Window, Windows
from sim.strategies.plan import SEGMENT

_FORWARD = "forward"
_DATA_SET = "; supposes that the data set is what the steps of an epoch read"


def reference_passes(
    topology: Topology, workload: Workload, slow: tuple[Slow, ...] = ()
) -> WindowMeasures | None:
    """What the reference adds to a micro-step; None where a job makes none.

    Parameters
    ----------
    topology, workload : specs
        Of the job.
    slow : tuple of Slow
        Its stragglers. Of jitter the passes are those of no draw.
    """
    if workload.reference == "none" or passes_before(workload):
        return None
    each = _forward(topology, reference_of(workload), slow)
    return weighted((each, workload.reference_passes))


def before_training_s(topology: Topology, workload: Workload, steps: float) -> float:
    """A reference's forwards of the rows of so many steps, where all are made before. [s]

    Source: TRL 1.16, trainer/dpo_trainer.py, ``_precompute_ref_logps``: in batches of a
    micro-step's size, on the model as DeepSpeed prepares it, or a copy as FSDP does; of adapters
    under FSDP on a model that nothing has sharded yet, which is not modelled: it is warned of.
    """
    if not passes_before(workload):
        return 0.0
    run = run_on(topology, workload)
    each = _forward(topology, reference_of(run), ()).breakdown.time_s
    return steps * workload.gradient_accumulation * each


def with_passes(window: WindowMeasures, passes: WindowMeasures, times: float) -> WindowMeasures:
    """A window of a step and so many micro-steps' passes after it, told of the window's groups."""
    return weighted(
        (window, 1.0), (passes._replace(ranks=regrouped(passes.ranks, window.ranks)), times)
    )


def reference_notes(topology: Topology, workload: Workload) -> tuple[str, ...]:
    """What of a step the reference takes, in a sentence."""
    rows = before_training_s(topology, workload, 1.0)
    if rows:
        return (
            "reference: a forward without gradients of every row once, before training: "
            f"{duration(rows)} for the rows of a step" + _DATA_SET * (workload.samples is None),
        )
    each = reference_passes(topology, run_on(topology, workload))
    if each is None:
        return ()
    whole = workload.gradient_accumulation * each.breakdown.time_s
    return (
        f"reference: {counted(workload.reference_passes, 'forward')} without gradients in each "
        f"micro-step, one after the other with the rest: {duration(whole)} of the step",
    )


@lru_cache(maxsize=512)
def _forward(topology: Topology, workload: Workload, slow: tuple[Slow, ...]) -> WindowMeasures:
    """The forward of a step of one micro-step, from its begin to its last kernel.

    Ranks whose forward ends before the slowest one's wait for it, at the latest where the step goes
    on.
    """
    variation = Variation(slow=slow)
    level = variation.level(None)
    outcome, _ = run_replicas(
        topology, workload, variation, level=level, every_rank=False, causes=False
    )
    program, timeline = outcome.lowered, outcome.timeline
    view = program.slowest(timeline)
    end = _end_of_forward(program, timeline, view)
    ready = ready_of(topology, workload, workload, variation, level, None, lean=True)

    def until(view: RankView, end: float) -> Breakdown:
        window = Windows.of([[Window(0.0, end, 1)]])
        [[found]] = of_windows([ready], program, timeline, [view], window)
        return found

    found = until(view, end)
    kinds = {v.role.gpu.name: v for v in reversed(program.views)}
    for name, one in kinds.items() if len(kinds) > 1 else ():
        own = min(end, _end_of_forward(program, timeline, one))
        parts = found.by_gpu[name] = until(one, own).parts
        parts["exposed_communication"] += end - own
    ends = [min(end, _end_of_forward(*each)) for each in outcome.classes()]
    [ranks] = waiting_in_windows(replace(outcome, windows=(Window(0.0, end, 1),)), ends)
    return WindowMeasures(found, ranks)


def _end_of_forward(program: Lowered, timeline: Timeline, view: RankView) -> float:
    """When a rank's last kernel of the forward ends. [s]"""
    forward = table_of(view.plan).kind == SEGMENT
    forward &= np.array([op.name == _FORWARD for op in view.plan.ops])
    ops = np.arange(view.compute.start, view.compute.stop)
    return float(timeline.end[ops[forward[program.plan_op[ops]]]].max())
