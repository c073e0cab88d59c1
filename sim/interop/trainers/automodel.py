"""NeMo AutoModel's YAML as a job: keys of its recipes for fine-tuning language models."""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.interop.trainers import common, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import WHY_NO_MATTER, Keys

_DEGREES = {
    "tp_size": "tensor_parallel", "cp_size": "context_parallel", "pp_size": "pipeline_parallel",
    "dp_replicate_size": "replicate",
}  # fmt: skip


def recognises(source: Source) -> bool:
    """Its step scheduler and a model."""
    return {"step_scheduler", "model"} <= source.keys


def read(source: Source, job: Translation) -> None:
    """Read a recipe."""
    keys = Keys.of(source, job, "NeMo AutoModel's default")
    model = keys.inner("model")
    model.put("model", model.text("pretrained_model_name_or_path"), "pretrained_model_name_or_path")
    words.attention(model, "attn_implementation")
    keys.suppose("attention", "sdpa")
    dtype = words.dtype(model, "torch_dtype", "dtype") or "bf16"
    job.suppose("precision.kind", dtype, "the dtype of the model")
    model.put_on("fused_kernels", "use_liger_kernel", value="all")
    model.rest("NeMo AutoModel")
    _schedule(keys.inner("step_scheduler"))
    _length(keys)
    _method(keys)
    _mesh(keys.inner("distributed"))
    optimizer = keys.inner("optimizer").text("_target_").rpartition(".")[2].lower()
    ours = "adafactor" if "adafactor" in optimizer else "adamw"
    job.suppose("optimizer", ours, "the optimizer's class")
    loss = keys.inner("loss_fn").text("_target_")
    if "FusedLinear" in loss or "LinearCrossEntropy" in loss:
        job.take("loss", "fused-linear", keys.place("loss_fn"), "loss_fn._target_", loss)
    keys.suppose("loss", "huggingface")
    job.suppose("trainer", "accelerate", "a loop of its own, without Hugging Face's trainer")
    if keys.inner("checkpoint").flag("enabled") is False:
        job.take("checkpoint.interval", None, keys.place("checkpoint"), "checkpoint.enabled")
    if keys.inner("fp8").flag("enabled"):
        keys.matters("its FP8 is not read: add --set precision=fp8", "fp8")
    if keys.inner("compile").flag("enabled"):
        job.take("compile", True, keys.place("compile"), "compile.enabled")
    keys.leave_matching(
        WHY_NO_MATTER,
        r"optimizer|lr_scheduler|rng|dist_env|checkpoint|validation\w*|dataloader"
        r"|loss_fn|wandb|recipe|clip_grad_norm|compile|fp8|seed|distributed"
        r"|freeze_config|slurm|mlflow",
    )
    keys.rest("NeMo AutoModel")


def _schedule(keys: Keys) -> None:
    keys.put_count("global_batch", "global_batch_size")
    keys.put_count("micro_batch", "local_batch_size")
    common.length(keys, "num_epochs")
    keys.leave(
        "counted in steps: `checkpoint.interval` and `evaluation` are set by hand",
        "ckpt_every_steps val_every_steps",
    )
    keys.rest("NeMo AutoModel")


def _length(keys: Keys) -> None:
    packed, data = keys.inner("packed_sequence"), keys.inner("dataset")
    size = packed.count("packed_sequence_size")
    if size and size > 0:
        packed.put("sequence_length", size, "packed_sequence_size")
        packed.put("data.packing", True, "packed_sequence_size")
    else:
        data.put_count("sequence_length", "seq_length", "max_length", "seq_len")
        keys.suppose("data.packing", False)


def _method(keys: Keys) -> None:
    peft = keys.inner("peft")
    four = keys.inner("quantization").flag("load_in_4bit") is True
    if not peft.branch.entries:
        keys.job.suppose("method.kind", "full", "no peft table")
        return
    names = LoraKeys("_target_", "dim", "target_modules", "dropout")
    common.lora(peft, names, four, default_targets="all-linear")
    if not peft.has("target_modules"):
        peft.put_on("method.targets", "match_all_linear", value="all-linear")
    peft.leave(
        WHY_NO_MATTER,
        "alpha use_triton dropout_position lora_A_init match_all_linear exclude_modules",
    )


def _mesh(mesh: Keys) -> None:
    target = (mesh.text("strategy") or mesh.text("_target_").rpartition(".")[2]).lower()
    if "ddp" in target:
        mesh.put("parallelism.strategy", "ddp", "strategy", "_target_")
    else:
        if target and "fsdp" not in target:
            mesh.matters(f"{target} is not modelled: taken as FSDP2", "strategy", "_target_")
        mesh.suppose("parallelism.strategy", "fsdp2")
    for theirs, ours in _DEGREES.items():
        mesh.put_degree(f"parallelism.{ours}", theirs)
    common.experts(mesh, "ep_size")
    if mesh.flag("sequence_parallel") is False and mesh.job.at("parallelism.tensor_parallel"):
        mesh.put("parallelism.sequence_parallel", False, "sequence_parallel")
    mesh.put_on("activation_checkpointing.kind", "activation_checkpointing", value="full")
    mesh.leave(
        "1 or none: what is left over",
        "dp_size tp_size cp_size pp_size ep_size dp_replicate_size sequence_parallel",
    )
    mesh.rest("NeMo AutoModel")


FORMATS.register(TrainerFormat("automodel", "a NeMo AutoModel recipe", recognises, read))
