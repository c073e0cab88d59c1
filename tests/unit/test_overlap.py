"""What overlap costs, by cause."""

import pytest

from sim.inputs.loader import load
from sim.step.overlap import BETWEEN, COPIES, INSIDE, MEMORY
from sim.step.run import run_step

JOB = {"name": "x", "model": "llama-3-8b", "sequence_length": 2048, "micro_batch": 2}


def lost(machine="dgx-h100", sets=(), level="folded", **keys):
    loaded = load(machine, {**JOB, **keys}, ["model.layers=3", *sets])
    return run_step(loaded.topology, loaded.workload, engine="python", level=level).breakdown


@pytest.mark.parametrize("level", ["folded", "ranks"])
@pytest.mark.parametrize("accumulation", [1, 6])
def test_causes_add_up_to_what_overlap_costs(level, accumulation):
    found = lost(sets=["nodes=2"], level=level, gradient_accumulation=accumulation)
    assert sum(found.slowdown.values()) == pytest.approx(found.slowdown_s, rel=1e-9)
    assert set(found.slowdown) <= {INSIDE, BETWEEN, COPIES, MEMORY}
    assert all(0.0 < lost < found.kernels[kind] for kind, lost in found.slowed.items())
    assert min(found.slowed["gemm"], found.slowed["attention"]) > 0.01 * found.slowdown_s


def test_collectives_are_told_apart_by_where_their_ranks_are():
    one, two = lost().slowdown, lost(sets=["nodes=2"]).slowdown
    assert BETWEEN not in one
    assert INSIDE not in two
    assert one[INSIDE] > 0.5 * sum(one.values())
    assert two[BETWEEN] > 0.5 * sum(two.values())
    # shards inside each node, replicas across: both
    hybrid = lost(sets=["nodes=2", "parallelism={strategy: fsdp2, replicate: 2}"]).slowdown
    assert min(hybrid[INSIDE], hybrid[BETWEEN]) > 0.05 * sum(hybrid.values())


def test_one_gpu_loses_nothing_to_overlap():
    found = lost(sets=["node.gpus=1", "parallelism={strategy: ddp}", "model=llama-3.2-1b"])
    assert found.slowdown == found.slowed == {}


@pytest.mark.parametrize(
    "machine", ["dgx-h100", "dgx-a100", "aws-p5", "aws-p4d", "gcp-a3-mega", "pcie5-h100-8"]
)
@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp1", "zero3", "zero2", "ddp"])
def test_no_job_is_faster_on_two_nodes_but_for_its_optimizer(machine, strategy):
    """Fewer channels between nodes than inside leave kernels no more than they take elsewhere.

    The optimizer has half as much to update where states are sharded; nothing else is saved.
    """
    job = {
        "model": "llama-3.2-1b", "sequence_length": 512,
        "parallelism": {"strategy": strategy},
    }  # fmt: skip
    one, two = (lost(machine, [f"nodes={n}"], **job) for n in (1, 2))
    saved = one.kernels["optimizer"] - two.kernels["optimizer"]
    assert two.time_s + saved >= 0.998 * one.time_s
    slowed = one.slowdown_s + one.exposed_s, two.slowdown_s + two.exposed_s
    assert slowed[1] >= 0.98 * slowed[0]


def test_a_message_that_waits_takes_its_blocks_and_nothing_of_what_kernels_share():
    # between nodes 400 Gb/s a GPU, 14 GB/s a channel: 4 channels, 4 / (1 + c) with c = 2: one SM
    workload = {
        "model": "llama3-8b", "sequence_length": 4096, "micro_batch": 1, "steps": 10,
        "gradient_accumulation": 8, "activation_checkpointing": "full",
        "parallelism": {
            "strategy": "megatron", "pipeline_parallel": 2, "tensor_parallel": 8,
            "pipeline_schedule": "interleaved-1f1b",
        },
    }  # fmt: skip
    topology, job, _ = load("dgx-h100", workload, ["nodes=2"])
    lowered = run_step(topology, job).lowered
    units = set()
    for view in lowered.views:
        for at, number in zip(view.comm_begin.tolist(), view.comm_plan.tolist(), strict=True):
            if view.plan.ops[number].name == "send":
                units.add(int(lowered.program.hold_units[at]))
    assert units == {1}


def test_what_ring_attention_exchanges_moves_all_the_time():
    found, taken = load("dgx-h100", "llama3-8b-128k", ["nodes=2"]), set()
    lowered = run_step(found.topology, found.workload).lowered
    for view in lowered.views:
        for at, number in zip(view.comm_begin.tolist(), view.comm_plan.tolist(), strict=True):
            if view.plan.ops[number].name == "send_recv":
                taken.add(int(lowered.program.hold_units[at]))
    assert taken == {32}  # channels of NVLink to one peer, each an SM of what kernels share
