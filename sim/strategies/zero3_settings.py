"""How ZeRO-3 is configured: the job's knobs, with what "auto" and the release stand for."""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import InputError
from sim.inputs.modelling import stacks_experts
from sim.inputs.versions import older, version
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.strategies.units import SOURCE

#: the last release without the attribution of frozen parameters to the active backward
LAST_WITHOUT_ATTRIBUTION = (0, 19, 2)
#: stage3.py, `partition_grads`: fp32_grad_tensor.copy_(grad_buffer), which PyTorch casts on the CPU
#: where it blocks (aten/src/ATen/native/cuda/Copy.cu), to 0.14.4; of a GPU's fp32 tensor since
GPU_CASTS_GRADIENTS = "0.15"


@dataclass(frozen=True, slots=True)
class Settings:
    """DeepSpeed's configuration, sizes in elements."""

    world: int
    dtype: str = "bf16"  # of parameters and all-gathers
    reduce_dtype: str = "bf16"
    prefetch_bucket: int = 50_000_000
    max_live: int = 1_000_000_000
    max_reuse: int = 1_000_000_000
    persistence: int = 100_000
    reduce_bucket: int = 500_000_000
    reduce_scatter: bool = True
    overlap_comm: bool = True
    hpz: int = 1
    quantized_weights: bool = False
    quantized_gradients: bool = False
    gpus_per_node: int = 1
    sub_group: int = 1_000_000_000
    attribute_frozen: bool = True  # frozen parameters of a recompute belong to the active backward
    offload_parameters: bool = False
    offload_optimizer: bool = False
    one_by_one: bool = False  # experts are modules with hooks of their own
    nvme: bool = False  # what is offloaded lies on NVMe, not in host memory
    pinned: bool = True  # what is offloaded lies in pinned memory (pin_memory)
    # gradients that leave for the host at the end: the CPU waits, and makes them fp32 itself
    blocking_gradients: bool = False
    host_casts_gradients: bool = False


def settings_of(workload: Workload, mesh: Mesh) -> Settings:
    """DeepSpeed's configuration with Hugging Face's "auto" resolved.

    Notes
    -----
    With hidden size h: reduce bucket h h, prefetch bucket 0.9 h h, persistence threshold 10 h.

    Source: transformers 4.57.1, ``HfTrainerDeepSpeedConfig.trainer_config_finalize``.
    """
    p, world = workload.parallelism, mesh.world
    if world % p.zero_hpz_partition_size:
        message = f"groups of {p.zero_hpz_partition_size} do not divide {world} ranks"
        raise InputError.single(SOURCE, message, "parallelism.zero_hpz_partition_size")
    h = workload.model.hidden_size
    dtype = workload.precision.activations
    return Settings(
        world=world,
        dtype=dtype,
        reduce_dtype=p.communication_data_type or dtype,
        prefetch_bucket=resolve(p.stage3_prefetch_bucket_size, int(0.9 * h * h)),
        max_live=int(p.stage3_max_live_parameters),
        max_reuse=int(p.stage3_max_reuse_distance),
        persistence=resolve(p.stage3_param_persistence_threshold, 10 * h),
        reduce_bucket=resolve(p.reduce_bucket_size, h * h),
        reduce_scatter=p.reduce_scatter,
        overlap_comm=p.overlap_comm is not False,
        hpz=p.zero_hpz_partition_size,
        quantized_weights=p.zero_quantized_weights,
        quantized_gradients=p.zero_quantized_gradients,
        gpus_per_node=mesh.size("node"),
        sub_group=int(p.sub_group_size),
        attribute_frozen=attributes_frozen(p.deepspeed_version),
        offload_parameters=p.offload in ("parameters", "all"),
        offload_optimizer=p.offload in ("optimizer", "all"),
        one_by_one=one_by_one(workload),
        nvme=p.offload_device == "nvme",
        pinned=p.pin_memory,
        blocking_gradients=not attributes_frozen(p.deepspeed_version),
        host_casts_gradients=older(p.deepspeed_version, GPU_CASTS_GRADIENTS),
    )


def resolve(value: float | str, auto: int) -> int:
    """Size as given, or what "auto" stands for. [1]"""
    return auto if isinstance(value, str) else int(value)


def attributes_frozen(release: str) -> bool:
    """Whether a frozen parameter fetched in a recompute is held by the active backward.

    Notes
    -----
    In force in 0.19.8, absent in 0.19.2 (pull request 8148).
    """
    return version(release)[:3] > LAST_WITHOUT_ATTRIBUTION


def one_by_one(workload: Workload) -> bool:
    """Whether its hooks see each expert on its own; a dense model has none to see."""
    apart = bool(workload.model.experts) and not stacks_experts(workload)
    return apart and not workload.parallelism.z3_leaf_experts
