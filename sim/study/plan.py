"""`plan(cluster, jobs)`: queueing, utilisation, missed deadlines, cost; the smallest cluster."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document
from sim.errors import Fault, InfeasibleError, InputError
from sim.inputs.arguments import Argument
from sim.job.forecast import terms_of
from sim.quantities import duration, percent
from sim.study.jobs import Cluster, JobList, Request, cluster_of, read_jobs, requests
from sim.study.schedule import JobLog, Policy, schedule
from sim.units import HOUR_S

MOST_NODES = 4096


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
        Share of node time in which jobs held nodes.
    useful : float
        Share of node time that the jobs would have needed alone.
    on_time : float
        Share of the jobs with a deadline that met it.
    waiting_mean_s, waiting_p95_s : float
        In the queue. [s]
    cost_usd, idle_usd : float or None
        The cluster over the span, and what of it nobody used; None without a price. [USD]
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

    @property
    def missed(self) -> tuple[JobLog, ...]:
        """Jobs that missed their deadline."""
        return tuple(log for log in self.logs if not log.on_time)

    def content(self) -> dict[str, Any]:
        """The cluster's figures, and its jobs."""
        names = (
            "nodes", "gpus", "policy", "span_s", "utilisation", "useful", "on_time",
            "waiting_mean_s", "waiting_p95_s", "cost_usd", "idle_usd",
        )  # fmt: skip
        figures = {name: getattr(self, name) for name in names}
        return {"cluster": self.name, **figures, "jobs": self.logs}

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a job."""
        return [log.content() for log in self.logs]


def plan(
    topology: Argument, jobs: Path, *, policy: Policy = "fifo", sets: Iterable[str] = ()
) -> PlanReport:
    """Serve the jobs of a file on a cluster.

    Parameters
    ----------
    topology : path, name, mapping or spec
        The cluster with its number of nodes.
    jobs : Path
        Jobs file.
    policy : str
        ``fifo``, ``priority`` or ``backfill``.
    sets : iterable of str
        Overrides of the topology.

    Raises
    ------
    InputError
        Faults of either file, or a job larger than the cluster.
    """
    cluster, wanted = read_plan(topology, jobs, sets)
    nodes = cluster.topology.nodes
    large = [r for r in wanted if r.nodes > nodes]
    if large:
        raise InputError(
            Fault(str(jobs), None, None, r.name, f"wants {r.nodes} nodes; the cluster has {nodes}")
            for r in large
        )
    return serve(cluster, wanted, nodes, policy)


def read_plan(
    topology: Argument, jobs: Path, sets: Iterable[str] = ()
) -> tuple[Cluster, list[Request]]:
    """Cluster and jobs, timed."""
    cluster = cluster_of(topology, sets)
    listed: JobList
    listed, settings = read_jobs(jobs)
    return cluster, requests(cluster, listed, settings, jobs.parent)


def serve(cluster: Cluster, jobs: list[Request], nodes: int, policy: Policy) -> PlanReport:
    """Serve timed jobs on so many nodes."""
    logs = schedule(cluster, jobs, nodes, policy)
    begin = min(r.arrival_s for r in jobs)
    span = max(log.finish_s for log in logs) - begin
    held = sum(log.held_s * log.request.nodes for log in logs)
    alone = sum(r.alone_s * r.nodes for r in jobs)
    waits = sorted(log.waiting_s for log in logs)
    bound = [log for log in logs if log.request.deadline_s is not None]
    per_node = cluster.topology.node.gpus if cluster.topology.node else 1
    terms = terms_of(cluster.topology.offer)
    cost = idle = None
    if terms is not None:
        rate = terms.price_per_gpu_hour_usd * per_node / HOUR_S
        cost, idle = rate * nodes * span, rate * (nodes * span - held)
    return PlanReport(
        name=cluster.topology.name,
        nodes=nodes,
        gpus=nodes * per_node,
        policy=policy,
        logs=tuple(logs),
        span_s=span,
        utilisation=held / (nodes * span),
        useful=alone / (nodes * span),
        on_time=sum(log.on_time for log in bound) / len(bound) if bound else 1.0,
        waiting_mean_s=sum(waits) / len(waits),
        waiting_p95_s=waits[min(len(waits) - 1, math.ceil(0.95 * len(waits)) - 1)],
        cost_usd=cost,
        idle_usd=idle,
    )


def smallest(
    cluster: Cluster, jobs: list[Request], policy: Policy, share: float = 0.95
) -> tuple[PlanReport | None, PlanReport]:
    """The fewest nodes on which enough jobs meet their deadlines.

    Parameters
    ----------
    cluster, jobs
        As `read_plan` gives them; the cluster's own number of nodes is not used.
    policy : str
        ``fifo``, ``priority`` or ``backfill``.
    share : float
        Of the jobs with a deadline.

    Returns
    -------
    tuple
        The report there, or None if no cluster is large enough; and the report on as many nodes as
        all jobs together could use.

    Notes
    -----
    More nodes can make a schedule worse, so sizes are tried one by one from the least that holds
    the largest job; the first that serves the jobs is the answer.
    """
    least = max(r.nodes for r in jobs)
    enough = min(MOST_NODES, max(least, _most_at_once(jobs)))
    ample = serve(cluster, jobs, enough, policy)
    if ample.on_time < share:
        return None, ample
    for nodes in range(least, enough):
        report = serve(cluster, jobs, nodes, policy)
        if report.on_time >= share:
            return report, ample
    return ample, ample


def _most_at_once(jobs: list[Request]) -> int:
    """Nodes in use at once if no job ever waited."""
    events = [(r.arrival_s, r.nodes) for r in jobs]
    events += [(r.arrival_s + r.alone_s, -r.nodes) for r in jobs]
    busy = most = 0
    for _, change in sorted(events, key=lambda e: (e[0], -e[1])):
        busy += change
        most = max(most, busy)
    return most


def fewest(
    topology: Argument,
    jobs: Path,
    *,
    policy: Policy = "fifo",
    share: float = 0.95,
    sets: Iterable[str] = (),
) -> PlanReport:
    """The smallest cluster that serves the jobs of a file.

    Raises
    ------
    InputError
        Faults of either file.
    InfeasibleError
        Jobs that miss their deadline on any number of nodes, with how long they take alone.
    """
    cluster, wanted = read_plan(topology, jobs, sets)
    found, ample = smallest(cluster, wanted, policy, share)
    if found is not None:
        return found
    late = [log for log in ample.missed if log.request.deadline_s is not None][:5]
    lines = [
        f"no number of nodes meets {percent(share, 0)} of the deadlines: on {ample.nodes} nodes, "
        f"where no job waits, {percent(ample.on_time, 0)} do"
    ]
    for log in late:
        r = log.request
        assert r.deadline_s is not None
        span = r.deadline_s - r.arrival_s
        lines.append(
            f"  {r.name} takes {duration(log.held_s)} on its {r.nodes} nodes; its deadline is "
            f"{duration(span)}: give it more nodes"
        )
    raise InfeasibleError("\n".join(lines))
