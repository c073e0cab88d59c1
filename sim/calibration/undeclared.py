"""Settings that are declared and not in effect, or in effect and not declared."""

from __future__ import annotations

from typing import Any

from sim.calibration.cause import (
    ONCE,
    Cause,
    Changed,
    gpus_of_a_node,
    job_with,
    miscounted,
    silent,
)
from sim.inputs.modelling import fused_kernels
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Precision, Workload
from sim.quantities import percent


def _no_fp8(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    if not workload.precision.low:
        return None
    bf16 = Precision.model_construct(kind="bf16", master=workload.precision.master)
    return Changed(topology, workload.model_copy(update={"precision": bf16}))


def _keeps(topology: Topology, workload: Workload, strength: float) -> Changed | None:
    """What forward gathers is there in backward, by the key that the strategy has for it."""
    p, knobs = workload.parallelism, strategy_of(workload).knobs
    kept: dict[str, Any] = {}
    if "reshard_after_forward" in knobs and p.reshard_after_forward:
        kept = {"reshard_after_forward": False}
    elif "sharding_strategy" in knobs and p.sharding_strategy == "full-shard":
        kept = {"sharding_strategy": "shard-grad-op"}
    if topology.world_size == 1 or not kept:
        return None
    job = workload.model_copy(update={"parallelism": p.model_copy(update=kept)})
    return Changed(topology, job)


UNDECLARED: tuple[Cause, ...] = (
    Cause(
        "no-fp8", "FP8 is declared and not in effect: it computes in BF16", 0.3, _no_fp8, ONCE,
        silent, "names of GEMM kernels: e4m3 missing; layers whose sizes are no multiples of 16",
    ),
    Cause(
        "no-fused-kernels", "hand-fused kernels (Liger and the like) are not in effect", 0.3,
        job_with(lambda t, w: fused_kernels(w) != "none", checked=True, fused_kernels="none"),
        ONCE, silent, "kernel names: no rms_norm, rope or swiglu of Triton; was the model patched "
        "before it was made?",
    ),
    Cause(
        "no-fused-loss", "the fused loss is not in effect: logits are whole", 0.2,
        job_with(lambda t, w: w.loss in ("fused", "fused-linear", "chunked", "tiled"),
                 checked=True, loss="eager"),
        ONCE, silent, "peak memory: logits of tokens x vocabulary; names of kernels at the loss",
    ),
    Cause(
        "fused-kernels", "faster than declared: hand-fused kernels are in effect", 0.15,
        job_with(lambda t, w: fused_kernels(w) == "none", checked=True, fused_kernels="all"),
        ONCE, silent, "kernel names: rms_norm, rope, swiglu of Triton", faster=True,
    ),
    Cause(
        "lower-precision", "faster than declared: it computes in BF16, not FP32", 0.3,
        job_with(lambda t, w: w.precision.kind == "fp32", checked=True,
                 precision=Precision.model_construct()),
        ONCE, silent, "dtype in the names of GEMM kernels; autocast, TF32", faster=True,
    ),
    Cause(
        "no-offload", "faster than declared: offload is not in effect", 0.2,
        job_with(lambda t, w: w.parallelism.offload != "none", parallelism={"offload": "none"}),
        ONCE, silent, "memory of a GPU: parameters stay there; no copies from the host in a trace",
        faster=True,
    ),
    Cause(
        "kept", "faster than declared: gathered parameters are kept until backward", 0.2,
        _keeps, ONCE, silent, "all-gathers in backward are missing; peak memory", faster=True,
    ),
    Cause(
        "shorter", "faster than declared: sequences are shorter, and are counted whole", 0.2,
        miscounted(lambda t, w, s: s, "count"), (0.95, 0.8, 0.6, 0.4, 0.2, 0.1),
        lambda t, w, s: f"{percent(s, 0)} of the declared tokens run",
        "mean length of a batch as it reaches the model; padding that is skipped", faster=True,
    ),
    Cause(
        "whole-node", "the figure is of all GPUs of a node, not of one", 0.15,
        miscounted(lambda t, w, s: 1.0 / gpus_of_a_node(t)),
        ONCE, silent, "tokens/s = tokens of the global batch / step time / all GPUs", faster=True,
    ),
    Cause(
        "micro-steps", "the time is of a micro-step, not of an optimizer step", 0.15,
        miscounted(lambda t, w, s: 1.0 / w.gradient_accumulation, "count"),
        ONCE, silent, "what the progress bar counts: micro-batches or steps", faster=True,
    ),
)  # fmt: skip
