"""FSDP as accelerate's plugin takes it: what its keys and words mean here."""

from __future__ import annotations

from sim.interop.trainers.keys import WHY_NO_MATTER, Keys

_SHARDING = {
    "full_shard": "full-shard", "1": "full-shard",
    "shard_grad_op": "shard-grad-op", "2": "shard-grad-op",
    "no_shard": "no-shard", "3": "no-shard",
}  # fmt: skip
_HYBRID = {
    "hybrid_shard": "full-shard", "4": "full-shard",
    "hybrid_shard_zero2": "shard-grad-op", "5": "shard-grad-op",
    "_hybrid_shard_zero2": "shard-grad-op",
}  # fmt: skip
#: accelerate's and PyTorch's words for what is gathered ahead in backward
PREFETCH = {"backward_pre": "pre", "backward_post": "post", "no_prefetch": "none"}


def _named(*names: str) -> tuple[str, ...]:
    """Keys, with and without ``fsdp_``."""
    return tuple(word for name in names for word in (f"fsdp_{name}", name))


_AGAIN, _STRATEGY = _named("reshard_after_forward"), _named("sharding_strategy")


def fsdp(keys: Keys, version: int, words: list[str]) -> None:
    """FSDP as accelerate's plugin takes it, keys with or without ``fsdp_``.

    Parameters
    ----------
    keys : Keys
        The ``fsdp_config`` mapping.
    version : int
        1 or 2.
    words : list of str
        Of transformers' ``fsdp`` option: ``full_shard auto_wrap offload``.
    """
    job = keys.job
    job.take(
        "parallelism.strategy", f"fsdp{2 if version == 2 else 1}", keys.branch.place,
        keys.prefix.rstrip(".") or "fsdp",
    )  # fmt: skip
    names = (*_named("offload_params"), "cpu_offload")  # the latter the class's, in Python
    if keys.flag(*names) or "offload" in words:
        job.take("parallelism.offload", "all", keys.place(*names), keys.named(*names))
    reshard(keys, version, words)
    if version == 1:
        names = _named("backward_prefetch")
        prefetch = keys.text(*names).lower()
        if prefetch:
            keys.put("parallelism.backward_prefetch", PREFETCH.get(prefetch, "pre"), *names)
        else:
            job.suppose("parallelism.backward_prefetch", "none", "accelerate's NO_PREFETCH")
    names = _named("forward_prefetch")
    if version == 1:
        keys.put_on("parallelism.forward_prefetch", *names, value=1)
        keys.put_flag("parallelism.use_orig_params", *_named("use_orig_params"))
        keys.put_flag("parallelism.limit_all_gathers", *_named("limit_all_gathers"))
    elif keys.flag(*names):
        keys.leave("accelerate does not pass it to FSDP2", names)
    loading = "cpu_ram_efficient_loading"
    keys.put_flag(f"parallelism.{loading}", *_named(loading))
    keys.put_flag("parallelism.pin_memory", *_named("cpu_offload_pin_memory"))
    names = (*_named("state_dict_type"), "final_state_dict_type")
    state = keys.text(*names).lower()
    if state:
        mode = "full" if state.startswith("full") else "sharded"
        keys.put("checkpoint.mode", mode, *names)
    names = _named("activation_checkpointing")
    if keys.flag(*names):
        keys.put("activation_checkpointing.kind", "full", *names)
        job.suppose("activation_checkpointing.reentrant", False, "accelerate's wrapper")
    names = _named("auto_wrap_policy")
    policy = keys.text(*names).upper()
    if policy in ("SIZE_BASED_WRAP", "NO_WRAP"):
        keys.matters(f"{policy} is not modelled: every block is wrapped", *names)
    keys.leave(
        "the blocks are wrapped, whatever their class is called",
        (*names, *_named("transformer_layer_cls_to_wrap")),
    )
    alike = _named(
        "sync_module_states", "min_num_params", "use_orig_params", "limit_all_gathers",
        "backward_prefetch", "sharding_strategy",
    )  # fmt: skip
    keys.leave(WHY_NO_MATTER, (*alike[:4], "fsdp_version", *alike[4:]))
    keys.leave(WHY_NO_MATTER, "xla xla_fsdp_v2 xla_fsdp_grad_ckpt")
    keys.rest("accelerate")


def accumulation(keys: Keys) -> None:
    """Whether accelerate reduces gradients in every micro-step, of `TrainingArguments`."""
    config = keys.inner("accelerator_config")
    if config.flag("split_batches"):
        why = "each batch is cut over the ranks: --set micro_batch=N, of one of them"
        answers = (frozenset({"micro_batch"}),)
        keys.job.skip(
            config.place("split_batches"), config.named("split_batches"), why, True, answers
        )
    found = config.inner("gradient_accumulation_kwargs")
    if found.flag("sync_each_batch"):
        name = "sync_each_batch"
        keys.job.syncs_each = found.named(name), found.place(name)
    keys.leave(WHY_NO_MATTER, "accelerator_config")  # what is left of it


def reshard(keys: Keys, version: int, words: list[str]) -> None:
    """Whether parameters are dropped after forward."""
    job = keys.job
    word = keys.text(*_STRATEGY).lower() or keys.text(*_AGAIN).lower()
    word = word or next((w.lower() for w in words if w.lower() in _SHARDING | _HYBRID), "")
    place, said = keys.place(*_STRATEGY, *_AGAIN), keys.named(*_STRATEGY)
    if version == 2:
        if keys.text(*_AGAIN).lower() in ("true", "false"):
            keys.put_flag("parallelism.reshard_after_forward", *_AGAIN)
        elif word in ("shard_grad_op", "2"):
            job.take("parallelism.reshard_after_forward", False, place, said)
        return
    ours = (_SHARDING | _HYBRID).get(word, "full-shard")
    if ours != "full-shard":
        job.take("parallelism.sharding_strategy", ours, place, said)
    if word in _HYBRID:
        if job.nodes is not None:
            job.take("parallelism.replicate", job.nodes[0], keys.place(*_STRATEGY), said)
        elif job.at("parallelism.replicate") is None:
            why = "hybrid: a whole copy on each node; add --set parallelism.replicate=NODES"
            keys.matters(why, *_STRATEGY)
