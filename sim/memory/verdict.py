"""Whether a job fits: fits, at risk, does not fit; and how likely it is to run.

What must live decides, not what the allocator reserves: before it fails, it gives back every cached
block and asks again. Near the capacity that happens in every step, which is slower.
"""

from __future__ import annotations

import math
from typing import Literal

from sim.quantities import gib, percent
from sim.records import dataclass

VerdictWord = Literal["fits", "at risk", "does not fit"]

_Z = 1.2816  # standard deviations of a normal distribution within which so much lies
SURE = 0.9  # probability from which on a job is said to fit without a word


def probability(needed: float, capacity: float, half_width: float) -> float:
    """Probability that so much is needed that it fits.

    Parameters
    ----------
    needed : float
        Predicted. [B]
    capacity : float
        What there is. [B]
    half_width : float
        Of the 80 % band of the logarithm of what is needed (`sim.memory.band`).

    Returns
    -------
    float
        0 to 1; 0.5 where the two are equal.

    Notes
    -----
    Phi(ln(capacity / needed) / sigma): measured over predicted peaks are log-normal, and their 80 %
    band is 1.28 sigma wide to either side.
    """
    if needed <= 0.0:
        return 1.0
    if capacity <= 0.0:
        return 0.0
    sigma = half_width / _Z
    return 0.5 * (1.0 + math.erf(math.log(capacity / needed) / sigma / math.sqrt(2.0)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a job fits a GPU and its host.

    Attributes
    ----------
    needed_bytes, capacity_bytes : float
        What must live on the GPU, context and NCCL's buffers included, and what it has. [B]
    reserved_bytes : float
        What the caching allocator would hold in a step if there were room. [B]
    in_flight_bytes : float
        Blocks beside that while streams hand on what they used. [B]
    host_bytes, host_capacity_bytes : float
        The same of a node's host. [B]
    half_width : float
        Of the 80 % band of the peak, as a logarithm (`sim.memory.band`).
    """

    needed_bytes: float
    capacity_bytes: float
    reserved_bytes: float
    host_bytes: float = 0.0
    host_capacity_bytes: float = math.inf
    in_flight_bytes: float = 0.0
    half_width: float = 0.1

    @property
    def on_gpu(self) -> bool:
        """Whether the GPU has room."""
        return self.needed_bytes <= self.capacity_bytes

    @property
    def on_host(self) -> bool:
        """Whether the host has room."""
        return self.host_bytes <= self.host_capacity_bytes

    @property
    def host_decides(self) -> bool:
        """Whether the host is all that has no room, or that may have none."""
        if not self.fits or self.retries:
            return self.on_gpu and not self.on_host
        return self._likely_on_host < min(SURE, self._likely_on_gpu)

    @property
    def fits(self) -> bool:
        """Whether it more likely runs than not: it fits or is at risk."""
        return self.on_gpu and self.on_host

    @property
    def retries(self) -> bool:
        """Whether the allocator has to give blocks back and take them anew."""
        return self.fits and self.missing_bytes > 0.0

    @property
    def missing_bytes(self) -> float:
        """What the allocator would like to have beyond the capacity; negative if it has it. [B]"""
        return self.reserved_bytes + self.in_flight_bytes - self.capacity_bytes

    @property
    def probability(self) -> float:
        """That the job runs, from the errors of published peaks."""
        return min(self._likely_on_gpu, self._likely_on_host)

    @property
    def _likely_on_gpu(self) -> float:
        return probability(self.needed_bytes, self.capacity_bytes, self.half_width)

    @property
    def _likely_on_host(self) -> float:
        return probability(self.host_bytes, self.host_capacity_bytes, self.half_width)

    @property
    def word(self) -> VerdictWord:
        """In a word or three."""
        if not self.fits:
            return "does not fit"
        return "at risk" if self.retries or self.probability < SURE else "fits"

    @property
    def share(self) -> float:
        """Of the capacity, what must live. [1]"""
        return self.needed_bytes / self.capacity_bytes if self.capacity_bytes else 0.0

    @property
    def risk(self) -> str:
        """What the risk is, in words; empty where the job simply fits or does not."""
        if self.word != "at risk":
            return ""
        said = f"{percent(self.probability, 0)} likely to run"
        if self.host_decides:
            taken = f"{gib(self.host_bytes)} of {gib(self.host_capacity_bytes)}"
            return f"{said}: host memory, {taken} a node, may not do"
        if self.retries:
            if round(100 * self.probability) == 100:
                said = "sure to run, but slower"  # the risk is of time alone
            wants = gib(self.reserved_bytes + self.in_flight_bytes)
            said += f"; the allocator would take {wants}, so it frees blocks and retries each step"
        return said
