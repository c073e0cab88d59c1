"""torchtitan's TOML (to v0.2) and the JSON that later versions save of their configuration.

Defaults as its `TrainingConfig` and `ParallelismConfig` have them.
"""

from __future__ import annotations

import re

from sim.inputs.models import catalogue_model
from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch
from sim.interop.trainers import common, words
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import Keys
from sim.pipeline.schedules import SCHEDULES
from sim.units import whole

_AXES = (
    ("data_parallel_replicate_degree", "replicate"),
    ("tensor_parallel_degree", "tensor_parallel"),
    ("pipeline_parallel_degree", "pipeline_parallel"),
    ("context_parallel_degree", "context_parallel"),
    ("data_parallel_shard_degree", "shard"),
)
_AXIS = (
    r"\w+_parallel_(?:degree|schedule|rotate_method|microbatches|split_points)"
    r"|enable_async_tensor_parallel"
)
_SCHEDULES = {schedule.torch_name.lower(): name for name, schedule in SCHEDULES.items()}
#: flavours of its models by the names of the catalogue
_FAMILIES = {
    "llama3": "llama-3.1",
    "llama2": "llama-2",
    "qwen3": "qwen3",
    "deepseek_v3": "deepseek",
}
_SHAPES = {
    "llama3-8b": "llama-3.1-8b",
    "llama3-70b": "llama-3.1-70b",
    "llama3-405b": "llama-3.1-405b",
    "deepseek_v3-16b": "deepseek-v2-lite",
    "deepseek_v3-671b": "deepseek-v3",
}


def recognises(source: Source) -> bool:
    """Its tables of training and of the model."""
    tree = source.tree
    if not isinstance(tree, Branch) or not {"training", "parallelism"} & source.keys:
        return False
    found = [
        k
        for k in (
            "training",
            "model",
            "parallelism",
            "job",
            "checkpoint",
            "optimizer",
            "metrics",
            "activation_checkpoint",
        )
        if isinstance(tree.entries.get(k), Branch)
    ]
    return len(found) > 2


def read(source: Source, job: Translation) -> None:
    """Read the configuration."""
    keys = Keys.of(source, job, "torchtitan's default")
    _model(keys.inner("model", "model_spec"))
    training = keys.inner("training")
    training.put_count("sequence_length", "seq_len", "max_context_length", default=2048)
    training.put_count("steps", "steps")
    training.put_on("parallelism.offload", "enable_cpu_offload", value="all")
    words.put_dtype(training, "parallelism.reduce_dtype", "mixed_precision_reduce")
    param = words.dtype(training, "mixed_precision_param")
    if training.number("max_norm") == 0:
        training.put("parallelism.clip_gradients", False, "max_norm")
    if words.dtype(training, "dtype") == "bf16":
        training.put("precision.master", "bf16", "dtype")
    mesh = _mesh(keys)
    _parallelism(mesh)
    _batch(keys, training, mesh)
    _precision(keys, param)
    _checkpointing(keys.inner("activation_checkpoint"))
    training.put_on("compile", "compile")  # until 2025, as its own table says it now
    _compile(keys.inner("compile"))
    _optimizer(keys.inner("optimizer"))
    data = training.inner("dataloader")
    if not data.branch.entries:
        data = keys.inner("dataloader")
    data.put_count("data.workers", "num_workers")
    data.put_count("data.prefetch", "prefetch_factor")
    save = keys.inner("checkpoint")
    if save.flag("enable", "enable_checkpoint") is not True:
        job.take("checkpoint.interval", None, save.place("enable"), save.named("enable"))
    elif save.text("async_mode") not in ("", "disabled"):
        save.put("checkpoint.asynchronous", True, "async_mode")
    job.suppose("method.kind", "full", "torchtitan trains in full")
    job.suppose("trainer", "torchtitan", "torchtitan's loop")
    job.suppose("data.packing", True, "torchtitan's data sets fill rows")
    keys.suppose("attention", "sdpa")
    keys.settle_tables("torchtitan", "torchtitan")


