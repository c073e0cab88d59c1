"""Where a step's time goes, as one rank sees it.

The compute lane partitions the step: busy with a kernel (by kind), idle while a collective is in
flight (exposed communication, by the collective that ends the gap), idle while only copies run, or
idle with nothing in flight (host). Everything is measured within a window, so that a step of many
micro-steps is the first, the middle one as often as needed, and the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.engine.account import (
    BESIDE,
    BUSY,
    COVERED,
    FIXED,
    HIDDEN,
    IDLE,
    SHARED,
    Watched,
    accounts,
)
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.parts import B1, CATEGORIES, F8, I4
from sim.program import Timeline
from sim.records import dataclass
from sim.step.overlap import CAUSES, holders
from sim.step.slowest import Ranks
from sim.step.windows import Windows

_COLLECTIVE = CATEGORIES.index("collective")
_ROUNDING = 1e-9  # of a step: differences of its moments are rounded to less
_SECONDS = (
    "compute_s", "communication_s", "exposed_s", "copy_s", "host_s", "waiting_s", "deviation_s",
)  # fmt: skip


@dataclass(slots=True)
class Breakdown:
    """Additive measures of a window or of a whole step. [s]"""

    time_s: float = 0.0
    compute_s: float = 0.0
    communication_s: float = 0.0
    exposed_s: float = 0.0
    copy_s: float = 0.0
    host_s: float = 0.0
    waiting_s: float = 0.0  # of compute_s, for the slowest of ranks that are alike
    deviation_s: float = 0.0  # by which a rank's kernels differ from their mean, one deviation
    # what kernels lost to what ran beside them, by cause; and the same by their kind
    slowdown: dict[str, float] = field(default_factory=dict)
    slowed: dict[str, float] = field(default_factory=dict)
    # what collectives and copies were longer under way than alone, by which and what shared links
    transfers: dict[str, float] = field(default_factory=dict)
    kernels: dict[str, float] = field(default_factory=dict)
    exposed: dict[str, float] = field(default_factory=dict)
    collectives: dict[str, dict[str, float]] = field(default_factory=dict)
    by_gpu: dict[str, dict[str, float]] = field(default_factory=dict)  # `parts`, if they differ

    @property
    def slowdown_s(self) -> float:
        """What kernels lost. [s]"""
        return sum(self.slowed.values())

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

    def level(self) -> None:
        """Gives back to the largest kind what a carried-on trend took from one beyond nothing."""
        for parts in (self.kernels, self.slowdown, self.slowed, self.transfers):
            if not parts or min(parts.values()) >= 0.0:
                continue
            below = {kind: seconds for kind, seconds in parts.items() if seconds < 0.0}
            if below:
                parts[max(parts, key=parts.__getitem__)] += sum(below.values())
                parts.update(dict.fromkeys(below, 0.0))

    def add(self, other: Breakdown, times: float = 1.0) -> None:
        """Add another window's measures, `times` times."""
        self.time_s = self._rest(self.time_s + times * other.time_s)
        least = -_ROUNDING * self.time_s  # as `_rest` has it, for each of a hundred sums
        for name in _SECONDS:
            value = getattr(self, name) + times * getattr(other, name)
            setattr(self, name, 0.0 if least < value < 0.0 else value)
        for mine, theirs in (
            (self.kernels, other.kernels), (self.exposed, other.exposed),
            (self.slowdown, other.slowdown), (self.slowed, other.slowed),
            (self.transfers, other.transfers),
        ):  # fmt: skip
            for key, more in theirs.items():
                value = mine.get(key, 0.0) + times * more
                mine[key] = 0.0 if least < value < 0.0 else value
        for rows, others in ((self.collectives, other.collectives), (self.by_gpu, other.by_gpu)):
            for kind, values in others.items():
                row = rows.get(kind)
                if row is None:
                    rows[kind] = {key: times * value for key, value in values.items()}
                    continue
                for key, value in values.items():
                    row[key] = row.get(key, 0.0) + times * value


