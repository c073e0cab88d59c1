"""The chain of ops that sets the makespan: each starts the instant its predecessor ends."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.program import Program, Timeline

I8 = npt.NDArray[np.int64]


def critical_path(program: Program, timeline: Timeline) -> I8:
    """Ops of one longest chain, first to last, (k,) int64.

    The engine starts an op exactly when its last predecessor ends, so the chain has no slack:
    starts and ends match to the bit and the durations add up to the makespan. Ties take the
    lowest op index, so the path is reproducible.
    """
    n = program.lane.size
    if n == 0:
        return np.zeros(0, np.int64)
    start, end, lane = timeline.start, timeline.end, program.lane
    # the first of the predecessors that end as an op starts; of equal places the last one stays
    before = np.full(n, n, dtype=np.int32)
    source = np.repeat(np.arange(n, dtype=np.int32), np.diff(program.succ_ptr))
    tight = np.flatnonzero(end[source] == start[program.succ])[::-1]
    before[program.succ[tight]] = source[tight]
    behind = np.flatnonzero((lane[1:] == lane[:-1]) & (end[:-1] == start[1:]))
    before[behind + 1] = np.minimum(before[behind + 1], behind)
    path = [int(np.argmax(end))]
    while start[path[-1]] > 0.0 and (op := int(before[path[-1]])) < n:
        path.append(op)
    return np.array(path[::-1], np.int64)