def _batch(keys: Keys, training: Keys, mesh: Keys) -> None:
    """Rows of a rank, which a pipeline cuts into micro-batches and runs its schedule over.

    Source: torchtitan/distributed/pipeline_parallel.py, `build_pipeline_schedule`; train.py.
    """
    names = ("local_batch_size", "batch_size")
    rows, whole = training.count(*names) or 8, training.count("global_batch_size") or 0
    each, passes = rows, 1
    if (mesh.count("pipeline_parallel_degree") or 1) > 1:
        size, older = "pipeline_parallel_microbatch_size", "pipeline_parallel_microbatches"
        parts = mesh.count(older) or 0  # until 2025
        each = max(1, rows // parts) if parts > 0 else mesh.count(size) or 1
        if each < 1 or rows % each:
            mesh.fault(f"{each} rows do not divide the {rows} of local_batch_size", size)
            each = rows
        passes = rows // each
        keys.job.take("micro_batch", each, mesh.place(size, older), mesh.named(size, older))
        ranks = mesh.count("data_parallel_shard_degree") or -1
        ranks *= mesh.count("data_parallel_replicate_degree") or 1
        if ranks > 0 and whole > rows * ranks:
            why = "schedules one after the other in a step are taken as one of all micro-batches"
            training.matters(why, "global_batch_size")
    else:
        training.put_count("micro_batch", *names, default=8)
    if whole > 0:
        training.put("global_batch", whole, "global_batch_size")
    elif passes > 1:
        training.put("gradient_accumulation", passes, *names)
    else:
        keys.suppose("gradient_accumulation", 1)


def _compile(compiled: Keys) -> None:
    if not compiled.flag("enable"):
        return
    parts = compiled.words("components")
    compiled.put("compile", "model" in parts or not compiled.has("components"), "enable")
    if "loss" in parts:
        compiled.put("loss", "compiled", "components")
    if compiled.text("backend").lower() not in ("", "inductor"):
        compiled.matters("its kernels are taken as those of inductor", "backend")


def _optimizer(optimizer: Keys) -> None:
    words.optimizer(optimizer, "name")
    how = optimizer.text("implementation")
    if how == "fused_opt_states_bf16":  # of 0.3
        optimizer.put("optimizer_implementation", "fused", "implementation")
        why = "states are taken in fp32; add --set precision.master=bf16 where all are of 16 bits"
        optimizer.matters(why, "implementation")
    elif how:
        optimizer.put("optimizer_implementation", how, "implementation")
    in_backward = "early_step_in_backward"
    if optimizer.flag(in_backward):
        optimizer.put("optimizer_in_backward", True, in_backward)
        why = "each gradient is gone before the norm of all is known"
        optimizer.job.suppose("parallelism.clip_gradients", False, why)


def catalogue_name(family: str, flavour: str) -> str:
    """What the catalogue calls a model of torchtitan's: ``llama3`` and ``8B`` are llama-3.1-8b."""
    shape = f"{family}-{flavour}".lower()
    return _SHAPES.get(shape, re.sub(r"^(\w+?)-", lambda m: _FAMILIES.get(m[1], m[1]) + "-", shape))


def said_as(name: str) -> list[tuple[str, str]]:
    """Families and flavours of a catalogue name that do not follow from it."""
    pairs = [shape.split("-", 1) for shape, known in _SHAPES.items() if known == name]
    return [(family, flavour.upper()) for family, flavour in pairs]


def _model(model: Keys) -> None:
    family, flavour = model.text("name"), model.text("flavor")
    if family:
        model.put("model", catalogue_name(family, flavour), "flavor", "name")
    model.leave("said with its flavor", "name")


def _mesh(keys: Keys) -> Keys:
    """Its axes: a table of their own since March 2025, two others' before."""
    mesh = keys.inner("parallelism")
    for table in ("training", "experimental"):
        inner = keys.inner(table)
        older = [n for n in inner.branch.entries if re.fullmatch(_AXIS, n)]
        found = {n: inner.branch.entries[n] for n in older}
        places = {n: inner.branch.keys[n] for n in older if n in inner.branch.keys}
        branch = mesh.branch
        merged = Branch({**found, **branch.entries}, branch.place, {**places, **branch.keys})
        mesh = Keys(keys.job, merged, keys.whose, mesh.prefix)
    return mesh


def _parallelism(mesh: Keys) -> None:
    job = mesh.job
    said = {name: mesh.count(name) for name, _ in _AXES}
    sizes = {name: 1 if size is None else size for name, size in said.items()}
    for name, size in sizes.items():
        if size < 1 and name != "data_parallel_shard_degree":
            mesh.fault(f"{size} is no degree: 1 or more (the rest, -1, is for shards)", name)
    shard = mesh.count("data_parallel_shard_degree")
    ddp = shard == 1 and sizes["data_parallel_replicate_degree"] > 1
    place = mesh.place("data_parallel_shard_degree")
    strategy = "ddp" if ddp else "fsdp2"
    if ddp or (shard or 1) > 1:
        job.take("parallelism.strategy", strategy, place, mesh.named("data_parallel_shard_degree"))
    else:  # over as many as are left, and over one it wraps nothing
        job.suppose("parallelism.strategy", strategy, "what is left of several GPUs shards")
    for name, ours in _AXES:
        if not (ddp and ours == "replicate"):
            mesh.put_degree(f"parallelism.{ours}", name)
    again = mesh.text("fsdp_reshard_after_forward")
    if again == "never":
        mesh.put("parallelism.reshard_after_forward", False, "fsdp_reshard_after_forward")
    if sizes["pipeline_parallel_degree"] > 1:
        _pipeline(mesh, again)
    if sizes["context_parallel_degree"] > 1:
        how = mesh.text("context_parallel_rotate_method")
        kind = "ring" if how == "alltoall" else "all-gather"
        mesh.suppose("parallelism.context_parallel_kind", kind)
    mesh.put_off("parallelism.sequence_parallel", "enable_sequence_parallel")
    mesh.put_on("parallelism.loss_parallel", "disable_loss_parallel", value=False)
    common.experts(mesh, "expert_parallel_degree")
    if (mesh.count("expert_tensor_parallel_degree") or 1) > 1:
        why = "experts are not cut by tensor parallelism here"
        mesh.matters(why, "expert_tensor_parallel_degree")
    if mesh.text("expert_parallel_comm_backend").lower() == "deepep":
        mesh.put("parallelism.expert_dispatch", "deepep", "expert_parallel_comm_backend")
    asynchronous = "enable_async_tensor_parallel"
    mesh.put_on("parallelism.tensor_parallel_style", asynchronous, value="dtensor-async")
    mesh.leave("1, or what is left over", (n for n, _ in _AXES))
    mesh.leave(
        "1, or what is left over",
        "fsdp_reshard_after_forward enable_async_tensor_parallel expert_parallel_degree "
        "expert_parallel_comm_backend",
    )


def _pipeline(mesh: Keys, again: str) -> None:
    """Its schedule, its uneven ends, and what it makes of FSDP's default."""
    if again in ("", "default"):
        name = "fsdp_reshard_after_forward"
        mesh.job.take("parallelism.reshard_after_forward", False, mesh.place(name),
                      mesh.named(name), "default with a pipeline")  # fmt: skip
    word = mesh.text("pipeline_parallel_schedule").lower() or "1f1b"
    if word in _SCHEDULES:
        mesh.put("parallelism.pipeline_schedule", _SCHEDULES[word], "pipeline_parallel_schedule")
    else:
        message = f'"{word}" is not modelled; {", ".join(_SCHEDULES)} are'
        mesh.fault(message, "pipeline_parallel_schedule")
    less = []
    for side in ("first", "last"):
        name = f"{side}_stage_less_layers"
        mesh.put_count(f"parallelism.pipeline_{name}", f"pipeline_parallel_{name}")
        said = mesh.count(f"pipeline_parallel_{name}")
        less.append(1 if said is None else said)
    _stages(mesh, sum(less))
    for name, why in (
        ("module_fqns_per_model_part", "stages by names of modules are taken as cut evenly"),
        ("pipeline_parallel_split_points", "stages by split points are taken as cut evenly"),
        (
            "pipeline_parallel_schedule_csv",
            "its schedule is not read: taken as the one that is named",
        ),
    ):
        if mesh.has(name):
            mesh.matters(why, name)


def _stages(mesh: Keys, less: int) -> None:
    """Stages of a rank, from the layers of each (`pipeline_module_split`)."""
    name = "pipeline_parallel_layers_per_stage"
    each, ranks = mesh.count(name), mesh.count("pipeline_parallel_degree") or 1
    if not each:
        return
    model = catalogue_model(mesh.job.text_at("model"))
    stages = -(-(model.layers + less) // each) if model and each > 0 else 0
    if model is None:
        mesh.matters("how many layers the model has is not known: stages as the schedule has", name)
    elif each < 1 or stages % ranks:
        mesh.fault(f"{stages} stages of {each} layers do not divide over {ranks} ranks", name)
    else:
        mesh.put("parallelism.virtual_stages", stages // ranks, name)


def _precision(keys: Keys, param: str) -> None:
    model = keys.inner("model")
    named = model.words("converters")
    converters = [w.rpartition(".")[2] for w in named if "grouped_mm" not in w]
    if len(converters) < len(named):
        model.matters(
            "experts in 8 bits are not modelled: taken in the compute dtype", "converters"
        )
    if other := set(converters) - {"mx", "float8"}:
        model.matters(f"{', '.join(sorted(other))} is not known here: left out", "converters")
    if "mx" in converters:
        model.put("precision.kind", "fp8", "converters")
        words.recipe(model, "mxfp8", "converters")
        _mx(keys)
        return
    quantize = keys.inner("quantize").inner("linear").inner("float8")
    if not quantize.branch.entries:
        quantize = keys.inner("float8")
    early = quantize.flag("enable_float8_linear")  # until 2025
    if "float8" not in converters and not early:
        keys.suppose("precision.kind", param or "bf16")
        return
    if early:
        quantize.put("precision.kind", "fp8", "enable_float8_linear")
    else:
        model.put("precision.kind", "fp8", "converters")
    recipe = quantize.text("recipe_name") or "tensorwise"
    if recipe == "rowwise_with_gw_hp":
        recipe = "rowwise"
        why = "gradients of weights in high precision are not modelled: taken as rowwise"
        quantize.matters(why, "recipe_name")
    elif recipe not in ("rowwise", "tensorwise"):
        quantize.fault(
            f'"{recipe}" is not rowwise, tensorwise or rowwise_with_gw_hp', "recipe_name"
        )
    if quantize.flag("emulate"):
        quantize.matters("emulated FP8 is not modelled: taken as the GPU's", "emulate")
    if spared := set(quantize.words("filter_fqns")) - {"output", "lm_head", "router.gate"}:
        why = f"{', '.join(sorted(spared))} are taken in FP8 as all linears of a block"
        quantize.matters(why, "filter_fqns")
    place = quantize.place("recipe_name")
    keys.job.take("precision.recipe", recipe, place, quantize.named("recipe_name"))
    quantize.put_on("precision.all_gather", "enable_fsdp_float8_all_gather", value="fp8")


def _mx(keys: Keys) -> None:
    """Whether MX is of 8 bits, by torchao's names."""
    for table in (keys.inner("quantize").inner("linear").inner("mx"), keys.inner("mx")):
        recipe = table.text("recipe_name")
        if recipe and not recipe.startswith("mxfp8"):
            table.matters(
                "of MX recipes those of 8 bits are modelled; taken as mxfp8", "recipe_name"
            )


def _checkpointing(keys: Keys) -> None:
    kind, mode = "activation_checkpointing.kind", keys.text("mode")
    if mode in ("full", "none"):
        keys.put(kind, mode, "mode")
    elif mode in ("selective", ""):
        option = keys.text("selective_ac_option") or "op"
        every = whole(option)
        if every is not None:
            keys.put(kind, "selective-blocks", "selective_ac_option")
            keys.put("activation_checkpointing.every", every, "selective_ac_option")
        elif option != "op":
            keys.fault(
                f'"{option}" is neither "op" nor every so many blocks', "selective_ac_option"
            )
        elif keys.branch.entries:
            keys.put(kind, "selective-op", "selective_ac_option", "mode")
        else:
            keys.suppose(kind, "selective-op")
    else:
        keys.matters(f"{mode} is not modelled: taken as full", "mode")
        keys.put(kind, "full", "mode")
    keys.leave("read above", "selective_ac_option mode")


FORMATS.register(TrainerFormat("torchtitan", "a torchtitan configuration", recognises, read))
