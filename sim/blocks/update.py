"""Gradient clipping, optimizer and plain copies as kernels, on one rank's shard."""

from __future__ import annotations

from dataclasses import dataclass

from sim.blocks.kernels import Kernel
from sim.inputs.workload import Workload

FOREACH_TENSORS = 48  # tensors one multi-tensor kernel takes, about: its argument space is 4 KB


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank updates.

    Attributes
    ----------
    numel : float
        Trainable elements on this rank. [1]
    tensors : int
        Tensors they lie in. [1]
    parameter_bytes : int
        Size of a sharded parameter and of its gradient, element. [B]
    """

    numel: float
    tensors: int
    parameter_bytes: int = 4
    gradient_bytes: int = 4


def shard_of(workload: Workload, numel: float, tensors: int) -> Shard:
    """Shard whose parameters and gradients have the dtype in which the strategy keeps them.

    FSDP and DDP step the master weights; DeepSpeed steps fp32 copies of a partition, whatever the
    dtype of the model.
    """
    deepspeed = workload.parallelism.strategy.startswith("zero")
    pure = workload.precision.kind != "fp32" and workload.precision.master == "bf16"
    size = 2 if pure and not deepspeed else 4
    return Shard(numel, tensors, parameter_bytes=size, gradient_bytes=size)


def host_update_bytes(workload: Workload) -> float:
    """Bytes an element that one vectorised optimizer step moves in host memory. [B]"""
    fused = workload.model_copy(update={"optimizer_implementation": "fused"})
    return sum(k.bytes for k in optimizer_kernels(fused, shard_of(workload, 1.0, 1)))


def _kernel(name: str, kind: str, traffic: float, count: int, dtype: str = "fp32") -> Kernel:
    return Kernel(
        name=name,
        module="",
        kind=kind,
        bytes=traffic,
        dtype=dtype,
        count=max(1, count),
        access="multi",
    )


def _launches(tensors: int) -> int:
    return -(-tensors // FOREACH_TENSORS)


def clip_kernels(shard: Shard) -> tuple[Kernel, ...]:
    """Global gradient norm and scaling by foreach kernels; the all-reduce between is the plan's."""
    g = shard.gradient_bytes * shard.numel
    n = _launches(shard.tensors)
    return (
        _kernel("clip.norm", "reduction", g, n),
        _kernel("clip.combine", "reduction", 4.0 * shard.tensors, 3),
        _kernel("clip.scale", "elementwise", 2 * g, n),
    )


def optimizer_kernels(workload: Workload, shard: Shard) -> tuple[Kernel, ...]:
    """The optimizer's step.

    Traffic per element (p parameter, g gradient, read and written):
    AdamW fused p 2, g 1, m 2, v 2; foreach runs the same through some ten passes over lists of
    tensors; for-loop the same, a launch per tensor and pass.
    """
    n, p, g = shard.numel, shard.parameter_bytes, shard.gradient_bytes
    kind = workload.optimizer
    state = {"adamw": 4.0, "adamw-bf16": 2.0, "adamw-8bit": 1.02}.get(kind, 4.0)
    if kind == "sgd":
        return (_kernel("sgd", "optimizer", (2 * p + g) * n, _launches(shard.tensors)),)
    if kind == "adafactor":
        # squares, two factored means, the outer product, rms, update
        return (_kernel("adafactor", "optimizer", (2 * p + 6 * g + 16) * n, 14 * shard.tensors),)
    fused = (2 * p + g + 4 * state) * n
    how = workload.optimizer_implementation
    if kind == "adamw-8bit":
        return (_kernel("adamw.8bit", "optimizer", fused, shard.tensors),)
    if how == "fused":
        return (_kernel("adamw.fused", "optimizer", fused, _launches(shard.tensors)),)
    # decay p; lerp m; mul, addcmul v; sqrt; div; add; addcdiv: reads and writes of each pass
    passes = (
        (2 * p) + (2 * state + g) + 2 * state + (2 * state + g) + 2 * state + 2 * state + 2 * state
    )
    passes += 2 * p + 2 * state
    launches = 8 * (_launches(shard.tensors) if how == "foreach" else shard.tensors)
    return (_kernel(f"adamw.{how}", "optimizer", passes * n, launches),)


def copy_kernel(name: str, traffic: float, launches: int = 1, dtype: str = "bf16") -> Kernel:
    """A device copy or cast that moves `traffic` bytes (FSDP's copy-in and copy-out)."""
    return Kernel(
        name=name, module="", kind="copy", bytes=traffic, dtype=dtype, count=launches, access="copy"
    )
