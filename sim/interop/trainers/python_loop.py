"""Training loops of one's own in Python: accelerate, PyTorch's FSDP or DDP, DeepSpeed's engine.

They are read, not run, as scripts of trainers are (`sim.interop.trainers.python`). Defaults are
PyTorch's own, or those of what a loop calls.
"""

from __future__ import annotations

import re

from sim.inputs.python_calls import CONDITION, LOSS_OVER, NAME, calls_of
from sim.inputs.python_values import UNKNOWN, is_unknown
from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Leaf
from sim.interop.trainers import (
    accelerate,
    common,
    deepspeed,
    fsdp_calls,
    fsdp_keys,
    huggingface,
    lightning,
    script_calls,
    unfollowed,
    words,
)
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import WHY_NO_MATTER, Keys
from sim.interop.trainers.script_calls import ScriptCall

_TORCH = "PyTorch's default"
_ABOVE = "read above"
_WRAPS = {
    "FullyShardedDataParallel": "fsdp1", "FSDP": "fsdp1", "fully_shard": "fsdp2",
    "DistributedDataParallel": "ddp", "DDP": "ddp",
}  # fmt: skip
_OPTIMIZERS = re.compile(
    r"(?:Paged|Fused|DeepSpeedCPU)?(?:Adam|AdamW|Adafactor|SGD|Lion|LAMB|Muon)(?:8bit|32bit)?$"
    # those that have no counterpart here, which words.py says
    r"|(?:RMSprop|Adagrad|Adadelta|Adamax|NAdam|RAdam|ASGD|Rprop|LBFGS|AdEMAMix)(?:8bit|32bit)?$"
    r"|(?:Sophia\w*|SOAP|Shampoo|Prodigy|CAME|\w+ScheduleFree|ZeroRedundancyOptimizer)$"
)
#: one call each of what may stand beside, and the name of its kind
_KINDS = {
    "Accelerator": "accelerator", "FullyShardedDataParallelPlugin": "fsdp_plugin",
    "DeepSpeedPlugin": "zero_plugin", "GradientAccumulationPlugin": "accumulation",
    "MixedPrecision": "policy", "MixedPrecisionPolicy": "policy", "autocast": "autocast",
    "CPUOffload": "offload", "CPUOffloadPolicy": "offload", "DataLoader": "loader",
    "StatefulDataLoader": "loader", "clip_grad_norm_": "clip",
    "backward": "backward",
    "apply_activation_checkpointing": "checkpointing", "checkpoint_wrapper": "checkpointing",
    "gradient_checkpointing_enable": "checkpointing", "init_device_mesh": "mesh",
    "ParallelismConfig": "axes", "TorchDynamoPlugin": "compile",
    **dict.fromkeys(lightning.STRATEGIES, "strategy"),
}  # fmt: skip
#: of some kinds what their arguments are called as options of a script
_NAMES = {
    "accelerator": {"gradient_accumulation_steps": "gradient_accumulation_steps"},
    "accumulation": {"num_steps": "gradient_accumulation_steps"},
    "loader": {"batch_size": "per_device_train_batch_size", "1": "per_device_train_batch_size",
               "num_workers": "dataloader_num_workers",
               "prefetch_factor": "dataloader_prefetch_factor"},
    "optimizer": {"fused": "fused", "foreach": "foreach"},
    "accumulated": {"0": "gradient_accumulation_steps"},
    "tokenizer": {"max_length": "model_max_length", "padding": "padding"},
}  # fmt: skip
#: whole words of names, with what such names end in: ``val_dl``, ``ds["test"]``, ``testloader``
_EVALUATES = re.compile(
    r"(?<![a-z])(?:eval(?:uation)?|val(?:id(?:ation)?)?|test(?:ing)?|dev)"
    r"(?:set|data|dataset|dataloader|loader|dl|ds|split)?(?![a-z])",
    re.IGNORECASE,
)
_DATA = ("0", "dataset")  # of a loader
#: a member of an enumeration, and a class that is called
_MEMBER = re.compile(r"(?:\w+\.)*[A-Z]\w*\.(\w+)$")
_CLASS = re.compile(r"(?:\w+\.)*([A-Z]\w*)\(")
#: arguments of what wraps a model that are told of where only a run knows them
_FOLLOWED = frozenset({
    "mixed_precision", "sharding_strategy", "reshard_after_forward", "cpu_offload", "zero_stage",
    "offload_optimizer_device", "offload_param_device", "strategy", "precision", "devices",
    "num_nodes", "accumulate_grad_batches", "fsdp_version", "param_dtype", "reduce_dtype",
    "backward_prefetch", "hf_ds_config", "dtype", "stage", "config", "mp_policy", "offload_policy",
    "use_orig_params", "forward_prefetch", "limit_all_gathers", "gradient_as_bucket_view",
    "bucket_cap_mb", "split_batches", "dynamo_backend", "gradient_clip_val", "tp_size", "cp_size",
    "dp_shard_size", "dp_replicate_size", "activation_checkpointing", "mixed_precision_policy",
})  # fmt: skip


