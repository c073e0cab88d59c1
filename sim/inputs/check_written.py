"""Checks of what is written and does nothing, be it a key's default, which counts as unsaid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sim.inputs.check_workload import silent_keys
from sim.inputs.finding import Findings, warning
from sim.inputs.topology import Nics, Topology
from sim.inputs.translation import is_default
from sim.inputs.tree import Place
from sim.inputs.workload import Workload


def findings(
    topology: Topology,
    workload: Workload,
    of_machine: Mapping[str, Place],
    of_job: Mapping[str, Place],
) -> Findings:
    """Every finding about what a pair says in vain.

    Parameters
    ----------
    topology, workload : specs
        As read.
    of_machine, of_job : mapping of str to Place
        Paths of the keys that are written, and where. What another tool does unless told otherwise
        is not written.
    """
    for nics, above in _nics(topology):
        path = f"{above}.gpudirect"
        if path in of_machine and nics.kind == "tcp" and nics.gpudirect:
            message = "TCP goes through host memory; GPUDirect is of NICs that do RDMA"
            hint = "leave it out, or write the kind of NIC that does"
            yield warning("no-effect", "topology", path, message, hint)
    for path in sorted(silent_keys(workload) & of_job.keys()):
        why = _why(path, workload)
        if why and not is_default(of_job[path]):
            yield warning("no-effect", "workload", path, why, "leave it out")


def _nics(topology: Topology) -> Iterator[tuple[Nics, str]]:
    """NICs of each kind of node, and where they are written."""
    if topology.node is not None and topology.node.nics is not None:
        yield topology.node.nics, "node.nics"
    for i, group in enumerate(topology.node_groups):
        if group.node.nics is not None:
            yield group.node.nics, f"node_groups[{i}].node.nics"


def _why(path: str, workload: Workload) -> str:
    """Why a job is not one that a key is about; "" where another check says so."""
    said = path.partition(".")[0]
    if path == "precision.tf32":  # of what else is left in fp32, and people write it beside bf16
        return ""
    if said == "loss_chunks":
        return f"loss is {workload.loss}, which makes no chunks"
    if said in ("method", "precision", "activation_checkpointing"):
        return f"{said} is {getattr(workload, said).kind}, which has no such key"
    return ""
