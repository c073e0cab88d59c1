"""verl's configuration, as YAML or as overrides on a command line: GRPO, PPO and SFT.

Defaults as its `ppo_trainer.yaml` and `sft_trainer.yaml` (0.5) have them.
"""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch
from sim.interop.trainers import common, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import Keys

_DEFAULT = "verl's default"
#: advantages without a critic; those of others are no other step
_CRITIC = "gae"
_STRATEGIES = {"fsdp": "fsdp1", "fsdp2": "fsdp2", "megatron": "megatron"}
_AXES = {
    "tensor_model_parallel_size": "tensor_parallel",
    "pipeline_model_parallel_size": "pipeline_parallel",
    "context_parallel_size": "context_parallel",
}
_MEAN = frozenset({"post_training.completion.mean", "post_training.completion"})


def recognises(source: Source) -> bool:
    """The table of its actor, or the tables of its SFT trainer."""
    tree = source.branch.entries
    if isinstance(tree.get("actor_rollout_ref"), Branch):
        return True
    model = tree.get("model")
    return "data" in tree and isinstance(model, Branch) and "partial_pretrain" in model.entries


def read(source: Source, job: Translation) -> None:
    """Read either."""
    keys = Keys.of(source, job, _DEFAULT)
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
        _rollouts(keys)
    else:
        _tuned(keys)
    job.suppose("precision.kind", "bf16", _DEFAULT)
    job.suppose("optimizer", "adamw", _DEFAULT)
    job.suppose("attention", "flash2", _DEFAULT)
    job.suppose("trainer", "none", "verl's loop is none of those known here")
    why = "no part of a step that is modelled, or its default here"
    for name in ("trainer", "data", "model", "algorithm", "actor_rollout_ref"):
        keys.leave(why, name)
    keys.leave_matching(why)


def _rollouts(keys: Keys) -> None:
    """GRPO and PPO: what is generated, and the update."""
    job, data, roll = keys.job, keys.inner("data"), keys.inner("actor_rollout_ref")
    actor, model = roll.inner("actor"), roll.inner("model")
    _model(model, "path")
    _spread(actor, actor.inner("fsdp_config"))
    if actor.flag("use_dynamic_bsz"):
        name = "ppo_max_token_len_per_gpu"  # dp_actor.py: of each rank that shares a row
        share = actor.count("ulysses_sequence_parallel_size") or 1
        actor.put("sequence_length", share * (actor.count(name) or 16384), name)
        job.suppose("micro_batch", 1, "use_dynamic_bsz: rows are packed to as many tokens")
    _post_training(keys, data, roll)
    # torch_functional.py: flash-attn's cross-entropy with inplace_backward
    job.suppose("loss", "fused", "verl's logprobs_from_logits")


