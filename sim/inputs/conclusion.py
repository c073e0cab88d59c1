"""What follows for a job of any tool, once all of its files are read: what they leave open."""

from __future__ import annotations

from pathlib import Path

from sim.errors import InputError
from sim.inputs.check_optimizer import OF_MATRICES
from sim.inputs.models import resolve_model
from sim.inputs.registry import STRATEGIES
from sim.inputs.strategy import strategy_named
from sim.inputs.trainer import trainer_named
from sim.inputs.translation import Sample, Translation
from sim.inputs.tree import Leaf


def conclude(job: Translation, path: Path | None) -> None:
    """Settle what files leave open.

    Rows where samples are counted, data parallel where nothing shards, gradients of each micro-step
    where they would wait, adapters apart in FSDP1, mixtures as leaves of ZeRO-3. What one file
    leaves open another may have said.
    """
    if job.undecided is not None and job.begun is None:
        job.aside.append(job.undecided)
    if job.sample is not None and job.sample.rows > 1:
        _count_rows(job, job.sample.rows)
    if job.at("parallelism.strategy") is None and not isinstance(job.at("parallelism"), Leaf):
        job.suppose("parallelism.strategy", "ddp", "neither FSDP nor DeepSpeed is configured")
    if job.launched:
        job.suppose("trainer", "accelerate", job.launched)
    strategy = job.text_at("parallelism.strategy")
    trainer = trainer_named(job.text_at("trainer") or "none")
    if job.syncs_each is not None:
        theirs, place = job.syncs_each
        if strategy in trainer.no_sync:
            job.take("parallelism.gradient_sync", "every", place, theirs, "true")
        else:
            job.skip(place, theirs, f"{strategy} accumulates without no_sync()")
    if (name := OF_MATRICES.get(job.text_at("optimizer"))) and strategy not in ("single", "ddp"):
        why = f"how {strategy}'s parts of matrices are gathered for {name} is not modelled: AdamW"
        job.instead("optimizer", "adamw", why)
        job.drop("optimizer_rank", "AdamW projects nothing")
    elsewhere = {took.key: took.place for took in job.took}
    job.aside = [aside for aside in job.aside if not aside.answered(elsewhere)]
    adapted = job.text_at("method.kind") in ("lora", "qlora")
    _loaded(job, strategy, adapted)
    apart = trainer.wraps_adapters or (
        job.text_at("parallelism.use_orig_params").lower() == "false"
    )
    if strategy == "fsdp1" and adapted and apart:
        job.suppose("parallelism.wrap", "peft", "PEFT's wrap policy keeps adapters apart")
    if job.sample is not None and (job.sample.passes or job.sample.before):
        _reference(job, job.sample, strategy, adapted)
    model = job.text_at("model")
    if job.marks_leaves and strategy == "zero3" and model and _experts(model, path):
        why = f"{job.marks_leaves} marks mixtures as leaves of ZeRO-3"
        job.suppose("parallelism.z3_leaf_experts", True, why)


def _count_rows(job: Translation, rows: int) -> None:
    """Batches and the job's length in rows, which files count in samples of several."""
    for key in ("micro_batch", "global_batch", "samples"):
        found = job.at(key)
        if isinstance(found, Leaf) and isinstance(found.value, int):
            job.replace(key, rows * found.value, f"of {rows} rows a sample")


def _reference(job: Translation, sample: Sample, strategy: str, adapted: bool) -> None:
    """The frozen model that a trainer of preferences runs beside: the base, or a copy of it."""
    kind = "copy" if sample.own else "adapters-off" if adapted else "copy"
    if sample.before and kind == "copy" and not sample.own:
        kind = "itself"  # not trained yet
    place, theirs, passes, said = sample.place, sample.theirs, sample.passes, sample.written
    offload = job.text_at("parallelism.offload")
    runs = strategy not in STRATEGIES or strategy_named(strategy).takes_reference
    if not runs or (kind == "copy" and offload not in ("", "none")):
        where = f"offload: {offload}" if runs else strategy
        why = f"the reference's pass and its copy are not modelled with {where}: not counted"
        job.skip(place, theirs, why, True)
        return
    job.take("reference", kind, place, theirs, said)
    if passes != 1 and kind != "itself":
        job.take("reference_passes", passes, place, theirs, said)
    narrow = job.text_at("precision.kind") in ("", "fp32")
    whole = strategy in ("ddp", "single") and job.text_at("precision.master") != "bf16"
    if kind == "copy" and whole and not narrow:
        job.suppose("reference_dtype", "fp32", "a reference is loaded as the model is")


def _loaded(job: Translation, strategy: str, adapted: bool) -> None:
    """Weights stay in the dtype that they were loaded in, where DeepSpeed does not cast them.

    Between products of 4 bits activations are as wide as what is not of 4 bits (bitsandbytes'
    Linear4bit returns its input's dtype), which FSDP's mixed precision casts.
    """
    precision, whole = job.text_at("precision.kind"), strategy in ("ddp", "single")
    trained = job.loads_bf16
    if adapted:
        narrow = job.text_at("method.adapter_dtype") == "bf16"
        trained = "adapters are bf16" if narrow else ""  # else fp32, as PEFT makes them
    if trained and whole and precision == "bf16":
        job.suppose("precision.master", "bf16", trained)
    if job.loads_fp32 and adapted and precision != "fp32" and not strategy.startswith("zero"):
        if whole and job.text_at("method.kind") == "qlora":
            job.suppose("method.prepare_kbit", True, job.loads_fp32)
        else:
            job.suppose("method.frozen_dtype", "fp32", job.loads_fp32)


def _experts(model: str, path: Path | None) -> int:
    """Experts of a model as the loader finds it; 0 where it is unknown, which the loader says."""
    try:
        return resolve_model(model, relative_to=path and path.parent).experts
    except InputError:
        return 0
