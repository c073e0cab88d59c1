"""A plan as a torchtitan job configuration (TOML of v0.2; later versions configure in Python).

torchtitan trains in full and shards with FSDP2: LoRA and ZeRO plans are refused rather than
written as something else.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sim.errors import InputError
from sim.inputs.dtypes import reduce_dtype
from sim.inputs.model import Model
from sim.inputs.modelling import ASYNC, tensor_style
from sim.inputs.models import catalogue_model
from sim.inputs.pipeline import less_layers, shape_of
from sim.inputs.shares import batch_of, mesh_of
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.emit_common import steps_said
from sim.interop.trainers.torchtitan import catalogue_name, said_as
from sim.pipeline.schedules import SCHEDULES
from sim.quantities import counted

#: in which checkpoints of one shape differ
_APART = ("name", "max_positions", "source")


def torchtitan_toml(topology: Topology, workload: Workload) -> str:
    """The job configuration.

    Raises
    ------
    InputError
        The plan is not full training, its context parallelism is Ulysses', or no flavour of a
        model is what it trains.
    """
    p, option = workload.parallelism, "--emit torchtitan"
    if workload.method.adapted:
        kind = workload.method.kind
        message = f"torchtitan trains in full, it cannot run {kind}; emit accelerate instead"
        raise InputError.single(option, message)
    if p.context_parallel > 1 and p.context_parallel_kind == "ulysses":
        message = "torchtitan's context parallelism has no all-to-alls over heads; write ring"
        raise InputError.single(option, message)
    strategy = strategy_of(workload)
    reshard = p.reshard_after_forward
    mesh, batch = mesh_of(topology, workload), batch_of(topology, workload)
    ac = workload.activation_checkpointing
    compiled = ["model", "loss"] if workload.loss == "compiled" else ["model"]
    tables: dict[str, dict[str, Any]] = {
        "job": {"dump_folder": "./outputs", "description": workload.name},
        "model": _model(workload.model),
        "optimizer": {
            "name": "AdamW",
            "implementation": workload.optimizer_implementation,
        },
        "training": {
            "local_batch_size": workload.micro_batch,
            "global_batch_size": batch.sequences,
            "seq_len": workload.sequence_length,
            "max_norm": 1.0 if p.clip_gradients else 0.0,
            "dtype": "bfloat16" if workload.precision.master == "bf16" else "float32",
            "mixed_precision_param": "float32" if workload.precision.kind == "fp32" else "bfloat16",
            "mixed_precision_reduce": {"bf16": "bfloat16"}.get(reduce_dtype(workload), "float32"),
            "enable_cpu_offload": p.offload in ("parameters", "all"),
        },
        "parallelism": {
            "data_parallel_replicate_degree": mesh.dp_replicate,
            "data_parallel_shard_degree": 1 if strategy.replicates(p) else -1,
            "fsdp_reshard_after_forward": "never" if reshard is False else "always",
            "tensor_parallel_degree": mesh.tp,
            "pipeline_parallel_degree": mesh.pp,
            "context_parallel_degree": mesh.cp,
            "expert_parallel_degree": mesh.ep,
        },
        "checkpoint": {
            "enable": workload.checkpoint.interval is not None,
            "async_mode": "async" if workload.checkpoint.asynchronous else "disabled",
        },
        "activation_checkpoint": {"mode": ac.kind.split("-")[0]},
        "compile": {"enable": workload.compile, "components": compiled},
    }
    if mesh.cp > 1:
        rotation = {"all-gather": "allgather", "all-to-all": "alltoall"}
        tables["parallelism"]["context_parallel_rotate_method"] = rotation[
            p.context_parallel_rotation
        ]
    if tensor_style(workload) == ASYNC:
        tables["parallelism"]["enable_async_tensor_parallel"] = True
    if mesh.ep > 1 and p.expert_dispatch == "deepep":
        tables["parallelism"]["expert_parallel_comm_backend"] = "deepep"
    if mesh.pp > 1:
        tables["parallelism"] |= _pipeline(workload)
        tables["training"]["local_batch_size"] *= workload.gradient_accumulation
    if steps := steps_said(topology, workload):
        tables["training"]["steps"] = steps
    if ac.kind == "selective-op":
        tables["activation_checkpoint"]["selective_ac_option"] = "op"
    elif ac.kind == "selective-blocks":
        tables["activation_checkpoint"]["selective_ac_option"] = str(ac.every)
    if workload.precision.recipe == "mxfp8":
        tables["model"]["converters"] = ["quantize.linear.mx"]
        tables["quantize.linear.mx"] = {"recipe_name": "mxfp8_cublas", "filter_fqns": ["output"]}
    elif workload.precision.kind == "fp8":
        tables["model"]["converters"] = ["quantize.linear.float8"]
        tables["quantize.linear.float8"] = {
            "recipe_name": workload.precision.recipe,
            "enable_fsdp_float8_all_gather": workload.precision.all_gather == "fp8",
            "filter_fqns": ["output"],
        }
    lines = [f"# {workload.name}, written by scaling-sim for {counted(mesh.world, 'GPU')}"]
    for table, entries in tables.items():
        lines += ["", f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in entries.items())]
    return "\n".join(lines) + "\n"


def _pipeline(workload: Workload) -> dict[str, Any]:
    """How the local batch is cut into micro-batches, and the layers into stages.

    Raises
    ------
    InputError
        Stages that torchtitan, which rounds layers a stage up, would not make.
    """
    p, shape = workload.parallelism, shape_of(workload)
    first, last = less_layers(workload)
    found: dict[str, Any] = {
        "pipeline_parallel_schedule": SCHEDULES[p.pipeline_schedule].torch_name,
        "pipeline_parallel_microbatch_size": workload.micro_batch,
        "pipeline_parallel_first_stage_less_layers": first,
        "pipeline_parallel_last_stage_less_layers": last,
    }
    if shape.virtual != SCHEDULES[p.pipeline_schedule].virtual:
        units = workload.model.layers + first + last
        each = -(-units // shape.stages)
        made = -(-units // each)
        if made != shape.stages:
            message = f"torchtitan makes {made} stages of {each} layers, not {shape.stages}"
            option = "--emit torchtitan"
            raise InputError.single(option, message)
        found["pipeline_parallel_layers_per_stage"] = each
    return found


def _model(model: Model) -> dict[str, str]:
    """Family and flavour that are read as a model of this shape."""
    name = model.name
    for family, flavour in ((_family(name), _flavour(name)), *said_as(name)):
        read = catalogue_model(catalogue_name(family, flavour))
        if read and read.model_copy(update={k: getattr(model, k) for k in _APART}) == model:
            return {"name": family, "flavor": flavour}
    option = "--emit torchtitan"
    message = f"torchtitan has no flavour for model: {name}; emit accelerate or yaml instead"
    raise InputError.single(option, message)


def _family(name: str) -> str:
    if name.startswith("llama-"):
        return "llama3" if name.startswith("llama-3") else "llama2"
    return re.split(r"[-.]", name)[0]


def _flavour(name: str) -> str:
    """The size in a name: ``llama-3.1-8b`` is flavour 8B, ``qwen3-30b-a3b`` 30B-A3B."""
    sizes = re.findall(r"(?<![\w.])(?:\d+x)?\d+(?:\.\d+)?[bm](?:-a\d+(?:\.\d+)?b)?\b", name)
    return sizes[-1].upper() if sizes else name
