"""What `plan` answers: a cluster that served some jobs, and clusters side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.choices import Policy
from sim.documents import SCHEMAS, Document, Section
from sim.study.joblog import JobLog


@dataclass(frozen=True, slots=True)
class Marginal(Section):
    """The same jobs on another number of nodes.

    Attributes
    ----------
    nodes : int
        Instead.
    on_time : float
        Share of the jobs with a deadline that met it.
    waiting_mean_s, span_s : float
        In the queue, and until the last job ends. [s]
    cost_usd : float or None
        Over that time. [USD]
    """

    nodes: int
    on_time: float
    waiting_mean_s: float
    span_s: float
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Capacity(Section):
    """Nodes kept all the time, and rented by the hour for what goes beyond, over a plan. [USD]

    Attributes
    ----------
    base_kind, hour_kind : str
        How the base is paid for (``owned``, ``committed``), and the hours beyond it.
    base_rate_usd, power_rate_usd, hour_rate_usd : float
        Of a GPU-hour: of what is kept, its electricity while in use, of what is rented.
    peak_nodes : int
        Most in use at once.
    base_nodes : int
        How many of them are best kept.
    kept_usd, rented_usd, mixed_usd : float
        All of the peak kept, all rented as they are used, the best of both.
    even_share : float
        Share of the time in use from which a node is worth keeping.
    """

    base_kind: str
    hour_kind: str
    base_rate_usd: float
    power_rate_usd: float
    hour_rate_usd: float
    peak_nodes: int
    base_nodes: int
    kept_usd: float
    rented_usd: float
    mixed_usd: float
    even_share: float


@dataclass(frozen=True, slots=True)
class PlanReport(Document):
    """A cluster that served some jobs.

    Attributes
    ----------
    name : str
        Of the cluster.
    nodes, gpus : int
        Its size.
    policy : str
        How jobs were ordered.
    logs : tuple of JobLog
        By arrival.
    span_s : float
        From the first arrival to the last end: the cluster is rented so long. [s]
    utilisation : float
        Share of GPU time in which jobs held GPUs.
    useful : float
        Share of GPU time that the jobs would have needed alone.
    on_time : float
        Share of the jobs with a deadline that met it.
    waiting_mean_s, waiting_p95_s : float
        In the queue. [s]
    cost_usd, idle_usd : float or None
        The cluster over the span, and what of it nobody used; None without a price. [USD]
    replicas : int
        Times that it was played with failures and paces as they fall; 0: not.
    on_time_expected : float or None
        Share of deadlines met on average over these.
    marginal : tuple of Marginal
        With a node less, where the jobs still fit, and a node more.
    capacity : Capacity or None
        What to keep and what to rent; None where one price is known alone.
    notes : tuple of str
        What of the jobs' file was left out.
    stopped : bool
        It was stopped: without odds of all replicas, or other sizes.
    undecided : bool
        It was stopped while smaller clusters were tried: fewer nodes may be enough.
    """

    schema: ClassVar[str] = SCHEMAS["plan"]

    name: str
    nodes: int
    gpus: int
    policy: Policy
    logs: tuple[JobLog, ...]
    span_s: float
    utilisation: float
    useful: float
    on_time: float
    waiting_mean_s: float
    waiting_p95_s: float
    cost_usd: float | None
    idle_usd: float | None
    replicas: int = 0
    on_time_expected: float | None = None
    marginal: tuple[Marginal, ...] = ()
    capacity: Capacity | None = None
    notes: tuple[str, ...] = ()
    stopped: bool = False
    undecided: bool = False

    @property
    def bound(self) -> tuple[JobLog, ...]:
        """Jobs with a deadline."""
        return tuple(log for log in self.logs if log.request.deadline_s is not None)

    @property
    def missed(self) -> tuple[JobLog, ...]:
        """Jobs that missed their deadline."""
        return tuple(log for log in self.logs if not log.on_time)

    def figures(self) -> dict[str, Any]:
        """Its figures, the jobs apart."""
        names = (
            "nodes", "gpus", "policy", "span_s", "utilisation", "useful", "on_time",
            "waiting_mean_s", "waiting_p95_s", "cost_usd", "idle_usd", "replicas",
            "on_time_expected",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def content(self) -> dict[str, Any]:
        """The cluster's figures, and its jobs."""
        more = {
            "marginal": self.marginal, "capacity": self.capacity, "notes": self.notes,
            "stopped": self.stopped, "undecided": self.undecided,
        }  # fmt: skip
        return {"cluster": self.name, **self.figures(), **more, "jobs": self.logs}

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a job."""
        return [log.content() for log in self.logs]


@dataclass(frozen=True, slots=True)
class Scenario(Section):
    """A cluster, a policy and a growth: what came of it, or why nothing did.

    Attributes
    ----------
    machine, changes : str
        The topology, and what was changed of it.
    policy : str
        How jobs were ordered.
    growth : float
        Times as many jobs in the same time.
    report : PlanReport or None
        None where jobs cannot run on it, or no number of nodes is enough.
    reason : str
        Then, why.
    met : bool
        Whether enough deadlines are.
    """

    machine: str
    changes: str
    policy: Policy
    growth: float
    report: PlanReport | None
    reason: str
    met: bool

    def content(self) -> dict[str, Any]:
        """What it was and what came of it, flat."""
        own = {
            "machine": self.machine, "changes": self.changes, "policy": self.policy,
            "growth": self.growth, "met": self.met, "reason": self.reason,
        }  # fmt: skip
        return own | (self.report.figures() if self.report else {})


@dataclass(frozen=True, slots=True)
class PlanComparison(Document):
    """Scenarios side by side.

    Attributes
    ----------
    scenarios : tuple of Scenario
        In the order asked for.
    share : float
        Of deadlines that must be met.
    asked : int
        Scenarios; there are fewer where it was stopped.
    """

    schema: ClassVar[str] = SCHEMAS["plan-comparison"]

    scenarios: tuple[Scenario, ...]
    share: float
    asked: int

    @property
    def stopped(self) -> bool:
        """Whether it ended before all scenarios were played."""
        return len(self.scenarios) < self.asked

    def able(self, growth: float) -> list[tuple[int, PlanReport]]:
        """Scenarios of a growth that meet enough deadlines, by their index."""
        return [
            (i, s.report) for i, s in enumerate(self.scenarios)
            if s.growth == growth and s.met and s.report is not None
        ]  # fmt: skip

    def priced(self, growth: float) -> bool:
        """Whether all of these have a price."""
        return all(report.cost_usd is not None for _, report in self.able(growth))

    @property
    def best(self) -> tuple[int, ...]:
        """Of each growth the scenario to take, by its index; -1: none meets enough deadlines.

        The cheapest, or of the fewest GPUs where a price is missing; then who waits least.
        """
        found = []
        for growth in self.growths:
            priced = self.priced(growth)
            ranks = [
                (report.cost_usd if priced else report.gpus, report.waiting_mean_s, i)
                for i, report in self.able(growth)
            ]
            found.append(min(ranks)[2] if ranks else -1)
        return tuple(found)

    @property
    def growths(self) -> tuple[float, ...]:
        """In the order asked for."""
        return tuple(dict.fromkeys(s.growth for s in self.scenarios))

    def content(self) -> dict[str, Any]:
        """The scenarios, and which to take."""
        return {
            "on_time_share": self.share,
            "best": self.best,
            "scenarios": self.scenarios,
            "stopped": self.stopped,
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a scenario."""
        return [s.content() for s in self.scenarios]