def recognises(source: Source) -> bool:
    """What starts or wraps a loop, or a model with a backward pass."""
    kinds = {_own(name, call)[0] for name, call in calls_of(source.branch)}
    spread = {"accelerator", "engine", *_WRAPS.values()} & kinds
    loads = any(name.endswith("from_pretrained") for name in source.keys)
    return bool(spread) or (loads and bool({"backward", "lightning"} & kinds))


def read(source: Source, job: Translation) -> None:
    """Read the model, what wraps it, the loader, the optimizer and the precision."""
    made = script_calls.made(source, _own)
    trains = [call for call in made if not _evaluates(call)]
    calls = script_calls.chosen(trains, job)
    by = {call.kind: call for call in calls}
    if "loader" not in by:
        _passed_over(made, job)
    keys = script_calls.gathered(calls, source, job)
    keys.whose = _TORCH
    _strategy(source, keys, by)
    _precision(keys, by)
    script_calls.kbit(keys)
    huggingface.model_and_method(keys)
    keys.put_count("micro_batch", "per_device_train_batch_size", default=1)
    keys.put_count("gradient_accumulation", "gradient_accumulation_steps", default=1)
    _optimizer(keys, by.get("optimizer"))
    common.checkpointing(keys, False, "transformers' default")
    common.liger(keys, "use_liger_kernel")
    job.suppose("loss", "huggingface", "the model's own")
    if "compile" in by:
        job.take("compile", True, by["compile"].branch.place, f"{by['compile'].name}()")
    if "clip" not in by and "engine" not in by:
        job.suppose("parallelism.clip_gradients", False, "nothing calls clip_grad_norm_")
    whole = keys.text("padding") == "max_length"
    keys.leave("rows are whole" if whole else "rows are as long as the longest", "padding")
    if not whole:
        job.suppose("data.packing", False, "samples are rows")
    common.loader(keys)
    common.spread(keys)
    keys.leave(_ABOVE, "fused foreach")
    unfollowed.tell(source, job)
    keys.rest("Python scripts'")


def _own(name: str, call: Branch) -> tuple[str, dict[str, str]]:
    """What a loop's calls make, and what their arguments are called."""
    last = name.rpartition(".")[2]
    if name == LOSS_OVER:
        kind = "accumulated"
    elif last == "Fabric" or (last == "Trainer" and lightning.MARKS & set(call.entries)):
        kind = "lightning"
    elif name == "deepspeed.initialize":
        kind = "engine"
    elif name == "torch.compile" or name.endswith("model.compile"):
        kind = "compile"
    elif _OPTIMIZERS.match(last):
        kind = "optimizer"
    else:
        kind = _WRAPS.get(last) or _KINDS.get(last, "")
    if kind:
        return kind, dict(_NAMES.get(kind, {}))
    kind, names = script_calls.of_any(name, call)
    return kind, names | (_NAMES["tokenizer"] if kind == "tokenizer" else {})


def _evaluates(call: ScriptCall) -> bool:
    """Whether a loader is of what is evaluated, by its name or its data's."""
    if call.kind != "loader":
        return False
    names = [NAME, *_DATA, *(key + NAME for key in _DATA)]
    texts = [call.text(name) for name in names]
    return not any("train" in t for t in texts) and any(map(_EVALUATES.search, texts))


