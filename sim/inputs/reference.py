"""A frozen model that looks at each micro-batch besides: the reference of DPO, KTO and others."""

from __future__ import annotations

from sim.inputs.finding import Findings, fault, warning
from sim.inputs.method import Method
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Checkpointing, Precision, Workload

#: keys of a workload that say so
REFERENCE = frozenset(("reference", "reference_dtype", "reference_passes"))
#: losses whose forward makes the gradients too, which a pass without any leaves out
_WITH_BACKWARD = ("chunked", "fused-linear")


def reference_of(workload: Workload) -> Workload:
    """A micro-step whose forward is the reference's.

    Trainers hand a copy to the strategy as the model itself (ZeRO-1 and 2 leave it whole), and run
    it on the same rows without gradients; adapters that are off leave the base's products alone.

    Source: TRL 1.16, trainer/dpo_trainer.py, `compute_ref_log_probs` and
    models/utils.py, `prepare_deepspeed`, `prepare_fsdp`; LLaMA-Factory 0.9.5, train/dpo/trainer.py.
    """
    method = workload.method.model_copy(update={"targets": ()})
    precision = workload.precision
    if workload.reference == "copy":
        method = Method.model_construct()
        kind = precision.activations
        master = "fp32" if reference_dtype(workload) == "fp32" else "bf16"
        precision = Precision.model_construct(kind=kind, master=master, tf32=precision.tf32)
    loss = "fused" if workload.loss in _WITH_BACKWARD else workload.loss
    return workload.model_copy(
        update={
            "reference": "none", "method": method, "precision": precision, "loss": loss,
            "gradient_accumulation": 1, "optimizer_in_backward": False, "train_metrics": 0,
            "activation_checkpointing": Checkpointing.model_construct(),
        }
    )  # fmt: skip


def passes_before(workload: Workload) -> bool:
    """Whether a reference looks at each sample once, before training, and at none in a step."""
    passes = 0 if workload.reference == "itself" else workload.reference_passes
    return workload.reference != "none" and not passes


def reference_dtype(workload: Workload) -> str:
    """Of a copy's weights: ``bf16`` (or the 16 bits computed in), ``fp32``."""
    return workload.reference_dtype or workload.precision.activations


def findings(w: Workload) -> Findings:
    """Every finding about it."""
    if w.reference == "none":
        idle = {"reference_dtype": w.reference_dtype is not None,
                "reference_passes": w.reference_passes != 1}  # fmt: skip
        for key in (key for key, said in idle.items() if said):
            message = f"{key} changes nothing without a reference"
            yield warning("no-reference", "workload", key, message, "add reference: copy")
        return
    p, strategy = w.parallelism, strategy_of(w)
    if w.reference == "adapters-off" and not w.method.adapted:
        message = "a model without adapters has none to switch off"
        yield fault("reference-adapters", "workload", "reference", message, "write copy")
    if w.reference == "adapters-off" and passes_before(w) and strategy.fsdp_version:
        message = (
            "TRL makes these passes before FSDP shards the model: all of its weights are on each "
            "GPU then, which the verdict on memory leaves out, and none is gathered"
        )
        hint = "write reference_passes: 1 (precompute_ref_log_probs: false), or DeepSpeed's zero3"
        yield warning("reference-unsharded", "workload", "reference_passes", message, hint)
    if not strategy.takes_reference or p.pipeline_parallel > 1:
        what = f"pipelines of {p.pipeline_parallel} stages" if p.pipeline_parallel > 1 else ""
        message = f"a reference's pass is not modelled of {what or strategy.title}"
        hint = "write none, or posttrain with post_training: {algorithm: dpo}"
        yield fault("reference-strategy", "workload", "reference", message, hint)
    if p.offload != "none" and w.reference == "copy":
        message = "a reference's copy is not modelled where parameters or states are offloaded"
        yield fault("reference-offload", "workload", "reference", message, "write offload: none")
