"""The allocations of a plan, measured for one job: what lives when, peaks by moment."""

from __future__ import annotations

from dataclasses import field, replace

import numpy as np
import numpy.typing as npt

from sim.blocks.footprint import checkpoint_policy, head_footprint, layer_footprint
from sim.blocks.modules import ModelTree
from sim.inputs.shares import batch_on
from sim.inputs.workload import Workload
from sim.memory.states import optimizer_bytes, optimizer_temporaries, scale_bytes, staged_bytes
from sim.records import dataclass
from sim.strategies.allocations import Allocations
from sim.strategies.columns import columns_of, edges_of
from sim.strategies.pipeline_play import received_bytes
from sim.strategies.plan import Plan
from sim.strategies.terms import MOMENTS, POOLS, TERMS, Term

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

_NAMES = tuple(term.name for term in TERMS)
#: ledgers that are kept of a plan
_KEPT = 16
_CATEGORY = {term.name: term.category for term in TERMS}


@dataclass(slots=True)
class Peak:
    """The highest point of one moment."""

    total: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)

    def by_category(self) -> dict[str, float]:
        """Bytes by reported category."""
        found: dict[str, float] = {}
        for term, size in self.terms.items():
            if size > 0.5:
                key = _CATEGORY[term]
                found[key] = found.get(key, 0.0) + size
        return found


@dataclass(frozen=True, slots=True)
class Ledger:
    """Memory of one rank in a step.

    Attributes
    ----------
    peaks : dict of str to Peak
        By moment.
    pools : dict of str to float
        The most that each of the allocator's pools ever holds. [B]
    host : dict of str to float
        Host memory by what takes it, all the time. [B]
    """

    peaks: dict[str, Peak]
    pools: dict[str, float]
    host: dict[str, float]
    step_pooled: float = 0.0  # all pools' most within a step: neither loading nor saving [B]

    def further(self, before: Ledger, times: int) -> Ledger:
        """A ledger with `times` as much again as this one has beyond one `before`."""

        def on(now: float, then: float) -> float:
            return now + times * (now - then)

        def each(now: dict[str, float], then: dict[str, float]) -> dict[str, float]:
            return {name: on(size, then.get(name, 0.0)) for name, size in now.items()}

        peaks = {
            moment: Peak(on(peak.total, before.peaks[moment].total),
                         each(peak.terms, before.peaks[moment].terms))
            for moment, peak in self.peaks.items()
        }  # fmt: skip
        return Ledger(
            peaks, each(self.pools, before.pools), each(self.host, before.host),
            on(self.step_pooled, before.step_pooled),
        )  # fmt: skip

    def beside(self, term: Term, size: float) -> Ledger:
        """The same with so many bytes more all the time."""
        peaks = {
            moment: Peak(peak.total + size, {**peak.terms, term.name: size})
            for moment, peak in self.peaks.items()
        }
        pools = {**self.pools, term.pool: self.pools[term.pool] + size}
        return replace(self, peaks=peaks, pools=pools, step_pooled=self.step_pooled + size)

    @property
    def highest(self) -> str:
        """The moment of the highest peak."""
        return max(MOMENTS, key=lambda moment: self.peaks[moment].total)


def live_bytes(plan: Plan, workload: Workload, tree: ModelTree) -> tuple[I8, F8]:
    """What lives on a GPU through a step.

    Parameters
    ----------
    plan : Plan
        Of this job, or of one that differs only in costs.
    workload, tree
        The job and its model.

    Returns
    -------
    (instants,) int64
        The op that is issued next at every instant, ascending.
    (terms, instants) float64
        Bytes by term, in the order of `TERMS`. [B]
    """
    c, sizes = columns_of(plan.memory), quantities(plan.memory, workload, tree)
    changes = c.coefficient * sizes[c.quantity]
    return c.before, _live(c.place, changes, len(TERMS), c.before.size)


def _live(places: I8, changes: F8, rows: int, instants: int) -> F8:
    """What lives at every instant, by row of the table that the places are in."""
    table = np.bincount(places, changes, rows * instants)
    return table.reshape(rows, instants).cumsum(axis=1)


def quantities(allocations: Allocations, workload: Workload, tree: ModelTree) -> F8:
    """Bytes of what a plan leaves open, in the order of `sim.strategies.terms`."""
    head, save, ranks = head_footprint(workload), workload.checkpoint, allocations.ranks
    full, states = save.mode == "full", optimizer_bytes(workload, ranks)
    paged = states if workload.optimizer_paged else 0.0
    sizes = [
        1.0, scale_bytes(workload, tree, ranks), states - paged, paged,
        optimizer_temporaries(workload, ranks), 8.0 * batch_on(workload).local_tokens, float(full),
        float(full and not save.offload_to_cpu), staged_bytes(workload, ranks),
        head.hidden, head.norm, head.logits, head.forward_peak, head.saved, head.backward_peak,
        head.weight_peak, head.held, received_bytes(workload),
    ]  # fmt: skip
    policy, offload = checkpoint_policy(workload), workload.activation_checkpointing.offload
    for style in dict.fromkeys(allocations.layers):
        layer = layer_footprint(workload, style.kind, policy if style.recomputed else "none")
        leaves = layer.hidden if offload else 0.0
        stays = max(0.0, layer.saved - leaves)
        sizes += [
            stays, leaves + layer.forward_peak, layer.saved - layer.backward_saved,
            layer.backward_working, layer.saved - stays,
        ]  # fmt: skip
    return np.array(sizes)


def read(allocations: Allocations, workload: Workload, tree: ModelTree) -> Ledger:
    """Peaks of a step, from the allocations of its plan; shared by jobs of equal quantities."""
    sizes = quantities(allocations, workload, tree)
    kept: dict[bytes, Ledger] = allocations.derived.setdefault("ledgers", {})
    key = sizes.tobytes()
    if key not in kept:
        if len(kept) >= _KEPT:
            kept.clear()
        kept[key] = _summed(allocations, sizes)
    return kept[key]


def _summed(allocations: Allocations, sizes: F8) -> Ledger:
    """Peaks of a step whose quantities are known. [B]"""
    c = edges_of(allocations)
    changes = c.coefficient * sizes[c.quantity]
    pooled = _live(c.pooled, changes, len(POOLS), c.before.size)
    total = pooled.sum(axis=0)
    highest = sorted(
        (int(instants[total[instants].argmax()]), moment)
        for moment, instants in zip(MOMENTS, c.moments, strict=True)
        if instants.size
    )
    peaks = {moment: Peak() for moment in MOMENTS}  # what a stage without blocks has none of
    # what changes from one of them to the next, by term, and what is held then
    until = c.instant.searchsorted([instant for instant, _ in highest], "right")
    row = np.arange(until.size).repeat(until - np.concatenate(([0], until[:-1])))
    place = c.term[: row.size] + row * len(TERMS)
    changed = np.bincount(place, changes[: row.size], until.size * len(TERMS))
    held = changed.reshape(-1, len(TERMS)).cumsum(axis=0).tolist()
    for (instant, moment), each in zip(highest, held, strict=True):
        terms = {name: size for name, size in zip(_NAMES, each, strict=True) if size}
        peaks[moment] = Peak(float(total[instant]), terms)
    pools = dict(zip(POOLS, pooled.max(axis=1).tolist(), strict=True))
    step_pooled = float(pooled[:, c.within].max(axis=1).sum())
    host: dict[str, float] = {}
    for name, size, quantity, layer in allocations.host:
        size *= float(sizes[c.offsets[layer] + quantity])
        if size:
            host[name] = host.get(name, 0.0) + size
    return Ledger(peaks, pools, host, step_pooled)
