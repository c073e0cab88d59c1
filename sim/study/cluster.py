"""What a plan is of: jobs that want nodes, and the cluster that they share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sim.fabric.network import nodes_per_leaf
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.spec import JobSpec
from sim.step.step import step

#: effective oversubscriptions are rounded up to multiples of this, so that few are simulated
_GRAIN = 0.25


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
    gpus : int
        Of a node, of which it shares the rest; 0: its nodes whole.
    spec : JobSpec or None
        Its failures and saves, for the odds of a deadline; None: it takes as long as it takes.
    others : tuple of Request
        The same job on other numbers of nodes, of which it takes one as it starts.
    entry : str
        What it is called with those that repeat it; empty for a job of a trace.
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
    gpus: int = 0
    spec: JobSpec | None = None
    others: tuple[Request, ...] = ()
    entry: str = ""

    @property
    def forms(self) -> tuple[Request, ...]:
        """The job on every number of nodes that it may have."""
        return (self, *self.others)

    @property
    def fastest(self) -> Request:
        """The form that takes the least time alone."""
        return min(self.forms, key=lambda r: r.alone_s)

    def gpus_of(self, per_node: int) -> int:
        """GPUs that it holds, on nodes of so many."""
        return self.gpus or self.nodes * per_node


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
    def per_node(self) -> int:
        """GPUs of a node."""
        return self.topology.node.gpus if self.topology.node else 1

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
