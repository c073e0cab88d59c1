"""The chain of ops that sets the makespan: each starts the instant its predecessor ends."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.program import Program, Timeline

I8 = npt.NDArray[np.int64]


def predecessors(program: Program) -> tuple[I8, I8]:
    """All precedence edges, lane order included, as a CSR by successor.

    Returns
    -------
    (n+1,) int64, (m,) int64
        Row pointers and predecessor op indices, ascending within a row.
    """
    n = program.lane.size
    src = np.repeat(np.arange(n), np.diff(program.succ_ptr))
    dst = program.succ.astype(np.int64)
    same = np.flatnonzero(program.lane[1:] == program.lane[:-1])
    src = np.concatenate((src, same))
    dst = np.concatenate((dst, same + 1))
    order = np.lexsort((src, dst))
    ptr = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(dst, minlength=n), out=ptr[1:])
    return ptr, src[order]


def critical_path(program: Program, timeline: Timeline) -> list[int]:
    """Ops of one longest chain, first to last.

    The engine starts an op exactly when its last predecessor ends, so the chain has no slack:
    starts and ends match to the bit and the durations add up to the makespan. Ties take the
    lowest op index, so the path is reproducible.
    """
    if program.lane.size == 0:
        return []
    ptr, pred = predecessors(program)
    op = int(np.argmax(timeline.end))
    path = [op]
    while timeline.start[op] > 0.0:
        candidates = pred[ptr[op] : ptr[op + 1]]
        ends = timeline.end[candidates]
        matches = candidates[ends == timeline.start[op]]
        if matches.size == 0:
            break
        op = int(matches[0])
        path.append(op)
    path.reverse()
    return path
