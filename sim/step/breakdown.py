"""Where a step's time goes, as one rank sees it.

The compute lane partitions the step: busy with a kernel (by kind), idle while a collective is in
flight (exposed communication, by the collective that ends the gap), idle while only copies run, or
idle with nothing in flight (host). Everything is measured within a window, so that a step of many
micro-steps is the first, the middle one as often as needed, and the last.
"""

from __future__ import annotations

from dataclasses import field

import numpy as np

from sim.lowering.lower import Lowered, RankView
from sim.lowering.parts import CATEGORIES, I8
from sim.program import Timeline
from sim.records import dataclass
from sim.step.intervals import F8, Coverage, between
from sim.step.overlap import B1, causes

_COLLECTIVE = CATEGORIES.index("collective")
_ROUNDING = 1e-9  # of a step: differences of its moments are rounded to less


@dataclass(slots=True)
class Breakdown:
    """Additive measures of a window or of a whole step. [s]"""

    time_s: float = 0.0
    compute_s: float = 0.0
    communication_s: float = 0.0
    exposed_s: float = 0.0
    copy_s: float = 0.0
    host_s: float = 0.0
    slowdown_s: float = 0.0
    waiting_s: float = 0.0  # of compute_s, for the slowest of ranks that are alike
    deviation_s: float = 0.0  # by which a rank's kernels differ from their mean, one deviation
    slowdown: dict[str, float] = field(default_factory=dict)  # `slowdown_s` by cause
    kernels: dict[str, float] = field(default_factory=dict)
    exposed: dict[str, float] = field(default_factory=dict)
    collectives: dict[str, dict[str, float]] = field(default_factory=dict)
    by_gpu: dict[str, dict[str, float]] = field(default_factory=dict)  # `parts`, if they differ

    @property
    def parts(self) -> dict[str, float]:
        """The step by what the compute lane does; adds up to `time_s`."""
        parts = {**self.kernels}
        if self.waiting_s > 0.0:
            parts["waiting"] = self.waiting_s
        parts |= {"exposed_communication": self.exposed_s, "copies": self.copy_s}
        parts["host"] = self._rest(self.time_s - sum(parts.values()))
        return parts

    def _rest(self, value: float) -> float:
        """What is left of a sum; nothing where only its rounding is."""
        return 0.0 if -_ROUNDING * self.time_s < value < 0.0 else value

    def split(self, slowdown: float, deviation: float) -> Breakdown:
        """The same, kernels apart from what their rank waits for one that is slower.

        Parameters
        ----------
        slowdown : float
            Of the kernels that were measured, over a usual rank's.
        deviation : float
            Of a rank's kernel time, over its mean.
        """
        self.kernels = {kind: seconds / slowdown for kind, seconds in self.kernels.items()}
        self.waiting_s = self.compute_s - self.compute_s / slowdown
        self.deviation_s = deviation * (self.compute_s - self.waiting_s)
        return self

    def level(self) -> None:
        """Gives back to the largest kind what a carried-on trend took from one beyond nothing."""
        for parts in (self.kernels, self.slowdown):
            below = {kind: seconds for kind, seconds in parts.items() if seconds < 0.0}
            if below:
                parts[max(parts, key=parts.__getitem__)] += sum(below.values())
                parts.update(dict.fromkeys(below, 0.0))

    def add(self, other: Breakdown, times: float = 1.0) -> None:
        """Add another window's measures, `times` times."""
        for name in (
            "time_s", "compute_s", "communication_s", "exposed_s", "copy_s", "host_s",
            "slowdown_s", "waiting_s", "deviation_s",
        ):  # fmt: skip
            setattr(self, name, self._rest(getattr(self, name) + times * getattr(other, name)))
        for mine, theirs in (
            (self.kernels, other.kernels), (self.exposed, other.exposed),
            (self.slowdown, other.slowdown),
        ):  # fmt: skip
            for key, value in theirs.items():
                mine[key] = self._rest(mine.get(key, 0.0) + times * value)
        for rows, more in ((self.collectives, other.collectives), (self.by_gpu, other.by_gpu)):
            for kind, values in more.items():
                row = rows.setdefault(kind, {})
                for key, value in values.items():
                    row[key] = row.get(key, 0.0) + times * value


