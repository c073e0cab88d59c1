"""Keys that somebody set for this run, and that change nothing in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.documents import plain, round_significant
from sim.fabric import compile_fabric
from sim.inputs.base import Spec
from sim.inputs.checks import check, finish_pair
from sim.inputs.notes import Message, Notes
from sim.inputs.rows import lengths_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.forecast import JobForecast, forecast_job
from sim.result.sections import cost_section, job_section
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
    "tp_comm_overlap": "tensor_parallel",
    "expert_dispatch": "expert_parallel",
}  # fmt: skip
#: keys that say what runs and how much of it: none is idle
_SAID = (
    "strategy", "replicate", "shard", *set(_OF_AXIS.values()),
    "rank", "sequence_length", "micro_batch", "gradient_accumulation", "global_batch",
    "tokens", "steps", "samples", "epochs", "deadline", "nodes", "gpus", "sources", "fitted_on",
    "attention", "compile", "loss", "fused_kernels", "optimizer",  # advised, where files differ
    "recipe",  # of FP8 one at least runs, and what follows from `precision: fp8` nobody set
)  # fmt: skip
#: of these the ones that a machine has by the same name
_SAID_OF_JOBS = ("kind",)
#: what an offer that is taken by its name brings with it, whether the job asks for it or not
_OF_OFFERS = ("instance", "confidence", "residency", "spot_price_per_gpu_hour", "egress_per_gb",
              "storage_per_gb_month")  # fmt: skip
#: keys of padding, which matter once it is known how long samples are
_OF_LENGTHS = ("data.group_by_length", "attention_padding")
#: ranks of a machine, and micro-batches of all stages of a pipeline, above which a step is long to
#: simulate: 50 to 100 ms
_MOST_RANKS, _MOST_PLAYS = 1024, 256


def idle_keys(
    topology: Topology,
    workload: Workload,
    notes: Notes,
    found: StepReport,
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
    A way between GPUs is idle if its default gives the very same step; another key if it is of an
    axis that has one rank, or if its default gives the same step, memory and job. That is not tried
    where a step takes long.
    """
    if not notes.overrides:
        return
    for path in WAYS:
        if notes.origin(f"topology.{path}").kind != "override":
            continue
        other = with_default(topology, path.split("."))
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
    tried = _soon(topology, workload)
    shown = _figures(forecast_job(topology, workload, found.breakdown), topology)
    told = {w.path for w in notes.warnings} | {f"topology.{path}" for path in WAYS}
    if notes.origin("topology.offer.instance").kind == "override":
        told |= {f"topology.offer.{name}" for name in _OF_OFFERS}
    for side, spec in (("topology", topology), ("workload", workload)):
        for path in _leaves(spec):
            where = f"{side}.{path}"
            if not told.isdisjoint(_around(where)) or notes.origin(where).kind != "override":
                continue
            other = with_default(spec, path.split("."))
            said = spec is workload and path.rpartition(".")[2] in _SAID_OF_JOBS
            if said or other == spec or (path in _OF_LENGTHS and _padded_unsaid(workload)):
                continue
            why = _without(path, workload)
            if not why and tried:
                if spec is topology:
                    why = _the_same(other, workload, found, shown)
                else:
                    why = _the_same(topology, _left_out(topology, other, path, notes), found, shown)
            if why:
                message = f"{path} changes nothing in this job: {why}"
                told.add(where)
                yield Message("idle-key", where, message, "leave it out")


def _soon(topology: Topology, workload: Workload) -> bool:
    """Whether a step is simulated so soon that one more for each key is not felt."""
    stages = workload.parallelism.pipeline_parallel
    plays = stages * workload.gradient_accumulation if stages > 1 else 0
    return topology.world_size <= _MOST_RANKS and plays <= _MOST_PLAYS


def _leaves(spec: Spec) -> Iterator[str]:
    """Paths of the keys of a spec that have a default and may be idle."""
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if field.required and not isinstance(value, Spec):
            continue
        if isinstance(value, Spec):
            if field.default is None and not field.required:
                yield name  # written as a whole, it is idle as a whole
            yield from (f"{name}.{path}" for path in _leaves(value))
        elif name not in _SAID:
            yield name


def _around(path: str) -> Iterator[str]:
    """A path and those that it is within."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _padded_unsaid(workload: Workload) -> bool:
    """Whether samples are padded by what nothing says: the checks ask for their lengths."""
    return workload.data.packing is False and lengths_of(workload.data) is None


def _without(path: str, workload: Workload) -> str:
    """What a job has not that a key is about; "" where it has it."""
    name = path.rpartition(".")[2]
    if name == "phases":
        return "it is of the training alone; size plans the others"
    if name in ("experts", "z3_leaf_experts") and not workload.model.experts:
        return "its model has no experts"
    axis = _axis_of(name)
    return f"{axis} is 1" if axis and getattr(workload.parallelism, axis) == 1 else ""


def _axis_of(name: str) -> str:
    """The axis that a key matters with alone; "" of others."""
    return next((axis for begin, axis in _OF_AXIS.items() if name.startswith(begin)), "")


def _left_out(topology: Topology, workload: Workload, path: str, notes: Notes) -> Workload:
    """A job with a key's default, and what follows where that is not written."""
    written = {key.removeprefix("workload.") for key in notes.given} - {path}
    return finish_pair(topology, workload, given=written, whole=False)


def _the_same(
    topology: Topology, workload: Workload, found: StepReport, job: tuple[object, ...]
) -> str:
    """Why a key is idle with whose default this is the job; "" where it is not."""
    if any(f.error for f in check(topology, workload)):
        return ""
    again = quick(topology, workload)
    same = round_significant(again.time_s) == round_significant(found.time_s)
    if not same or again.memory != found.memory:
        return ""
    if not job:
        return "step and memory are as with its default"
    if _figures(forecast_job(topology, workload, found.breakdown), topology) != job:
        return ""
    return "step, memory and job are as with its default"


def _figures(job: JobForecast | None, topology: Topology) -> tuple[object, ...]:
    """What is shown of a job, to the digits that are; nothing of one without a length."""
    if job is None:
        return ()
    return plain(job_section(job)), plain(cost_section(job, topology)), plain(job.expected.energy)


def with_default(spec: Any, keys: list[str]) -> Any:
    """A copy in which a key has its default; None where it has none, or is not there."""
    key, *rest = keys
    field = type(spec).model_fields.get(key) if isinstance(spec, Spec) else None
    if field is None or (field.required and not rest):
        return None
    value: Any = field.default
    if rest:
        value = with_default(getattr(spec, key), rest)
        if value is None:
            return None
    return spec.model_copy(update={key: value})
