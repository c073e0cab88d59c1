"""`plan(cluster, jobs)`: queueing, deadlines and their odds, cost; the smallest cluster."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sim.choices import ON_TIME, Policy
from sim.errors import Fault, InfeasibleError, InputError
from sim.inputs.arguments import Argument
from sim.job.basis import terms_of
from sim.job.run import simulate_run
from sim.quantities import counted, duration, percent
from sim.records import NamedTuple
from sim.step.variation import Progress, Stop, never
from sim.study.burst import capacity_of
from sim.study.cluster import Cluster, Request
from sim.study.jobs import JobList, Jobs, cluster_of, read_jobs, requests
from sim.study.planned import Marginal, PlanReport
from sim.study.schedule import schedule
from sim.study.traces import read_trace
from sim.units import HOUR_S

MOST_NODES = 4096
REPLICAS = 20  # with failures and paces as they fall
MOST_PLAYED = 40_000  # jobs of all replicas together; a plan of more is played less often
_TOLD = 1000  # jobs served from one word of progress to the next
ENDLESS = 100.0  # times as long as expected: so much a job takes that never ends


class TimedJobs(NamedTuple):
    """The jobs of a file, timed on a cluster, and what of the file they do not hold."""

    cluster: Cluster
    jobs: list[Request]
    notes: tuple[str, ...] = ()


def plan(
    topology: Argument,
    jobs: Jobs,
    *,
    policy: Policy = "fifo",
    sets: Iterable[str] = (),
    replicas: int = REPLICAS,
    progress: Progress | None = None,
    stop: Stop = never,
) -> PlanReport:
    """Serve the jobs of a file on a cluster.

    Arguments are those of `sim.plan`; `progress` counts plans with a node less and one more, too.

    Raises
    ------
    InputError
        Faults of either file, or a job larger than the cluster.
    """
    wanted = read_plan(topology, jobs, sets, stop)
    nodes = wanted.cluster.topology.nodes
    large = [r for r in wanted.jobs if r.nodes > nodes]
    if large:
        raise InputError(
            Fault(str(jobs), None, None, r.name,
                  f"wants {counted(r.nodes, 'node')}; the cluster has {nodes}")
            for r in large[:20]
        )  # fmt: skip
    told = teller(3 * len(wanted.jobs), progress)
    report = serve(wanted.cluster, wanted.jobs, nodes, policy, told)
    return finished(wanted, report, replicas, told, stop)


def teller(jobs: int, progress: Progress | None) -> Callable[[], None] | None:
    """What counts jobs as they are served, of so many in all plans, and says so every thousand."""
    if progress is None or jobs < _TOLD:
        return None
    served = itertools.count(1)

    def told() -> None:
        done = next(served)
        if done % _TOLD == 0:
            progress(min(done, jobs), jobs)

    return told


def read_plan(
    topology: Argument, jobs: Jobs, sets: Iterable[str] = (), stop: Stop = never
) -> TimedJobs:
    """Cluster and jobs, timed."""
    cluster = cluster_of(topology, sets)
    if isinstance(jobs, Mapping):
        return TimedJobs(cluster, requests(cluster, *read_jobs(jobs), Path(), stop))
    if jobs.suffix.lower() == ".csv":
        trace = read_trace(jobs, cluster.per_node)
        return TimedJobs(cluster, list(trace.jobs), trace.notes)
    listed: JobList
    listed, settings = read_jobs(jobs)
    return TimedJobs(cluster, requests(cluster, listed, settings, jobs.parent, stop))


def finished(
    wanted: TimedJobs, report: PlanReport, replicas: int, told: Callable[[], None] | None = None,
    stop: Stop = never,
) -> PlanReport:  # fmt: skip
    """A report with odds, neighbours in size, and what to keep or rent; less where stopped."""
    notes = (*report.notes, *_unheeded(wanted, report.policy), *wanted.notes)
    report = replace(report, notes=notes)
    report = with_odds(report, wanted, replicas, stop)
    if report.stopped or stop():
        asked = _played(report, wanted, replicas)
        without = f"stopped after {report.replicas} of {counted(asked, 'replica')}"
        notes = (*report.notes, without) if asked else report.notes
        return replace(report, stopped=True, notes=notes)
    return replace(
        report,
        marginal=_marginal(wanted, report, told),
        capacity=capacity_of(report, wanted.cluster.topology),
    )


def _unheeded(wanted: TimedJobs, policy: str) -> Iterator[str]:
    """What jobs say that the policy does not ask."""
    said = sum(job.priority != 0 for job in wanted.jobs)
    if said and policy != "priority":
        many = f"{counted(said, 'job')} counts for nothing under {policy}"
        yield f"the priority of {many}: --policy priority heeds it"


def serve(
    cluster: Cluster, jobs: Sequence[Request], nodes: int, policy: Policy,
    told: Callable[[], None] | None = None,
) -> PlanReport:  # fmt: skip
    """Serve timed jobs on so many nodes; forms of a job that do not fit on them are left out."""
    able = [_within(r, nodes) for r in jobs]
    logs = schedule(cluster, able, nodes, policy, told=told)
    begin = min(r.arrival_s for r in jobs)
    span, per_node = max(log.finish_s for log in logs) - begin, cluster.per_node
    gpus = [log.request.gpus_of(per_node) for log in logs]
    size = nodes * per_node
    held = sum(log.held_s * n for log, n in zip(logs, gpus, strict=True))
    held = min(held, size * span)  # a sum of many is rounded
    alone = sum(log.request.alone_s * n for log, n in zip(logs, gpus, strict=True))
    waits = sorted(log.waiting_s for log in logs)
    bound = [log for log in logs if log.request.deadline_s is not None]
    terms = terms_of(cluster.topology.offer)
    cost = idle = None
    if terms is not None:
        rate = terms.price_per_gpu_hour_usd / HOUR_S
        cost, idle = rate * size * span, rate * (size * span - held)
    return PlanReport(
        name=cluster.topology.name,
        nodes=nodes,
        gpus=size,
        policy=policy,
        logs=tuple(logs),
        span_s=span,
        utilisation=held / (size * span),
        useful=alone / (size * span),
        on_time=sum(log.on_time for log in bound) / len(bound) if bound else 1.0,
        waiting_mean_s=sum(waits) / len(waits),
        waiting_p95_s=waits[min(len(waits) - 1, math.ceil(0.95 * len(waits)) - 1)],
        cost_usd=cost,
        idle_usd=idle,
    )


def _within(request: Request, nodes: int) -> Request:
    """A job in the forms that so many nodes hold."""
    if not request.others:
        return request
    first, *others = [f for f in request.forms if f.nodes <= nodes]
    return replace(first, others=tuple(replace(f, others=()) for f in others))


def _played(report: PlanReport, wanted: TimedJobs, replicas: int) -> int:
    """Replicas of those asked for that are played; 0 where they would tell nothing."""
    replicas = min(replicas, MOST_PLAYED // len(report.logs))
    idle = not report.bound or replicas < 2 or all(r.spec is None for r in wanted.jobs)
    return 0 if idle else replicas


def with_odds(
    report: PlanReport, wanted: TimedJobs, replicas: int, stop: Stop = never
) -> PlanReport:
    """The probability that each job meets its deadline, failures and paces as they fall.

    In each replica every job takes as long as a simulated run of it does, and the others wait for
    it as they must. The model's own error is not in it. Stopped, there are as many replicas as were
    played.
    """
    replicas = _played(report, wanted, replicas)
    if not replicas:
        return report
    met = [0] * len(report.logs)
    able = [_within(r, report.nodes) for r in wanted.jobs]
    for replica in range(replicas):
        if stop():
            replicas, report = replica, replace(report, stopped=True)
            break

        def stretch(i: int, seed: int = replica * 1_000_003) -> float:
            request = able[i]
            if request.spec is None:
                return 1.0
            run = simulate_run(request.spec, seed + i)
            longer = run.wall_s / request.alone_s
            return min(longer, ENDLESS) if run.finished else ENDLESS

        logs = schedule(wanted.cluster, able, report.nodes, report.policy, stretch)
        met = [count + log.on_time for count, log in zip(met, logs, strict=True)]
    if not replicas:
        return report
    for log, count in zip(report.logs, met, strict=True):
        if log.request.deadline_s is not None:
            log.odds = count / replicas
    expected = sum(log.odds or 0.0 for log in report.bound) / len(report.bound)
    return replace(report, replicas=replicas, on_time_expected=expected)


def _marginal(
    wanted: TimedJobs, report: PlanReport, told: Callable[[], None] | None
) -> tuple[Marginal, ...]:
    """With a node less, and with one more."""
    least = max(min(f.nodes for f in r.forms) for r in wanted.jobs)
    found = []
    for nodes in (report.nodes - 1, report.nodes + 1):
        if nodes >= least:
            other = serve(wanted.cluster, wanted.jobs, nodes, report.policy, told)
            found.append(
                Marginal(nodes, other.on_time, other.waiting_mean_s, other.span_s, other.cost_usd)
            )
    return tuple(found)


def smallest(
    cluster: Cluster, jobs: Sequence[Request], policy: Policy, share: float = ON_TIME,
    progress: Progress | None = None, stop: Stop = never,
) -> tuple[PlanReport | None, PlanReport]:  # fmt: skip
    """The fewest nodes on which enough jobs meet their deadlines.

    Parameters
    ----------
    cluster, jobs
        As `read_plan` gives them; the cluster's own number of nodes is not used.
    policy : str
        One of `POLICIES`.
    share : float
        Of the jobs with a deadline.
    progress : callable, optional
        Called now and then with jobs served and all there are, on every size.
    stop : callable, optional
        Asked before each size: once true, the report is `stopped`, of nodes that are enough.

    Returns
    -------
    tuple
        The report there, or None if no cluster is large enough; and the report on as many nodes as
        all jobs together could use.

    Notes
    -----
    More nodes can make a schedule worse, so sizes are tried one by one from the least that holds
    every job; the first that serves the jobs is the answer.
    """
    least = max(min(f.nodes for f in r.forms) for r in jobs)
    enough = min(MOST_NODES, max(least, _most_at_once(jobs)))
    told = teller(len(jobs) * (enough - least + 1), progress)
    ample = serve(cluster, jobs, enough, policy, told)
    if ample.on_time < share:
        return None, ample
    for nodes in range(least, enough):
        if stop():
            few = f"{counted(nodes - 1, 'node')} and fewer are too few, some more may be enough"
            note = few if nodes > least else "stopped before any size was tried: fewer may do"
            return replace(ample, stopped=True, undecided=True, notes=(note,)), ample
        report = serve(cluster, jobs, nodes, policy, told)
        if report.on_time >= share:
            return report, ample
    return ample, ample


def _most_at_once(jobs: Sequence[Request]) -> int:
    """Nodes in use at once if no job ever waited, each on the most that it may have."""
    widest = [max(r.forms, key=lambda f: f.nodes) for r in jobs]
    events = [(r.arrival_s, r.nodes) for r in widest]
    events += [(r.arrival_s + max(f.alone_s for f in r.forms), -r.nodes) for r in widest]
    busy = most = 0
    for _, change in sorted(events, key=lambda e: (e[0], -e[1])):
        busy += change
        most = max(most, busy)
    return most


def fewest(
    topology: Argument,
    jobs: Jobs,
    *,
    policy: Policy = "fifo",
    share: float = ON_TIME,
    sets: Iterable[str] = (),
    replicas: int = REPLICAS,
    progress: Progress | None = None,
    stop: Stop = never,
) -> PlanReport:
    """The smallest cluster that serves the jobs of a file.

    Raises
    ------
    InputError
        Faults of either file.
    InfeasibleError
        Jobs that miss their deadline on any number of nodes, with how long they take alone.
    """
    wanted = read_plan(topology, jobs, sets, stop)
    found, ample = smallest(wanted.cluster, wanted.jobs, policy, share, progress, stop)
    if found is not None:
        return finished(wanted, found, replicas, stop=stop)
    raise InfeasibleError(too_slow(ample, share))


def too_slow(ample: PlanReport, share: float) -> str:
    """Why no number of nodes is enough."""
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
            f"  {r.name} takes {duration(log.held_s)} on its {counted(r.nodes, 'node')}; its "
            f"deadline is {duration(span)}: give it more nodes"
        )
    return "\n".join(lines)
