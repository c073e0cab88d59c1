"""Checks of which keys are written: what does nothing, be it a default, and what is left unsaid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sim.inputs.finding import Findings, warning
from sim.inputs.silent import silent_keys
from sim.inputs.topology import Nics, Topology
from sim.inputs.translation import is_default
from sim.inputs.tree import Place
from sim.inputs.workload import Workload


def findings(
    topology: Topology,
    workload: Workload,
    of_machine: Mapping[str, Place],
    of_job: Mapping[str, Place],
    translated: bool = False,
) -> Findings:
    """Every finding about what a pair says in vain, or leaves unsaid that decides much.

    Parameters
    ----------
    topology, workload : specs
        As read.
    of_machine, of_job : mapping of str to Place
        Paths of the keys that are written, and where. What another tool does unless told otherwise
        is not written.
    translated : bool
        The job is another tool's files, whose reader knows what that tool prepares.
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
    if not translated and "method.prepare_kbit" not in of_job and _peft_loads_4bit(workload):
        message = (
            "is left at false; scripts that call PEFT's prepare_model_for_kbit_training keep"
            " embedding, head and what lies between products in fp32, and fit 58 to 81 % of the"
            " context (TRL before 0.26 calls it by itself)"
        )
        hint = "write prepare_kbit: true where yours does, else false"
        yield warning("kbit-unsaid", "workload", "method.prepare_kbit", message, hint)


def _peft_loads_4bit(workload: Workload) -> bool:
    """Whether PEFT's layers stand on weights that bitsandbytes holds, whole on each GPU."""
    m = workload.method
    whole = workload.parallelism.strategy in ("single", "ddp")
    named = workload.trainer == "huggingface" and m.frozen and m.adapters == "eager"
    return whole and named and m.quantization == "nf4"


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
