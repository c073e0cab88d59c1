"""What the files of several Hugging Face trainers say alike."""

from __future__ import annotations

from typing import Any

from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.trainer import reduces_each, trainer_named
from sim.inputs.workload import Workload
from sim.interop.trainers.linears import written_targets
from sim.job.basis import job_steps


def steps_said(topology: Topology, workload: Workload) -> int | None:
    """Optimizer steps of a job whose length is given in steps or tokens; None: in epochs."""
    if not (workload.steps or workload.tokens):
        return None
    length = job_steps(workload, topology.world_size)
    return length[0] if length else None


def length_said(topology: Topology, workload: Workload, epochs: str) -> dict[str, Any]:
    """How long a job is, in steps or under the trainer's key of epochs."""
    steps = steps_said(topology, workload)
    return {"max_steps": steps} if steps else {epochs: workload.epochs}


def tf32(workload: Workload) -> dict[str, Any]:
    """What turns TF32 on."""
    return {"tf32": True} if workload.precision.tf32 else {}


def accumulation(workload: Workload) -> dict[str, Any]:
    """What keeps the Trainer from no_sync() where gradients are reduced in every micro-step."""
    every = reduces_each(workload) and workload.gradient_accumulation > 1
    if not every or strategy_of(workload).name not in trainer_named("huggingface").no_sync:
        return {}
    return {"accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}}}


def adapters(workload: Workload, dora: str) -> dict[str, Any]:
    """LoRA's matrices, as PEFT calls them with a prefix; `dora`: what the trainer calls its key."""
    method = workload.method
    return {
        "lora_r": method.rank,
        "lora_dropout": method.dropout,
        "lora_target_modules": written_targets(workload),
        **({dora: True} if method.dora else {}),
    }


def yours(workload: Workload, *files: str) -> str:
    """A line on what no plan has, since no step is longer for it: `files`, and how it learns."""
    scaled = ("lora_alpha",) if workload.method.adapted else ()
    return f"Yours to add: {', '.join((*files, 'learning_rate', *scaled))}, warmup, saving, logging"


def state_dict_type(workload: Workload) -> str:
    """How FSDP saves."""
    return "SHARDED_STATE_DICT" if workload.checkpoint.mode == "sharded" else "FULL_STATE_DICT"
