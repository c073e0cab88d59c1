"""Micro-steps that repeat: whether one before the last would come again and again, were there more.

A step without stages goes on from where a micro-step begins by what is under way then. Where one
begins as the one before did, on every stream, more of them in between would run as it did, and put
off what follows. The host may be further ahead: then all that it does until it next waits for the
GPU comes earlier, which changes nothing if it was early enough.
"""

from __future__ import annotations

import numpy as np

from sim.lowering.lowered import Lowered, RankView
from sim.lowering.parts import B1, I8
from sim.lowering.table import each_of, table_of
from sim.program import Timeline
from sim.records import NamedTuple
from sim.step.blocks_repeat import host_in_time
from sim.step.rhythm import MICRO_STEPS, SAME, entered
from sim.strategies.plan import SEGMENT, Plan


def micro_steps_repeat(lowered: Lowered, timeline: Timeline) -> B1:
    """In which steps a micro-step before the last begins as the one before it, (steps,).

    Parameters
    ----------
    lowered, timeline : Lowered, Timeline
        A step without stages, of three micro-steps or more, or a stack of them. Of three the last
        is looked at, whose backward pass may be another.
    """
    start, end = np.atleast_2d(timeline.start), np.atleast_2d(timeline.end)
    entries = np.atleast_2d(entered(lowered, timeline, lowered.slowest(timeline)))
    steps = entries.shape[1]
    which = steps - (2 if steps == MICRO_STEPS else 3)
    begin, finish = entries[:, which, None], entries[:, which + 1, None]
    least = SAME * (finish - begin)
    found = np.ones(len(start), dtype=np.bool_)
    for view in lowered.views[:1] if lowered.program.stack else lowered.views:
        ops = _known(lowered, view, which)
        if ops is None:
            return np.zeros(len(start), dtype=np.bool_)
        for times in (start, end):
            apart = (times[:, ops.after] - finish) - (times[:, ops.before] - begin)
            found &= (np.abs(apart) <= least).all(axis=1)
        # what earlier micro-steps left to do
        over = np.maximum(end[:, ops.left_before] - begin, 0.0)
        again = np.maximum(end[:, ops.left_after] - finish, 0.0)
        found &= (np.abs(again - over) <= least).all(axis=1)
        late = (end[:, ops.host_after] - finish) - (end[:, ops.host_before] - begin)
        found &= (late <= least).all(axis=1)
        ahead: B1 = np.asarray((late < -least).any(axis=1, keepdims=True))
        found &= host_in_time(lowered, timeline, ops.host_before[:1], ops.stop, ahead)
    return found


class _Beginnings(NamedTuple):
    """Ops of a rank with which two micro-steps in a row begin: blocks of their forward passes."""

    before: I8  # on its streams
    after: I8
    left_before: I8  # the last of each stream's ops of earlier micro-steps
    left_after: I8
    host_before: I8  # of its host, which launch them
    host_after: I8
    stop: int  # where those of its host end


def _known(lowered: Lowered, view: RankView, which: int) -> _Beginnings | None:
    """As `_beginnings`; of a stack kept with its plan, as others of the structure follow."""
    if not lowered.program.stack:
        return _beginnings(lowered, view, which)
    derived = view.plan.first.derived
    key = "beginnings", which, lowered.plan_op.tobytes()
    if key not in derived:
        derived[key] = _beginnings(lowered, view, which)
    found: _Beginnings | None = derived[key]
    return found


def _beginnings(lowered: Lowered, view: RankView, which: int) -> _Beginnings | None:
    """Of a micro-step and the next; None where the two do not issue the same."""
    micro, forward = table_of(view.plan).micro_step, _forward(view.plan)
    host = lowered.host_of(view)
    lanes = [host, *(lane for lane in lowered.lanes_of(view) if lane != host)]
    bounds = np.searchsorted(lowered.program.lane, [[lane, lane + 1] for lane in lanes])
    begun: list[list[I8]] = []
    left = []
    for low, high in bounds.tolist():
        of = micro[lowered.plan_op[low:high]]
        inside = forward[lowered.plan_op[low:high]]
        both = [low + np.flatnonzero(inside & (of == m)) for m in (which, which + 1)]
        if both[0].size != both[1].size:
            return None
        begun.append(both)
        done = [np.flatnonzero((of >= 0) & (of < m)) for m in (which, which + 1)]
        if done[0].size:
            left.append([low + int(each[-1]) for each in done])
    before, after = (np.concatenate(each) for each in zip(*begun[1:], strict=True))
    done_before, done_after = np.array(left[1:], dtype=np.int64).reshape(-1, 2).T
    host_before, host_after = begun[0]
    stop = int(bounds[0, 1])
    return _Beginnings(before, after, done_before, done_after, host_before, host_after, stop)


def _forward(plan: Plan) -> B1:
    """Which ops are issued before the head of their micro-step, (P,)."""
    plan = plan.first
    known: B1 | None = plan.derived.get("forward")
    if known is None:
        of, ops, _ = each_of(plan)
        micro, head = table_of(plan).micro_step, max(op.block for op in ops)
        over = [op.kind == SEGMENT and (op.name != "forward" or op.block == head) for op in ops]
        at = np.flatnonzero(np.array(over)[of])
        ends = np.full(int(micro.max()) + 2, micro.size)  # the last: of none
        np.minimum.at(ends, micro[at], at)
        known = plan.derived["forward"] = (micro >= 0) & (np.arange(micro.size) < ends[micro])
    return known
