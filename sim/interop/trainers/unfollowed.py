"""Calls of Python scripts that cut, shrink or add to a job, and that are not followed: told of."""

from __future__ import annotations

from sim.inputs.python_calls import CONDITION, calls_of
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Leaf
from sim.interop.trainers.common import PARTLY_FROZEN

_PIPELINE = "a pipeline by hand is not followed: add --set parallelism.pipeline_parallel=N"
_COPY = "its copy of the weights is not counted"
_LOCAL = "steps that average no gradients are not modelled: reduced at every step"
_FP8 = "FP8 is not followed: add --set precision=fp8"
_BACKWARD = "steps within backward are not followed: add --set optimizer_in_backward=true"
#: why, and the key of ours that says what a call leaves open
_CALLS: dict[str, tuple[str, str]] = {
    "parallelize_module": (
        "tensor parallelism by hand is not followed: add --set parallelism.tensor_parallel=N",
        "parallelism.tensor_parallel",
    ),
    "context_parallel": (
        "context parallelism by hand is not followed: add --set parallelism.context_parallel=N",
        "parallelism.context_parallel",
    ),
    **dict.fromkeys(
        ("PipelineStage", "PipelineModule", "ScheduleGPipe", "Schedule1F1B", "prepare_pippy",
         "ScheduleInterleaved1F1B", "ScheduleInterleavedZeroBubble", "ScheduleZBVZeroBubble"),
        (_PIPELINE, "parallelism.pipeline_parallel"),
    ),
    "DataParallel": ("one process for all GPUs is not modelled: a model on each, as under DDP", ""),
    "ZeroRedundancyOptimizer": (
        "shards of states under DDP are not modelled: each GPU holds all of them", "",
    ),
    **dict.fromkeys(("convert_to_float8_training", "fp8_autocast"), (_FP8, "precision")),
    **dict.fromkeys(
        ("register_post_accumulate_grad_hook", "apply_optimizer_in_backward",
         "_apply_optimizer_in_backward"), (_BACKWARD, "optimizer_in_backward"),
    ),
    "save_on_cpu": (
        "saved tensors on the host are not followed: add --set activation_checkpointing.offload",
        "activation_checkpointing.offload",
    ),
    "register_comm_hook": ("what a hook makes of gradients is not modelled: reduced as they are",
                           ""),
    **dict.fromkeys(("AveragedModel", "EMAModel", "ExponentialMovingAverage"), (_COPY, "")),
    **dict.fromkeys(("LocalSGD", "PostLocalSGDOptimizer", "DiLoCo"), (_LOCAL, "")),
    "MegatronLMPlugin": ("accelerate's plugin of Megatron-LM is not read", ""),
}  # fmt: skip
_SPLIT = "each batch of a loader is cut over the ranks: --set micro_batch=N, of one of them"
_MOMENTUM = "its momentum is not counted: a state as large as the weights"


def tell(source: Source, job: Translation) -> None:
    """Tell of each kind of call once, where it stands.

    Parameters
    ----------
    source : Source
        The script.
    job : Translation
        What was read of it so far: where adapters train, what is frozen is no news.
    """
    adapted = job.text_at("method.kind") in ("lora", "qlora")
    told: set[str] = set()
    for name, call in calls_of(source.branch):
        last = name.rpartition(".")[2]
        theirs, why, answer = _found(name, last, call, adapted)
        if why and why not in told:
            told.add(why)
            under = call.entries.get(CONDITION)
            why += f" (if {under.value})" if isinstance(under, Leaf) else ""
            answers = (frozenset({answer}),) if answer else ()
            job.skip(call.place, theirs, why, True, answers)


def _found(name: str, last: str, call: Branch, adapted: bool) -> tuple[str, str, str]:
    """What a call is to be called, why it is told of, and what answers it; "" of most calls."""
    given = {key: tree.value for key, tree in call.entries.items() if isinstance(tree, Leaf)}
    if last in _CALLS:
        return (f"{last}()", *_CALLS[last])
    if last in ("requires_grad", "requires_grad_") and not adapted:
        if given.get("0", given.get("requires_grad", True)) is not True:
            return name, PARTLY_FROZEN, "method"
    elif last == "SGD" and given.get("momentum", given.get("2", 0)) != 0:
        return "SGD.momentum", _MOMENTUM, ""
    elif given.get("split_batches") is True:
        return f"{last}.split_batches", _SPLIT, "micro_batch"
    return "", "", ""
