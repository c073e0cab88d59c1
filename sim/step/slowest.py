"""The law by which equal ranks differ, and what a step loses to the slowest of them.

Two things differ from rank to rank for as long as a step lasts, so that no schedule hides them: how
quick a board is, and how long its host takes to hand on each unit of parameters that ranks gather
together. (What differs from block to block only is hidden: a schedule that gathers one block ahead
loses 0.3 % to noise of 3 % a block on 64 ranks.) A rank's kernels take

    1 + c z  times their mean,
    c = board + pace unit_s units / busy_s  of blocks whose parameters are gathered,
    c = board                               of all others

with z normal, units those that ranks gather together in a step, busy_s what the kernels of the
blocks take in its micro-steps, and pace how much slower the ranks' host is than that of the
constants. Copies in and out of what is sent, the head and the update wait for no unit.

Where ranks wait for each other, all go as the slowest: in the mean with z = E_n, the expected
largest of n normals, at quantile q with z = inverse CDF(q^(1/n)). `--jitter` draws z rank by rank
instead. Kernel constants are of 8 ranks on hosts of pace 1, whose loss they contain.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

from sim.data import table
from sim.inputs.architecture import facts_of
from sim.inputs.gpu import Gpu
from sim.records import NamedTuple

REFERENCE_RANKS = 8  # ranks of the runs against which kernel constants were checked
FASTEST = 0.05  # least factor of a kernel time, where a deviation near 1 would draw one below 0

_NORMAL = NormalDist()


@lru_cache(maxsize=1024)
def expected_largest(n: int) -> float:
    """Mean of the largest of n standard normal variables.

    Notes
    -----
    inverse CDF of (n - 3/8) / (n + 1/4), within 2 % from n = 4 on.

    Source: Blom, "Statistical estimates and transformed beta-variables", 1958.
    """
    return _NORMAL.inv_cdf((n - 0.375) / (n + 0.25)) if n > 1 else 0.0


def deviation(generation: str, busy_s: float, units: float, pace: float = 1.0) -> float:
    """Standard deviation of a rank's kernel time over its mean.

    Parameters
    ----------
    generation : str
        Of the constants of its GPU; hosts are as old as their GPUs.
    busy_s : float
        What the kernels of a step's micro-steps take. [s]
    units : float
        Times in a step that all ranks come together for a unit of parameters.
    pace : float
        How much slower its host is than that of the constants (`sim.cost.host.pace_of`). [1]
    """
    board, unit_s = _law(generation)
    return board + (pace * unit_s * units / busy_s if units else 0.0)


def _law(generation: str) -> tuple[float, float]:
    """Deviation of a rank's kernel time over its mean [1], and of handing on a unit. [s]"""
    hosts: dict[str, float] = table("constants/variation")["unit_s"]
    return _board(), float(hosts.get(generation, hosts["h100"]))


def _board() -> float:
    return float(table("constants/variation")["board"]["share"])


def lost_to_slowest(gpu: Gpu, pace: float, n: int) -> tuple[float, float]:
    """What kernels of n equal ranks that wait for each other take more than kernel constants say.

    Parameters
    ----------
    gpu : Gpu
        Theirs.
    pace : float
        As for `deviation`.
    n : int
        How many.

    Returns
    -------
    float
        Of the time of kernels. [1]
    float
        For each unit of parameters that the ranks gather together; below 0 on quick hosts. [s]
    """
    board, unit_s = _law(facts_of(gpu).constants)
    latest, known = expected_largest(n), expected_largest(min(n, REFERENCE_RANKS))
    return board * (latest - known), unit_s * (pace * latest - known)


class Ranks(NamedTuple):
    """Equal ranks that wait for each other.

    Attributes
    ----------
    n : int
        How many.
    deviation : float
        Of a rank's kernel time, over its mean.
    usual : float
        What that is of ranks as kernel constants know them: of the same job on hosts of pace 1.
    in_blocks : float
        Share of the kernels' time in blocks, which all falls on that units add to `deviation`.
    """

    n: int
    deviation: float
    usual: float
    in_blocks: float = 1.0

    @property
    def of_blocks(self) -> Ranks:
        """The same of the kernels of blocks alone."""
        board = _board()
        late, known = ((c - board) / self.in_blocks for c in (self.deviation, self.usual))
        return Ranks(self.n, board + late, board + known)

    @property
    def of_others(self) -> Ranks:
        """The same of kernels that wait for no unit."""
        return Ranks(self.n, _board(), _board())

    @property
    def slowdown(self) -> float:
        """Mean kernel time of the slowest over what kernel constants say; 1 up to 8 usual ranks."""
        return self.lateness(expected_largest(self.n))

    def lateness(self, z: float) -> float:
        """Kernel time of a rank z deviations from the mean over what kernel constants say."""
        known = self.usual * expected_largest(min(self.n, REFERENCE_RANKS))
        return max(FASTEST, 1.0 + (self.deviation * z - known))

    def slowdown_at(self, quantile: float) -> float:
        """A quantile of the slowest rank's kernel time over what kernel constants say."""
        return self.lateness(_NORMAL.inv_cdf(quantile ** (1.0 / self.n)))

    @property
    def wait(self) -> float:
        """Share of the slowest rank's kernel time that a mean rank waits for it."""
        return 1.0 - self.lateness(0.0) / self.slowdown
