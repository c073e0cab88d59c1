"""Scaling curves: the same work per GPU on more nodes (weak), and the same work in all (strong)."""

from __future__ import annotations

from collections.abc import Mapping

from sim.inputs.scaled import at_batch, at_nodes
from sim.inputs.shares import batch_of
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.verdict import Verdict
from sim.result.figures import Scaling, ScalingPoint
from sim.step.breakdown import Breakdown
from sim.step.step import memory_of, quick

CURVE_NODES = (1, 2, 4, 8)


def scaling_curve(
    topology: Topology, workload: Workload, own: Breakdown | None, own_verdict: Verdict, engine: str
) -> Scaling | None:
    """Throughput on 1, 2, 4 and 8 nodes and on the machine's own number.

    Parameters
    ----------
    own : Breakdown or None
        The step on the machine as it is, where that is known.
    own_verdict : Verdict
        Of memory, there.
    engine : str
        For the other numbers of nodes.

    Returns
    -------
    Scaling or None
        None for an explicit graph or groups of unlike nodes: of which kind would there be more?
    """
    if topology.node is None:
        return None
    points: dict[int, tuple[Topology, Workload, Breakdown, Verdict]] = {}
    for nodes in sorted({*CURVE_NODES, topology.nodes}):
        moved = at_nodes(topology, workload, nodes)
        if moved is None:
            continue
        if nodes == topology.nodes and own is not None:
            points[nodes] = (*moved, own, own_verdict)
            continue
        found = quick(*moved, engine)
        points[nodes] = (*moved, found.breakdown, found.memory.verdict)
    return _curve("weak", topology, workload, points)


def strong_curve(topology: Topology, workload: Workload, engine: str = "auto") -> Scaling | None:
    """Throughput of the same global batch on 1, 2, 4 and 8 nodes and the machine's own number.

    Numbers of nodes that leave a rank without a sequence have no point; None for a machine that
    has no curve, or where no other number has one.
    """
    if topology.node is None:
        return None
    points: dict[int, tuple[Topology, Workload, Breakdown, Verdict]] = {}
    for nodes in sorted({*CURVE_NODES, topology.nodes}):
        moved = at_batch(topology, workload, nodes)
        if moved is not None:
            found = quick(*moved, engine)
            points[nodes] = (*moved, found.breakdown, found.memory.verdict)
    if len(points) < 2 or topology.nodes not in points:
        return None
    return _curve("strong", topology, workload, points)


def _curve(
    kind: str, topology: Topology, workload: Workload,
    points: Mapping[int, tuple[Topology, Workload, Breakdown, Verdict]],
) -> Scaling:  # fmt: skip
    fitting = [n for n, point in points.items() if point[3].fits]
    base = min(fitting or points)
    base_top, base_job, base_step, _ = points[base]
    base_rate = batch_of(base_top, base_job).tokens / base_step.time_s / base_top.world_size
    spreads, curve = bool(strategy_of(workload).spreads_as), []
    for nodes, (top, job, b, verdict) in points.items():
        tokens = batch_of(top, job).tokens
        rate = tokens / b.time_s / top.world_size
        free = tokens / (b.time_s - b.exposed_s) / top.world_size
        curve.append(
            ScalingPoint(
                nodes=nodes,
                gpus=top.world_size,
                step_time_s=b.time_s,
                tokens_per_s=tokens / b.time_s,
                efficiency=rate / base_rate,
                ideal_efficiency=free / base_rate,
                exposed_communication_s=b.exposed_s,
                fits=verdict.fits,
                verdict=verdict.word,
                strategy=job.parallelism.strategy if spreads and top.world_size > 1 else "",
            )
        )
    mine = next(p.efficiency for p in curve if p.nodes == topology.nodes)
    fewest = _fewest(topology, points) if kind == "weak" else None
    return Scaling(kind, base_top.world_size, mine, tuple(curve), fewest)


def _fewest(
    topology: Topology, points: Mapping[int, tuple[Topology, Workload, Breakdown, Verdict]]
) -> int | None:
    """Nodes from which on the job fits unchanged: between the points too; None: on none of them.

    Between the last point that has no room and the first that has, every number is tried.
    """
    fitting = [nodes for nodes, point in points.items() if point[3].fits]
    if not fitting:
        return None
    first = min(fitting)
    below = max((nodes for nodes in points if nodes < first), default=0)
    workload = points[first][1]
    for nodes in range(below + 1, first):
        moved = at_nodes(topology, workload, nodes)
        if moved is not None and memory_of(*moved).verdict.fits:
            return nodes
    return first
