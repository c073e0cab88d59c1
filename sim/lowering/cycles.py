"""Where the program of a pipeline repeats itself, and where its ranks can be stopped meanwhile."""

from __future__ import annotations

import numpy as np

from sim.lowering.lowered import Lowered
from sim.lowering.parts import B1, I8
from sim.lowering.table import table_of
from sim.program.cycles import Cycles, Gates, cycles_of
from sim.records import NamedTuple
from sim.strategies.plan import SEGMENT


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
    inside, ends = _last_cycle(lowered, cycle)
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
        # a cycle earlier: messages and gathers, which are launched ahead of kernels, would begin
        kernel -= int(period[on])
        for gate, lane in ((launch, host), (kernel, on)):
            if not cycles.begin[lane] < gate < cycles.end[lane]:
                return None
        pausing.append(kernel)
        held.append(launch)
        hosts.append(host)
    return Repeating(cycles, Gates(np.array(pausing), np.array(held)), np.array(hosts))


def _last_cycle(lowered: Lowered, cycle: int) -> tuple[B1, I8]:
    """What ranks issue in the last cycle before that of their last forwards, and lanes' ends.

    Gathers, which are no micro-batch's, are among it.

    Returns
    -------
    inside : (n_ops,) bool
    ends : (n_lanes + 1,) int64
        Where ops of each lane begin.
    """
    program = lowered.program
    ends = np.searchsorted(program.lane, np.arange(program.n_lanes + 1))
    inside = np.zeros(program.lane.size, dtype=np.bool_)
    for view in lowered.views:
        lanes = lowered.lanes_of(view)
        own = slice(int(ends[lanes.start]), int(ends[lanes.stop]))
        table = table_of(view.plan)
        micro = np.where(table.kind == SEGMENT, table.micro_step, -1)
        last = int(micro.max())
        begin, end = (int(np.argmax(micro == step)) for step in (last - cycle, last))
        issued = lowered.plan_op[own]
        inside[own] = (issued >= begin) & (issued < end)
        # what is on the wire follows those that come to it
        arrive = own.start + np.flatnonzero(program.hold_until[own] >= lowered.wire)
        inside[program.hold_until[arrive]] = inside[arrive]
    return inside, ends
