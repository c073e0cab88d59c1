"""Bytes alive on a rank as the CPU thread allocates and frees them; the peak of every moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MOMENTS = ("init", "forward", "backward", "optimizer", "save")

#: what a walk counts -> the category it is reported under. The categories are those of PyTorch's
#: FSDPMemTracker, which calls temporary whatever backward made and no hook has taken over yet.
CATEGORY = {
    "sharded parameters": "sharded_parameters",
    "quantisation scales": "unsharded_parameters",
    "unsharded parameters": "unsharded_parameters",
    "sharded gradients": "sharded_gradients",
    "unsharded gradients": "unsharded_gradients",
    "optimizer states": "optimizer_states",
    "saved activations": "activations",
    "logits and loss": "activations",
    "all-gather buffers": "all_gather_buffers",
    "reduce-scatter buffers": "reduce_scatter_buffers",
    "gradients of logits": "temporaries",
    "recomputed activations and their gradients": "temporaries",
    "gradients waiting for their unit": "temporaries",
    "last reduce-scatter's input": "temporaries",
    "optimizer temporaries": "temporaries",
    "checkpoint staging": "temporaries",
    "inputs": "inputs",
}


#: terms that other streams than the compute stream allocate, or that are freed into pools of a size
#: of their own: the caching allocator never hands their memory to the compute stream
POOLS = {
    "all-gather buffers": "gather",
    "sharded gradients": "reduced",
    "reduce-scatter buffers": "reduce",
    "last reduce-scatter's input": "reduce",
}


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
                key = CATEGORY[term]
                found[key] = found.get(key, 0.0) + size
        return found


class Ledger:
    """Live bytes by term.

    `mark` records a point in time, with what lives for that instant alone.
    """

    def __init__(self) -> None:
        self.live: dict[str, float] = {}
        self.total = 0.0
        self.moment = "init"
        self.peaks = {moment: Peak() for moment in MOMENTS}
        self.pools: dict[str, float] = {}
        self._pooled = 0.0  # live bytes of `POOLS` at the last mark
        self._moved = True  # a term of `POOLS` has changed since

    def add(self, term: str, size: float) -> None:
        """Allocate (or with a negative size free)."""
        self.live[term] = self.live.get(term, 0.0) + size
        self.total += size
        if term in POOLS:
            self._moved = True

    def put(self, term: str, size: float) -> None:
        """Make a term this large."""
        self.total += size - self.live.get(term, 0.0)
        self.live[term] = size
        if term in POOLS:
            self._moved = True

    def repeat(self, before: Mapping[str, float], times: int) -> None:
        """Change all terms `times` more times as much as since they were `before`."""
        for term, size in self.live.items():
            change = times * (size - before.get(term, 0.0))
            if change:
                self.live[term] = size + change
                self.total += change
        self._moved = True

    def mark(self, **instant: float) -> None:
        """Record this point; `instant` terms (underscores for spaces) live only now."""
        self.mark_terms({key.replace("_", " "): size for key, size in instant.items()})

    def mark_terms(self, instant: dict[str, float]) -> None:
        """Record this point, with terms that live only now."""
        total = self.total + sum(instant.values())
        pools = self.pools
        here = not POOLS.keys().isdisjoint(instant)
        if here or self._moved:
            pooled = 0.0
            for term, pool in POOLS.items():
                size = self.live.get(term, 0.0) + instant.get(term, 0.0)
                if size:
                    pooled += size
                    if size > pools.get(pool, 0.0):
                        pools[pool] = size
            self._pooled, self._moved = pooled, here
        compute = total - self._pooled
        if compute > pools.get("compute", 0.0):
            pools["compute"] = compute
        peak = self.peaks[self.moment]
        if total > peak.total:
            terms = dict(self.live)
            for term, size in instant.items():
                terms[term] = terms.get(term, 0.0) + size
            peak.total, peak.terms = total, terms

    @property
    def highest(self) -> str:
        """The moment of the highest peak."""
        return max(MOMENTS, key=lambda moment: self.peaks[moment].total)
