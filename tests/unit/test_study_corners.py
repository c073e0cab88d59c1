"""Corners of studies: what a search, a comparison or a price says at the edge, by hand."""

import json
import math
from types import SimpleNamespace

import pytest

import sim
from sim.cost.collectives import plan_collective
from sim.fabric import compile_fabric
from sim.fabric.role import Host, Role
from sim.inputs.loader import load, load_topology
from sim.inputs.shares import mesh_on
from sim.step.breakdown import Breakdown
from sim.step.shares import shares
from sim.step.waiting import WaitingGroup
from sim.study import parameter_bounds
from sim.study.deltas import _rates
from sim.study.difference import difference
from sim.study.memory_bounds import MemoryBounds, constants


def test_the_network_of_a_gpu_is_its_share_of_the_nodes_nics():
    """Four NICs of 400 Gb/s for eight GPUs: 25 GB/s each; in one node alone what NVLink gives."""
    one = load("dgx-h100", "llama3-8b-sft", ["nodes=2", "node.nics.count=4"])
    assert _rates(one)["network"] == 4 * 50e9 / 8
    alone = _rates(load("dgx-h100", "llama3-8b-sft", ["nodes=1"]))
    assert alone["network"] == alone["NVLink"] == 18 * 25e9


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [(2.0, 3.0, 0.5), (-2.0, -1.0, 0.5), (0.0, 1.0, math.inf), (0.0, -1.0, -math.inf)],
)
def test_a_figure_that_was_nothing_moved_without_bounds(tmp_path, old, new, change):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    for path, value in ((before, old), (after, new)):
        path.write_text(json.dumps({"schema": "s", "same": 1.0, "figure": value}))
    found = difference(before, after)
    assert [row["change"] for row in found.rows] == [change]
    assert found.same == 2


def test_a_step_of_unequal_stages_is_that_of_the_mean_rank():
    """One rank computes 6 s and waits 2, three compute 4 s, wait 3 and move data for 1."""
    node = load_topology("dgx-h100").node
    first, last = (Role(node.gpu, Host(8, node.cpu, node.storage), stage) for stage in (0, 1))
    groups = [
        WaitingGroup(first, 1.0, (0,), compute_s=6.0, waiting_s=2.0),
        WaitingGroup(last, 1.0, (1, 2, 3), compute_s=4.0, waiting_s=3.0, communication_s=1.0),
    ]
    step = Breakdown(time_s=9.0, compute_s=6.5, exposed_s=2.0, waiting_s=0.5)
    found = shares(step, groups)
    assert found.compute_s == (6 + 3 * 4) / 4 - 0.5
    assert found.bubble_s == (2 + 3 * 3) / 4
    assert found.exchange_s == pytest.approx((2 + 3 * 4) / 4 - 11 / 4)
    assert found.other_s == pytest.approx(9.0 - 4.0 - 11 / 4 - 0.75)


def test_weights_come_from_the_trainers_shards():
    """GRPO on the eight GPUs that train: each engine takes what all of them gather, in bf16."""
    small = "post_training={prompts: 32, samples: 4, completion: {mean: 400, maximum: 2000}}"
    found = sim.posttrain("dgx-h100", "qwen2.5-7b-grpo", overrides=[small])
    job = load("dgx-h100", "qwen2.5-7b-grpo")
    fabric, nccl = compile_fabric(job.topology), job.workload.stack.nccl
    whole = found.rollout.weights_bytes * found.rollout.tensor_parallel
    gathered = plan_collective(fabric, "all_gather", range(8), whole, nccl)
    [part] = [p for p in found.parts if p.name == "weights to the engines"]
    assert part.seconds == pytest.approx(gathered.time_s)


def test_copies_of_a_stage_by_hand():
    """Bytes for seconds, bf16 reduced in fp32: a unit is copied out once (two bytes in and out of
    every parameter), its gradients made fp32 the first time (6 bytes each), added to later (10)."""
    job = load("dgx-h100", "llama3-8b-sft", ["parallelism={pipeline_parallel: 2}"])
    model = SimpleNamespace(cost=lambda kernel: SimpleNamespace(time_s=kernel.bytes))
    mesh = mesh_on(job.workload, 8, 8)
    units = parameter_bounds.units_of(job.workload, mesh)[1:2]
    (unit,) = units
    assert unit.grad_numel > 0
    found = parameter_bounds._copied(model, job.workload, units, alone=False)
    assert found.each_s == 10 * unit.grad_numel
    assert found.once_s == 2 * unit.gather_bytes + (6 - 10) * unit.grad_numel


def test_a_search_for_bandwidth_ends_where_it_said():
    told = []
    sim.need_bandwidth(
        "dgx-h100", "llama3-8b-sft", efficiency=0.8, overrides=["nodes=2"],
        progress=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    done = [d for d, _ in told]
    assert done == sorted(set(done))
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]


def test_a_job_of_which_nothing_is_known_needs_a_context():
    """Bounds are of FSDP2 in units of blocks: of DDP there is what CUDA takes alone."""
    job = load("dgx-h100", "llama3-8b-sft", ["parallelism={strategy: ddp}"])
    assert MemoryBounds().needed(job.topology, job.workload) == constants()["context"]