def _post_training(keys: Keys, data: Keys, roll: Keys) -> None:
    job, actor, engine = keys.job, roll.inner("actor"), roll.inner("rollout")
    algorithm, ours = keys.inner("algorithm"), "post_training"
    estimator = algorithm.text("adv_estimator") or _CRITIC
    kind = "ppo" if estimator == _CRITIC else "grpo"
    job.take(f"{ours}.algorithm", kind, algorithm.place("adv_estimator"),
             algorithm.named("adv_estimator"), estimator)  # fmt: skip
    data.put_count(f"{ours}.prompts", "train_batch_size", default=1024)
    engine.put_count(f"{ours}.samples", "n", default=1)
    _lengths(data, actor, ours)
    whole = data.count("train_batch_size") or 1024
    part = actor.count("ppo_mini_batch_size") or 256
    updates = max(1, whole // part) * (actor.count("ppo_epochs") or 1)
    job.take(f"{ours}.updates", updates, actor.place("ppo_mini_batch_size"),
             actor.named("ppo_mini_batch_size"), str(part))  # fmt: skip
    frozen = bool(actor.flag("use_kl_loss") or algorithm.flag("use_kl_in_reward"))
    job.take(f"{ours}.reference", frozen, actor.place("use_kl_loss"), actor.named("use_kl_loss"))
    engine.put_count(f"{ours}.generation.tensor_parallel", "tensor_model_parallel_size", default=2)
    share = engine.number("gpu_memory_utilization")
    if share is not None:
        engine.put(f"{ours}.generation.memory_share", share, "gpu_memory_utilization")
    engine.suppose(f"{ours}.generation.memory_share", 0.5)
    engine.put_count(f"{ours}.generation.max_sequences", "max_num_seqs", default=1024)
    plugin = actor.inner("fsdp_config")
    for name in ("param_offload", "optimizer_offload"):
        plugin.put_on(f"{ours}.offload", name)
    if roll.flag("hybrid_engine") is False:
        roll.matters("engines on GPUs of their own: add post_training.generation.gpus",
                     "hybrid_engine")  # fmt: skip


def _lengths(data: Keys, actor: Keys, ours: str) -> None:
    """Prompts and completions, whose longest alone a file says, and how many a micro-step has.

    A row holds the longest; rows are packed, so as many as have the tokens of that many rollouts.
    """
    job = data.job
    prompt = data.count("max_prompt_length") or 512
    answer = data.count("max_response_length") or 512
    mean = max(1, answer // 2)
    job.take(f"{ours}.prompt_length", prompt, data.place("max_prompt_length"),
             "data.max_prompt_length")  # fmt: skip
    place = data.place("max_response_length")
    job.take(f"{ours}.completion.maximum", answer, place, "data.max_response_length")
    job.suppose(f"{ours}.completion.mean", mean, "half of the longest")
    job.suppose("sequence_length", prompt + answer, "the longest prompt and completion")
    micro = ("ppo_micro_batch_size_per_gpu", "ppo_micro_batch_size")
    rows = actor.count(*micro)
    if rows and not actor.flag("use_dynamic_bsz"):
        filled = max(1, round(rows * (prompt + mean) / (prompt + answer)))
        actor.put("micro_batch", filled, *micro)
    job.skip(
        place, "data.max_response_length",
        "no file says how long prompts and completions are: the longest and half of the longest "
        "are taken; add --set post_training.prompt_length=P, --set post_training.completion.mean=N "
        f"and, without use_dynamic_bsz, the micro_batch whose rows of {prompt + answer} they fill",
        True, (_MEAN,),
    )  # fmt: skip


def _tuned(keys: Keys) -> None:
    """SFT."""
    data, model = keys.inner("data"), keys.inner("model")
    _model(model, "partial_pretrain")
    data.put_count("sequence_length", "max_length", default=1024)
    data.put_count("micro_batch", "micro_batch_size_per_gpu", "micro_batch_size", default=4)
    data.put_count("global_batch", "train_batch_size", default=256)
    _spread(model, model.inner("fsdp_config"))
    free = keys.flag("use_remove_padding")
    if free:
        common.unpadded(keys, "use_remove_padding")
    else:  # its collator fills rows up to max_length
        keys.leave("rows are filled up to max_length", "use_remove_padding")
    sizes = ("ulysses_sequence_parallel_size",)
    keys.put_ulysses(*sizes)


def _model(model: Keys, path: str) -> None:
    """Model, adapters, checkpointing and kernels."""
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
        model.job.suppose(kind, "full", _DEFAULT)
        model.job.suppose("activation_checkpointing.reentrant", False, _DEFAULT)
        model.put_on("activation_checkpointing.offload", "enable_activation_offload")
    model.put_on("fused_kernels", "use_liger", value="all")
    model.put_on("loss", "use_fused_kernels", value="fused-linear")
    words.attention(model, "attn_implementation")


def _spread(actor: Keys, plugin: Keys) -> None:
    """What shards the trained model, and how sequences are split."""
    word, sequences = actor.text("strategy") or "fsdp", "ulysses_sequence_parallel_size"
    split = actor.put_ulysses(sequences)
    if split and word == "fsdp":
        actor.matters("is modelled with FSDP2: FSDP1 is taken as that", sequences)
    if word in _STRATEGIES:
        ours = "fsdp2" if split and word == "fsdp" else _STRATEGIES[word]
        actor.job.take("parallelism.strategy", ours, actor.place("strategy"),
                       actor.named("strategy"), word)  # fmt: skip
    else:
        message = f"{word} is not modelled; {', '.join(_STRATEGIES)} are"
        actor.fault(message, "strategy")
    if word == "megatron":
        cut = actor.inner("megatron")
        for theirs, ours in _AXES.items():
            cut.put_degree(f"parallelism.{ours}", theirs)
    else:  # fsdp_workers.py: MixedPrecision(param_dtype=bf16, reduce_dtype=fp32)
        actor.job.suppose("parallelism.reduce_dtype", "fp32", _DEFAULT)
        plugin.put_flag("parallelism.reshard_after_forward", "reshard_after_forward")
        if (plugin.count("fsdp_size") or -1) > 1:
            why = "sharded among fewer GPUs than all: add --set parallelism.replicate=N"
            plugin.matters(why, "fsdp_size")
    if plugin.flag("offload_policy"):
        plugin.put("parallelism.offload", "all", "offload_policy")


FORMATS.register(TrainerFormat("verl", "a verl configuration", recognises, read))
