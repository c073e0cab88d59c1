"""Jobs of a cluster that share uplinks of leaf switches: how fast each of them goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sim.study.cluster import Cluster, Request
from sim.study.pool import Placed


def paces(
    jobs: Sequence[tuple[Request, Placed]], cluster: Cluster, per_leaf: int
) -> Sequence[float]:
    """How fast jobs go beside each other, over how fast each goes with the network to itself.

    Those slow each other that communicate (a trace's job takes what it took) and lie under several
    leaves.

    Parameters
    ----------
    jobs : sequence of (Request, Placed)
        All that run, and where.
    cluster : Cluster
        Whose uplinks they share.
    per_leaf : int
        Nodes under one leaf.

    Returns
    -------
    sequence of float
        One a job, at most 1. [1]
    """
    crossing: dict[int, Counter[int]] = {}  # jobs, with their nodes under each leaf
    for job, (request, placed) in enumerate(jobs):
        if request.communication and len(placed) > 1:
            leaves = Counter(node // per_leaf for node, _ in placed)
            if len(leaves) > 1:
                crossing[job] = leaves
    found = [1.0] * len(jobs)
    for job, leaves in crossing.items():
        beside = [(jobs[other][0], theirs) for other, theirs in crossing.items() if other != job]
        widest = max(leaves.values())
        share = min(
            _share(cluster.uplink, [request for request, theirs in beside if leaf in theirs])
            for leaf in leaves
        )
        kind = jobs[job][0].kind
        found[job] = 1.0 / cluster.slowdown(kind, widest, widest / share)
    return found


def _share(uplink: float, others: Sequence[Request]) -> float:
    """What a job gets of an uplink that others cross too, both in units of one node's NICs.

    Every ring that crosses leaves once asks for one node's NICs; others ask for it as often as
    they communicate. What is left over is the job's; its fair share is, if that is more.
    """
    asked = sum(other.communication for other in others)
    return max(uplink - asked, uplink / (1.0 + asked))
