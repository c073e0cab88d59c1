"""The jobs of a plan: read from a file, timed by the step model, slowed by their neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.fabric.network import nodes_per_leaf
from sim.files import is_file
from sim.inputs.arguments import Argument
from sim.inputs.base import Duration, Positive, Seconds, Spec
from sim.inputs.loader import load_topology, prepare
from sim.inputs.reader import Reader
from sim.inputs.topology import Topology
from sim.inputs.tree import Branch, Items, Leaf, Tree, from_yaml, read_file
from sim.inputs.workload import Workload
from sim.job.estimate import estimate_job
from sim.quantities import gib
from sim.step.step import memory_of, step

MOST_JOBS = 20_000
#: effective oversubscriptions are rounded up to multiples of this, so that few are simulated
_GRAIN = 0.25


class Entry(Spec):
    """One line of a jobs file."""

    name: str
    workload: str
    nodes: Positive = 1
    arrival: Seconds = 0.0  # [s] after the start of the plan
    deadline: Duration | None = None  # [s] after arrival
    priority: int = 0  # higher goes first
    count: Positive = 1  # repeated so often,
    every: Seconds = 0.0  # [s] one after another


class JobList(Spec):
    """A jobs file."""

    name: str = ""
    jobs: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One job that wants nodes.

    Attributes
    ----------
    name : str
        Of the entry, with a number where it is repeated.
    nodes : int
        All at once, or the job does not start (gang scheduling).
    arrival_s : float
        [s]
    deadline_s : float or None
        Point in time, not span. [s]
    priority : int
        Higher goes first.
    alone_s : float
        Wall-clock with the network to itself, expected failures included. [s]
    save_s, resume_s : float
        Before its nodes can be taken, and before it goes on. [s]
    communication : float
        Share of a step with a collective in flight: how often it is seen on a shared link.
    kind : int
        Jobs of a kind are alike; for `Cluster.slowdown`.
    risk : str
        That memory may not do, in words; empty where it fits.
    """

    name: str
    nodes: int
    arrival_s: float
    deadline_s: float | None
    priority: int
    alone_s: float
    save_s: float
    resume_s: float
    communication: float
    kind: int
    risk: str = ""


@dataclass(slots=True)
class Cluster:
    """The machine that jobs share, and how their steps stretch when its uplinks are shared.

    Attributes
    ----------
    topology : Topology
        With its number of nodes.
    kinds : list of (Topology, Workload, float)
        By `Request.kind`: a partition of the job's size, the job, and its step alone. [s]
    """

    topology: Topology
    kinds: list[tuple[Topology, Workload, float]] = field(default_factory=list)
    _slow: dict[tuple[int, int, float], float] = field(default_factory=dict)

    @property
    def leaf_nodes(self) -> int:
        """Nodes under one leaf switch; all of them where there is one switch."""
        node = self.topology.node
        if self.topology.network.kind == "single-switch" or node is None or node.nics is None:
            return 1 << 30
        return nodes_per_leaf(self.topology.network, node.nics.count)

    @property
    def uplink(self) -> float:
        """What the uplinks of a full leaf carry, in units of one node's NICs."""
        return self.leaf_nodes / self.topology.network.oversubscription

    def slowdown(self, kind: int, widest: int, oversubscription: float) -> float:
        """How much longer a step takes on shared uplinks than alone; at least 1.

        Parameters
        ----------
        kind : int
            Of the job.
        widest : int
            Most of its nodes under one leaf.
        oversubscription : float
            Of the share of the uplinks that it gets.
        """
        topology, workload, alone_s = self.kinds[kind]
        rounded = max(1.0, math.ceil(oversubscription / _GRAIN - 1e-9) * _GRAIN)
        key = (kind, widest, rounded)
        if key not in self._slow:
            network = topology.network.model_copy(
                update={"nodes_per_leaf": widest, "oversubscription": rounded}
            )
            shared = topology.model_copy(update={"network": network})
            step_s = step(shared, workload).time_s
            self._slow[key] = max(1.0, step_s / alone_s)
        return self._slow[key]


def read_jobs(path: Path) -> tuple[JobList, list[Branch]]:
    """A jobs file, and what each job sets.

    Raises
    ------
    InputError
        Every fault, with file, line and column.
    """
    faults: list[Fault] = []
    tree = from_yaml(read_file(path), str(path), faults)
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
    reader = Reader(folder=path.parent)
    found = reader.read(JobList, tree, "")
    faults.extend(reader.faults)
    if found is not None:
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
    cluster: Cluster, jobs: JobList, settings: Sequence[Branch], folder: Path
) -> list[Request]:
    """Every job with its duration on the cluster.

    Raises
    ------
    InputError
        Faults of a job's workload, a job without a length, larger than memory allows.
    """
    faults: list[Fault] = []
    found: list[Request] = []
    for i, entry in enumerate(jobs.jobs):
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
            found.append(
                Request(
                    name, entry.nodes, arrival, deadline, entry.priority, timed[0], timed[1],
                    timed[2], timed[3], len(cluster.kinds) - 1, timed[4],
                )
            )  # fmt: skip
    if faults:
        raise InputError(faults)
    return sorted(found, key=lambda r: r.arrival_s)


def _timed(
    cluster: Cluster, entry: Entry, own: Branch, folder: Path
) -> tuple[float, float, float, float, str]:
    """Seconds alone, to save and to resume, share of communication, and risk; adds a kind."""
    base = cluster.topology.model_copy(update={"nodes": entry.nodes})
    path = folder / entry.workload
    argument = str(path) if is_file(path) else entry.workload
    prepared = prepare(base, argument)
    if own.entries:
        prepared = prepared.vary({key: _plain(value) for key, value in own.entries.items()})
    loaded = prepared.loaded()
    report = memory_of(loaded.topology, loaded.workload)
    if not report.fits:
        need, have = gib(report.needed_bytes), gib(report.capacity_bytes)
        message = f"does not fit on {entry.nodes} nodes: {need} of {have}"
        raise InputError.single(entry.workload, message)
    alone = step(loaded.topology, loaded.workload).breakdown
    job = estimate_job(loaded.topology, loaded.workload, alone)
    if job is None:
        message = "states no length; write tokens, steps or samples"
        raise InputError.single(entry.workload, message)
    cluster.kinds.append((loaded.topology, loaded.workload, alone.time_s))
    busy = alone.communication_s / alone.time_s if entry.nodes > 1 else 0.0
    return job.wall_s, job.checkpoint_blocking_s, job.resume_s, busy, report.verdict.risk


def _plain(tree: Tree) -> Any:
    if isinstance(tree, Leaf):
        return tree.value
    if isinstance(tree, Items):
        return [_plain(item) for item in tree.items]
    return {key: _plain(value) for key, value in tree.entries.items()}
