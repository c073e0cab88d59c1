"""Keys that somebody set for this run, and that change nothing in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.fabric import compile_fabric
from sim.inputs.base import Spec
from sim.inputs.checks import check
from sim.inputs.notes import Message, Notes
from sim.inputs.topology import Topology
from sim.inputs.workload import Parallelism, Workload
from sim.step.step import StepReport, quick

#: keys of the ways between GPUs: whether one matters is known once NCCL's choices are
WAYS = (
    "node.pcie.p2p", "node.p2p_level", "node.nvlink.sharp", "node.nics.gpudirect",
    "node.nics.socket_threads", "node.cpu.interconnect", "network.sharp",
    "network.oversubscription", "network.placement", "network.routing", "network.tenants",
    "network.switch_latency",
)  # fmt: skip

#: keys of `parallelism` that matter with an axis alone, by how they begin, and the axis
_OF_AXIS = {
    "pipeline_": "pipeline_parallel", "virtual_stages": "pipeline_parallel",
    "context_parallel_": "context_parallel", "sequence_parallel": "tensor_parallel",
    "loss_parallel": "tensor_parallel", "tensor_parallel_": "tensor_parallel",
    "expert_dispatch": "expert_parallel",
}  # fmt: skip
#: keys that say what runs, or a fact of it: none is idle
_SAID = ("strategy", "wrap", "replicate", "shard", "deepspeed_version", *set(_OF_AXIS.values()))


def idle_keys(
    topology: Topology, workload: Workload, notes: Notes, found: StepReport
) -> Iterator[Message]:
    """A warning for each key that was set on the command line and changes nothing.

    Parameters
    ----------
    topology, workload : specs
        As run.
    notes : Notes
        Where values came from: what a file says of its machine is no wish.
    found : StepReport
        Their step.

    Notes
    -----
    A way between GPUs is idle if its default gives the very same step; a knob of the strategy if
    it is of an axis that has one rank, or if its default gives the same step and memory.
    """
    for path in WAYS:
        if notes.origin(f"topology.{path}").kind != "override":
            continue
        other = _with_default(topology, path.split("."))
        if other is None or other == topology or quick(other, workload).time_s != found.time_s:
            continue
        message = (
            f"{path} changes nothing in this step: no collective or copy is slower or faster for it"
        )
        hint = "leave it out"
        if path == "node.pcie.p2p" and (meet := compile_fabric(topology).meeting_place()):
            message = f"{path} changes nothing in this step: its GPUs meet {meet}"
            hint = "node.p2p_level is how far NCCL goes: LOC, PIX, ..., SYS (NCCL_P2P_LEVEL)"
        yield Message("idle-key", f"topology.{path}", message, hint)
    yield from _idle_knobs(topology, workload, notes, found)


def _idle_knobs(
    topology: Topology, workload: Workload, notes: Notes, found: StepReport
) -> Iterator[Message]:
    told = {w.path for w in notes.warnings}
    paths = [f"parallelism.{name}" for name in Parallelism.model_fields if name not in _SAID]
    for path in (*paths, "experts", "stack.omp_num_threads"):
        where = f"workload.{path}"
        if where in told or notes.origin(where).kind != "override":
            continue
        other = _with_default(workload, path.split("."))
        if other == workload:
            continue
        why = _why_idle(path, topology, workload, other, found)
        if why:
            message = f"{path} changes nothing in this job: {why}"
            yield Message("idle-key", where, message, "leave it out")


def _why_idle(
    path: str, topology: Topology, workload: Workload, other: Workload, found: StepReport
) -> str:
    """Why a job is the same with a key's default; "" where it is not, or where that was not tried.

    A pipeline's step is too long to be simulated once more for each key.
    """
    name = path.rpartition(".")[2]
    if name in ("experts", "z3_leaf_experts") and not workload.model.experts:
        return "its model has no experts"
    for begin, axis in _OF_AXIS.items():
        if name.startswith(begin):
            return "" if getattr(workload.parallelism, axis) > 1 else f"{axis} is 1"
    if workload.parallelism.pipeline_parallel > 1 or any(f.error for f in check(topology, other)):
        return ""
    again = quick(topology, other)
    same = again.time_s == found.time_s and again.memory == found.memory
    return "step and memory are the same without it" if same else ""


def _with_default(spec: Any, keys: list[str]) -> Any:
    """A copy in which a key has its default; None where a part of the path is not there."""
    if not isinstance(spec, Spec):
        return None
    key, *rest = keys
    value: Any = type(spec).model_fields[key].default
    if rest:
        value = _with_default(getattr(spec, key), rest)
        if value is None:
            return None
    return spec.model_copy(update={key: value})
