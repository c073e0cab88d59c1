"""A recorded step beside the simulated one: what makes the difference."""

from __future__ import annotations

import re

from sim.interop.gpu_work import Longest
from sim.interop.profile import Profile
from sim.interop.trace_diff import GAPS, CollectivePair, StepPart, TraceDifference
from sim.quantities import brief, counted, duration, percent, signed_duration
from sim.report.view import Cell, Column, Fact, Facts, Remarks, Row, Table, View, ViewPart, left

_TELLS = 0.002  # of the simulated step: parts that differ by less are summed up
_SHOWN, _NAMED = 12, 5
_WIDTH = 44  # of a kernel's name


def view(found: TraceDifference) -> View:
    """What `scaling-sim trace diff` says."""
    sides = [Fact("recorded", _said(found.recorded)), Fact("simulated", _said(found.simulated))]
    sections: list[ViewPart] = [
        Facts(sides),
        _parts(found),
        _collectives(found.collectives),
        _waits(found),
        _streams(found),
        _longest("longest kernels recorded", found.recorded.longest),
        _longest("longest kernels simulated", found.simulated.longest),
        Remarks(list(found.notes)),
    ]
    return View(sentence(found), sections, found)


def sentence(found: TraceDifference) -> str:
    """How far apart the steps are, and what most of it is."""
    theirs, ours = found.recorded.step_s, found.simulated.step_s
    head = (
        f"recorded step {duration(theirs)}, simulated {duration(ours)}: "
        f"{percent(theirs / ours - 1.0, sign='+')}"
    )
    same = theirs >= ours
    most = [p for p in found.parts if (p.difference_s > 0.0) == same and _tells(p, found)][:2]
    if not most:
        return f"{head}; no part differs by more than {percent(_TELLS)} of the simulated step"
    told = ", ".join(f"{p.name} {signed_duration(p.difference_s)}" for p in most)
    return f"{head}; most of it {told}"


def _tells(part: StepPart, found: TraceDifference) -> bool:
    return abs(part.difference_s) > _TELLS * found.simulated.step_s


def _said(profile: Profile) -> str:
    where = f"rank {profile.rank} of {profile.world_size}" if profile.world_size > 1 else ""
    words = [profile.source, profile.gpu, where, counted(profile.steps, "step")]
    return ", ".join(word for word in words if word)


def _parts(found: TraceDifference) -> Table:
    """Parts by how much they differ; what differs little in one row, then the whole."""
    step = found.simulated.step_s  # of which the first line tells the difference too
    shown = [p for p in found.parts if _tells(p, found)][:_SHOWN]
    rest = [p for p in found.parts if p not in shown]
    columns = [
        left("part of the step"), Column("recorded"), Column("simulated"), Column("difference"),
        Column("of the simulated"), Column("calls"),
    ]  # fmt: skip
    rows: list[Row] = [[*_row(p.name, p.recorded_s, p.simulated_s, step), _calls(p)] for p in shown]
    if rest:
        sums = sum(p.recorded_s for p in rest), sum(p.simulated_s for p in rest)
        rows.append([*_row(f"{counted(len(rest), 'part')} that differ less", *sums, step), ""])
    rows.append([*_row("the step", found.recorded.step_s, step, step), ""])
    return Table(columns, rows, "where the difference is")


def _row(name: str, theirs: float, ours: float, step: float) -> list[Cell | str]:
    off = theirs - ours
    return [
        name, Cell(duration(theirs), theirs, "s"), Cell(duration(ours), ours, "s"),
        Cell(signed_duration(off), off, "s"), Cell(percent(off / step, sign="+"), off / step),
    ]  # fmt: skip


def _calls(part: StepPart) -> str:
    if not (part.recorded_calls or part.simulated_calls):
        return ""
    return f"{part.recorded_calls:,.0f} / {part.simulated_calls:,.0f}"


def _collectives(pairs: tuple[CollectivePair, ...]) -> Table:
    """By operation and size: a call that one side lacks says that they run different plans."""
    columns = [
        left("collective"), Column("ranks"), Column("size"), Column("calls"), Column("recorded"),
        Column("least"), Column("simulated"),
    ]  # fmt: skip
    rows: list[Row] = [
        [
            pair.op.replace("_", "-"), Cell(str(pair.group_size), pair.group_size),
            Cell(_size(pair.size_bytes), pair.size_bytes, "B"),
            f"{pair.recorded_calls:,.0f} / {pair.simulated_calls:,.0f}",
            _time(pair.recorded_s), _time(pair.recorded_least_s), _time(pair.simulated_s),
        ]
        for pair in sorted(pairs, key=_weight)[:_SHOWN]
    ]  # fmt: skip
    return Table(columns, rows, "collectives: recorded / simulated calls, median time of one")


def _weight(pair: CollectivePair) -> float:
    """The longest first."""
    return -max(
        pair.recorded_calls * (pair.recorded_s or 0.0),
        pair.simulated_calls * (pair.simulated_s or 0.0),
    )


def _size(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,.0f} B"


def _time(seconds: float | None) -> Cell | str:
    return "-" if seconds is None else Cell(brief(seconds), seconds, "s")


def _waits(found: TraceDifference) -> Table:
    """When the stream that computes runs nothing for longest, and what it waits for."""
    columns = [left(), Column("for"), Column("at"), left("most of it"), left("until")]
    rows: list[Row] = [
        [side, Cell(brief(w.seconds), w.seconds, "s"), Cell(brief(w.at_s), w.at_s, "s"),
         GAPS.get(w.cause) or f"exposed {w.cause.replace('_', '-')}", _short(w.before)]
        for side, profile in _sides(found) for w in profile.waits
    ]  # fmt: skip
    return Table(columns, rows, "longest waits of the stream that computes")


def _streams(found: TraceDifference) -> Table:
    columns = [left("stream"), left(), left("mostly"), Column("busy"), Column("of the step"),
               Column("calls")]  # fmt: skip
    rows: list[Row] = [
        [side, lane.stream, lane.mostly.replace("_", "-"),
         Cell(duration(lane.seconds), lane.seconds, "s"),
         Cell(percent(lane.seconds / profile.step_s), lane.seconds / profile.step_s),
         f"{lane.calls:,.0f}"]
        for side, profile in _sides(found) for lane in profile.lanes[:_NAMED]
    ]  # fmt: skip
    return Table(columns, rows)


def _sides(found: TraceDifference) -> list[tuple[str, Profile]]:
    return [("recorded", found.recorded), ("simulated", found.simulated)]


def _longest(heading: str, kernels: tuple[Longest, ...]) -> Table:
    columns = [left("kernel"), Column("of a step"), Column("calls")]
    rows: list[Row] = [
        [_short(k.name), Cell(brief(k.seconds), k.seconds, "s"), f"{k.calls:,.0f}"]
        for k in kernels[:_NAMED]
    ]
    return Table(columns, rows, heading)


def _short(name: str) -> str:
    """A kernel's name without its template's arguments."""
    plain = re.split(r"[<(]", name.removeprefix("void ").strip())[0] or name
    return plain if len(plain) <= _WIDTH else "..." + plain[3 - _WIDTH :]
