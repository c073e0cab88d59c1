"""Changes worth trying, simulated and ranked: by time where a job fits, else by what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sim.inputs.shares import batch_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.report import MemoryReport
from sim.records import dataclass
from sim.result.advice import changes, shorter
from sim.result.change import Change
from sim.result.figures import Fix
from sim.result.warned import codes_of, pressed
from sim.step.breakdown import Breakdown
from sim.step.step import memory_of, quick

SHORTER = 0.005  # share of the step that a change must save to be named
LESS = 0.01  # share of the peak
MOST = 5  # that a run names
DEAR = 2.0  # times the time a token, from which on another training is named beside a change


@dataclass(frozen=True, slots=True)
class MemoryFix:
    """One change, or several together, and what they save.

    Attributes
    ----------
    change : dict
        As for ``--set``.
    description : str
        In words.
    saved_bytes : float
        Less at the peak, overheads included; of a node's host where that is all that the job
        lacks. [B]
    needed_bytes : float
        What must live with it, of the same. [B]
    verdict : str
        With it: fits, at risk, does not fit.
    time_cost : float
        GPU-seconds a token that it adds, as a share of what they are; negative where it is faster.
    changes_training : bool
        Another method or precision: the trained model will differ.
    """

    change: dict[str, Any]
    description: str
    saved_bytes: float
    needed_bytes: float
    verdict: str
    time_cost: float
    changes_training: bool = False

    @property
    def fits(self) -> bool:
        """Whether it more likely runs than not."""
        return self.verdict != "does not fit"


def ranked(topology: Topology, workload: Workload, now: Breakdown, fits: bool) -> tuple[Fix, ...]:
    """The changes that help most, best first.

    A job that fits wants less time a token, and must still fit as surely and be warned of no more;
    one that does not fit wants what `smaller` finds: what lets it fit, or else comes nearest, and
    trains the same. Where that takes twice the time and more, what lets it fit and trains another
    model is named after it; where nothing does, before what comes nearest.

    Parameters
    ----------
    now : Breakdown
        Its step; only what touches enough of it is simulated.
    fits : bool
        In memory.
    """
    if not fits:
        return tuple(_as_fix(f) for f in _mending(smaller(topology, workload)))
    waits = now.exposed_s + now.slowdown_s
    parts = {"": now.time_s, "loss": now.kernels.get("loss", 0.0), "waits": waits}
    base = now.time_s / batch_on(workload).tokens_per_gpu
    # a job that simply fits is not talked into one that may not
    safe = not memory_of(topology, workload).verdict.risk
    known, retries = codes_of(topology, workload), pressed(topology, workload)
    faster = []
    for change in changes(topology, workload, "faster"):
        if parts[change.shortens] <= SHORTER * now.time_s:
            continue
        room = memory_of(change.topology, change.workload)
        if not room.fits or (safe and room.verdict.risk):
            continue
        if not codes_of(change.topology, change.workload) <= known:
            continue
        ratio = timed(change.topology, change.workload)[1] / base
        if ratio < 1.0 - SHORTER and (retries or not pressed(change.topology, change.workload)):
            need = room.needed_bytes
            faster.append(
                Fix(change.settings, change.text, ratio, need, fits=True, verdict=room.verdict.word)
            )
    ratios = [(fix.change, fix.step_time_ratio) for fix in faster]
    worth = [fix for fix in faster if adds(fix.change, fix.step_time_ratio, ratios)]
    return tuple(sorted(worth, key=lambda f: f.step_time_ratio)[:MOST])


def adds(
    settings: dict[str, Any], time: float, others: Iterable[tuple[dict[str, Any], float]]
) -> bool:
    """Whether a change saves time beyond each of the others that is a part of it.

    Parameters
    ----------
    settings : dict
        What it sets: FP8 under torch.compile sets all that torch.compile does.
    time : float
        With it, in the unit of the others'.
    others : iterable of (settings, time)
        Changes of the same job; it may be among them.
    """
    parts = (least for other, least in others if other.items() < settings.items())
    return all(time < (1.0 - SHORTER) * least for least in parts)


def _mending(found: tuple[MemoryFix, ...]) -> list[MemoryFix]:
    same = [f for f in found if not f.changes_training]
    cures = [f for f in same if f.fits]
    nearest = sorted(same, key=lambda f: f.needed_bytes)
    named = (cures or nearest)[:MOST]
    if any(1.0 + f.time_cost <= DEAR for f in cures):
        return named
    others = [f for f in found if f.changes_training and f.fits]
    if not cures:  # what fits, and then what comes nearest
        return [*others, *named][:MOST]
    return [*named[: max(1, MOST - len(others))], *others][:MOST]


def _as_fix(fix: MemoryFix) -> Fix:
    return Fix(
        fix.change, fix.description, 1.0 + fix.time_cost, fix.needed_bytes, fix.fits, fix.verdict,
        fix.changes_training,
    )  # fmt: skip


def smaller(topology: Topology, workload: Workload) -> tuple[MemoryFix, ...]:
    """Changes that save memory: those that make it fit first, then cheapest in time first.

    Returns
    -------
    tuple of MemoryFix
        Only changes that save at least 1 % of the peak. Where the job does not fit and no single
        change mends that, the cheapest are tried together as well: those that train the same, and
        if they do not do, behind one that does not.
    """
    before = memory_of(topology, workload)
    _, base, _ = timed(topology, workload)
    found, helping = [], []  # what saves where the job is measured, and of anything that it lacks
    for change in changes(topology, workload, "smaller"):
        after = memory_of(change.topology, change.workload)
        if not _helps(before, after, LESS):
            continue
        fix = _fix(change, before, after, base)
        helping.append(fix)
        if _saved(before, after) >= LESS * _needs(before, before):
            found.append(fix)
    if not before.fits and not any(f.fits and not f.changes_training for f in found):
        helping.sort(key=lambda f: f.time_cost)
        same = [f for f in helping if not f.changes_training]
        others = [] if any(f.fits for f in found) else [f for f in helping if f not in same]
        for together in (same, *([other, *same] for other in others)):
            cure = _together(topology, workload, together, before, base)
            if cure is not None:
                found.append(cure)
                break
    cut = None if before.verdict.on_gpu else shorter(topology, workload)
    if cut is not None:
        found.append(_fix(cut, before, memory_of(cut.topology, cut.workload), base))
    found.sort(key=lambda f: (not f.fits, f.changes_training, f.time_cost, -f.saved_bytes))
    return tuple(found)


def _fix(change: Change, before: MemoryReport, after: MemoryReport, base: float) -> MemoryFix:
    cost = timed(change.topology, change.workload)[1] / base - 1.0
    return MemoryFix(
        change.settings, change.text, _saved(before, after), _needs(after, before),
        after.verdict.word, cost, change.changes_training,
    )  # fmt: skip


def _needs(found: MemoryReport, before: MemoryReport) -> float:
    """Bytes of a GPU, or of a node's host if that is all that a job lacks `before` a change. [B]"""
    return found.verdict.host_bytes if before.verdict.host_decides else found.needed_bytes


