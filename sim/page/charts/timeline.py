"""A step as tracks of bars: a stream each, exposed stretches hatched, the critical path below.

Two steps share their axis, and each stream of one stands above that of the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from sim.page.charts.axes import ChartAxis
from sim.page.charts.canvas import NARROW, Canvas, n
from sim.quantities import duration, signed_duration
from sim.step.spans import Span, StepTimeline

_ROW, _BAR = 44.0, 24.0
COMPUTE, _PHASES = "compute", ("forward", "backward", "optimizer")
_TOLD, _BETWEEN = 3.0, 34.0  # units: shifts that are written beside their line, and their room
_SEEN = 0.7  # of a unit: narrower bars are joined with their neighbours
#: colour of what an op is, by how its plan names it
MARKS = {
    "forward": "s0", "recompute": "s4", "backward": "s1", "optimizer": "s2", "clip": "s2",
    "all_gather": "s3", "reduce_scatter": "s5", "all_reduce": "s6", "send_recv": "s6",
    "send": "s6", "all_to_all": "s6", "broadcast": "s6",
}  # fmt: skip
OTHER = "s7"
TITLES = {
    "s0": "forward", "s4": "recompute", "s1": "backward", "s2": "optimizer, clipping",
    "s3": "all-gather", "s5": "reduce-scatter", "s6": "other collectives",
    "s7": "copies, casts, accumulation",
}  # fmt: skip


def mark_of(span: Span) -> str:
    """Class of a span's colour."""
    return MARKS.get(span.name, OTHER)


def tracks(width: int, drawn: Sequence[tuple[str, StepTimeline]], label: str) -> str:
    """Steps on one scale of time; of several, the same streams below each other.

    Parameters
    ----------
    width : int
        User units.
    drawn : sequence of (name, timeline)
        One alone needs no name.
    label : str
        For a screen reader.
    """
    narrow = width <= NARROW
    left = 8.0 if narrow else 118.0
    room = width - left - 8
    scale = room / max(one.end_s for _, one in drawn)
    several = len(drawn) > 1
    names = letters(drawn)
    heads = [f"{a}  {name}" for a, (name, _) in zip(names, drawn, strict=True) if a != name]
    head = 4.0 + (18.0 * len(heads) if several else 0.0)
    lanes = list(dict.fromkeys(track for _, one in drawn for track in one.tracks))
    inner, over = _ROW if not several else _BAR + 14.0, 14.0 if narrow else 0.0
    row = over + inner * len(drawn) + (8.0 if several else 0.0)
    between = (_BETWEEN + 10.0) * (len(drawn) - 1)  # where they compute: room for what differs
    c = Canvas(width, head + row * len(lanes) + between + 42, label)
    for i, text in enumerate(heads if several else ()):
        c.text(0, 15 + 18 * i, text, "t b")
    top = head
    for track in lanes:
        said = track.replace("_", " ")
        if narrow:
            c.text(left, top + 11, said, "m")
        else:
            c.text(left - (24 if several else 12), top + over + 24, said, "t", "end")
        apart = inner + (_BETWEEN if track == COMPUTE else 0.0)
        for i, (letter, (_, one)) in enumerate(zip(names, drawn, strict=True)):
            base = top + over + apart * i + 6
            if several:
                c.text(left - (2 if narrow else 6), base + 16, letter, "m", "end")
            _lane(c, one, track, left, base, scale, room)
        if several and track == COMPUTE:
            _shifts(c, [one for _, one in drawn], left, top + over + 6, apart, scale)
        top += row + (between if track == COMPUTE else 0.0)
    axis = ChartAxis("time in the step", 0.0, room / scale, duration)
    for value in axis.ticks(4 if narrow else 9):
        x = left + scale * value
        c.line(x, top, x, top + 6, "axis")
        anchor = "start" if value == 0.0 else "middle"
        c.text(x, top + 21, duration(value), "m", anchor)
    c.line(left, top, left + room, top, "axis")
    return c.svg()


def letters(drawn: Sequence[tuple[str, StepTimeline]]) -> list[str]:
    """What a bar of each step is called beside it: its name where that is a letter."""
    return [name if len(name) == 1 else chr(ord("A") + i) for i, (name, _) in enumerate(drawn)]


