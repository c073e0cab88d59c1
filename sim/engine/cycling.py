"""A long program that repeats itself, run as a short one whose cycles come again and again.

Before a lane leaves the ops that repeat the run pauses. Each lane is then put back by whole cycles:
what is known of an op is known of the one so many cycles before it, and what runs goes on there. To
the lanes it is as if there were so many more cycles. Hosts, which may be far ahead, are held back
at the same place, and go on from when they would have.
"""

from __future__ import annotations

import numpy as np

from sim.engine import check_numbers, kernel
from sim.engine.blank import skeleton_kept
from sim.engine.lookahead import bound_of, rate_alone
from sim.engine.state import ALIKE, FREE, GATE, LINKED, RUN, WAKE, prepare
from sim.errors import EngineError
from sim.program import I8, Program
from sim.program.cycles import Cycles, Gates


class GateError(EngineError):
    """Gates stand where they would change what happens."""


class Cycling:
    """A run of a program with gates.

    Parameters
    ----------
    program : Program
        With columns in one piece.
    cycles : Cycles
        Where it repeats itself.
    gates : Gates
        Each a cycle or more before the end of what repeats.

    Attributes
    ----------
    start, end : (n,) float64
        As of a `Timeline`, of what has begun and what has ended. [s]
    at : (n_lanes,) int64
        At a pause, of each lane that repeats the first op that has not ended.
    """

    def __init__(self, program: Program, cycles: Cycles, gates: Gates) -> None:
        self.program, self.cycles, self.gates = program, cycles, gates
        self._known = known = skeleton_kept(program)
        kind = known.kind.copy()
        kind[gates.pausing] |= np.uint8(GATE)
        every = np.concatenate((gates.pausing, gates.held))
        kind[every] &= np.uint8(255 ^ FREE)  # nothing is played ahead through them
        kind[every - 1] &= np.uint8(255 ^ (LINKED | ALIKE))
        self.state = prepare(program, known)._replace(kind=kind)
        self.start, self.end = self.state.times[0::2], self.state.times[1::2]
        self.end[gates.held] -= 1.0
        self.at = cycles.begin.copy()
        self._ends = np.searchsorted(program.lane, np.arange(1, program.n_lanes + 1))
        self._ops = program.lane.size

    @property
    def now(self) -> float:
        """Until when it has run. [s]"""
        return float(self.state.clock[0])

    def run(self) -> bool:
        """Go on to a gate, or to the end; whether that is the end.

        Raises
        ------
        GateError
            A launch was held back until after what it launches could have begun.
        """
        from sim.engine import compiled  # here: where it is loaded every engine left open is this

        said = compiled.simulate(self.program, self.state)
        check_numbers(said)
        if said[0] == kernel.LATE:
            message = f"op {said[1]} at {said[3]} s: it was held back"
            raise GateError(message)
        if said[0] == kernel.DONE:
            if said[2] < self._ops:
                message = f"stuck at {said[3]} s with {self._ops - said[2]} ops to go"
                raise EngineError(message)
            return True
        for lane in self.cycles.lanes.tolist():
            own = slice(int(self.cycles.begin[lane]), int(self._ends[lane]))
            ended = (self.end[own] > 0.0) & (self.end[own] <= self.now)
            self.at[lane] = own.start + int(np.count_nonzero(ended))
            if self.state.phase[lane] == RUN:
                self._shorten(lane)
        return False

    def running(self) -> I8:
        """Ops that have begun and not ended."""
        s = self.state
        some = np.flatnonzero((s.op_at >= 0) & (s.phase != WAKE))
        ops = s.op_at[some].astype(np.int64)
        left = (self.end[ops] == 0.0) | (self.end[ops] > self.now)
        left &= (self.start[ops] <= self.now) & (s.kind[ops] & GATE == 0)
        found: I8 = ops[left]
        return found

    def _shorten(self, lane: int) -> None:
        """Let a lane's run of kernels begin with the one that runs now."""
        s, p = self.state, self.program
        first, now = int(s.op_at[lane]), int(self.at[lane])
        if not self.cycles.begin[lane] <= first < now <= s.run_last[lane]:
            return
        s.op_at[lane] = now
        s.since[lane] = self.end[now - 1]
        s.remaining[lane] = p.work[now]
        s.rate[lane] = rate_alone(p, now, bound_of(p, s, now, int(s.run_units[lane])))
        s.limit[lane] = s.rate[lane]
        s.held[6:8] += now - first  # ops and events that have ended

    def back(self, cycles: int) -> None:
        """Put every lane back by so many cycles; what ended before is forgotten.

        Raises
        ------
        GateError
            What has run concerns ops behind those that repeat.
        """
        s, begin, end = self.state, self.cycles.begin, self.cycles.end
        for lane in self.cycles.lanes.tolist():
            behind = slice(int(end[lane]), int(self._ends[lane]))
            if (self.end[behind] + self._known.waiting[behind]).any():
                message = f"lane {lane}: what does not repeat has begun"
                raise GateError(message)
        by = cycles * self.cycles.period
        self._ops += int(by.sum())
        self.end[self.gates.held] += 1.0
        for lane in self.cycles.lanes.tolist():
            a, b, n = int(begin[lane]), int(end[lane]), int(by[lane])
            s.times[2 * a : 2 * (b - n)] = s.times[2 * (a + n) : 2 * b].copy()
            self.start[b - n : b] = 0.0
            self.end[b - n : b] = 0.0 - self._known.waiting[b - n : b]
        for column in (s.op_at, s.run_last):
            column -= np.where(column >= begin, by, 0).astype(np.int32)
        items = s.stack[: int(s.held[0])]
        lane_of = self.program.lane[items >> 3]
        items -= np.where(items >> 3 >= begin[lane_of], by[lane_of] << 3, 0).astype(np.int32)
        held = self.gates.held
        there = held - by[self.program.lane[held]]
        self.end[held] -= 1.0
        self._let_go(there)

    def open(self) -> None:
        """Let lanes go on to the end."""
        self.state.kind[:] = self._known.kind
        self.end[self.gates.held] += 1.0
        self._let_go(self.gates.held)

    def _let_go(self, launches: I8) -> None:
        """Those that wait for nothing any more go on from when they could have."""
        s = self.state
        for op in launches[self.end[launches] == 0.0].tolist():
            s.stack[int(s.held[0])] = op << 3 | kernel.RESUME
            s.held[0] += 1