def _passed_over(made: list[ScriptCall], job: Translation) -> None:
    """Loaders of what is evaluated, where none is of what is trained on."""
    for call in made:
        if call.kind == "loader":
            why = "its name, or its data's, is of evaluation: no loader to train from is seen"
            job.skip(call.branch.place, f"{call.last}()", why, True)


def _strategy(source: Source, keys: Keys, by: dict[str, ScriptCall]) -> None:
    """What wraps the model, and whose loop that makes it."""
    job = keys.job
    if "engine" in by:
        _engine(source, keys, by["engine"])
    elif "zero_plugin" in by:
        plugin = _inside(keys, by["zero_plugin"])
        if plugin.has("hf_ds_config"):
            deepspeed.named(source, plugin, "hf_ds_config")
        else:
            accelerate.zero(source, plugin)
    elif "fsdp_plugin" in by:
        _plugin(keys, by)
    elif "fsdp1" in by:
        wrapped = _inside(keys, by["fsdp1"])
        if "auto_wrap_policy" not in by["fsdp1"].branch.entries:
            why = "without a policy the model is one unit: not modelled, every block is wrapped"
            job.skip(wrapped.branch.place, "auto_wrap_policy", why, True)
        fsdp_calls.fsdp1(wrapped, by)
    elif "fsdp2" in by:
        fsdp_calls.fsdp2(_inside(keys, by["fsdp2"]), by)
    elif "ddp" in by:
        fsdp_calls.ddp(_inside(keys, by["ddp"]))
    elif "lightning" in by:
        given = _inside(keys, by["strategy"]) if "strategy" in by else None
        lightning.trainer(source, _inside(keys, by["lightning"]), given, by)
    elif "accelerator" not in by:
        job.suppose("parallelism.strategy", "single", "nothing wraps the model")
    if "engine" in by:
        job.suppose("trainer", "deepspeed", "its engine")
    elif "accelerator" in by:
        job.suppose("trainer", "accelerate", "its loop")
    else:
        job.suppose("trainer", "none", "a loop of one's own")


def _inside(keys: Keys, call: ScriptCall) -> Keys:
    """A call's arguments as a mapping: members of enumerations and classes as their names."""
    inner = Keys(keys.job, Branch({}, call.branch.place), keys.whose, f"{call.last}.")
    for name, tree in call.branch.entries.items():
        found = tree
        if isinstance(tree, Leaf):
            text = str(tree.value).removeprefix(f"{UNKNOWN}{{")
            word = _MEMBER.match(text.removesuffix("}")) or _CLASS.match(text)
            if name.endswith(NAME) or name == CONDITION:  # no arguments
                continue
            if word:
                found = Leaf(word[1], tree.place)
            elif is_unknown(tree) and name not in fsdp_calls.RAW:
                if name in _FOLLOWED or (name == "**" and not call.said):
                    why = f"{text.removesuffix('}')} is known only at run time"
                    keys.job.skip(tree.place, inner.prefix + name, why, True)
                continue
        inner.branch.entries[name] = found
        inner.branch.keys[name] = found.place
    return inner


def _engine(source: Source, keys: Keys, call: ScriptCall) -> None:
    """DeepSpeed's engine, whose configuration has the batch as well."""
    inner = _inside(keys, call)
    for name in ("config", "config_params"):
        if isinstance(inner.tree(name), Branch) or inner.text(name).endswith(".json"):
            deepspeed.named(source, inner, name)
            return
    keys.job.skip(call.branch.place, "deepspeed.initialize()",
                  "its configuration is known only in a run: name the JSON too", True,
                  (frozenset({"parallelism.strategy"}),))  # fmt: skip


def _plugin(keys: Keys, by: dict[str, ScriptCall]) -> None:
    """FSDP's plugin of accelerate, which takes classes of PyTorch's for some of its keys."""
    plugin = _inside(keys, by["fsdp_plugin"])
    if plugin.text("cpu_offload") == "CPUOffload":
        fsdp_calls.offload(plugin, by)
        plugin.branch.entries.pop("cpu_offload")
    policy = "mixed_precision_policy"  # a class's, or a word
    if plugin.text(policy).lower() in words.DTYPES:
        words.put_dtype(plugin, "precision.kind", policy)
    plugin.leave(_ABOVE, policy)
    fsdp_keys.fsdp(plugin, plugin.count("fsdp_version") or 1, [])


