"""A GPU for a machine, a model for a job, another tool's file that none reads: what to write."""

from __future__ import annotations

import re
from collections.abc import Collection

from sim.inputs import catalogue
from sim.inputs.counted import Counted, begun, counted, machines_with
from sim.inputs.gpu import GPUS_A_NODE
from sim.inputs.spoken import gpu_named

_MOST = 6
_NETWORK = "and their network, as --set 'node.nics={count: 1, rate: 100 Gb/s}'"
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
    ("a prime-rl configuration", {"orchestrator", "inference"}),
    ("a prime-rl configuration", {"orchestrator", "trainer"}),
    ("a NeMo-RL configuration", {"policy", "grpo"}),
    ("a NeMo-RL configuration", {"policy", "sft"}),
    ("a NeMo-RL configuration", {"policy", "dpo"}),
    ("a MaxText configuration", {"base_emb_dim", "per_device_batch_size"}),
)


def _begins(command: str) -> re.Pattern[str]:
    """Lines that such a command begins, or that Slurm or a notebook starts it on."""
    words = re.escape(command).replace(r"\ ", " +")
    return re.compile(rf"^[ \t!%]*(?:srun +(?:-\S+ +)*)?{words}\b", re.M)


#: commands and calls of tools whose jobs are not read
_UNREAD_WORDS = (
    ("a command of Megatron-SWIFT", re.compile(r"^[ \t]*megatron +(?:sft|pt|rlhf)\b", re.M)),
    ("a command of LitGPT", _begins("litgpt")),
    ("a command of XTuner", _begins("xtuner train")),
    ("a command of AutoTrain", _begins("autotrain")),
    ("a command of Colossal-AI", _begins("colossalai run")),
    ("a command of MLX, which trains on Apple's GPUs", _begins("mlx_lm.lora")),
    ("torchtune's command (the file of its recipe is: tune cp RECIPE FILE)", _begins("tune run")),
    ("a recipe of NeMo 2", re.compile(r"\bllm\.\w+\.(?:pretrain|finetune)_recipe\(")),
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
        meant = counted(name)
        if meant is None:
            gpus = begun(name)
            which = f"may be any of {len(gpus)} GPUs, {_some([*gpus])}; write which, and how many: "
            return f'{which}"8x {gpus[-1]}"' if len(gpus) > 1 else ""
        sizes, told = machines_with(meant.gpu), f"is the GPU {meant.gpu}, not a machine; "
        told += f"machines with it are {_some(list(sizes))}; " * bool(sizes)
        if not meant.gpus:
            return f'{told}write how many of it, "8x {name}"{", or one of them" * bool(sizes)}'
        return f"{told}{_nodes_of(meant, max(sizes.values(), default=0))}"
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
    return [] if name is None else list(machines_with(name))


def shape_instead(name: str, keys: Collection[str]) -> str:
    """What to do with a model's config.json where a job is expected; "" where it is none."""
    if "model_type" not in keys or "model" in keys:
        return ""
    return (
        "is the config.json of a model, not a job; any job takes it with "
        f"--set model={name}, or with --model-config {name}"
    )


def unread(keys: Collection[str], text: str = "") -> str:
    """What to do with a file of a tool that is known and not read; "" for any other.

    Parameters
    ----------
    keys : collection of str
        Those at the top of the file, and those of its ``trainer`` as ``trainer.devices``.
    text : str
        The file itself, of a script.
    """
    tools = (title for title, own in _UNREAD if own <= set(keys))
    tool = next(tools, next((t for t, words in _UNREAD_WORDS if words.search(text)), ""))
    return f"is {tool}, which is not read; write its job as a workload (start: init)" * bool(tool)


def _nodes_of(meant: Counted, each: int) -> str:
    """Why so many of a GPU are no machine, nodes shipping with up to `each`; how to say them."""
    most = each if each >= GPUS_A_NODE and meant.nodes == 1 else GPUS_A_NODE
    a_node = min(meant.gpus, most)
    if meant.gpus % a_node or most == each:
        return f"{meant.gpus} of it are no whole number of nodes of {a_node}"
    nodes = f"--set nodes={meant.nodes * meant.gpus // a_node}"
    return f'nodes of {a_node} are "{a_node}x {meant.gpu}" with {nodes} {_NETWORK}'


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + rest


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
