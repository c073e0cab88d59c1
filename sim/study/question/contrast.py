"""How far a predicted ratio of two runs may be off: as far as measured ratios of its kind were.

Published runs that differ as the two do, and in nothing else, were predicted by constants that had
not seen their source; what the ratio of each such pair missed by gives the band.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from sim.memory.band import quantile_of
from sim.published.lookup import setting
from sim.records import NamedTuple
from sim.result.bands import UNSEEN, Evidence
from sim.result.likeness import NOISE, JobTraits, Residual, residuals

#: standard deviations that 80 % of a normal distribution lie within
EIGHTY = 1.2816
#: half-width of the logarithm of a measured ratio: two measurements, each with its noise
MEASURED_RATIO = EIGHTY * math.sqrt(2.0) * NOISE
MEASURED = EIGHTY * NOISE
#: so few pairs do not narrow a band below that of two independent runs; assumed
FEW = 5
#: features in which two runs may differ for their ratio to be of a kind
FEATURES = ("generation", "method", "strategy", "gpus", "trainer", "link", "fp8", "compiled")


class Width(NamedTuple):
    """Half-width of the 80 % band of a ratio, as a logarithm, and from how many pairs."""

    half_width: float
    pairs: int


class RunPair(NamedTuple):
    """Two published runs, the measured ratio of which was predicted too."""

    first: int  # index into the rows
    second: int
    miss: float  # log of predicted over measured ratio of speeds, second over first


class Contrasts:
    """Pairs of published runs, by what the two differ in.

    Parameters
    ----------
    more : sequence of Residual
        Runs that the study itself predicts beside their measurement; those that the shipped
        residuals have already are left out.
    compared : sequence of (str, str)
        Ids of two such runs that the study compares, although more than their features may differ.
    """

    def __init__(
        self, more: Sequence[Residual] = (), compared: Sequence[tuple[str, str]] = ()
    ) -> None:
        known = {r.id for r in residuals()}
        self.rows = (*residuals(), *(r for r in more if r.id not in known))
        self.evidence = Evidence(self.rows)
        self.pairs = _pairs(self.rows)
        at = {row.id: index for index, row in enumerate(self.rows)}
        for first, second in compared:
            pair = _pair(self.rows, at[first], at[second])
            apart = differing(self.rows[pair.first].job, self.rows[pair.second].job)
            if pair not in self.pairs[apart]:
                self.pairs[apart].append(pair)

    def width(self, first: JobTraits, second: JobTraits) -> Width | None:
        """The band of the ratio of two jobs' speeds; None where no two runs differ as they do.

        Notes
        -----
        The 80 % quantile of the pairs' misses, weighted by the likeness of both ends (geometric
        mean); pairs of a source count as their square root. Of methods that pairs were measured
        with, only those pairs count; a method that none was measured with widens it. A miss is
        held against what the doubts of both runs come to, in quadrature, as in `sim.result.bands`.
        At least the noise of two measurements; what no run shows widens it, in quadrature.
        """
        pairs = self.pairs.get(differing(first, second), [])
        methods = {first.method, second.method}
        alike = [p for p in pairs if {self.rows[end].job.method for end in p[:2]} == methods]
        other = [] if alike else [UNSEEN["method"]]
        pairs = alike or pairs
        if not pairs:
            return None
        counts = self.evidence.counts
        ends = [self.evidence.likeness(job) / counts for job in (first, second)]
        found = Counter(self.rows[p.first].source for p in pairs)
        weights = np.array([
            math.sqrt(
                max(ends[0][p.first] * ends[1][p.second], ends[0][p.second] * ends[1][p.first])
            ) / math.sqrt(found[self.rows[p.first].source])
            for p in pairs
        ])  # fmt: skip
        scales = [math.hypot(*(self.rows[i].job.scale for i in p[:2])) for p in pairs]
        sizes = np.array([abs(p.miss) for p in pairs]) / np.array(scales)
        miss = math.hypot(first.scale, second.scale) * quantile_of(sizes, weights)
        unseen = {key for job in (first, second) for key in self.evidence.lacks(job)}
        wide = math.hypot(max(miss, MEASURED_RATIO), *(UNSEEN[key] for key in unseen), *other)
        return Width(wide, len(pairs))


def differing(first: JobTraits, second: JobTraits) -> frozenset[str]:
    """The features in which two jobs differ."""
    return frozenset(f for f in FEATURES if getattr(first, f) != getattr(second, f))


def _pairs(rows: Sequence[Residual]) -> dict[frozenset[str], list[RunPair]]:
    """Pairs of one source, model and setting that differ in something."""
    alike: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        alike[row.source, row.model, setting(row.id)].append(index)
    found: dict[frozenset[str], list[RunPair]] = defaultdict(list)
    for group in alike.values():
        for a, b in itertools.combinations(group, 2):
            apart = differing(rows[a].job, rows[b].job)
            if apart:
                found[apart].append(_pair(rows, a, b))
    return found


def _pair(rows: Sequence[Residual], a: int, b: int) -> RunPair:
    a, b = sorted((a, b))
    return RunPair(a, b, rows[b].without_source - rows[a].without_source)
