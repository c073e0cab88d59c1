"""Checks of how a machine is said to fail."""

from __future__ import annotations

from sim.inputs.finding import Findings, warning
from sim.inputs.topology import Topology

#: keys of what fails, which nothing does without failures
_OF_FAILURES = ("gpu_mtbf", "node_mtbf", "domains")
#: of what follows, which nodes of spot capacity that are taken away bring about too
_OF_LOSSES = ("detect", "restart", "repair", "warm_restart", "least_nodes")


def findings(topology: Topology) -> Findings:
    """Every finding about it: what counts for nothing, spares that none can use."""
    r, offer, nodes = topology.reliability, topology.offer, topology.node_count
    spot = offer is not None and offer.capacity == "spot"
    if not r.failures:
        idle = _OF_FAILURES if spot else (*_OF_FAILURES, *_OF_LOSSES)
        for key in idle:
            if getattr(r, key) not in (None, ()):
                message = "failures is false: nothing fails, and this counts for nothing"
                hint = "leave it out, or write failures: true"
                yield warning("no-failures", "topology", f"reliability.{key}", message, hint)
    path = "reliability.spare_nodes"
    if r.spare_nodes and not r.failures and not spot:
        message = f"failures is false: {r.spare_nodes} nodes are paid for, and none is ever needed"
        yield warning("no-failures", "topology", path, message, "leave it out")
    elif r.spare_nodes and r.spare_nodes > nodes:
        message = f"{r.spare_nodes} spare nodes beside a job on {nodes}: all of them are paid for"
        yield warning("spares", "topology", path, message, f"write {nodes} or less")
