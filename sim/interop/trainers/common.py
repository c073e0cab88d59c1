"""What the readers of several trainers share: length, LoRA, experts, files that others name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.inputs.foreign import beside, source_of
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Leaf, read_file
from sim.interop.trainers import words
from sim.interop.trainers.keys import Keys
from sim.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: device maps of accelerate that cut a model over the GPUs of a process
_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True, slots=True)
class TrainerFormat:
    """A format by what tells it and what reads it (see `sim.inputs.foreign.Format`).

    Of a launch, ``options`` are those that it gives to scripts, by the script's name.
    """

    name: str
    title: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source, Translation], None]
    options: Callable[[Source], Mapping[str, Mapping[str, str]]] | None = None


PARTLY_FROZEN = (
    "what is frozen of a partly frozen model is not followed: taken as trained in full (more "
    "states); add --set 'method={freeze: {last: N}}', or first, layers, extra"
)
OF_PEFT = "PEFT's default"
_EIGHT_BIT = "8-bit weights are not modelled where they are sharded: taken in the compute dtype"
_RUN_TIME = "counted in steps or epochs: `checkpoint.interval` and `evaluation` are set by hand"


def length(keys: Keys, epochs: str, default: float = 1.0, why: str = "") -> None:
    """How long the job is: steps where they are given, else epochs of the samples that a user says.

    Parameters
    ----------
    keys : Keys
        Of the file.
    epochs : str
        Its key for epochs.
    default : float
        Epochs where it has none.
    why : str
        Whose default that is.
    """
    steps = keys.count("max_steps")
    if steps and steps > 0:
        keys.put("steps", steps, "max_steps")
        keys.leave("max_steps ends the job first", epochs)
        return
    keys.leave("no limit", "max_steps")
    for name in ("max_steps", epochs):
        keys.note("epochs", name)
    passes = keys.number(epochs)
    if passes is not None:
        keys.put("epochs", passes, epochs)
    elif default != 1.0:
        keys.job.suppose("epochs", default, why)


class LoraKeys(NamedTuple):
    """What a trainer calls LoRA's keys; several names of one with spaces between."""

    kind: str  # what says that it is LoRA
    rank: str
    targets: str
    dropout: str


def lora(
    keys: Keys, names: LoraKeys, four_bit: bool, *, rank: int = 8, dropout: float = 0.0,
    default_targets: str = "qv", why: str = "",
) -> None:  # fmt: skip
    """Put a LoRA method, and what the library takes where keys are open.

    Parameters
    ----------
    keys : Keys
        Of the file.
    names : LoraKeys
        Its names.
    four_bit : bool
        Whether the frozen weights are of 4 bits.
    rank, dropout, default_targets
        What the library takes.
    why : str
        Whose defaults these are; the trainer's.
    """
    job, why = keys.job, why or keys.whose
    keys.put("method.kind", "qlora" if four_bit else "lora", *names.kind.split())
    keys.put_count("method.rank", *names.rank.split())
    job.suppose("method.rank", rank, why)
    value = keys.number(*names.dropout.split())
    if value is not None:
        keys.put("method.dropout", value, *names.dropout.split())
    job.suppose("method.dropout", dropout, why)
    words.targets(keys, *names.targets.split())
    job.suppose("method.targets", default_targets, why)
    keys.put_flag("method.dora", "use_dora", "peft_use_dora")
    in_full = ("modules_to_save", "lora_modules_to_save", "additional_target")
    saved = keys.words(*in_full)
    if saved:
        why = f"{', '.join(saved)} trained in full beside the adapters are not counted"
        keys.matters(why, *in_full)


def unsloth(job: Translation, adapted: bool) -> None:
    """Unsloth's kernels, fused adapters, and its loss, which never holds all logits.

    Source: unsloth/models/llama.py, `CausalLM_fast_forward`, `get_peft_model`.
    """
    for key, value in (("fused_kernels", "all"), ("loss", "fused-linear")):
        job.suppose(key, value, "Unsloth's kernels")
    if adapted:
        job.suppose("method.adapters", "fused", "Unsloth's kernels")


def liger(keys: Keys, *names: str) -> None:
    """Liger's kernels, and its loss that runs with the head, where a flag is set.

    Which of them, a mapping beside the flag may say; each that it leaves out runs.
    """
    if not keys.flag(*names):
        return
    config = keys.inner("liger_kernel_config")
    parts = [config.flag(part) is not False for part in ("rms_norm", "swiglu", "rope")]
    fused = "all" if all(parts[:2]) else ("norm+rope" if parts[2] else "norm") if parts[0] else ""
    if fused:
        keys.put("fused_kernels", fused, *names)
    elif any(parts):
        config.matters("of Liger's kernels those with norms are followed", "rms_norm")
    if config.flag("fused_linear_cross_entropy") is not False:
        keys.put("loss", "fused-linear", *names)
    elif config.flag("cross_entropy"):
        config.put("loss", "huggingface-fused", "cross_entropy")


def eight_bit(keys: Keys, name: str) -> None:
    """The frozen weights are of 8 bits, by a key of such a name, where no strategy shards them."""
    strategy = keys.job.text_at("parallelism.strategy")
    if strategy.startswith("fsdp") or strategy == "zero3":
        keys.matters(_EIGHT_BIT, name)
    elif keys.job.text_at("method.kind") == "lora":
        keys.put("method.quantization", "int8", name)


