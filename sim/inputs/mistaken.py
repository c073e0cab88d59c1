"""A GPU for a machine, a model for a job, another tool's file that none reads: what to write."""

from __future__ import annotations

import re
from collections.abc import Collection

from sim.inputs import catalogue
from sim.inputs.spoken import gpu_named

#: "8x A100", "A100 x 8"; the x of "RTX 4090" counts nothing
_COUNT = re.compile(r"^\s*(\d+)\s*[x*]\s*|\s*(?<![a-z])[x*]\s*(\d+)\s*$", re.IGNORECASE)
_GPUS = re.compile(r"^ +gpus: (\d+)\s*$", re.M)
_MOST = 6
#: tools whose files are not read, and top-level keys that tell them
_UNREAD = (
    ("a NeMo 1.x configuration", {"trainer", "exp_manager", "model"}),
    ("a configuration of Lightning or NeMo 1.x", {"trainer.devices"}),
    ("a configuration of Lightning or NeMo 1.x", {"trainer.accelerator"}),
    ("a nanotron configuration", {"general", "parallelism", "tokens"}),
    ("an llm-foundry configuration", {"max_seq_len", "global_train_batch_size"}),
    ("an llm-foundry configuration", {"variables", "global_train_batch_size"}),
    ("a LitGPT configuration", {"checkpoint_dir", "train"}),
    ("a LitGPT configuration", {"model_name", "train"}),
    ("a MaxText configuration", {"base_emb_dim", "per_device_batch_size"}),
)


def instead(side: str, name: str) -> str:
    """What a name is and which of a side's names go with it; "" where it is nothing known.

    Parameters
    ----------
    side : str
        ``topology`` or ``workload``, which there is none of that name of.
    name : str
        ``H100``, ``8 x A100 80GB``; ``Qwen/Qwen2.5-7B``.
    """
    if side == "topology":
        gpu = gpu_named(_COUNT.sub("", name), catalogue.gpu_names())
        if gpu is None:
            return ""
        names = _machines(gpu)
        said = f"is the GPU {gpu}, not a machine; "
        if not names:
            return f"{said}write a machine of it with scaling-sim init, node.gpu: {gpu}"
        many = _COUNT.search(name)
        count = int(many[1] or many[2]) if many else 0
        names.sort(key=lambda name: _gpus(name) != count if count else False)  # as many first
        return f"{said}machines with it are {_some(names)}{_cut_to(count, names)}"
    model = _model(name)
    if model is None:
        return ""
    names = _shipped("workloads", rf"^model: {re.escape(model)}\s*$")
    said = f"is the model {model}, not a job; "
    said += f"jobs that train it are {_some(names)}; " if names else ""
    return f"{said}any other job takes it with --set model={model}"


def shipped_with(gpu: str) -> list[str]:
    """Shipped machines with a GPU as people name it; none where no GPU is meant."""
    name = gpu_named(gpu, catalogue.gpu_names())
    return [] if name is None else _machines(name)


def _machines(gpu: str) -> list[str]:
    return _shipped("topologies", rf"^\s*(?:- )?gpu: {re.escape(gpu)}\s*$")


def shape_instead(name: str, keys: Collection[str]) -> str:
    """What to do with a model's config.json where a job is expected; "" where it is none."""
    if "model_type" not in keys or "model" in keys:
        return ""
    return (
        "is the config.json of a model, not a job; any job takes it with "
        f"--set model={name}, or with --model-config {name}"
    )


def unread(keys: Collection[str]) -> str:
    """What to do with a file of a tool that is known and not read; "" for any other.

    Parameters
    ----------
    keys : collection of str
        Those at the top of the file, and those of its ``trainer`` as ``trainer.devices``.
    """
    tool = next((title for title, own in _UNREAD if own <= set(keys)), "")
    return f"is {tool}, which is not read; write its job as a workload (start: init)" * bool(tool)


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + rest


def _cut_to(count: int, names: list[str]) -> str:
    """How to have a number of GPUs of which no machine is shipped; "" where one is, or none can."""
    sizes = {name: _gpus(name) for name in names}
    larger = {name: size for name, size in sizes.items() if size > count}
    if not count or count in sizes.values() or not larger:
        return ""
    return f"; with {count} of them: {min(larger, key=larger.__getitem__)} --set node.gpus={count}"


def _gpus(machine: str) -> int:
    """GPUs of a shipped machine's node; 0 where its nodes differ."""
    path = catalogue.find("topologies", machine)
    found = _GPUS.findall(path.read_text(encoding="utf-8")) if path is not None else []
    return int(found[0]) if len(found) == 1 else 0


def _model(name: str) -> str | None:
    from sim.inputs.models import catalogue_model, shape_named

    found = catalogue_model(name) or catalogue_model(shape_named(name) or "")
    return found.name if found is not None else None


def _shipped(kind: str, pattern: str) -> list[str]:
    """Names of shipped files in which a line stands."""
    found = []
    for name in catalogue.names(kind):
        path = catalogue.find(kind, name)
        if path is not None and re.search(pattern, path.read_text(encoding="utf-8"), re.M):
            found.append(name)
    return found
