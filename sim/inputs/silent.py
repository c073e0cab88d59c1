"""Keys that say nothing about a job: knobs of what it does not use."""

from __future__ import annotations

from functools import cache

from sim.inputs.check_optimizer import PROJECTED
from sim.inputs.method import OF_FREEZE, Method
from sim.inputs.recipes import USUAL
from sim.inputs.strategy import COMMON, strategy_named
from sim.inputs.workload import Parallelism, Workload


def silent_keys(workload: Workload) -> frozenset[str]:
    """Paths whose defaults say nothing about this job: knobs of other strategies and methods."""
    m, p, c = workload.method.kind, workload.precision.kind, workload.activation_checkpointing.kind
    axes = workload.parallelism
    spread = axes.expert_parallel > 1
    shared = axes.context_parallel_kind if axes.context_parallel > 1 else ""
    tensor, piped = axes.tensor_parallel > 1, axes.pipeline_parallel > 1
    found = set(_silent(axes.strategy, m, p, c, tensor, spread, shared, workload.loss, piped))
    if workload.method.quantised:
        found.discard("method.quantization")
    if workload.reference != "copy":
        found.add("reference_dtype")
    if workload.reference in ("none", "itself"):
        found.add("reference_passes")
    if workload.optimizer not in PROJECTED:
        found.add("optimizer_rank")
    return frozenset(found)


@cache
def _silent(
    strategy: str,
    method: str,
    precision: str,
    checkpointing: str,
    tensor: bool,
    spread: bool,
    shared: str,
    loss: str,
    piped: bool,
) -> frozenset[str]:
    own = COMMON | strategy_named(strategy).knobs
    out = {f"parallelism.{knob}" for knob in Parallelism.model_fields if knob not in own}
    if method != "qlora":
        out |= {"method.quantization", "method.double_quantization"}
    if method in ("full", "freeze"):
        out |= {f"method.{key}" for key in Method.model_fields if key != "kind"}
    if method == "freeze":
        out -= {f"method.{key}" for key in (*OF_FREEZE, "frozen_dtype", "input_require_grads")}
    else:
        out |= {f"method.{key}" for key in OF_FREEZE}
    if precision != "fp8":
        out |= {"precision.all_gather"}
    if precision not in USUAL:
        out |= {"precision.recipe", "precision.bf16_first", "precision.bf16_last"}
    if precision != "fp32":
        out |= {"precision.tf32"}
    if loss != "chunked":
        out |= {"loss_chunks"}
    if not tensor:
        out |= {"parallelism.sequence_parallel", "parallelism.loss_parallel"}
        out |= {"parallelism.tensor_parallel_style", "parallelism.tp_comm_overlap"}
    if not piped:
        out |= {f"parallelism.{k}" for k in Parallelism.model_fields if k.startswith("pipeline_")}
        out -= {"parallelism.pipeline_parallel"}
    if not spread:
        out |= {"routing.imbalance", "routing.seed", "parallelism.expert_dispatch"}
    if shared != "ring":
        out |= {"parallelism.context_parallel_rotation"}
    if shared in ("", "ulysses"):
        out |= {"parallelism.context_parallel_load_balance"}
    if checkpointing == "none":
        out |= {"activation_checkpointing.reentrant", "activation_checkpointing.offload"}
        out |= {"parallelism.checkpoint_wrapper"}
    if checkpointing != "selective-blocks":
        out |= {"activation_checkpointing.every", "activation_checkpointing.fraction"}
    return frozenset(out)
