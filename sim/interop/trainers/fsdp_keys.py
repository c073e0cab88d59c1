"""FSDP as accelerate's plugin takes it: what its keys and words mean here."""

from __future__ import annotations

from sim.inputs.translation import Keys, Translation
from sim.interop.trainers.common import WHY_NO_MATTER

_SHARDING = {
    "full_shard": "full-shard",
    "1": "full-shard",
    "shard_grad_op": "shard-grad-op",
    "2": "shard-grad-op",
    "no_shard": "no-shard",
    "3": "no-shard",
}
_HYBRID = {
    "hybrid_shard": "full-shard",
    "4": "full-shard",
    "hybrid_shard_zero2": "shard-grad-op",
    "5": "shard-grad-op",
    "_hybrid_shard_zero2": "shard-grad-op",
}


def fsdp(keys: Keys, job: Translation, version: int, words: list[str]) -> None:
    """FSDP as accelerate's plugin takes it, keys with or without ``fsdp_``.

    Parameters
    ----------
    keys : Keys
        The ``fsdp_config`` mapping.
    job : Translation
        The job.
    version : int
        1 or 2.
    words : list of str
        Of transformers' ``fsdp`` option: ``full_shard auto_wrap offload``.
    """
    strategy = "fsdp2" if version == 2 else "fsdp1"
    place = keys.branch.place
    job.take("parallelism.strategy", strategy, place, keys.prefix.rstrip(".") or "fsdp")
    if keys.flag("fsdp_offload_params", "offload_params") or "offload" in words:
        job.take(
            "parallelism.offload",
            "all",
            keys.place("fsdp_offload_params", "offload_params"),
            keys.named("fsdp_offload_params", "offload_params"),
        )
    _reshard(keys, job, version, words)
    prefetch = keys.text("fsdp_backward_prefetch", "backward_prefetch").lower()
    names = ("fsdp_backward_prefetch", "backward_prefetch")
    if prefetch and version == 1:
        ours = {"backward_pre": "pre", "backward_post": "post", "no_prefetch": "none"}
        keys.put("parallelism.backward_prefetch", ours.get(prefetch, "pre"), *names)
    elif version == 1:
        job.suppose("parallelism.backward_prefetch", "none", "accelerate's NO_PREFETCH")
    if keys.flag("fsdp_forward_prefetch", "forward_prefetch"):
        if version == 1:
            keys.put("parallelism.forward_prefetch", 1, "fsdp_forward_prefetch", "forward_prefetch")
        else:
            keys.leave(
                "accelerate does not pass it to FSDP2", "fsdp_forward_prefetch", "forward_prefetch"
            )
    if version == 1:
        keys.put_flag("parallelism.use_orig_params", "fsdp_use_orig_params", "use_orig_params")
        keys.put_flag(
            "parallelism.limit_all_gathers", "fsdp_limit_all_gathers", "limit_all_gathers"
        )
    keys.put_flag(
        "parallelism.cpu_ram_efficient_loading",
        "fsdp_cpu_ram_efficient_loading",
        "cpu_ram_efficient_loading",
    )
    keys.put_flag("parallelism.pin_memory", "fsdp_cpu_offload_pin_memory", "cpu_offload_pin_memory")
    state = keys.text("fsdp_state_dict_type", "state_dict_type", "final_state_dict_type").lower()
    if state:
        keys.put(
            "checkpoint.mode",
            "full" if state.startswith("full") else "sharded",
            "fsdp_state_dict_type",
            "state_dict_type",
            "final_state_dict_type",
        )
    names = ("fsdp_activation_checkpointing", "activation_checkpointing")
    if keys.flag(*names):
        keys.put("activation_checkpointing.kind", "full", *names)
        job.suppose("activation_checkpointing.reentrant", False, "accelerate's wrapper")
    policy = keys.text("fsdp_auto_wrap_policy", "auto_wrap_policy").upper()
    if policy in ("SIZE_BASED_WRAP", "NO_WRAP"):
        keys.matters(
            f"{policy} is not modelled: every block is wrapped",
            "fsdp_auto_wrap_policy",
            "auto_wrap_policy",
        )
    keys.leave(
        "the blocks are wrapped, whatever their class is called",
        "fsdp_auto_wrap_policy",
        "auto_wrap_policy",
        "fsdp_transformer_layer_cls_to_wrap",
        "transformer_layer_cls_to_wrap",
    )
    keys.leave(
        WHY_NO_MATTER,
        "fsdp_sync_module_states",
        "sync_module_states",
        "fsdp_min_num_params",
        "min_num_params",
        "fsdp_version",
        "fsdp_use_orig_params",
        "use_orig_params",
        "fsdp_limit_all_gathers",
        "limit_all_gathers",
        "fsdp_backward_prefetch",
        "backward_prefetch",
        "fsdp_sharding_strategy",
        "sharding_strategy",
        "xla",
        "xla_fsdp_v2",
        "xla_fsdp_grad_ckpt",
    )
    keys.rest("accelerate")


def _reshard(keys: Keys, job: Translation, version: int, words: list[str]) -> None:
    """Whether parameters are dropped after forward."""
    again = ("fsdp_reshard_after_forward", "reshard_after_forward")
    named = ("fsdp_sharding_strategy", "sharding_strategy")
    word = keys.text(*named).lower() or keys.text(*again).lower()
    word = word or next((w.lower() for w in words if w.lower() in _SHARDING | _HYBRID), "")
    if version == 2:
        value = keys.text(*again).lower()
        if value in ("true", "false"):
            keys.put_flag("parallelism.reshard_after_forward", *again)
        elif word in ("shard_grad_op", "2"):
            job.take(
                "parallelism.reshard_after_forward",
                False,
                keys.place(*named, *again),
                keys.named(*named),
            )
        return
    if word in _SHARDING:
        if _SHARDING[word] != "full-shard":
            job.take(
                "parallelism.sharding_strategy",
                _SHARDING[word],
                keys.place(*named, *again),
                keys.named(*named),
            )
    elif word in _HYBRID:
        if _HYBRID[word] != "full-shard":
            job.take(
                "parallelism.sharding_strategy",
                _HYBRID[word],
                keys.place(*named),
                keys.named(*named),
            )
        if job.nodes is not None:
            job.take("parallelism.replicate", job.nodes[0], keys.place(*named), keys.named(*named))
        else:
            keys.matters(
                "hybrid: a whole copy on each node; add --set parallelism.replicate=NODES", *named
            )
