"""Hugging Face's TrainingArguments and TRL's SFTConfig, as YAML, JSON or command line, as a job.

Defaults as transformers 5.24 and TRL 1.16 have them.
"""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch
from sim.interop.trainers import accelerate, common, deepspeed, fsdp_keys, trl_kinds, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import WHY_NO_MATTER, Keys

_MARKS = {
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "optim",
    "gradient_checkpointing", "bf16", "fp16", "max_steps", "output_dir", "max_length", "use_peft",
    "model_name_or_path", "max_seq_length", "learning_rate",
}  # fmt: skip
_TRL = {
    "max_length", "max_seq_length", "use_peft", "packing", "dataset_text_field", "padding_free",
    "assistant_only_loss", "completion_only_loss", "dataset_name", "num_generations",
    "max_completion_length", "max_prompt_length",
}  # fmt: skip
#: what scripts of one's own have and TRL has not: LLaVA's, FastChat's, Qwen's, QLoRA's
_NOT_TRL = {"lora_enable", "use_lora", "q_lora", "bits", "source_max_len", "target_max_len"}
_DEFAULT = "transformers' default"
_OF_TRL = "TRL's default"
#: trainers of TRL's whose loss runs with the head, tile by tile (`add_fused_lm_head`, TRL 1.16)
_TILED = ("sft", "dpo", "kto", "grpo", "rloo")
_TILES = "TRL 1.16 runs it with the head in tiles (SFT since 1.6; before, huggingface)"
_LIGER = ("use_liger_kernel", "use_liger", "enable_liger_kernel")
#: what scripts of one's own call the longest row, and what turns adapters on in them
_LENGTH = ("model_max_length", "block_size", "max_seq_len")
_PEFT = ("use_peft", "lora_enable", "use_lora", "q_lora")
#: what no script is given that trains in full: weights of 4 bits, then LoRA's own options
_FOUR_BIT = ("load_in_4bit", "bits")
_RANK, _TARGETS = "lora_r lora_rank r", "lora_target_modules lora_modules"
_OF_LORA = (*_RANK.split()[:2], *_TARGETS.split(), "lora_alpha", "lora_dropout")
#: of QLoRA's script (artidoro/qlora, qlora.py), which adapts all linear layers with 64 directions
_SOURCE, _TARGET = "source_max_len", "target_max_len"
_DTYPE = ("dtype", "torch_dtype", "model_dtype")
_NO_FLAG = "no known flag turns adapters on: taken as on; add --set method=full if they are not"
_NO_RANK = "how wide adapters are where a script's options do not say is its own: taken as PEFT's"


def recognises(source: Source) -> bool:
    """A batch size, or several other keys of theirs."""
    keys = source.keys
    if {"zero_optimization", "train_micro_batch_size_per_gpu"} & keys:
        return False
    return "per_device_train_batch_size" in keys or len(_MARKS & keys) > 2


def read(source: Source, job: Translation) -> None:
    """Read the arguments, and the DeepSpeed file that they name."""
    keys = Keys.of(source, job, _DEFAULT)
    arguments(source, keys)
    keys.rest("Hugging Face trainers'")


def arguments(source: Source, keys: Keys) -> None:
    """The arguments of a trainer and, where they are there, of TRL's SFT script."""
    begun = keys.job.begun is not None
    entries = frozenset(keys.branch.entries)
    trl = begun or bool(_TRL & entries and not _NOT_TRL & entries)
    _arguments(source, keys, trl, trl)
    if trl and not begun:  # else whoever reads the command says it
        trl_kinds.tell(keys, trl_kinds.of_keys(keys))
    _unsaid_dtype(keys)


def _unsaid_dtype(keys: Keys) -> None:
    """What TRL loads the base of adapters with where no dtype is said."""
    if keys.flag(*_PEFT) and not keys.text(*_DTYPE) and not _model_keys(keys).text(*_DTYPE):
        keys.job.loads_fp32 = "TRL's dtype: float32, of what is not of 4 bits"


