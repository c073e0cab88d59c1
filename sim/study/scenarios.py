"""Clusters, policies and growths side by side for the same jobs, and which to take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sim.choices import ON_TIME, Policy
from sim.errors import InputError
from sim.inputs.arguments import Argument
from sim.step.variation import Progress, Stop, never, silent
from sim.study.axes import Grid, from_options
from sim.study.cluster import Request
from sim.study.plan import TimedJobs, read_plan, serve, smallest, too_slow
from sim.study.planned import PlanComparison, PlanReport, Scenario
from sim.study.schedule import POLICIES

MOST = 64  # scenarios
LARGEST_GROWTH = 100.0
_SOURCE = "plan"


def grown(jobs: Sequence[Request], growth: float) -> list[Request]:
    """So many times as many jobs in the same time.

    Every job is taken as often as it is due when `growth` of each are: 1.5 takes every other one
    twice. What is added arrives between a job and the next.
    """
    found: list[Request] = []
    for i, job in enumerate(jobs):
        copies = math.floor((i + 1) * growth + 1e-9) - math.floor(i * growth + 1e-9)
        after = jobs[i + 1].arrival_s if i + 1 < len(jobs) else job.arrival_s
        for k in range(copies):
            found.append(_shifted(job, k * (after - job.arrival_s) / copies, k))
    return sorted(found, key=lambda job: job.arrival_s)


def _shifted(job: Request, later_s: float, copy: int) -> Request:
    if not copy:
        return job
    return replace(
        job,
        name=f"{job.name}+{copy}",
        arrival_s=job.arrival_s + later_s,
        deadline_s=None if job.deadline_s is None else job.deadline_s + later_s,
        others=tuple(_shifted(form, later_s, copy) for form in job.others),
    )


def compare_plans(
    topologies: Sequence[Argument],
    jobs: Path,
    *,
    policies: Sequence[Policy] = ("fifo",),
    vary: Iterable[str] = (),
    growths: Sequence[float] = (1.0,),
    fewest: bool = False,
    share: float = ON_TIME,
    sets: Iterable[str] = (),
    progress: Progress | None = None,
    stop: Stop = never,
) -> PlanComparison:
    """The jobs of a file on every cluster, under every policy and growth.

    Arguments are those of `sim.compare_plans`: `fewest` its `smallest`, `share` its `on_time`.

    Raises
    ------
    InputError
        Faults of the jobs, too many scenarios, or no cluster that can run the jobs at all.
    """
    combinations = [
        tuple(f"{key}={value}" for key, value in changes.items())
        for changes in Grid(_SOURCE, axes=from_options(vary, False)).points()
    ]
    number = len(topologies) * len(combinations) * len(policies) * len(growths)
    _check(number, policies, growths)
    base: tuple[str, ...] = tuple(sets)
    scenarios: list[Scenario] = []
    told = progress or silent
    told(0, number)
    failures: list[InputError] = []
    for topology, changes in itertools.product(topologies, combinations):
        label = ", ".join(changes)
        try:
            wanted = read_plan(topology, jobs, (*base, *changes), stop)
        except KeyboardInterrupt:
            if scenarios:
                return PlanComparison(tuple(scenarios), share, number)
            raise
        except InputError as error:
            failures.append(error)
            reason = str(error.faults[0].message)
            scenarios += [
                Scenario(str(topology), label, policy, growth, None, reason, False)
                for policy, growth in itertools.product(policies, growths)
            ]
            told(len(scenarios), number)
            continue
        name = wanted.cluster.topology.name
        for policy, growth in itertools.product(policies, growths):
            if scenarios and stop():
                return PlanComparison(tuple(scenarios), share, number)
            report, reason = _played(wanted, policy, growth, share if fewest else None)
            met = report is not None and report.on_time >= share
            scenarios.append(Scenario(name, label, policy, growth, report, reason, met))
            told(len(scenarios), number)
    if len(failures) == len(topologies) * len(combinations):
        raise failures[0]
    return PlanComparison(tuple(scenarios), share, number)


def _check(number: int, policies: Sequence[Policy], growths: Sequence[float]) -> None:
    if number > MOST:
        message = f"{number} scenarios; at most {MOST} are compared"
        raise InputError.single(_SOURCE, message)
    for policy in policies:
        if policy not in POLICIES:
            message = f'"{policy}" is no policy; there are {", ".join(POLICIES)}'
            raise InputError.single(_SOURCE, message, "policy")
    for growth in growths:
        if not 0.0 < growth <= LARGEST_GROWTH:
            message = f"{growth:g} times the jobs; write more than 0 and {LARGEST_GROWTH:g} at most"
            raise InputError.single(_SOURCE, message, "growth")


def _played(
    wanted: TimedJobs, policy: Policy, growth: float, share: float | None
) -> tuple[PlanReport | None, str]:
    """A scenario's report, or why there is none."""
    jobs, nodes = grown(wanted.jobs, growth), wanted.cluster.topology.nodes
    if not jobs:
        return None, "no jobs are left"
    if share is not None:
        found, ample = smallest(wanted.cluster, jobs, policy, share)
        return found, "" if found else too_slow(ample, share).splitlines()[0]
    large = [job for job in jobs if job.nodes > nodes]
    if large:
        return None, f"{large[0].name} wants {large[0].nodes} nodes; the cluster has {nodes}"
    return serve(wanted.cluster, jobs, nodes, policy), ""


def try_growth(text: str) -> tuple[float, ...]:
    """``1,1.5,2`` as numbers.

    Raises
    ------
    InputError
        One is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        message = f'"{text}" is no list of numbers; write 1,1.5,2'
        raise InputError.single(_SOURCE, message, "growth") from None