def _accelerator(keys: Keys, by: dict[str, ScriptCall]) -> None:
    """What accelerate is told beside its plugins."""
    job, inner = keys.job, _inside(keys, by["accelerator"])
    if job.at("precision.kind") is None:
        words.put_dtype(inner, "precision.kind", "mixed_precision")
    if inner.text("dynamo_backend").lower() not in ("", "no"):
        inner.put("compile", True, "dynamo_backend")
    if "axes" in by:
        axes = _inside(keys, by["axes"])
        accelerate.mesh(axes)
        cut = {"shard", "tensor_parallel", "context_parallel"}
        if isinstance(spread := job.at("parallelism"), Branch) and cut & set(spread.entries):
            job.suppose("parallelism.strategy", "fsdp2", "what a ParallelismConfig is applied by")
    inner.leave(
        _ABOVE,
        "gradient_accumulation_steps parallelism_config fsdp_plugin deepspeed_plugin "
        "gradient_accumulation_plugin split_batches mixed_precision dynamo_plugin",
    )
    inner.leave(
        WHY_NO_MATTER,
        "cpu log_with kwargs_handlers project_dir project_config device_placement even_batches "
        "step_scheduler_with_optimizer rng_types",
    )
    inner.rest("Python scripts'")


def _precision(keys: Keys, by: dict[str, ScriptCall]) -> None:
    """In what dtype the model computes: said to accelerate, to FSDP, to autocast, or loaded."""
    job, wrapped = keys.job, {"fsdp1", "fsdp2", "fsdp_plugin", "strategy"} & set(by)
    if wrapped and "policy" in by:
        inner = _inside(keys, by["policy"])
        words.put_dtype(inner, "precision.kind", "param_dtype", "0")
        words.put_dtype(inner, "parallelism.reduce_dtype", "reduce_dtype", "1")
    if "accelerator" in by:
        _accelerator(keys, by)
    if "autocast" in by and job.at("precision.kind") is None:
        inner = _inside(keys, by["autocast"])
        if inner.flag("enabled") is not False:
            kind = words.dtype(inner, "dtype", "1") or "fp16"
            job.take("precision.kind", kind, inner.branch.place, "autocast()")
    loaded = words.dtype(keys, "dtype", "torch_dtype")
    if job.at("precision.kind") is not None or "engine" in by or "zero_plugin" in by:
        return
    kind = loaded if loaded in ("bf16", "fp16") else "fp32"
    why = "loaded in it, and nothing casts" if loaded else "PyTorch's default dtype"
    job.suppose("precision.kind", kind, why)
    if kind == "bf16" and wrapped:
        job.suppose("precision.master", "bf16", why)


def _optimizer(keys: Keys, call: ScriptCall | None) -> None:
    job = keys.job
    if call is None:
        job.suppose("optimizer", "adamw", "no optimizer that is known is made here")
        return
    branch = call.branch
    inner = Keys(job, Branch({"optimizer": Leaf(call.last, branch.place)}, branch.place), _TORCH)
    word = re.sub(r"^(?:Fused|DeepSpeedCPU)", "", call.last)
    if word.startswith("ZeroRedundancy"):
        word = re.sub(r".*\.|\W", "", call.text("optimizer_class") or call.text("1")) or "AdamW"
    words.optimizer_named(inner, word, "optimizer")
    if keys.flag("fused") or call.last.startswith("Fused"):
        job.take("optimizer_implementation", "fused", branch.place, f"{call.last}()")
    elif keys.flag("foreach") is False:
        job.take("optimizer_implementation", "for-loop", branch.place, f"{call.last}()")
    elif call.last in ("AdamW", "Adam"):
        keys.suppose("optimizer_implementation", "foreach")


FORMATS.register(TrainerFormat("python-loop", "a training loop in Python", recognises, read))
