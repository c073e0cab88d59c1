"""Megatron as a strategy: what it reads and allows, and the plans of `megatron_play`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sim.blocks.modules import ModelTree
from sim.inputs.finding import Finding, fault
from sim.inputs.strategy import Strategy, register
from sim.inputs.workload import Parallelism, Workload
from sim.mesh import Mesh
from sim.pipeline.schedules import SCHEDULES
from sim.strategies.megatron_play import RankJob
from sim.strategies.plan import Plan
from sim.strategies.recorder import Recorder


class Megatron(Strategy):
    """Megatron's `DistributedDataParallel` with or without its distributed optimizer."""

    name, title, tensor_style = "megatron", "Megatron", "megatron"
    tools = frozenset({"megatron"})
    knobs = frozenset((
        "reduce_dtype", "use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather",
        "gradient_accumulation_fusion", "grad_bucket_size", "reduce_scatter",
        "tp_comm_overlap",
    ))  # fmt: skip
    instead: ClassVar = {
        "bucket_cap_mb": "megatron says grad_bucket_size, in elements",
        "replicate": "megatron says use_distributed_optimizer: false",
    }
    context_parallel = tensor_parallel = pipeline_parallel = expert_parallel = True
    casts_model = True
    takes_reference = False
    gathers_fp8 = "te-delayed"  # --fp8-param-gather
    ties_stages = short_pipelines = True
    ends_as_layers = 0  # --account-for-embedding-in-pipeline-split is off
    even_stages = True
    measured_as = "zero1"
    shards_more = "fsdp2"
    schedules = ("1f1b", "gpipe", "interleaved-1f1b")

    def replicates(self, knobs: Parallelism) -> bool:
        """Unless the optimizer's states are spread."""
        return not knobs.use_distributed_optimizer

    def zero_stage(self, knobs: Parallelism) -> int:
        """That of its optimizer."""
        return int(knobs.use_distributed_optimizer)

    def trainer(self, workload: Workload) -> str:
        """Its own."""
        return "megatron"

    def findings(self, workload: Workload) -> Iterator[Finding]:
        """What it is not modelled with, and knobs that wait for another."""
        p = workload.parallelism
        if workload.method.frozen:
            message = f"megatron is modelled for full training, not for {workload.method.kind}"
            yield fault("megatron-method", "workload", "method", message, "write fsdp2")
        if workload.precision.master != "fp32":
            message = "megatron steps fp32 master weights"
            yield fault("megatron-master", "workload", "precision.master", message, "write fp32")
        if p.expert_parallel > 1 and not p.use_distributed_optimizer:
            message = "experts on other ranks are modelled with the distributed optimizer"
            path = "parallelism.use_distributed_optimizer"
            yield fault("megatron-experts", "workload", path, message, "leave it out")
        if p.overlap_param_gather and not (p.use_distributed_optimizer and p.overlap_grad_reduce):
            message = "only a distributed optimizer gathers parameters beside forward, and only "
            message += "together with overlap_grad_reduce"
            path = "parallelism.overlap_param_gather"
            yield fault("megatron-overlap", "workload", path, message, "set both, or write false")
        if p.pipeline_parallel > 1 and p.pipeline_schedule not in self.schedules:
            message = f"Megatron has no {SCHEDULES[p.pipeline_schedule].title}"
            path, hint = "parallelism.pipeline_schedule", f"write {' or '.join(self.schedules)}"
            yield fault("megatron-schedule", "workload", path, message, hint)

    def build(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, *, steps: int, cold: bool,
        recorder: type[Recorder],
    ) -> Plan:  # fmt: skip
        """Training steps without stages.

        Arguments and answer are those of `Strategy.build`.
        """
        job = RankJob(workload, tree, mesh, 0, recorder)
        for _ in range(steps):
            job.step()
        return job.r.plan

    def build_stage(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, rank: int, *,
        recorder: type[Recorder],
    ) -> Plan:  # fmt: skip
        """One step of a pipeline rank."""
        job = RankJob(workload, tree, mesh, rank, recorder)
        job.step()
        return job.r.plan


register(Megatron())
