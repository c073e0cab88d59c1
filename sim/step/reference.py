"""The passes of a frozen model beside a step: forwards without gradients, simulated by themselves.

A trainer runs them between the forward and the backward of each micro-step, one after the other:
what they take is added to the step.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sim.engine import run
from sim.inputs.reference import reference_of
from sim.inputs.rows import run_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.frames import lowered
from sim.lowering.table import table_of
from sim.quantities import counted, duration
from sim.step.breakdown import Breakdown
from sim.step.outcome import of_windows
from sim.step.ready import ready_of
from sim.step.variation import Variation
from sim.step.windows import Window, Windows
from sim.strategies.plan import SEGMENT

_FORWARD = "forward"


def reference_passes(topology: Topology, workload: Workload) -> Breakdown | None:
    """What the reference adds to a micro-step; None where a job has none.

    Parameters
    ----------
    topology, workload : specs
        Of the job.
    """
    if workload.reference == "none":
        return None
    found = Breakdown()
    found.add(_forward(topology, reference_of(workload)), workload.reference_passes)
    return found


def reference_notes(topology: Topology, workload: Workload) -> tuple[str, ...]:
    """What of a step the reference takes, in a sentence."""
    each = reference_passes(topology, run_on(topology, workload))
    if each is None:
        return ()
    whole = workload.gradient_accumulation * each.time_s
    return (
        f"reference: {counted(workload.reference_passes, 'forward')} without gradients in each "
        f"micro-step, one after the other with the rest: {duration(whole)} of the step",
    )


@lru_cache(maxsize=512)
def _forward(topology: Topology, workload: Workload) -> Breakdown:
    """The forward of a step of one micro-step, from its begin to its last kernel."""
    alike = Variation()
    ready = ready_of(topology, workload, workload, alike, "folded", None)
    program = lowered(ready.priced)
    timeline = run(program.program, "auto")
    view = program.slowest(timeline)
    table = table_of(view.plan)
    forward = table.kind == SEGMENT
    forward &= np.array([op.name == _FORWARD for op in view.plan.ops])
    ops = np.arange(view.compute.start, view.compute.stop)
    last = ops[forward[program.plan_op[ops]]]
    end = float(timeline.end[last].max())
    [[found]] = of_windows([ready], program, timeline, [view], Windows.of([[Window(0.0, end, 1)]]))
    return found
