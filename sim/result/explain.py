"""Why LoRA is (no) faster: a fine-tuning method's step part by part, beside the full fine-tune's.

Kernel times are those of the kernels alone on their GPU; what contention, exposed communication
and waiting add is what the simulated step takes beyond them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.blocks.kernels import Kernel
from sim.blocks.modules import OpRole
from sim.blocks.parameters import count_parameters, tree_of
from sim.blocks.unroll import PHASES, Templates, unroll
from sim.cost.kernel_cost import cost_model
from sim.documents import SCHEMAS, Document
from sim.inputs.method import Method
from sim.inputs.notes import Message, Notes
from sim.inputs.rows import run_on
from sim.inputs.shares import mesh_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.result.sections import title_of
from sim.result.warned import warnings_of
from sim.step.reference import reference_passes
from sim.step.step import StepReport, step
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE

#: parts in the order in which they are shown
PARTS = (
    "forward products", "recomputed products", "input gradients", "weight gradients",
    "adapters' products", "adapters' element-wise", "dequantisation", "attention",
    "norms and the rest", "loss", "reference's forwards", "optimizer and clipping",
    "exposed communication", "contention and host",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MethodCost:
    """One method's step.

    Attributes
    ----------
    name : str
        ``full``, ``lora`` or ``qlora``.
    step_s : float
        Simulated optimizer step. [s]
    parts : dict of str to float
        Names of `PARTS`, adding up to the step. [s]
    gathered_bytes, reduced_bytes : float
        What all-gathers deliver to a rank in a step, and reductions take from it. [B]
    memory_bytes, capacity_bytes : float
        Needed on a GPU, and what it has. [B]
    verdict : str
        As `run` has it: ``fits``, ``at risk``, ``does not fit``.
    trainable : int
        Parameters. [1]
    """

    name: str
    step_s: float
    parts: dict[str, float]
    gathered_bytes: float
    reduced_bytes: float
    memory_bytes: float
    capacity_bytes: float
    verdict: str
    trainable: int

    @property
    def fits(self) -> bool:
        """Whether it more likely runs than not."""
        return self.verdict != "does not fit"


@dataclass(frozen=True, slots=True)
class MethodComparison(Document):
    """A job by the full fine-tune and by its own method, full first."""

    schema: ClassVar[str] = SCHEMAS["explain"]

    title: str
    methods: tuple[MethodCost, ...]
    borrowed: tuple[str, ...]  # constants that are those of other hardware
    warnings: tuple[Message, ...] = ()  # of the job by its own method

    def content(self) -> dict[str, Any]:
        """The methods."""
        return {"methods": self.methods, "borrowed": self.borrowed, "warnings": self.warnings}

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a method, its parts as columns. [s]"""
        names = (
            "step_s", "gathered_bytes", "reduced_bytes", "memory_bytes", "verdict", "trainable",
        )  # fmt: skip
        return [
            {"name": m.name, **m.parts, **{name: getattr(m, name) for name in names}}
            for m in self.methods
        ]


def explain(topology: Topology, workload: Workload, notes: Notes | None = None) -> MethodComparison:
    """The full fine-tune and the workload's own method (QLoRA: LoRA between them).

    Parameters
    ----------
    workload : Workload
        The job. For a full fine-tune LoRA of rank 16 on all linear layers is set beside it.
    notes : Notes, optional
        What the loader warned of.

    Returns
    -------
    MethodComparison
        Full first.
    """
    method = workload.method
    if not method.adapted:
        targets = workload.model.linears
        kinds = [method, Method(kind="lora", rank=16, targets=targets)]
        kinds = [Method(), *kinds] if method.frozen else kinds
    else:
        kinds = [Method(), method]
        if method.kind == "qlora":
            kinds.insert(1, method.model_copy(update={"kind": "lora", "quantization": "none"}))
    jobs = [_of_method(workload, kind) for kind in kinds]
    steps = [step(topology, job) for job in jobs]
    costs = tuple(_cost(topology, job, found) for job, found in zip(jobs, steps, strict=True))
    borrowed = dict.fromkeys(text for found in steps for text in found.fallbacks)
    warnings = warnings_of(topology, workload, notes, steps[kinds.index(method)])
    return MethodComparison(title_of(topology, workload), costs, tuple(borrowed), warnings)