def _lane(
    c: Canvas, one: StepTimeline, track: str, left: float, y: float, scale: float, room: float
) -> None:
    """A stream of a step, empty where it has none; where it computes, exposed waits are hatched."""
    c.rect(left, y, room, _BAR, "track")
    _bars(c, one, track, left, y, scale)
    _critical(c, one, track, left, y + _BAR + 3, scale)
    for start, end in one.exposed if track == COMPUTE else ():
        wide = (end - start) * scale
        mark = "exposed" if wide > 4 else "exposed thin"  # no hatch is seen in less
        title = f"exposed communication, {duration(end - start)}"
        c.rect(left + start * scale, y, max(wide, 0.8), _BAR, mark, title)


def phase_ends(one: StepTimeline) -> dict[tuple[int, str], float]:
    """When each phase of each micro-step ends on the compute stream. [s]"""
    found: dict[tuple[int, str], float] = {}
    for span in one.spans:
        if span.track == COMPUTE and span.name in _PHASES:
            found[span.micro_step, span.name] = span.end_s
    return found


def _shifts(
    c: Canvas, drawn: Sequence[StepTimeline], left: float, top: float, row: float, scale: float
) -> None:
    """From the end of each phase to where the next step's ends, and how much later that is."""
    for i, (before, after) in enumerate(pairwise(map(phase_ends, drawn))):
        y, down = top + row * i + _BAR + 6, top + row * (i + 1)
        free = left
        for (number, phase), begun in before.items():
            if (number, phase) not in after:
                continue
            a, b = left + scale * begun, left + scale * after[number, phase]
            later = signed_duration(after[number, phase] - begun)
            c.path(f"M{n(a)} {n(y)}L{n(b)} {n(down)}", "shift",
                   f"end of {phase}, micro-step {number + 1}: {later}")  # fmt: skip
            if phase != "forward" and abs(b - a) > _TOLD and b > free:
                c.text(b, down + _BAR + 18, later, "m", "middle")
                free = b + 70.0


def _joined(one: StepTimeline, track: str, least_s: float) -> dict[str, list[list[float]]]:
    """Starts and ends by colour, where gaps shorter than `least_s` are closed. [s]"""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for span in one.spans:
        if span.track != track:
            continue
        bars = found[mark_of(span)]
        if bars and span.start_s - bars[-1][1] < least_s:
            bars[-1][1] = span.end_s
        else:
            bars.append([span.start_s, span.end_s])
    return found


def summed_rows(one: StepTimeline) -> list[dict[str, Any]]:
    """A row a stream, kind of work and micro-step; `StepTimeline.records` has every span."""
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for span in one.spans:
        key = span.track, span.name, span.micro_step
        row = rows.setdefault(key, {
            "track": span.track, "kind": span.name, "micro_step": span.micro_step, "ops": 0,
            "busy_s": 0.0, "first_start_s": span.start_s,
        })  # fmt: skip
        row["ops"] += span.ops
        row["busy_s"] += span.end_s - span.start_s
        row["last_end_s"] = span.end_s
    return list(rows.values())


def _bars(c: Canvas, one: StepTimeline, track: str, left: float, top: float, scale: float) -> None:
    """A path a colour, which holds every bar of it."""
    for mark, bars in _joined(one, track, _SEEN / scale).items():
        d = "".join(
            f"M{n(left + scale * a)} {n(top)}h{n(max(scale * (b - a), 0.3))}"
            f"v{n(_BAR)}h-{n(max(scale * (b - a), 0.3))}z"
            for a, b in bars
        )
        seconds = sum(s.end_s - s.start_s for s in one.spans
                      if s.track == track and mark_of(s) == mark)  # fmt: skip
        c.path(d, mark, f"{track.replace('_', ' ')}: {TITLES[mark]}, {duration(seconds)}")


def _critical(
    c: Canvas, one: StepTimeline, track: str, left: float, y: float, scale: float
) -> None:
    parts = [(a * scale, b * scale) for name, a, b in one.critical if name == track]
    if parts:
        d = "".join(f"M{n(left + a)} {n(y)}H{n(left + max(b, a + 0.4))}" for a, b in parts)
        c.path(d, "critical", f"critical path on {track.replace('_', ' ')}")
