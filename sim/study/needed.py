"""What inverse questions answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document
from sim.job.estimate import JobEstimate


@dataclass(frozen=True, slots=True)
class BandwidthNeeded(Document):
    """NIC rate for a scaling efficiency.

    Attributes
    ----------
    rate_bytes_per_s : float
        Of each NIC, the least that does. [B/s]
    nics : int
        A node.
    efficiency : float
        There: throughput over nodes x throughput of one node.
    now_bytes_per_s, now_efficiency : float
        As the machine is. [B/s]
    best_efficiency : float
        With the fastest network tried.
    asked_efficiency : float
        What was wanted.
    short_bytes_per_s : float or None
        The largest rate tried that does not do; None: each did. [B/s]
    stopped : bool
        The search was stopped: the least is between the two.
    oversubscription : float
        Of the switches, kept at every rate: their uplinks are as much faster as NICs are.
    """

    schema: ClassVar[str] = SCHEMAS["need"]

    rate_bytes_per_s: float
    nics: int
    efficiency: float
    now_bytes_per_s: float
    now_efficiency: float
    best_efficiency: float
    asked_efficiency: float
    short_bytes_per_s: float | None
    stopped: bool = False
    oversubscription: float = 1.0


@dataclass(frozen=True, slots=True)
class GpusNeeded(Document):
    """Nodes for a deadline: the fewest, with the job there and one size below.

    Attributes
    ----------
    nodes, gpus : int
        The fewest; of a search that was stopped, the fewest that none of those tried rules out.
    job : JobEstimate or None
        The job there; None where the search was stopped.
    below : tuple of int and JobEstimate, or None
        The next smaller size, which does not do, and the job there (None: does not fit).
    deadline_s : float or None
        What was asked. [s]
    stopped : bool
        The search was stopped: no fewer do.
    settings : mapping
        What `run` is told to run the job there: keys whose values are not those that it has.
    """

    schema: ClassVar[str] = SCHEMAS["need"]

    nodes: int
    gpus: int
    job: JobEstimate | None
    below: tuple[int, JobEstimate | None] | None
    deadline_s: float | None
    stopped: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PriceNeeded(Document):
    """Price at which one machine costs the same as another for a job.

    Attributes
    ----------
    first, other : str
        Names of the machines.
    first_job, other_job : JobEstimate
        The job on each.
    break_even_usd : float or None
        Price per GPU-hour of the first at which both cost the same; None if no price does. [USD/h]
    now_usd : float or None
        What the first asks. [USD/h]
    speed_ratio : float
        Wall-clock of the other over the first's, per GPU.
    first_place, other_place : str
        Provider and region of the prices; "" where none is stated.
    like_for_like : PriceNeeded or None
        Where those differ and some provider has both machines: the same at its prices.
    """

    schema: ClassVar[str] = SCHEMAS["need"]

    first: str
    other: str
    first_job: JobEstimate
    other_job: JobEstimate
    break_even_usd: float | None
    now_usd: float | None
    speed_ratio: float
    first_place: str = ""
    other_place: str = ""
    like_for_like: PriceNeeded | None = None

    @property
    def alike(self) -> bool:
        """Whether both are one provider's, in one region."""
        return self.first_place == self.other_place
