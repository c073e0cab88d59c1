"""Gradient clipping, optimizer and plain copies as kernels, on one rank's shard."""

from __future__ import annotations

from sim.blocks.kernels import Kernel
from sim.blocks.muon import muon_kernels, trained
from sim.blocks.optimizer import optimizer_of, projection_of
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.records import dataclass
from sim.units import DTYPE_BYTES

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
    size = updated_bytes(workload)
    return Shard(numel, tensors, parameter_bytes=size, gradient_bytes=size)


def updated_bytes(workload: Workload) -> int:
    """Size of an element that the optimizer steps, as `shard_of` says. [B]"""
    deepspeed = strategy_of(workload).deepspeed
    pure = workload.precision.kind != "fp32" and workload.precision.master == "bf16"
    return 2 if pure and not deepspeed else 4


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
        launches=max(1, count),
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
    """The optimizer's step; foreach runs each pass over lists of tensors, for-loop over one."""
    p, g, how = shard.parameter_bytes, shard.gradient_bytes, workload.optimizer_implementation
    kind = optimizer_of(workload)
    if kind.by_matrix:
        return _with_matrices(workload, shard)
    fused = kind.one_kernel(how)
    each = kind.step_bytes(p, g) if fused or kind.factored else kind.unfused_bytes(p, g)
    together = kind.listed and (fused or how == "foreach")
    launches = _launches(shard.tensors) if together else shard.tensors
    name: str = workload.optimizer
    if name in ("adamw", "adamw-bf16"):
        name = f"adamw.{how}"
    passes = 1 if fused else kind.passes
    return (_kernel(name, "optimizer", each * shard.numel, passes * launches),)


def _with_matrices(workload: Workload, shard: Shard) -> tuple[Kernel, ...]:
    """Muon's (GaLore's, APOLLO's) step of the layers' matrices, then AdamW's of all else."""
    p, g = shard.parameter_bytes, shard.gradient_bytes
    found = trained(workload.model, workload.method)
    times = found.layers_over(shard.numel)
    if optimizer_of(workload).projected:
        wide = "tf32" if workload.precision.tf32 else "fp32"
        dtype = wide if g == DTYPE_BYTES["fp32"] else workload.precision.activations
        matrices = projection_of(workload, p, g).kernels(found, times, dtype)
    else:
        matrices = muon_kernels(found, times, p, g)
    beside = Shard(
        times * found.vectors + found.ends,
        round(times * found.vector_tensors) + found.end_tensors, p, g,
    )  # fmt: skip
    rest = workload.model_copy(update={"optimizer": optimizer_of(workload).rest})
    return (
        *matrices,
        *(optimizer_kernels(rest, beside) if beside.tensors else ()),
    )


def copy_kernel(name: str, traffic: float, launches: int = 1, access: str = "copy") -> Kernel:
    """A device copy or cast that moves `traffic` bytes (FSDP's copy-in and copy-out)."""
    return Kernel(name, "", "copy", bytes=traffic, dtype="bf16", launches=launches, access=access)
