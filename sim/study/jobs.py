"""The jobs of a plan: read from a file, and timed by the step model on every size they may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.files import is_there
from sim.inputs.arguments import Argument
from sim.inputs.base import Duration, Positive, Seconds, Spec
from sim.inputs.loader import load_topology, prepare
from sim.inputs.reader import Reader
from sim.inputs.tree import Branch, Items, Tree, from_python, plain_of, read_file
from sim.inputs.yaml import from_yaml
from sim.job.basis import no_length
from sim.job.estimate import estimate_job
from sim.quantities import counted, gib
from sim.step.step import memory_of, step
from sim.step.variation import Stop, never
from sim.study.cluster import Cluster, Request

_SOURCE = "jobs"
#: a jobs file, or its keys
Jobs = Path | Mapping[str, Any]
MOST_JOBS = 20_000
MOST_SIZES = 16  # of a job; each is timed


class JobLine(Spec):
    """One line of a jobs file."""

    name: str
    workload: str
    nodes: tuple[Positive, ...] = (1,)  # one number, or those that it may choose of
    arrival: Seconds = 0.0  # [s] after the start of the plan
    deadline: Duration | None = None  # [s] after arrival
    priority: int = 0  # higher goes first
    count: Positive = 1  # repeated so often,
    every: Seconds = 0.0  # [s] one after another


class JobList(Spec):
    """A jobs file."""

    name: str = ""
    jobs: tuple[JobLine, ...]


def read_jobs(given: Jobs) -> tuple[JobList, list[Branch]]:
    """A jobs file or its keys, and what each job sets.

    Raises
    ------
    InputError
        Every fault, with file, line and column.
    """
    faults: list[Fault] = []
    if isinstance(given, Mapping):
        tree, folder = from_python(given, _SOURCE), Path()
    else:
        tree, folder = from_yaml(read_file(given), str(given), faults), given.parent
    if not isinstance(tree, Branch):
        message = "is no mapping; write jobs: [{name: a, workload: llama3-8b-sft, nodes: 2}]"
        raise InputError([*faults, tree.place.fault("", message)])
    listed = tree.entries.get("jobs")
    settings: list[Branch] = []
    if isinstance(listed, Items):
        plain: list[Tree] = []
        for i, item in enumerate(listed.items):
            own = item.entries.get("set") if isinstance(item, Branch) else None
            if own is not None and not isinstance(own, Branch):
                faults.append(own.place.fault(f"jobs[{i}].set", "is no mapping of keys to values"))
            settings.append(own if isinstance(own, Branch) else Branch({}, item.place))
            plain.append(item.without("set") if isinstance(item, Branch) else item)
        tree = tree.with_entry("jobs", Items(plain, listed.place))
    reader = Reader(folder=folder)
    found = reader.read(JobList, tree, "")
    faults.extend(reader.faults)
    if found is not None:
        faults += (
            item.place.fault(f"jobs[{i}].every", "is from one to the next: add count, or leave it")
            for i, (job, item) in enumerate(zip(found.jobs, _items(listed), strict=False))
            if job.every and job.count == 1
        )
        total = sum(j.count for j in found.jobs)
        if not total:
            faults.append(tree.place.fault("jobs", "lists no job"))
        if total > MOST_JOBS:
            faults.append(
                tree.place.fault("jobs", f"{total} jobs; at most {MOST_JOBS} are planned")
            )
    if faults or found is None:
        raise InputError(faults)
    return found, settings


def _items(listed: Tree | None) -> Sequence[Tree]:
    return listed.items if isinstance(listed, Items) else ()


def cluster_of(argument: Argument, sets: Iterable[str] = ()) -> Cluster:
    """The shared machine.

    Raises
    ------
    InputError
        An explicit graph: which part of it a job would get is not known.
    """
    topology = load_topology(argument, sets)
    if topology.node is None or topology.graph is not None:
        message = "a plan gives out whole equal nodes; describe the machine by `node`"
        raise InputError.single(str(argument), message)
    return Cluster(topology)


def requests(
    cluster: Cluster, jobs: JobList, settings: Sequence[Branch], folder: Path, stop: Stop = never
) -> list[Request]:
    """Every job with its duration on the cluster; `stop` is asked before each but the first.

    Raises
    ------
    InputError
        Faults of a job's workload, a job without a length, larger than memory allows.
    KeyboardInterrupt
        Stopped: jobs that are not timed leave no plan.
    """
    faults: list[Fault] = []
    found: list[Request] = []
    for i, entry in enumerate(jobs.jobs):
        if i and stop():
            raise KeyboardInterrupt
        try:
            timed = _timed(cluster, entry, settings[i], folder)
        except InputError as error:
            faults.extend(
                Fault(f.source, f.line, f.column, f"jobs[{i}] {entry.name}: {f.path}", f.message)
                for f in error.faults
            )
            continue
        for n in range(entry.count):
            arrival = entry.arrival + n * entry.every
            name = entry.name if entry.count == 1 else f"{entry.name}-{n + 1}"
            deadline = None if entry.deadline is None else arrival + entry.deadline
            first, *others = (
                replace(form, name=name, arrival_s=arrival, deadline_s=deadline, entry=entry.name)
                for form in timed
            )
            found.append(replace(first, others=tuple(others)))
    if faults:
        raise InputError(faults)
    return sorted(found, key=lambda r: r.arrival_s)


def _timed(cluster: Cluster, entry: JobLine, own: Branch, folder: Path) -> list[Request]:
    """The job on each number of nodes on which it fits, timed; adds a kind for each."""
    if not 0 < len(entry.nodes) <= MOST_SIZES:
        message = f"lists {len(entry.nodes)} numbers of nodes; write 1 to {MOST_SIZES}"
        raise InputError([Fault(entry.workload, None, None, "nodes", message)])
    found, refusals = [], []
    for nodes in sorted(set(entry.nodes)):
        try:
            found.append(_on(cluster, entry, nodes, own, folder))
        except InputError as error:
            refusals.append(error)
    if not found:  # on the largest: nothing else is in its way
        raise refusals[-1]
    return found


def _on(cluster: Cluster, entry: JobLine, nodes: int, own: Branch, folder: Path) -> Request:
    """The job on so many nodes."""
    base = cluster.topology.model_copy(update={"nodes": nodes})
    path = folder / entry.workload
    argument = str(path) if is_there(path) else entry.workload
    prepared = prepare(base, argument)
    if own.entries:
        prepared = prepared.vary({key: plain_of(value) for key, value in own.entries.items()})
    loaded = prepared.loaded()
    report = memory_of(loaded.topology, loaded.workload)
    if not report.fits:
        need, have = gib(report.needed_bytes), gib(report.capacity_bytes)
        message = f"does not fit on {counted(nodes, 'node')}: {need} of {have}"
        raise InputError.single(entry.workload, message)
    alone = step(loaded.topology, loaded.workload).breakdown
    job = estimate_job(loaded.topology, loaded.workload, alone)
    if job is None:
        raise no_length(entry.workload)
    cluster.kinds.append((loaded.topology, loaded.workload, alone.time_s))
    busy = alone.communication_s / alone.time_s if nodes > 1 else 0.0
    return Request(
        entry.name, nodes, 0.0, None, entry.priority, job.wall_s, job.checkpoint_blocking_s,
        job.resume_s, busy, len(cluster.kinds) - 1, report.verdict.risk, spec=job.spec,
    )  # fmt: skip