def measure(
    lowered: Lowered, timeline: Timeline, views: Sequence[RankView], windows: Windows,
    far: Sequence[B1], blocks: B1, ranks: Sequence[Ranks | None],
) -> list[list[Breakdown]]:  # fmt: skip
    """Measures of a rank in its step, and in the middle of that if any, for each step of a stack.

    Parameters
    ----------
    lowered : Lowered
        The program with what its ops are; or a stack.
    timeline : Timeline
        When they ran.
    views : sequence of RankView
        The rank (or class of ranks) to look from in each step.
    windows : Windows
        Of each step.
    far : sequence of (P,) bool
        Which ops of each one's plan are collectives between nodes.
    blocks : (P,) bool
        Which are what blocks compute.
    ranks : sequence of Ranks or None
        Of which each step has the slowest, whose kernels are told apart from what others wait for
        them; None: kernels are told as they ran.
    """
    view, program = views[0], lowered.program
    category = lowered.category[view.compute]
    # a collective may be issued on the compute stream (clipping): that is communication
    own = np.flatnonzero(category != _COLLECTIVE)
    began = np.atleast_2d(timeline.start)[0]  # sorted so, `account` has little to put in order
    holds = np.flatnonzero(program.hold_resource == view.index)
    holds = holds[began[holds].argsort(kind="stable")]
    first, last = (_i4(np.append(each, view.copies)) for each in (view.comm_begin, view.comm_end))
    by = began[first].argsort(kind="stable")
    (labels, label), (sorts, sort) = _codes(view)
    inside = blocks[lowered.plan_op[view.compute][own]]
    found = accounts(
        Watched(
            start=timeline.start,
            end=timeline.end,
            alone=lowered.alone_s,
            curve=program.curve,
            curves=program.curves.reshape(*program.curves.shape[:-2], -1),
            width=program.curves.shape[-1],
            units=int(program.hold_capacity[view.index]),
            ops=_i4(view.compute.start + own),
            n_ops=own.size,
            kind=_i4(category[own] + len(CATEGORIES) * inside),
            kinds=2 * len(CATEGORIES),
            begins=_i4(view.comm_begin),
            n_flights=len(view.comm_begin),
            ends=_i4(view.comm_end),
            label=label,
            labels=len(labels),
            sort=sort,
            sorts=len(sorts),
            size=np.stack([v.comm_bytes for v in views]),
            first=first[by],
            n_beside=first.size,
            last=last[by],
            holds=_i4(holds),
            n_holds=holds.size,
            until=_i4(program.hold_until[holds]),
            held=program.hold_units,
            holder=holders(lowered, holds, far),
            windows=windows.counts,
            begin=windows.begin,
            finish=windows.finish,
        ),
        len(views),
    )
    lasts = (windows.finish - windows.begin)[..., None]
    return [
        [_named(time_s, sums, labels, sorts, mine) for time_s, *sums in each]
        for each, mine in zip(
            windows.added(np.concatenate((lasts, found), axis=2)), ranks, strict=True
        )
    ]


def _i4(column: npt.NDArray[Any]) -> I4:
    return np.asarray(column, dtype=np.int32)


def _named(
    time_s: float, sums: Sequence[float], labels: Sequence[str], sorts: Sequence[str],
    ranks: Ranks | None,
) -> Breakdown:  # fmt: skip
    """Measures by name."""
    out = Breakdown(
        time_s=time_s, communication_s=sums[BESIDE], compute_s=sums[BUSY], exposed_s=sums[HIDDEN],
    )  # fmt: skip
    out.copy_s = out._rest(sums[COVERED] - sums[HIDDEN])
    out.host_s = out._rest(sums[IDLE] - out.exposed_s - out.copy_s)
    blamed = zip(CAUSES, sums[SHARED:FIXED], strict=True)
    out.slowdown = {cause: seconds for cause, seconds in blamed if seconds > 0.0}
    end = FIXED + 4 * len(CATEGORIES)
    others, inside, *lost = np.reshape(sums[FIXED:end], (4, -1))
    out.slowed = _some(lost[0] + lost[1])
    if ranks is not None:
        of_others, of_blocks = ranks.of_others, ranks.of_blocks
        usual = others / of_others.slowdown, inside / of_blocks.slowdown
        late = others - usual[0] + (inside - usual[1])
        others, inside = usual
        deviations = of_others.deviation * others + of_blocks.deviation * inside
        out.waiting_s, out.deviation_s = float(late.sum()), float(deviations.sum())
    out.kernels = _some(others + inside)
    begin, end = end, end + len(labels)
    waits = zip(labels, sums[begin:end], strict=True)
    exposed = [(label, seconds) for label, seconds in waits if seconds > 0.0]
    out.exposed = dict(sorted(exposed, key=lambda item: -item[1]))
    each = zip(sums[end::3], sums[end + 1 :: 3], sums[end + 2 :: 3], strict=True)
    out.collectives = {
        name: {"count": count, "bytes": size, "time_s": seconds}
        for name, (count, size, seconds) in zip(sorts, each, strict=True)
        if count
    }
    return out


def _some(seconds: F8) -> dict[str, float]:
    """Of each category that has any, (categories,)."""
    return {name: s for name, s in zip(CATEGORIES, seconds.tolist(), strict=True) if s > 0.0}


_Codes = tuple[tuple[str, ...], I4]


def _codes(view: RankView) -> tuple[_Codes, _Codes]:
    """Labels of a rank's collectives, and their kinds: the names, and which each one has."""
    derived = view.plan.first.derived
    known: tuple[_Codes, _Codes] | None = derived.get("codes of collectives")
    if known is None:
        found = []
        for names in (view.comm_label, view.comm_kind):
            place = {name: i for i, name in enumerate(dict.fromkeys(names))}
            found.append((tuple(place), np.array([place[name] for name in names], dtype=np.int32)))
        known = derived["codes of collectives"] = found[0], found[1]
    return known