def measure(
    lowered: Lowered, timeline: Timeline, view: RankView, begin: float, finish: float, far: B1
) -> Breakdown:
    """Measures of one rank within ``[begin, finish]``.

    Parameters
    ----------
    lowered : Lowered
        The program with what its ops are.
    timeline : Timeline
        When they ran.
    view : RankView
        The rank (or class of ranks) to look from.
    begin, finish : float
        The window. [s]
    far : (P,) bool
        Which ops of its plan are collectives between nodes.
    """
    category = lowered.category[view.compute]
    # a collective may be issued on the compute stream (clipping): that is communication
    own = category != _COLLECTIVE
    ops = view.compute.start + np.flatnonzero(own)
    category = category[own]
    started, ended = timeline.start[ops], timeline.end[ops]
    comm_start, comm_end = timeline.start[view.comm_begin], timeline.end[view.comm_end]
    inside = (comm_start >= begin) & (comm_start < finish)
    start, end = np.clip(started, begin, finish), np.clip(ended, begin, finish)
    lengths = end - start
    comm = Coverage(np.clip(comm_start, begin, finish), np.clip(comm_end, begin, finish))
    out = Breakdown(time_s=finish - begin, communication_s=comm.total)
    by_kind = np.bincount(category, weights=lengths, minlength=len(CATEGORIES)).tolist()
    out.kernels = {name: by_kind[i] for i, name in enumerate(CATEGORIES) if by_kind[i] > 0.0}
    out.compute_s = float(lengths.sum())
    lost = np.maximum(0.0, lengths - lowered.alone_s[ops])
    lost[(ended > finish) | (started < begin)] = 0.0
    out.slowdown_s = float(lost.sum())
    out.slowdown = causes(lowered, timeline, view, ops, lost, far)
    idle_start, idle_end = between(start, end, begin, finish)
    hidden = comm.inside(idle_start, idle_end)
    out.exposed_s = float(hidden.sum())
    if view.copies.size:
        copies = view.copies
        both = Coverage(
            np.concatenate((comm_start, timeline.start[copies])).clip(begin, finish),
            np.concatenate((comm_end, timeline.end[copies])).clip(begin, finish),
        )
        covered = both.inside(idle_start, idle_end)
        out.copy_s = out._rest(float((covered - hidden).sum()))
    out.host_s = out._rest(float((idle_end - idle_start).sum()) - out.exposed_s - out.copy_s)
    out.exposed = _attribute(view, comm_start, comm_end, idle_start, idle_end, hidden)
    out.collectives = _by_kind(view, inside, comm_end - comm_start)
    return out


def _by_kind(view: RankView, inside: B1, seconds: F8) -> dict[str, dict[str, float]]:
    """Collectives of a window by kind: how many, of how many bytes and how long in all."""
    known: tuple[tuple[str, ...], I8] | None = view.plan.derived.get("kinds of collectives")
    if known is None:
        names = tuple(dict.fromkeys(view.comm_kind))
        codes = np.array([names.index(kind) for kind in view.comm_kind], dtype=np.int64)
        known = view.plan.derived["kinds of collectives"] = names, codes
    names, codes = known
    columns = inside, view.comm_bytes * inside, seconds * inside
    sums = [np.bincount(codes, weights=c, minlength=len(names)).tolist() for c in columns]
    return {
        name: {"count": count, "bytes": size, "time_s": time_s}
        for name, count, size, time_s in zip(names, *sums, strict=True)
        if count
    }


def _attribute(
    view: RankView, comm_start: F8, comm_end: F8, idle_start: F8, idle_end: F8, hidden: F8
) -> dict[str, float]:
    """Exposed seconds by the collective that a gap waited for: the last to end within it."""
    rows = np.flatnonzero(hidden > 0.0)
    if rows.size == 0:
        return {}
    order = np.argsort(comm_end, kind="stable")
    ends = comm_end[order]
    places = np.searchsorted(ends, idle_end[rows], side="right") - 1
    exposed: dict[str, float] = {}
    for i, at, seconds in zip(rows.tolist(), places.tolist(), hidden[rows].tolist(), strict=True):
        if at < 0 or ends[at] <= idle_start[i]:
            later = order[comm_start[order] < idle_end[i]]
            which = int(later[-1]) if later.size else int(order[0])
        else:
            which = int(order[at])
        label = view.comm_label[which]
        exposed[label] = exposed.get(label, 0.0) + seconds
    return dict(sorted(exposed.items(), key=lambda item: -item[1]))
