"""verl's configuration, as YAML or as overrides on a command line: GRPO, PPO and SFT.

Defaults as its `ppo_trainer.yaml` and `sft_trainer.yaml` (0.5) have them, and those of SFT by its
engines as `sft_trainer_engine.yaml` (0.9).
"""

from __future__ import annotations

from typing import Any

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch
from sim.interop.trainers import common, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import Keys

_DEFAULT = "verl's default"
#: advantages without a critic; those of others are no other step
_CRITIC = "gae"
_ESTIMATORS = frozenset({
    "gae", "grpo", "grpo_passk", "grpo_vectorized", "reinforce_plus_plus", "rloo", "opo", "gpg",
    "reinforce_plus_plus_baseline", "rloo_vectorized", "gdpo",
})  # fmt: skip
_STRATEGIES = {"fsdp": "fsdp1", "fsdp2": "fsdp2", "megatron": "megatron"}
_AXES = {
    "tensor_model_parallel_size": "tensor_parallel",
    "pipeline_model_parallel_size": "pipeline_parallel",
    "context_parallel_size": "context_parallel",
    "expert_model_parallel_size": "expert_parallel",
}
#: keys of its SFT trainer that stand in no table
OUTERMOST = frozenset({"ulysses_sequence_parallel_size", "use_remove_padding"})
_MEAN = frozenset({"post_training.completion.mean", "post_training.completion"})


def recognises(source: Source) -> bool:
    """The table of its actor, or the tables of its SFT trainer."""
    tree = source.branch.entries
    if isinstance(tree.get("actor_rollout_ref"), Branch):
        return True
    data, model = tree.get("data"), tree.get("model")
    if not isinstance(data, Branch) or not isinstance(model, Branch):
        return False
    by_engine = "path" in model.entries and "train_batch_size" in data.entries
    return "partial_pretrain" in model.entries or by_engine


def read(source: Source, job: Translation) -> None:
    """Read either."""
    configured(source, job, "")


def configured(source: Source, job: Translation, base: str) -> None:
    """Read either, and what of the configuration that it adds to is known by its name.

    Parameters
    ----------
    source : Source
        The file, or a command's overrides.
    job : Translation
        Takes what is read.
    base : str
        That configuration: ``ppo_megatron_trainer``; "" where the file's ``defaults`` may name it.
    """
    keys = Keys.of(source, job, _DEFAULT)
    base = base or " ".join(keys.words("defaults"))
    loop = keys.inner("trainer")
    nodes, per_node = loop.count("nnodes") or 1, loop.count("n_gpus_per_node")
    if per_node:
        job.gpus_per_node = (per_node, loop.place("n_gpus_per_node"))
        job.world = (per_node * nodes, loop.place("n_gpus_per_node"))
        job.nodes = (nodes, loop.place("nnodes", "n_gpus_per_node"))
    loop.put_count("steps", "total_training_steps")
    if loop.number("total_epochs") is not None and job.at("steps") is None:
        loop.put("epochs", loop.number("total_epochs"), "total_epochs")
    if "actor_rollout_ref" in source.keys:
        _rollouts(keys, "megatron" if "megatron" in base else "")
    else:
        _tuned(keys)
    job.suppose("precision.kind", "bf16", _DEFAULT)
    job.suppose("optimizer", "adamw", _DEFAULT)
    job.suppose("attention", "flash2", _DEFAULT)
    job.suppose("trainer", "none", "verl's loop is none of those known here")
    for table, name, usual in (
        (loop, "device", "cuda"),
        (loop.inner("v1"), "trainer_mode", "sync"),
    ):
        if table.text(name) in ("", usual):
            table.leave("the default", name)
        else:
            table.matters(f"taken as {usual}", name)
    keys.settle_tables("verl", "verl")


def _rollouts(keys: Keys, strategy: str) -> None:
    """GRPO and PPO: what is generated, and the update, by a strategy where no key names one."""
    job, data, roll = keys.job, keys.inner("data"), keys.inner("actor_rollout_ref")
    actor, model = roll.inner("actor"), roll.inner("model")
    tables = actor.inner("megatron").branch.entries
    strategy = actor.text("strategy") or strategy or ("megatron" if tables else "fsdp")
    _model(model, "path", recomputes=strategy != "megatron")
    if strategy == "megatron":
        job.suppose("parallelism.strategy", strategy, "its configuration is Megatron's")
        _recomputed(actor.inner("megatron"))
    _spread(actor, actor.inner("fsdp_config"), strategy)
    words.optimizer(actor.inner("optim"), "optimizer")
    if actor.flag("use_dynamic_bsz"):
        name = "ppo_max_token_len_per_gpu"  # dp_actor.py: of each rank that shares a row
        share = actor.count("ulysses_sequence_parallel_size") or 1
        actor.put("sequence_length", share * (actor.count(name) or 16384), name)
        job.suppose("micro_batch", 1, "use_dynamic_bsz: rows are packed to as many tokens")
    _post_training(keys, data, roll)
    # torch_functional.py: flash-attn's cross-entropy with inplace_backward
    job.suppose("loss", "fused", "verl's logprobs_from_logits")


