"""What a job is warned of, whatever is asked about it."""

from __future__ import annotations

from sim.inputs.checks import check
from sim.inputs.notes import Message, Notes
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.result.idle import idle_keys
from sim.result.threads import thread_warnings
from sim.step.pressure import paging_warnings, retry_warnings
from sim.step.step import StepReport, memory_of, quick


def warnings_of(
    topology: Topology,
    workload: Workload,
    notes: Notes | None = None,
    found: StepReport | None = None,
    *,
    alike: bool = True,
) -> tuple[Message, ...]:
    """Every warning of a job on a machine: what is written first, then how it runs.

    Parameters
    ----------
    topology, workload : specs
        As run.
    notes : Notes, optional
        What the loader warned of, and where values came from.
    found : StepReport, optional
        Their step; simulated if left out.
    alike : bool
        Whether ranks of a kind are in it: only against such a step is held what another key, or
        fewer threads, would make of it.
    """
    found = found or quick(topology, workload)
    retries_s = found.retries_s if found.memory.fits else 0.0
    return (
        *(notes.warnings if notes else ()),
        *(idle_keys(topology, workload, notes, found) if notes and alike else ()),
        *(thread_warnings(topology, workload, found.time_s) if alike else ()),
        *found.memory.warnings,
        *paging_warnings(topology, found.memory),
        *retry_warnings(workload, retries_s, found.time_s),
    )


def codes_of(topology: Topology, workload: Workload) -> set[str]:
    """Codes of what is said of a job before it is simulated: of what is written, and of memory."""
    said = {finding.code for finding in check(topology, workload)}
    return said | {message.code for message in memory_of(topology, workload).warnings}


def pressed(topology: Topology, workload: Workload) -> bool:
    """Whether it is warned of allocations that fail at first."""
    found = quick(topology, workload)
    return any(retry_warnings(workload, found.retries_s, found.time_s))
