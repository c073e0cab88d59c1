"""Small jobs under ZeRO and what their plans issue."""

from __future__ import annotations

from sim.blocks.parameters import build_tree
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Workload
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE

LORA = Method(kind="lora", rank=4, targets=("q", "k", "v", "o", "gate", "up", "down"))

SMALL = {
    "stage3_prefetch_bucket_size": 9900, "stage3_param_persistence_threshold": 100,
    "stage3_max_live_parameters": 60_000, "stage3_max_reuse_distance": 0,
    "reduce_bucket_size": 50_000,
}  # fmt: skip


def model(**changes):
    shape = {
        "layers": 3, "hidden_size": 64, "heads": 4, "kv_heads": 2, "head_dim": 16,
        "ffn_size": 160, "vocab_size": 512,
    }  # fmt: skip
    return Model(name="m", **(shape | changes))


def workload(strategy="zero3", shape=None, method=None, policy=None, accumulation=1, **knobs):
    return Workload(
        name="w", model=shape or model(), method=method or Method(), sequence_length=16,
        gradient_accumulation=accumulation,
        parallelism=Parallelism(strategy=strategy, **knobs),
        activation_checkpointing=policy or Checkpointing(),
    )  # fmt: skip


def sizes(plan):
    return {name: groups.size for name, groups in plan.groups.items()}


def plan_of(job, world=8, gpus_per_node=8):
    mesh = mesh_on(job, world, gpus_per_node)
    return build_plan(job, build_tree(job.model, job.method), mesh)


def collectives(plan, kind, phases=("forward", "backward", "recompute")):
    ops = [op for op in plan.ops if op.kind == COLLECTIVE and op.phase in phases]
    return [op for op in ops if op.collective == kind]