def experts(keys: Keys, name: str) -> int:
    """Ranks that experts are spread over; said to be left out where that is not modelled."""
    job, ranks = keys.job, keys.count(name) or 1
    if ranks == 1:
        return 1
    full = job.text_at("method.kind") in ("", "full")
    if full and job.text_at("parallelism.strategy") == "fsdp2":
        keys.put("parallelism.expert_parallel", ranks, name)
        job.suppose("experts", "grouped", "experts on other ranks run as a group")
    else:
        why = (
            "experts are spread over ranks with FSDP2 and full training alone: here all are on each"
        )
        keys.matters(why, name)
    return ranks


def refer(source: Source, name: str, job: Translation) -> Source | None:
    """A file that another names, read; None where it is not there."""
    path = beside(source, name)
    if path is None:
        return None
    found = source_of(read_file(path), str(path), path, job.faults)
    job.titles.append(f"{path.name}, which it names")
    return found


def checkpointing(keys: Keys, reentrant: bool, why: str = "") -> bool:
    """Gradient checkpointing of a Hugging Face trainer; True where it is on."""
    names = ("gradient_checkpointing", "activation_checkpointing")
    word = keys.text(*names).lower()
    offload = word.startswith("offload") or word == "unsloth"
    on = offload or bool(keys.flag(*names)) if word else False
    if not on:
        if word in ("false", "no"):
            keys.leave("the default", names)
        return False
    keys.put("activation_checkpointing.kind", "full", *names)
    if offload:
        keys.put("activation_checkpointing.offload", True, *names)
    inner = keys.inner("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
    inner.put_flag("activation_checkpointing.reentrant", "use_reentrant")
    keys.job.suppose("activation_checkpointing.reentrant", reentrant, why or keys.whose)
    return True


def loader(keys: Keys) -> None:
    """The data loader of a Hugging Face trainer, and whether gradients are clipped."""
    keys.put_count("data.workers", "dataloader_num_workers")
    keys.put_count("data.prefetch", "dataloader_prefetch_factor")
    if keys.number("max_grad_norm") == 0:
        keys.put("parallelism.clip_gradients", False, "max_grad_norm")
    sampling = keys.text("train_sampling_strategy") == "group_by_length"  # transformers 5
    name = "train_sampling_strategy" if sampling else "group_by_length"
    if (sampling or keys.flag(name)) and keys.job.text_at("data.packing").lower() != "true":
        keys.put("data.group_by_length", True, name)


_LENGTHS = frozenset({"data.mean_length", "data.sequence_lengths"})


def masked(keys: Keys, name: str) -> None:
    """Packed samples that do not see each other: less attention, if one knew their lengths."""
    keys.job.skip(
        keys.place(name), keys.named(name),
        "attention is counted over whole rows, as no file says how long samples are; add "
        "--set data.mean_length=N --set data.document_masks=true", True,
        (_LENGTHS, frozenset({"data.document_masks"})),
    )  # fmt: skip


def own_muon(keys: Keys, name: str) -> None:
    """A tool's Muon is a class of its own, where Muon's step is taken at all.

    Source: LLaMA-Factory, third_party/muon; axolotl, contribs/mit/muon.
    """
    whole = keys.job.text_at("parallelism.strategy") in ("", "ddp", "single")
    if whole and keys.job.text_at("optimizer") == "muon":
        why = (
            "its own class of Muon steps: taken as torch.optim.Muon, of the same products; what "
            "it moves beside them and how it steps all else may differ"
        )
        keys.matters(why, name)


def unpadded(keys: Keys, name: str) -> None:
    """Samples one after the other without padding: as many tokens as they have, were it known."""
    keys.put("data.packing", True, name)
    filled(keys, name)


def filled(keys: Keys, name: str) -> None:
    """What a key of samples without padding leaves open: how long they are."""
    keys.job.skip(
        keys.place(name), keys.named(name),
        "rows are counted as full, as no file says how long samples are; add "
        "--set data.mean_length=N --set data.packing=padding-free", True,
        (_LENGTHS, frozenset({"data.packing"})),
    )  # fmt: skip


def saving(keys: Keys) -> None:
    """When checkpoints are saved and evaluation runs: in steps, which are no time."""
    if keys.text("save_strategy").lower() == "no":
        keys.put("checkpoint.interval", None, "save_strategy")
    keys.leave(
        _RUN_TIME,
        "save_strategy save_steps eval_strategy eval_steps evals_per_epoch saves_per_epoch "
        "per_device_eval_batch_size do_eval eval_sample_packing eval_table_size "
        "eval_max_new_tokens eval_accumulation_steps val_size eval_dataset",
    )


def spread(keys: Keys) -> None:
    """Layers of one process over several GPUs are said not to be modelled."""
    found = keys.branch.entries.pop("device_map", None)
    if isinstance(found, Leaf) and found.value in _SPREAD:
        keys.job.skip(
            found.place, f"device_map: {found.value}",
            "over several GPUs of one process it spreads layers, which wait for each other: not "
            "modelled; taken as a model on each GPU", True,
        )  # fmt: skip