def in_python(
    source: Source, keys: Keys, trl: bool, configured: bool, by_name: bool = False
) -> None:
    """The arguments that a script of one's own gives to calls.

    Parameters
    ----------
    source : Source
        The script.
    keys : Keys
        Arguments of its calls, called as those of TRL's scripts.
    trl : bool
        Whether the trainer is TRL's.
    configured : bool
        Whether a configuration of TRL's holds its arguments, whose defaults are not transformers'.
    by_name : bool
        Whether TRL's trainer is given a model's name, which it loads in fp32 where no dtype is said
        (trainer/utils.py, `create_model_from_path`: TRL 0.29 to 1.16 say float32, up to 0.24 leave
        it to transformers 4, which does the same; 0.26 alone of those read takes the checkpoint's).
    """
    _adapters(keys, configured)
    _arguments(source, keys, trl, configured)
    if by_name:
        _unsaid_dtype(keys)


def model_and_method(keys: Keys) -> None:
    """Of a loop of one's own: the model and how it is loaded, its rows and its adapters."""
    whose = keys.whose
    _adapters(keys, narrow=False)
    keys.whose = whose
    if keys.job.at("method") is None:
        keys.job.suppose("method.kind", "full", "no adapters")
    _named(keys)
    keys.put_count("sequence_length", *_LENGTH, "max_seq_length")
    if keys.flag("load_in_8bit"):
        common.eight_bit(keys, "load_in_8bit")
    keys.put_flag("precision.tf32", "tf32")
    _loaded(keys)


def _adapters(keys: Keys, narrow: bool) -> None:
    if keys.flag(*_PEFT):
        keys.whose = common.OF_PEFT
        _method(keys, rank=8, dropout=0.0, narrow=narrow)


def _named(keys: Keys) -> None:
    names = ("model_name_or_path", "model_name")  # scripts of one's own have the latter
    if keys.has(*names):
        keys.put("model", keys.text(*names), *names)


def _arguments(source: Source, keys: Keys, trl: bool, configured: bool) -> None:
    keys.whose = _OF_TRL if configured else _DEFAULT
    _named(keys)
    if trl:
        if trl_kinds.rolls(trl_kinds.of_keys(keys)):
            _rollouts(keys)
        keys.put_count("sequence_length", "max_length", "max_seq_length", *_LENGTH, default=1024)
        _rows(keys)
        if keys.job.at("method") is None:
            _method(keys, rank=16, dropout=0.05, narrow=True)
    else:  # what scripts of one's own call it
        keys.put_count("sequence_length", *_LENGTH)
        if keys.has(_SOURCE, _TARGET):
            row = (keys.count(_SOURCE) or 1024) + (keys.count(_TARGET) or 256)
            keys.put("sequence_length", row, _SOURCE, _TARGET)
        if keys.job.at("method") is None:
            _method(keys, rank=8, dropout=0.0, narrow=False, own=True)
    begun = trl_kinds.of_keys(keys)
    if configured and (begun.kind if begun else "sft") in _TILED:
        keys.job.suppose("loss", "tiled", _TILES)
    precision = "bf16" if configured else "fp32"
    training(source, keys, micro_batch=8, precision=precision, checkpointing=configured)
    if keys.flag("load_in_8bit"):
        common.eight_bit(keys, "load_in_8bit")
    if not trl:
        keys.suppose("data.packing", False)
    _loaded(keys)


def _loaded(keys: Keys) -> None:
    """Attention and dtype that a model is loaded with."""
    inner = _model_keys(keys)
    for where in (keys, inner):
        words.attention(where, "attn_implementation")
    keys.put_on("attention", "use_flash_attn", "use_flash_attention_2", value="flash2")
    keys.job.suppose("attention", "sdpa", _DEFAULT)
    where = inner if inner.text(*_DTYPE) else keys
    dtype = words.dtype(where, *_DTYPE)
    master(where, dtype, *_DTYPE)
    if keys.flag(*_PEFT) and dtype == "fp32":
        keys.job.loads_fp32 = f"{where.named(*_DTYPE)}: float32, of what is not of 4 bits"


def _model_keys(keys: Keys) -> Keys:
    """What TRL's configuration passes to the model's `from_pretrained`."""
    return keys.inner("model_init_kwargs")


