"""Where the program of a pipeline repeats itself, and where its ranks can be stopped meanwhile."""

from __future__ import annotations

import numpy as np

from sim.lowering.lowered import Lowered
from sim.lowering.parts import I4, I8
from sim.lowering.table import table_of
from sim.program.cycles import Cycles, Gates, cycles_of
from sim.records import NamedTuple


class Repeating(NamedTuple):
    """A pipeline that repeats itself: its lanes, and where they are stopped."""

    cycles: Cycles
    gates: Gates
    hosts: I8  # lanes of hosts, which may be ahead


def repeating(lowered: Lowered, cycle: int) -> Repeating | None:
    """Where a pipeline's program repeats itself.

    Parameters
    ----------
    lowered : Lowered
        Of one step, with several views.
    cycle : int
        Micro-batches of a cycle.

    Returns
    -------
    Repeating or None
        None where it has too few cycles.
    """
    micro, ends = _micro_steps(lowered)
    middle = (int(micro.max()) + 1 - cycle) // 2
    inside = (micro >= middle) & (micro < middle + cycle)
    period = np.bincount(lowered.program.lane[inside], minlength=lowered.program.n_lanes)
    cycles = cycles_of(lowered.program, period.astype(np.int64))
    if cycles is None:
        return None
    pausing, held, hosts = [], [], []
    for view in lowered.views:
        host = lowered.host_of(view)
        own = [lane for lane in lowered.lanes_of(view) if period[lane]]
        # a cycle before one of its lanes leaves what repeats
        last = cycles.end[own] - period[own]
        op = int(lowered.plan_op[last].min())
        launch = int(ends[host] + np.searchsorted(lowered.plan_op[ends[host] : ends[host + 1]], op))
        compute = lowered.plan_op[view.compute]
        kernel = int(np.searchsorted(compute, compute[np.searchsorted(compute, op) - 1]))
        kernel += view.compute.start
        on = int(lowered.program.lane[kernel])
        for gate, lane in ((launch, host), (kernel, on)):
            if not cycles.begin[lane] < gate < cycles.end[lane]:
                return None
        pausing.append(kernel)
        held.append(launch)
        hosts.append(host)
    return Repeating(cycles, Gates(np.array(pausing), np.array(held)), np.array(hosts))


def _micro_steps(lowered: Lowered) -> tuple[I4, I8]:
    """The micro-batch of each op, -1 of none, and where ops of lanes begin, (n_lanes + 1,)."""
    program = lowered.program
    ends = np.searchsorted(program.lane, np.arange(program.n_lanes + 1))
    micro = np.full(program.lane.size, -1, dtype=np.int32)
    for view in lowered.views:
        lanes = lowered.lanes_of(view)
        own = slice(int(ends[lanes.start]), int(ends[lanes.stop]))
        micro[own] = table_of(view.plan).micro_step[lowered.plan_op[own]]
        # what is on the wire follows those that come to it
        arrive = own.start + np.flatnonzero(program.hold_until[own] >= lowered.wire)
        micro[program.hold_until[arrive]] = micro[arrive]
    return micro, ends
