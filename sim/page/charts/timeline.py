"""A step as tracks of bars: a stream each, exposed stretches hatched, the critical path below."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sim.page.charts.axes import Axis
from sim.page.charts.canvas import NARROW, Canvas, n
from sim.quantities import duration
from sim.step.spans import Span, StepTimeline

_ROW, _BAR = 44.0, 24.0
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
    """Steps below each other on one scale of time.

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
    longest = max(one.end_s for _, one in drawn)
    left = 8.0 if narrow else 118.0
    room = width - left - 8
    heads = [26.0 if name else 4.0 for name, _ in drawn]
    row = _ROW + (14 if narrow else 0)
    height = sum(heads) + row * sum(len(one.tracks) for _, one in drawn) + 42
    c = Canvas(width, height, label)
    top = 0.0
    for (name, one), head in zip(drawn, heads, strict=True):
        if name:
            c.text(0, top + 17, name, "t b")
        top += head
        begun = top
        for track in one.tracks:
            if narrow:
                c.text(left, top + 11, track.replace("_", " "), "m")
            else:
                c.text(left - 12, top + 24, track.replace("_", " "), "t", "end")
            base = top + (14 if narrow else 0)
            c.rect(left, base + 6, room, _BAR, "track")
            _bars(c, one, track, left, base + 6, room / longest)
            _critical(c, one, track, left, base + 6 + _BAR + 3, room / longest)
            top += row
        for start, end in one.exposed:
            wide = (end - start) * room / longest
            title = f"exposed communication, {duration(end - start)}"
            mark = "exposed" if wide > 4 else "exposed thin"  # no hatch is seen in less
            at = left + start * room / longest
            c.rect(at, begun, max(wide, 0.8), top - begun, mark, title)
    axis = Axis("time in the step", 0.0, longest, duration)
    for value in axis.ticks(4 if narrow else 9):
        x = left + room * value / longest
        c.line(x, top, x, top + 6, "axis")
        anchor = "start" if value == 0.0 else "middle"
        c.text(x, top + 21, duration(value), "m", anchor)
    c.line(left, top, left + room, top, "axis")
    return c.svg()


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