def training(
    source: Source, keys: Keys, *, micro_batch: int, precision: str, checkpointing: bool,
    reentrant: bool = False,
) -> None:  # fmt: skip
    """What every trainer built on Hugging Face's takes from its `TrainingArguments`."""
    job = keys.job
    batch = ("per_device_train_batch_size", "per_gpu_train_batch_size")
    keys.put_count("micro_batch", *batch, default=micro_batch)
    keys.put_count("gradient_accumulation", "gradient_accumulation_steps")
    if job.at("global_batch") is None:
        keys.suppose("gradient_accumulation", 1)
    common.length(keys, "num_train_epochs", 3.0, _DEFAULT)
    if job.at("optimizer") is None:
        words.optimizer(keys, "optim")
    keys.suppose("optimizer", "adamw")
    if not keys.text("optim"):
        job.suppose("optimizer_implementation", "fused", _DEFAULT)
    if keys.flag("bf16"):
        keys.put("precision.kind", "bf16", "bf16")
    elif keys.flag("fp16"):
        keys.put("precision.kind", "fp16", "fp16")
    elif "bf16" in keys.branch.entries or "fp16" in keys.branch.entries:
        job.suppose("precision.kind", "fp32", "neither bf16 nor fp16")
    keys.suppose("precision.kind", precision)
    keys.put_flag("precision.tf32", "tf32")
    keys.put_on("compile", "torch_compile")
    names = ("gradient_checkpointing", "activation_checkpointing")
    on = common.checkpointing(keys, reentrant)
    if not on and checkpointing and not any(n in keys.branch.entries for n in names):
        keys.suppose("activation_checkpointing.kind", "full")
        keys.suppose("activation_checkpointing.reentrant", reentrant)
    keys.put_on("activation_checkpointing.offload", "activation_offloading")
    common.liger(keys, *_LIGER)
    job.suppose("loss", "huggingface", _DEFAULT)
    strategy(source, keys)
    job.suppose("trainer", "huggingface", _DEFAULT)
    common.loader(keys)
    towers = ("vision_tower", "mm_vision_tower", "vision_model_name_or_path")
    if keys.text(*towers):
        why = "the tower and its tokens are not counted: the language model alone is"
        keys.matters(why, *towers)
    common.saving(keys)
    keys.settle("huggingface")
    keys.leave_matching("the compiler's settings", "torch_compile_.*")
    keys.leave(
        "read above",
        "optim_target_modules bf16 fp16 max_grad_norm optim_args dataloader_drop_last "
        "dataloader_pin_memory dataloader_persistent_workers gradient_checkpointing_kwargs "
        "activation_checkpointing_kwargs liger_kernel_config",
    )


def strategy(source: Source, keys: Keys) -> None:
    """FSDP, DeepSpeed or DDP of `TrainingArguments`, and when their gradients are reduced."""
    fsdp_keys.accumulation(keys)
    options = " ".join(keys.words("fsdp")).lower().split()
    plugin = keys.tree("fsdp_config")
    if (options and options != ["false"]) or isinstance(plugin, Branch):
        inner = keys.inner("fsdp_config") if isinstance(plugin, Branch) else _plugin(source, keys)
        version = inner.count("version", "fsdp_version") or (2 if options == ["true"] else 1)
        inner.seen.add("version")
        fsdp_keys.fsdp(inner, version, options)
    deepspeed.by_stage(keys)
    deepspeed.named(source, keys, "deepspeed")
    accelerate.mesh(keys.inner("parallelism_config"))
    buckets(keys)


def buckets(keys: Keys) -> None:
    """DDP's buckets, where nothing shards."""
    job, bucket = keys.job, keys.number("ddp_bucket_cap_mb")
    if bucket and job.at("parallelism.strategy") is None:
        job.suppose("parallelism.strategy", "ddp", "neither FSDP nor DeepSpeed is configured")
        keys.put("parallelism.bucket_cap_mb", bucket, "ddp_bucket_cap_mb")
    keys.leave(
        "FSDP and DeepSpeed have none",
        "ddp_bucket_cap_mb ddp_backend ddp_broadcast_buffers fsdp_min_num_params",
    )


def _plugin(source: Source, keys: Keys) -> Keys:
    """FSDP's keys in the file that ``fsdp_config`` names; none where it is not here."""
    none, name = Branch({}, keys.place("fsdp")), keys.text("fsdp_config")
    found = common.refer(source, name, keys.job) if name else None
    if found is not None:
        return Keys.of(found, keys.job, keys.whose)
    if name:
        why = f"{name} is not here: name it too; FSDP is taken without what it says"
        keys.matters(why, "fsdp_config")
    return Keys(keys.job, none, keys.whose, "fsdp.")


