"""The pipeline that a job asks for: its shape, and which layers each stage holds."""

from __future__ import annotations

from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.pipeline.schedules import SCHEDULES, PipelineShape
from sim.pipeline.stages import blocks_of_stages, layers_by_cost, layers_of_stages


def shape_of(workload: Workload) -> PipelineShape:
    """The shape of a job's pipeline: its micro-steps are the pipeline's micro-batches."""
    p = workload.parallelism
    virtual = p.virtual_stages or SCHEDULES[p.pipeline_schedule].virtual
    return PipelineShape(p.pipeline_parallel, workload.gradient_accumulation, virtual)


def less_layers(workload: Workload) -> tuple[int, int]:
    """Layers that the embedding stands for, and norm and head: as written, or as its code has it.

    Source: torchtitan, ``pipeline_parallel_first_stage_less_layers`` (1); Megatron-LM,
    ``--account-for-embedding-in-pipeline-split`` (off).
    """
    p, default = workload.parallelism, strategy_of(workload).ends_as_layers
    first, last = p.pipeline_first_stage_less_layers, p.pipeline_last_stage_less_layers
    return default if first is None else first, default if last is None else last


def stage_layers(workload: Workload) -> tuple[int, ...]:
    """Layers of each stage of a job's pipeline; of all where there is none."""
    p, m, stages = workload.parallelism, workload.model, shape_of(workload).stages
    if p.pipeline_parallel == 1:
        return (m.layers,)
    if p.pipeline_layers:
        return p.pipeline_layers
    if p.pipeline_split == "cost":
        layer = 4 * m.heads * m.head_dim * m.hidden_size + 3 * m.ffn_size * m.hidden_size
        return layers_by_cost(m.layers, stages, layer, m.vocab_size * m.hidden_size)
    return layers_of_stages(m.layers, stages, *less_layers(workload))


def blocks_of(workload: Workload) -> tuple[range, ...]:
    """Block numbers of each stage (`stage_layers`)."""
    return blocks_of_stages(stage_layers(workload))