def _of_method(workload: Workload, method: Method) -> Workload:
    """The job with another method; without adapters its reference is a model of its own."""
    changed: dict[str, object] = {"method": method}
    modelled = workload.parallelism.offload == "none"  # else its copy is not: its passes alone
    if workload.reference == "adapters-off" and not method.adapted and modelled:
        changed["reference"] = "copy"
    return workload.model_copy(update=changed)


def _cost(topology: Topology, workload: Workload, report: StepReport) -> MethodCost:
    steps = workload.gradient_accumulation
    parts = dict.fromkeys(PARTS, 0.0)
    run = run_on(topology, workload)
    for name, seconds in _kernels(topology, unroll(run), run):
        parts[name] += steps * seconds
    passes = reference_passes(topology, run)
    if passes is not None:
        beside = passes.breakdown
        parts["reference's forwards"] = steps * (beside.time_s - beside.exposed_s)
    whole = report.breakdown
    parts["optimizer and clipping"] = whole.kernels.get("optimizer", 0.0)
    parts["exposed communication"] = whole.exposed_s
    parts["contention and host"] = whole.time_s - sum(parts.values())
    tree = tree_of(workload)
    one = workload.model_copy(update={"gradient_accumulation": 1})
    plan = build_plan(one, tree, mesh_of(topology, one))
    moved = {"all_gather": 0.0, "reduce_scatter": 0.0, "all_reduce": 0.0}
    for op in plan.ops:
        if op.kind == COLLECTIVE and op.collective in moved:
            moved[op.collective] += max(op.bytes_in, op.bytes_out)
    return MethodCost(
        name=workload.method.kind,
        step_s=whole.time_s,
        parts=parts,
        gathered_bytes=steps * moved["all_gather"],
        reduced_bytes=steps * (moved["reduce_scatter"] + moved["all_reduce"]),
        memory_bytes=report.memory.needed_bytes,
        capacity_bytes=report.memory.capacity_bytes,
        verdict=report.memory.verdict.word,
        trainable=count_parameters(workload.model, workload.method).trainable,
    )


def _kernels(
    topology: Topology, templates: Templates, workload: Workload
) -> Iterable[tuple[str, float]]:
    """Seconds of a micro-step by part, every kernel alone."""
    model = cost_model(topology.slowest_gpu)
    blocks = [("embedding", False), ("head", False)]
    blocks += zip(templates.layer_kinds, templates.checkpointed, strict=True)
    for kind, again in sorted(set(blocks)):
        times = blocks.count((kind, again))
        for phase in PHASES:
            if phase == "recompute" and not again:
                continue
            kernels = templates.of(kind, phase)
            if not kernels:
                continue
            seconds = model.costs(kernels).time_s.tolist()
            for kernel, one in zip(kernels, seconds, strict=True):
                yield _part(kernel, phase), times * one


def _part(kernel: Kernel, phase: str) -> str:
    adapter = kernel.role is OpRole.ADAPTER
    if kernel.kind == "gemm":
        if adapter:
            return "adapters' products"
        if kernel.direction in ("dgrad", "wgrad"):
            return "input gradients" if kernel.direction == "dgrad" else "weight gradients"
        return "recomputed products" if phase == "recompute" else "forward products"
    if adapter:
        return "adapters' element-wise"
    if kernel.role is OpRole.DEQUANTISE:
        return "dequantisation"
    if kernel.kind in ("attention", "scan"):
        return "attention"
    return "loss" if kernel.kind == "loss" else "norms and the rest"
