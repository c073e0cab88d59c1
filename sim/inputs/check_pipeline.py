"""Checks of a pipeline: its stages, its schedule, its micro-batches."""

from __future__ import annotations

from sim.inputs.finding import Findings, fault, warning
from sim.inputs.modelling import modelling_of
from sim.inputs.pipeline import less_layers, shape_of, stage_layers
from sim.inputs.strategy import not_modelled, strategy_of
from sim.inputs.workload import Workload
from sim.pipeline.schedules import SCHEDULES, PipelineShape, rounds


def findings(w: Workload) -> Findings:
    """What is wrong with a pipeline, on any machine."""
    p = w.parallelism
    path = "parallelism.pipeline_parallel"
    if p.pipeline_parallel == 1:
        return
    schedule, shape = SCHEDULES[p.pipeline_schedule], shape_of(w)
    if lacks := not_modelled(strategy_of(w), "pipelines are", "pipeline_parallel"):
        yield fault("pipeline-strategy", "workload", path, lacks.message, lacks.hint)
        return
    if shape.virtual != schedule.virtual and not schedule.several:
        message = f"{schedule.title} has {schedule.virtual} stages a rank"
        hint = f"write {schedule.virtual}, or interleaved-1f1b"
        yield fault("virtual-stages", "workload", "parallelism.virtual_stages", message, hint)
        return
    if p.pipeline_defer_receives and not schedule.table:
        message = f"{schedule.title} runs a loop of its own, which receives when it has to"
        hint = "leave it out, or write pipeline_schedule: interleaved-1f1b"
        yield fault("late", "workload", "parallelism.pipeline_defer_receives", message, hint)
    layers = stage_layers(w)
    full = p.pipeline_split == "cost" or all(layers[1:-1])  # work may lie in a head alone
    if p.pipeline_layers and (len(layers), sum(layers)) != (shape.stages, w.model.layers):
        message = (
            f"{sum(layers)} layers of {len(layers)} stages are written; the job has"
            f" {w.model.layers} of {shape.stages} (ranks of a pipeline x virtual stages)"
        )
        hint = "write how many each has, those of the first virtual stages first"
        yield fault("stages", "workload", "parallelism.pipeline_layers", message, hint)
    elif min(layers[0], layers[-1]) < 0 or not full:
        message = f"{w.model.layers} layers of {w.model.name} do not fill {shape.stages} stages"
        yield fault("stages", "workload", path, message, "write fewer stages")
    elif strategy_of(w).even_stages and not modelling_of(w).cuts_by_work:
        yield from _even(w, shape)
    yield from micro_batches(w)
    if not strategy_of(w).ties_stages and w.model.tied_embeddings:
        message = f"{w.model.name} ties embedding and head, which are on two stages"
        able = "strategy: megatron, which sums its two copies"
        hint = f"write 1, {able}, or model.tied_embeddings: false"
        yield fault("tied", "workload", path, message, hint)
    if p.wrap in ("linear", "peft"):
        message = "a pipeline needs units of whole blocks"
        yield fault("pipeline-wrap", "workload", "parallelism.wrap", message, "write torchtitan")
    if p.offload != "none" or w.activation_checkpointing.offload:
        message = "offloading is not modelled in a pipeline"
        yield fault("pipeline-offload", "workload", path, message, "write 1, or do not offload")
    if w.method.frozen:
        message = f"a pipeline is modelled for full training, not for {w.method.kind}"
        yield fault("pipeline-method", "workload", path, message, "write 1")
    if schedule.splits and w.activation_checkpointing.kind != "none":
        message = (
            f"{schedule.title} splits backward, and stock PyTorch repeats a checkpointed block for "
            "every parameter's gradient: about ten times the recompute"
        )
        hint = "write activation_checkpointing: none, or interleaved-1f1b"
        yield warning("split-recompute", "workload", "activation_checkpointing", message, hint)


def _even(w: Workload, shape: PipelineShape) -> Findings:
    """Stages of equal length, none empty, where a trainer asserts that.

    Source: Megatron-LM, core/transformer/transformer_block.py, `get_num_layers_to_build`:
    ``num_layers`` plus ends that stand for a layer, divisible by ranks, then by virtual stages.
    """
    if w.parallelism.pipeline_split == "cost" or w.parallelism.pipeline_layers:
        return
    units = w.model.layers + sum(less_layers(w))
    if units % shape.stages == 0 and min(stage_layers(w)) > 0:
        return
    ends = " and ends" if units > w.model.layers else ""
    message = f"{units} layers{ends} are not {shape.stages} equal stages, as Megatron-LM wants them"
    if units % shape.stages == 0:
        message = f"embedding or head would be alone on one of {shape.stages} stages"
    able = [n for n in range(1, units) if units % n == 0 and units // n > max(less_layers(w))]
    able_said = ", ".join(map(str, able)) or "1"
    hint = f"make stages x virtual stages one of {able_said}, or write pipeline_layers"
    yield fault("indivisible", "workload", "parallelism.pipeline_parallel", message, hint)


def micro_batches(w: Workload) -> Findings:
    """What is wrong with how many micro-batches a pipeline has; all else bears fewer of them."""
    p = w.parallelism
    if p.pipeline_parallel == 1:
        return
    schedule, shape = SCHEDULES[p.pipeline_schedule], shape_of(w)
    fewest = schedule.fewest(shape.ranks)
    if shape.micro < fewest and not strategy_of(w).short_pipelines:
        message = (
            f"{schedule.title} on {shape.ranks} ranks needs {fewest} micro-batches or more; "
            f"a step has {shape.micro}"
        )
        hint = f"write {fewest} or more"
        yield fault("micro-batches", "workload", "gradient_accumulation", message, hint)
    elif schedule.several and schedule.name != "looped-bfs" and shape.micro % rounds(shape):
        message = (
            f"{shape.micro} micro-batches make no whole rounds of {rounds(shape)} on "
            f"{shape.ranks} ranks"
        )
        hint = f"write a multiple of {shape.ranks}"
        yield fault("indivisible", "workload", "gradient_accumulation", message, hint)
