"""Where a job's nodes lie under the leaves of a fabric, and what their uplinks carry for it.

Source: balls in bins for hashed flows (Raab and Steger, "Balls into bins", RANDOM 1998).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.inputs.topology import Network

F8 = npt.NDArray[np.float64]
FRAGMENT = 8  # a fragmented job has an eighth of the nodes under each leaf it touches
SCATTER = 4  # a scattered job lies under so many times the leaves it would fill


def leaves_of(network: Network, nodes: int, per_leaf: int) -> list[int]:
    """Leaf (of every rail, the pod) of each node, in the order of ranks.

    Parameters
    ----------
    network : Network
        Whose ``placement`` it is.
    nodes : int
        Of the job.
    per_leaf : int
        Nodes that a leaf holds.

    Returns
    -------
    list of int
        packed: leaves filled in order. fragmented: runs of an eighth of a leaf's nodes. random:
        dealt out over four times the leaves that would hold them (at least two), so that a node's
        neighbour in a ring is under another leaf; `uplink_rate` minds how often chance has it so.
    """
    if network.placement == "packed":
        return [node // per_leaf for node in range(nodes)]
    if network.placement == "fragmented":
        run = max(1, per_leaf // FRAGMENT)
        return [node // run for node in range(nodes)]
    leaves = scattered(nodes, per_leaf)
    return [node % leaves for node in range(nodes)]


def scattered(nodes: int, per_leaf: int) -> int:
    """Leaves that the nodes of a scattered job lie under."""
    return min(nodes, max(2, SCATTER * math.ceil(nodes / per_leaf)))


def uplink_rate(network: Network, ports: Sequence[float], whole: int, leaves: int) -> float:
    """What the uplinks of a leaf carry for a job. [B/s]

    Parameters
    ----------
    network : Network
        Oversubscription, routing, tenants, placement.
    ports : sequence of float
        Rates of the job's ports under the leaf. [B/s]
    whole : int
        Ports that the leaf has.
    leaves : int
        That the job lies under.

    Notes
    -----
    The job has the share of the uplinks that its ports under the leaf entitle it to, ports x rate /
    oversubscription, less what tenants take of it. Dealt nodes always have their neighbour under
    another leaf, chance would 1 - 1/leaves of the time, so uplinks count for that much more. With
    ``routing: ecmp`` every port is a flow that a hash puts on one of whole / oversubscription
    uplinks: the ring waits for the flow on the fullest.
    """
    own = sum(ports)
    rate = own / network.oversubscription * (1.0 - network.tenants)
    if network.placement == "random" and leaves > 1:
        rate /= 1.0 - 1.0 / leaves
    if network.routing == "ecmp":
        links = max(1, round(whole / network.oversubscription))
        rate = min(rate, own / fullest(len(ports), links) * (1.0 - network.tenants))
    return rate


@functools.lru_cache(maxsize=256)
def fullest(flows: int, links: int) -> float:
    """Mean number of flows on the fullest of some links, each flow on one at random.

    Notes
    -----
    E max = sum over k of P(max > k). Flows on links are Poisson numbers given their sum: P(max <=
    k) is the chance that numbers cut at k add up to the flows, over that of uncut ones.
    """
    mean = flows / links
    log = [n * math.log(mean) - mean - math.lgamma(n + 1) for n in range(flows + 1)]
    single = np.exp(log)
    whole = math.exp(flows * math.log(flows) - flows - math.lgamma(flows + 1))
    expected, most = 0.0, 0
    while most < flows:
        cut = np.where(np.arange(flows + 1) <= most, single, 0.0)
        above = 1.0 - _power(cut, links)[flows] / whole
        if above < 1e-9:
            break
        expected += above
        most += 1
    return max(1.0, expected)


def _power(chances: F8, times: int) -> F8:
    """Distribution of the sum of equal independent numbers, up to the length of one."""
    total, square = None, chances
    while times:
        if times & 1:
            total = square if total is None else np.convolve(total, square)[: len(chances)]
        square = np.convolve(square, square)[: len(chances)]
        times >>= 1
    return chances if total is None else total