def _saved(before: MemoryReport, after: MemoryReport) -> float:
    """What a change saves of that; nothing where it asks the GPU for more than it has instead."""
    if before.verdict.host_decides and not after.verdict.on_gpu:
        return 0.0
    return _needs(before, before) - _needs(after, before)


def _helps(before: MemoryReport, after: MemoryReport, least: float = 0.0) -> bool:
    """Whether a change saves more than such a share of what a job lacks: of GPU or host."""
    if before.verdict.on_host or before.verdict.host_decides:
        return _saved(before, after) > least * _needs(before, before)
    pairs = [(b.needed_bytes, b.verdict.host_bytes) for b in (before, after)]
    return any(was - now > least * was for was, now in zip(*pairs, strict=True))


def timed(topology: Topology, workload: Workload) -> tuple[float, float, MemoryReport]:
    """A step [s], a GPU's time for a token [s], memory; of what does not fit as if it just ran."""
    found = quick(topology, workload)
    return found.time_s, found.time_s / batch_on(workload).tokens_per_gpu, found.memory


def _together(
    topology: Topology, workload: Workload, single: list[MemoryFix], before: MemoryReport,
    base: float,
) -> MemoryFix | None:  # fmt: skip
    """Changes one on top of the other, as they stand, until the job fits."""
    settings: dict[str, Any] = {}
    texts: list[str] = []
    at, job, peak = topology, workload, before
    for fix in single:
        if set(fix.change) & set(settings):
            continue
        name = (*fix.change, fix.description)
        change = next((c for c in changes(at, job, "smaller") if c.name == name), None)
        if change is None:
            continue
        after = memory_of(change.topology, change.workload)
        if not _helps(peak, after):
            continue
        at, job, peak = change.topology, change.workload, after
        settings |= change.settings
        texts.append(change.text)
        if after.fits and len(texts) > 1:
            whole = Change(
                settings, " + ".join(texts), at, job, "smaller",
                changes_training=single[0].changes_training,
            )  # fmt: skip
            return _fix(whole, before, after, base)
    return None