def _post_training(keys: Keys, data: Keys, roll: Keys) -> None:
    actor, engine = roll.inner("actor"), roll.inner("rollout")
    algorithm, ours = keys.inner("algorithm"), "post_training"
    estimator = algorithm.text("adv_estimator") or _CRITIC
    kind = "ppo" if estimator == _CRITIC else "grpo"
    if estimator not in _ESTIMATORS:
        why = "advantages that are not known here: taken as GRPO's, without passes of their own"
        algorithm.matters(why, "adv_estimator")
    correction = algorithm.inner("rollout_correction")  # the engine's own are taken as the old ones
    correction.put_on(f"{ours}.old_log_probs", "bypass_mode", value=False)
    _take(algorithm, f"{ours}.algorithm", kind, "adv_estimator", estimator)
    critic, policy = keys.inner("critic").inner("model"), roll.inner("model").text("path")
    if kind == "ppo" and critic.text("path") not in ("", policy):
        critic.matters("a critic of another model is not modelled: one as the policy is", "path")
    data.put_count(f"{ours}.prompts", "train_batch_size", default=1024)
    engine.put_count(f"{ours}.samples", "n", default=1)
    _lengths(data, actor, ours, roll.inner("model"))
    whole = data.count("train_batch_size") or 1024
    part = actor.count("ppo_mini_batch_size") or 256
    updates = max(1, whole // part) * (actor.count("ppo_epochs") or 1)
    _take(actor, f"{ours}.updates", updates, "ppo_mini_batch_size", str(part))
    frozen = bool(actor.flag("use_kl_loss") or algorithm.flag("use_kl_in_reward"))
    said = algorithm if algorithm.flag("use_kl_in_reward") else actor
    name = "use_kl_in_reward" if said is algorithm else "use_kl_loss"
    _take(said, f"{ours}.reference", frozen, name)
    engine.put_count(f"{ours}.generation.tensor_parallel", "tensor_model_parallel_size", default=2)
    share = engine.number("gpu_memory_utilization")
    if share is not None:
        engine.put(f"{ours}.generation.memory_share", share, "gpu_memory_utilization")
    engine.suppose(f"{ours}.generation.memory_share", 0.5)
    engine.put_count(f"{ours}.generation.max_sequences", "max_num_seqs", default=1024)
    for table in ("fsdp_config", "megatron"):
        for name in ("param_offload", "optimizer_offload"):
            actor.inner(table).put_on(f"{ours}.offload", name)
    _engine(engine)
    if roll.flag("hybrid_engine") is False:
        roll.matters("engines on GPUs of their own: add post_training.generation.gpus",
                     "hybrid_engine")  # fmt: skip


def _engine(engine: Keys) -> None:
    """What of the engine that generates is not followed, where it is not as verl has it."""
    for name, why in (
        ("free_cache_engine", "its memory is taken to be given back for updates"),
        ("enable_prefix_caching", "samples of a prompt are taken to share what they read of it"),
    ):
        if engine.flag(name) is False:
            engine.matters(why, name)
    for name in ("data_parallel_size", "expert_parallel_size", "pipeline_model_parallel_size"):
        if (engine.count(name) or 1) > 1:
            why = "engines are taken as split by tensor_model_parallel_size alone"
            engine.matters(why, name)
    if (engine.count("nnodes") or 0) > 0:
        why = "engines on GPUs of their own: add post_training.generation.gpus"
        engine.matters(why, "nnodes")
    if engine.text("dtype") not in ("", "bfloat16", "float16", "half"):
        engine.matters("it generates in 16 bits here", "dtype")


def _take(keys: Keys, key: str, value: Any, name: str, written: str = "") -> None:
    """Take what a key of theirs makes of one of ours; left out, it is verl's default."""
    if keys.has(name):
        keys.job.take(key, value, keys.place(name), keys.named(name), written)
    else:
        keys.suppose(key, value)


def _lengths(data: Keys, actor: Keys, ours: str, model: Keys) -> None:
    """Prompts and completions, whose longest alone a file says, and how many a micro-step has.

    A row holds the longest; rows are packed, so as many as have the tokens of that many rollouts,
    unless their padding stays.
    """
    job = data.job
    prompt = data.count("max_prompt_length") or 512
    answer = data.count("max_response_length") or 512
    mean = max(1, answer // 2)
    _take(data, f"{ours}.prompt_length", prompt, "max_prompt_length")
    place = data.place("max_response_length")
    _take(data, f"{ours}.completion.maximum", answer, "max_response_length")
    job.suppose(f"{ours}.completion.mean", mean, "half of the longest")
    job.suppose("sequence_length", prompt + answer, "the longest prompt and completion")
    rows, name = _micro(actor, "ppo_micro_batch_size")
    if rows and not actor.flag("use_dynamic_bsz"):
        if model.flag("use_remove_padding") is False:
            why = (
                "padding is run too: a micro-batch is rows as they are; an update has more of them "
                "than its samples fill, which is not modelled"
            )
            model.matters(why, "use_remove_padding")
        else:
            rows = max(1, round(rows * (prompt + mean) / (prompt + answer)))
        actor.put("micro_batch", rows, name)
    job.skip(
        place, "data.max_response_length",
        "no file says how long prompts and completions are: the longest and half of the longest "
        "are taken; add --set post_training.prompt_length=P, --set post_training.completion.mean=N "
        f"and, without use_dynamic_bsz, the micro_batch whose rows of {prompt + answer} they fill",
        True, (_MEAN,),
    )  # fmt: skip


def _micro(keys: Keys, name: str) -> tuple[int, str]:
    """Rows of a GPU's micro-step, and the key that says them; 0 where no file does.

    Without ``_per_gpu`` verl divides them by the ranks that have rows of their own.
    Source: verl/workers/fsdp_workers.py, megatron_workers.py, `ppo_micro_batch_size`.
    """
    job, each = keys.job, f"{name}_per_gpu"
    if keys.has(each) or not keys.has(name):
        return keys.count(each) or 0, each
    share = 1
    for axis in ("tensor", "pipeline", "context"):
        degree = job.text_at(f"parallelism.{axis}_parallel")
        share *= int(degree) if degree.isdecimal() else 1
    if job.world is None:
        keys.matters("is of all GPUs, and no file says how many: add --set micro_batch=N", name)
        return 0, name
    return max(1, (keys.count(name) or 1) // max(1, job.world[0] // share)), name


def _recomputed(cut: Keys) -> None:
    """Checkpointing as Megatron is told of it, which has none where nothing is said."""
    over, name = cut.inner("override_transformer_config"), "recompute_granularity"
    kind = "activation_checkpointing.kind"
    if over.text(name).lower() == "full":
        over.put(kind, "full", name)
    elif over.has(name):
        over.matters("is not modelled: taken as none", name)
    cut.job.suppose(kind, "none", "Megatron's default")


def _tuned(keys: Keys) -> None:
    """SFT."""
    data, model = keys.inner("data"), keys.inner("model")
    data.put_count("sequence_length", "max_length", default=1024)
    data.put_count("global_batch", "train_batch_size", default=256)
    samples = data.count("train_max_samples") or 0
    if samples > 0:
        data.put("samples", samples, "train_max_samples")
    if not model.has("partial_pretrain"):
        _by_engine(keys, data, model)
        return
    _model(model, "partial_pretrain")
    _spread(model, model.inner("fsdp_config"), model.text("strategy") or "fsdp", keys)
    free = keys.flag("use_remove_padding")
    if free:
        common.unpadded(keys, "use_remove_padding")
    else:  # its collator fills rows up to max_length
        keys.leave("rows are filled up to max_length", "use_remove_padding")
    rows, name = _micro(data, "micro_batch_size")
    if rows:
        data.put("micro_batch", rows, name)
    elif not data.has(name):
        data.suppose("micro_batch", 4)


def _by_engine(keys: Keys, data: Keys, model: Keys) -> None:
    """SFT by one of its engines (since 0.6), which packs rows up to so many tokens a GPU."""
    engine = keys.inner("engine")
    word = engine.text("strategy") or keys.text("engine@engine") or "fsdp"
    _model(model, "path", recomputes=word != "megatron")
    words.optimizer(keys.inner("optim"), "optimizer")
    _spread(engine, engine, word)
    share = engine.count("ulysses_sequence_parallel_size") or 1
    name = "max_token_len_per_gpu"
    rows, length = data.count("micro_batch_size_per_gpu") or 4, data.count("max_length") or 1024
    if data.flag("use_dynamic_bsz") is False:
        _take(data, "micro_batch", rows, "micro_batch_size_per_gpu")
    else:
        fit = max(1, share * (data.count(name) or 8192) // length)
        _take(data, "micro_batch", fit, name)
    if model.flag("use_remove_padding") is not False:
        if model.has("use_remove_padding"):
            model.leave("the default", "use_remove_padding")
        model.suppose("data.packing", True)
        common.filled(data, "max_length")


def _model(model: Keys, path: str, *, recomputes: bool = True) -> None:
    """Model, adapters, checkpointing, on unless said otherwise where it recomputes, and kernels."""
    model.put("model", model.text(path), path)
    rank = model.count("lora_rank") or 0
    if rank > 0:
        names = LoraKeys("lora_rank", "lora_rank", "target_modules", "")
        common.lora(model, names, four_bit=False, default_targets="all-linear", why=_DEFAULT)
    else:
        model.job.suppose("method.kind", "full", "lora_rank is 0")
    if model.flag("enable_gradient_checkpointing") is False:
        model.leave("the default here", "enable_gradient_checkpointing")
    else:
        kind = "activation_checkpointing.kind"
        model.put_on(kind, "enable_gradient_checkpointing", value="full")
        if recomputes:
            model.job.suppose(kind, "full", _DEFAULT)
            model.job.suppose("activation_checkpointing.reentrant", False, _DEFAULT)
        model.put_on("activation_checkpointing.offload", "enable_activation_offload")
    model.put_on("fused_kernels", "use_liger", value="all")
    model.put_on("loss", "use_fused_kernels", value="fused-linear")
    words.attention(model, "attn_implementation")
    other = model.inner("override_config")
    words.attention(other, "attn_implementation")
    if set(other.branch.entries) - {"attn_implementation", "model_config"}:
        model.matters("the model is taken as its name has it", "override_config")
    if (model.inner("lora").count("rank") or 0) > 0:
        why = "adapters of Megatron's layers are not read: taken as trained in full"
        model.inner("lora").matters(why, "rank")


def _spread(actor: Keys, plugin: Keys, word: str, outer: Keys | None = None) -> None:
    """What shards the trained model, by verl's word for it, and how sequences are split.

    `outer`: the table that says the latter, where it is not the actor's.
    """
    sequences, says = "ulysses_sequence_parallel_size", outer or actor
    split = says.put_ulysses(sequences)
    if split and word == "fsdp":
        says.matters("is modelled with FSDP2: FSDP1 is taken as that", sequences)
    if word in _STRATEGIES:
        ours = "fsdp2" if split and word == "fsdp" else _STRATEGIES[word]
        _take(actor, "parallelism.strategy", ours, "strategy", word)
    else:
        message = f"{word} is not modelled; {', '.join(_STRATEGIES)} are"
        actor.fault(message, "strategy")
    if word == "megatron":
        cut = actor.inner("megatron") if outer is not actor else actor
        cut.put_flag("parallelism.use_distributed_optimizer", "use_distributed_optimizer")
        cut.put_flag("parallelism.sequence_parallel", "sequence_parallel")
        for theirs, ours in _AXES.items():
            cut.put_degree(f"parallelism.{ours}", theirs)
        if (cut.count("virtual_pipeline_model_parallel_size") or 1) > 1:
            name = "virtual_pipeline_model_parallel_size"
            cut.put("parallelism.pipeline_schedule", "interleaved-1f1b", name)
            cut.put("parallelism.virtual_stages", cut.count(name), name)
    else:  # fsdp_workers.py: MixedPrecision(param_dtype=bf16, reduce_dtype=fp32)
        actor.job.suppose("parallelism.reduce_dtype", "fp32", _DEFAULT)
        if word == "fsdp2" or split:
            plugin.put_flag("parallelism.reshard_after_forward", "reshard_after_forward")
        elif plugin.flag("reshard_after_forward") is False:  # fsdp_utils.py, `FSDP1`: full_shard
            plugin.leave("FSDP2's, of which FSDP1 has none", "reshard_after_forward")
        plugin.put_on("parallelism.forward_prefetch", "forward_prefetch", value=1)
        last = "use_no_sync_for_gradient_accumulation"
        plugin.put_on("parallelism.gradient_sync", last, value="last")
        if words.dtype(plugin, "model_dtype") == "bf16":
            plugin.put("precision.master", "bf16", "model_dtype")
        words.put_dtype(plugin, "precision.kind", "dtype")
        if (plugin.count("fsdp_size") or -1) > 1:
            why = "sharded among fewer GPUs than all: add --set parallelism.replicate=N"
            plugin.matters(why, "fsdp_size")
    if plugin.flag("offload_policy"):
        plugin.put("parallelism.offload", "all", "offload_policy")


FORMATS.register(TrainerFormat("verl", "a verl configuration", recognises, read))