def master(keys: Keys, dtype: str, *names: str) -> None:
    """Weights loaded in 16 bits and trained without FSDP or DeepSpeed stay in 16 bits."""
    if dtype == "bf16":
        keys.job.loads_bf16 = f"{keys.named(*names)}: {keys.text(*names)}"


def _rollouts(keys: Keys) -> None:
    """Rows of GRPO and its like: a prompt and a completion."""
    names = ("max_completion_length", "max_prompt_length")
    completion, prompt = (keys.count(name) for name in names)
    row = (prompt or 512) + (completion or 256)
    if keys.has(*names):
        keys.put("sequence_length", row, *names)
    else:
        keys.suppose("sequence_length", row)


def _rows(keys: Keys) -> None:
    packed, free = keys.flag("packing"), keys.flag("padding_free")
    if free and not packed:
        common.unpadded(keys, "padding_free")
    else:
        keys.put_flag("data.packing", "packing")
    kernel = keys.text("attn_implementation") or _model_keys(keys).text("attn_implementation")
    if packed and keys.text("packing_strategy") != "wrapped" and "flash" in kernel:
        common.masked(keys, "packing")  # best-fit packing hands the kernel where samples begin
    keys.suppose("data.packing", False)
    keys.leave(
        "how samples are put into rows",
        "packing_strategy padding_free eval_packing truncation_mode pad_to_multiple_of "
        "dataset_kwargs completion_only_loss assistant_only_loss loss_type pad_token eos_token",
    )


def _turned_on(keys: Keys, own: bool) -> tuple[str, ...]:
    """Names of the keys by which adapters are on: a flag, or what full training has no use for."""
    if keys.has(*_PEFT):
        return _PEFT if any(keys.flag(name) for name in _PEFT) else ()
    if _four_bit(keys):
        return _FOUR_BIT
    if not own or not keys.has(*_OF_LORA) or keys.flag("full_finetune"):
        return ()
    first = next(name for name in _OF_LORA if keys.has(name))
    keys.job.skip(keys.place(first), first, _NO_FLAG, True)
    return _OF_LORA


def _four_bit(keys: Keys) -> bool:
    return any(keys.flag(n) for n in ("load_in_4bit", "q_lora")) or keys.text("bits") == "4"


def _method(keys: Keys, rank: int, dropout: float, narrow: bool, own: bool = False) -> None:
    """LoRA where it is on; `narrow` adapters are of 16 bits beside weights of 4.

    A script of one's `own` may have no flag that turns it on.
    """
    four, on = _four_bit(keys), _turned_on(keys, own)
    if on:
        names = LoraKeys(" ".join(on), _RANK, _TARGETS, "lora_dropout")
        theirs = keys.has(_SOURCE, _TARGET)
        if own and not theirs and not keys.has(*_RANK.split()):
            keys.job.skip(keys.place(*on), keys.named(*on), _NO_RANK, True)
        common.lora(
            keys, names, four, rank=64 if theirs else rank, dropout=dropout,
            default_targets="all-linear" if theirs else "qv",
        )  # fmt: skip
        nested = keys.flag("use_bnb_nested_quant", "double_quant")
        if nested is None:
            nested = theirs
        if four:
            name = "use_bnb_nested_quant"
            place = keys.place(name, "double_quant", *_FOUR_BIT)
            keys.job.take("method.double_quantization", nested, place, name)
            # SFTTrainer since TRL 0.26, which no longer runs prepare_model_for_kbit_training
            if narrow:
                keys.suppose("method.adapter_dtype", "bf16")
    elif not own:
        keys.job.suppose("method.kind", "full", "use_peft is not set")
        keys.leave(
            "use_peft is not set",
            "lora_r lora_target_modules lora_dropout load_in_4bit load_in_8bit",
        )
    keys.leave(
        WHY_NO_MATTER,
        "bnb_4bit_quant_type bnb_4bit_quant_storage quant_type lora_task_type use_bnb_nested_quant "
        "load_in_4bit load_in_8bit",
    )


FORMATS.register(
    TrainerFormat("huggingface", "a file of Hugging Face trainer arguments", recognises, read)
)
