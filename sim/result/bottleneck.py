"""What holds a step back, in one sentence, and which changes are worth simulating."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sim.inputs.architecture import facts_of
from sim.inputs.checks import check
from sim.inputs.shares import batch_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Checkpointing, Precision, Workload
from sim.job.plan import JobReport
from sim.result.result import Bottleneck, Fix, Memory, Step
from sim.step.step import memory_of, step

_OTHER = ("norm", "elementwise", "reduction", "embedding", "loss", "quantize", "copy")


class Candidate(NamedTuple):
    """A change, as specs and as the user would write it."""

    change: dict[str, Any]
    description: str
    topology: Topology
    workload: Workload


_DATA_BOUND = 1 / 6  # of the wall time, as for the other bottlenecks
WORTHWHILE = 0.005  # share of the step that a change must save to be named


def classify(step: Step, memory: Memory) -> Bottleneck:
    """Name the largest avoidable share of the step.

    A step is compute-bound when matrix products and attention take most of it, memory-bound
    kernels, which every step has, less than a third, and nothing that could be hidden a sixth;
    otherwise the largest of exposed communication, memory-bound kernels, the host and the
    optimizer is named.
    """
    total = step.time_s
    parts = step.breakdown
    shares = {
        "communication": step.exposed_communication_s / total,
        "memory-bandwidth": sum(parts.get(key, 0.0) for key in _OTHER) / total,
        "host": parts.get("host", 0.0) / total,
        "optimizer": step.optimizer_s / total,
    }
    if memory.host_bytes_per_node > 0.0:  # the GPU waits for copies and for the CPU's update
        shares["offload"] = parts.get("copies", 0.0) / total + shares.pop("host")
    compute = (parts.get("gemm", 0.0) + parts.get("attention", 0.0)) / total
    kind, share = max(shares.items(), key=lambda item: item[1])
    within = all(part < (1 / 3 if name == "memory-bandwidth" else 1 / 6)
                 for name, part in shares.items())  # fmt: skip
    if within and compute > 0.5:
        other = {"memory-bandwidth": "memory-bound kernels"}.get(kind, kind)
        next_to_it = f"; another {100 * share:.0f} % goes to {other}" if share > 0.1 else ""
        kind, share = "compute", compute
        text = _sentence(kind, share, step, parts) + next_to_it
    else:
        text = _sentence(kind, share, step, parts)
    if not memory.fits:
        text = f"memory-bound: it does not fit; were there room, {text}"
        kind = "memory"
    return Bottleneck(kind=kind, share=share, explanation=text)


def _sentence(kind: str, share: float, step: Step, parts: dict[str, float]) -> str:
    percent = f"{100 * share:.0f} %"
    if kind == "compute":
        attention = parts.get("attention", 0.0) / step.time_s
        extra = f", attention alone {100 * attention:.0f} %" if attention > 0.15 else ""
        return f"compute-bound: {percent} of the step is matrix products and attention{extra}"
    if kind == "communication":
        where = next(iter(step.exposed), "collectives")
        return (
            f"communication-bound: for {percent} of the step the GPU waits for collectives, "
            f"most of all {where}"
        )
    if kind == "memory-bandwidth":
        worst = max(_OTHER, key=lambda key: parts.get(key, 0.0))
        return (
            f"memory-bandwidth-bound: {percent} of the step is {worst} and other kernels that "
            "move bytes rather than multiply"
        )
    if kind == "offload":
        return (
            f"offload-bound: for {percent} of the step the GPU waits for copies to and from host "
            "memory and for the CPU"
        )
    if kind == "host":
        return (
            f"launch-bound: for {percent} of the step the GPU waits for the CPU to launch kernels"
        )
    return f"optimizer-bound: {percent} of the step is the optimizer and gradient clipping"


def candidates(
    topology: Topology, workload: Workload, fits: bool, step: Step
) -> Iterator[Candidate]:
    """Changes that could help, each valid for this machine and stack.

    A job that fits is only offered what touches a part of its step large enough to matter.
    """
    p, ac = workload.parallelism, workload.activation_checkpointing
    parts = step.breakdown
    waits = step.exposed_communication_s + step.overlap_slowdown_s

    def matters(seconds: float) -> bool:
        return not fits or seconds > WORTHWHILE * step.time_s

    gpu = topology.node.gpu if topology.node else None

    def job(change: dict[str, Any], text: str, **update: Any) -> Candidate:
        return Candidate(change, text, topology, workload.model_copy(update=update))

    def knob(key: str, value: Any, text: str) -> Candidate:
        update = p.model_copy(update={key: value})
        return job({f"parallelism.{key}": value}, text, parallelism=update)

    if fits and workload.gradient_accumulation % 2 == 0:
        half = workload.gradient_accumulation // 2
        yield job(
            {"micro_batch": 2 * workload.micro_batch, "gradient_accumulation": half},
            "twice the micro-batch, same global batch",
            micro_batch=2 * workload.micro_batch, gradient_accumulation=half,
        )  # fmt: skip
    if workload.micro_batch > 1 and not fits:
        yield job(
            {"micro_batch": 1, "gradient_accumulation": workload.gradient_accumulation
             * workload.micro_batch},
            "micro-batch of one, same global batch",
            micro_batch=1,
            gradient_accumulation=workload.gradient_accumulation * workload.micro_batch,
        )  # fmt: skip
    if not workload.compile:
        yield job({"compile": True}, "torch.compile fuses element-wise kernels", compile=True)
    if gpu is not None and "flash3" in facts_of(gpu).attention and workload.attention != "flash3":
        yield job({"attention": "flash3"}, "FlashAttention-3", attention="flash3")
    if workload.attention == "eager":
        yield job({"attention": "flash2"}, "FlashAttention-2", attention="flash2")
    if gpu is not None and gpu.peak_fp8 and workload.precision.kind == "bf16":
        fp8 = Precision(kind="fp8", recipe="tensorwise", master=workload.precision.master)
        # eager, FP8's casts are kernels of their own and eat the gain
        yield job(
            {"precision": "{fp8: {recipe: tensorwise}}", "compile": True},
            "FP8 linears under torch.compile", precision=fp8, compile=True,
        )  # fmt: skip
    if ac.kind in ("full", "selective-op") and fits:
        yield job(
            {"activation_checkpointing": "none"}, "no activation checkpointing",
            activation_checkpointing=Checkpointing(),
        )  # fmt: skip
    if ac.kind != "full" and not fits:
        yield job(
            {"activation_checkpointing": "full"}, "full activation checkpointing",
            activation_checkpointing=Checkpointing(kind="full"),
        )  # fmt: skip
    if ac.kind == "full" and fits:
        yield job(
            {"activation_checkpointing": "{selective: op}"}, "selective checkpointing",
            activation_checkpointing=Checkpointing(kind="selective-op"),
        )  # fmt: skip
    if workload.loss in ("eager", "huggingface") and matters(parts.get("loss", 0.0)):
        yield job({"loss": "fused-linear"}, "fused linear cross-entropy", loss="fused-linear")
    sharded = p.strategy in ("fsdp1", "fsdp2")
    hidden = not matters(waits)
    if sharded and not hidden and topology.nodes > 1 and p.replicate == 1:
        yield knob("replicate", topology.nodes, "HSDP: shard within a node, replicate across")
    if sharded and not hidden and p.reshard_after_forward is True and p.strategy == "fsdp2":
        yield knob("reshard_after_forward", False, "keep parameters gathered between passes")
    synced = workload.gradient_accumulation > 1 and p.gradient_sync == "every"
    if sharded and not hidden and synced:
        yield knob("gradient_sync", "last", "reduce gradients in the last micro-step only")
    if p.strategy == "fsdp2" and not hidden and p.reduce_dtype == "fp32":
        yield knob("reduce_dtype", "bf16", "reduce gradients in bf16")
    if not fits and workload.optimizer == "adamw":
        yield job({"optimizer": "adamw-8bit"}, "8-bit optimizer states", optimizer="adamw-8bit")
    if not fits and p.offload == "none" and sharded:
        yield knob("offload", "all", "parameters and optimizer in host memory")
    if not fits and topology.graph is None:
        more = topology.model_copy(update={"nodes": 2 * topology.nodes})
        change = {"nodes": 2 * topology.nodes}
        yield Candidate(change, "twice the nodes", more, workload)


def rank_fixes(
    topology: Topology,
    workload: Workload,
    fits: bool,
    now: Step,
    most: int = 5,
) -> tuple[Fix, ...]:
    """Simulate each candidate and keep those that help, best first.

    A job that fits wants less time per token and must still fit; one that does not fit wants a
    change that makes it fit, the fastest first, or else the one nearest to fitting.
    """
    now_s_per_token = now.time_s / batch_of(topology, workload).tokens
    found = []
    for candidate in candidates(topology, workload, fits, now):
        if any(finding.error for finding in check(candidate.topology, candidate.workload)):
            continue
        machine, job = candidate.topology, candidate.workload
        room = memory_of(machine, job)
        if fits and not room.fits:
            continue
        need = room.peak_reserved_bytes
        ratio = step(machine, job).time_s / batch_of(machine, job).tokens / now_s_per_token
        found.append(Fix(candidate.change, candidate.description, ratio, need, room.fits))
    if fits:
        helpful = [f for f in found if f.step_time_ratio < 1 - WORTHWHILE]
        return tuple(sorted(helpful, key=lambda f: f.step_time_ratio)[:most])
    cure = sorted((f for f in found if f.fits), key=lambda f: f.step_time_ratio)
    near = sorted((f for f in found if not f.fits), key=lambda f: f.memory_bytes)
    return tuple((cure or near)[:most])


def data_bottleneck(job: JobReport | None, found: Bottleneck, memory_bytes: float) -> Bottleneck:
    """The bottleneck, or waiting for data where that takes more of the time.

    A step that waits for data gains nothing from faster kernels, so that the number of workers
    that cures it is then the only fix.
    """
    if job is None or found.kind == "memory":
        return found
    idle, stall, pipeline = job.stall.idle_share, job.stall, job.pipeline
    other = 0.0 if found.kind == "compute" else found.share * (1.0 - idle)
    if idle < max(_DATA_BOUND, other):
        return found
    text = f"data-bound: the GPUs wait {100 * idle:.0f} % of the time for data; "
    needed = stall.workers_needed
    if needed is None:
        text += "storage delivers less than a step needs, whatever the number of workers"
        return Bottleneck("data", idle, text)
    text += f"{needed} loader workers per GPU instead of {pipeline.workers} would cure it"
    cure = f"{needed} loader workers per GPU"
    fix = Fix({"data.workers": needed}, cure, 1.0 - idle, memory_bytes, True)
    return Bottleneck("data", idle, text, (fix,))
