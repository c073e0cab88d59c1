"""ZeRO++, offload, versions of DeepSpeed, ZeRO-1 and 2."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.blocks.parameters import build_tree, count_parameters
from sim.errors import InputError
from sim.inputs.shares import mesh_on
from sim.mesh import Mesh
from sim.strategies.plan import HOST
from sim.strategies.zero3 import play
from sim.strategies.zero3_quantized import scale_groups
from sim.strategies.zero3_settings import attributes_frozen
from tests.unit.zero_jobs import LORA, SMALL, collectives, model, plan_of, sizes, workload


def test_secondary_shards_keep_later_gathers_in_the_node():
    """hpZ 4 of 8: a parameter's first gather of a step over 8 ranks, later ones over 4."""
    job = workload(shape=model(layers=16), zero_hpz_partition_size=4, **SMALL)
    plan = plan_of(job)
    assert sizes(plan) == {"shard": 8, "hpz": 4}
    gathers = collectives(plan, "all_gather")
    wide = [op for op in gathers if op.group == "shard"]
    near = [op for op in gathers if op.group == "hpz"]
    persistent = 64 * 33
    assert sum(op.bytes_out for op in wide) == 2 * (count_parameters(job.model).total - persistent)
    assert near
    assert all(op.phase == "backward" or op.phase == "forward" for op in near)
    assert all(op.bytes_out == 4 * op.bytes_in for op in near)
    whole = collectives(plan_of(workload(shape=model(layers=16), **SMALL)), "all_gather")
    assert sum(op.bytes_out for op in gathers) == sum(op.bytes_out for op in whole)


def test_frozen_secondary_shards_never_expire():
    job = workload(method=LORA, zero_hpz_partition_size=4, **SMALL)
    played = play(job, build_tree(job.model, job.method), mesh_on(job, 8))
    for issued in played.issued:
        op = played.recorder.ops[issued.op]
        if op.phase == "forward" and op.collective == "all_gather":
            frozen = not any(played.trace.trainable[p] for p in issued.parameters)
            assert (op.group == "hpz") == frozen


def test_a_secondary_group_must_divide_the_world():
    job = workload(zero_hpz_partition_size=3)
    with pytest.raises(InputError, match="do not divide"):
        plan_of(job)


def test_int8_gathers_send_half_and_their_scales():
    job = workload(shape=model(hidden_size=512, head_dim=128), zero_quantized_weights=True)
    gathers = collectives(plan_of(job), "all_gather")
    values = [op for op in gathers if op.dtype == "i8"]
    scales = [op for op in gathers if op.dtype == "fp32"]
    assert len(values) == len(scales) == len(gathers) / 2
    for v, s in zip(values, scales, strict=True):
        assert s.bytes_in == 4 * scale_groups(int(v.bytes_in))


def test_scale_groups_divide_evenly():
    """8,192 elements: two groups of 4,096, as one would exceed 8,000."""
    assert scale_groups(8192) == 2
    assert scale_groups(4096) == 1
    assert 32_768 % (8 * scale_groups(32_768)) == 0


def test_int4_gradients_go_by_two_all_to_alls():
    job = workload(shape=model(layers=1), zero_quantized_gradients=True)
    plan = plan_of(job, 16)
    assert sizes(plan) == {"shard": 16, "node": 8, "replicate": 2}
    exchanged = collectives(plan, "all_to_all")
    matrices = 7 + 2
    assert len(exchanged) == 4 * matrices
    assert len(collectives(plan, "reduce_scatter")) == 3  # the norms
    assert not collectives(plan_of(job, 8), "all_to_all")  # one node


def test_quantised_gradients_stay_in_the_node_that_there_is():
    """Nodes of 16: the first exchange is among all 16 ranks of a node, the second between two."""
    job = workload(shape=model(layers=1), zero_quantized_gradients=True)
    plan = plan_of(job, 32, gpus_per_node=16)
    assert sizes(plan) == {"shard": 32, "node": 16, "replicate": 2}
    assert plan.groups["node"].all() == (tuple(range(16)), tuple(range(16, 32)))
    assert plan.groups["replicate"].of(3) == (3, 19)
    assert not collectives(plan_of(job, 16, gpus_per_node=16), "all_to_all")  # one node


def test_offloaded_parameters_come_as_shards():
    job = workload(offload="all", **SMALL)
    plan = plan_of(job)
    copied = [op for op in plan.ops if op.stream == "offload_in" and op.phase == "forward"]
    gathers = collectives(plan, "all_gather")
    assert [op.bytes for op in copied] == [op.bytes_in for op in gathers]
    assert plan.optimizer_on_host
    assert any(op.kind == HOST and op.name == "optimizer" for op in plan.ops)
    assert not any(op.name == "h2d" and op.phase == "optimizer" for op in plan.ops)


def test_offloaded_optimizer_gets_fp32_gradients_and_returns_bf16():
    job = workload(offload="optimizer", accumulation=2)
    played = play(job, build_tree(job.model), mesh_on(job, 8))
    ops, owned = played.recorder.ops, sum(played.shard)
    out = sum(op.bytes for op in ops if op.name == "d2h")
    back = sum(op.bytes for op in ops if op.name == "h2d" and op.phase == "optimizer")
    assert out == owned * (2 + 2 + 4)  # both micro-batches in bf16, then fp32
    assert back == 2 * owned


def test_shards_on_nvme_are_read_before_they_are_gathered():
    job = workload(shape=model(layers=8), offload="all", offload_device="nvme", **SMALL)
    played = play(job, build_tree(job.model), mesh_on(job, 8))
    ops = played.recorder.ops
    read = [i for i, op in enumerate(ops) if op.name == "nvme_read" and op.phase == "forward"]
    gathered = [i for i in played.issued if i.trigger != "ipg_bucket"]
    assert sum(ops[i].bytes for i in read) == sum(ops[i.op].bytes_in for i in gathered)
    ahead = [i for i in gathered if i.trigger == "prefetch"]
    assert ahead  # found in host buffers, asked for earlier
    assert max(len(i.parameters) for i in ahead) <= 5


@pytest.mark.parametrize(
    ("optimizer", "read", "stepped"), [("adamw", 16, 28), ("lion", 12, 20), ("sgd", 8, 12)]
)
def test_states_on_nvme_are_read_and_written_around_the_update(optimizer, read, stepped):
    """fp32 parameter, moments, gradient in; parameter and moments back; gradients before."""
    job = workload(offload="optimizer", offload_device="nvme")
    job = job.model_copy(update={"optimizer": optimizer})
    played = play(job, build_tree(model()), Mesh(dp_shard=8))
    owned = sum(played.shard)
    ops = [op for op in played.recorder.ops if op.stream == "nvme"]
    assert sum(op.bytes for op in ops if op.name == "nvme_read") == read * owned
    assert sum(op.bytes for op in ops if op.name == "nvme_write") == (4 + read - 4) * owned
    steps = [op for op in played.recorder.ops if op.name == "optimizer"]
    assert sum(op.bytes for op in steps) == stepped * owned


def test_version_of_the_attribution():
    assert attributes_frozen("0.19.8")
    assert not attributes_frozen("0.19.2")
    assert not attributes_frozen("0.9.5")
    assert attributes_frozen("1.0rc1")


@pytest.mark.parametrize("accumulation", [1, 4])
def test_zero1_reduces_once_zero2_every_micro_batch(accumulation):
    job = workload("zero1", accumulation=accumulation)
    total = count_parameters(job.model).total
    assert sum(op.bytes_in for op in collectives(plan_of(job), "all_reduce")) == 2 * total
    job = workload("zero2", accumulation=accumulation)
    reduced = sum(op.bytes_in for op in collectives(plan_of(job), "all_reduce"))
    assert reduced == 2 * total * accumulation


@given(st.integers(1, 6), st.sampled_from([1, 2, 8, 64, 60]), st.sampled_from([100, 9000, 10**8]))
@settings(max_examples=30)
def test_zero12_conserves_gradients_and_parameters(layers, world, bucket):
    for strategy in ("zero1", "zero2"):
        for overlap in (None, True):
            shape = model(layers=layers)
            job = workload(strategy, shape=shape, reduce_bucket_size=bucket, overlap_comm=overlap)
            plan = plan_of(job, world)
            total = count_parameters(job.model).total
            reduced = collectives(plan, "all_reduce")
            assert sum(op.bytes_in for op in reduced) == 2 * total
            largest = max(512 * 64, bucket)
            assert all(op.bytes_in <= 2 * largest for op in reduced)
            gathered = collectives(plan, "all_gather", ("optimizer",))
            padded = ceil(total / (2 * world)) * 2 * world
            assert [op.bytes_out for op in gathered] == [2 * padded]


def test_a_gradient_larger_than_its_bucket_goes_in_pieces_between_partitions():
    """The head's 32,768 elements lie in several partitions: slices are joined beyond 20,000."""
    job = workload("zero2", shape=model(layers=1), reduce_bucket_size=20_000)
    sizes = [op.bytes_in / 2 for op in collectives(plan_of(job, 32), "all_reduce")]
    total = count_parameters(job.model).total
    partition = ceil(total / 64) * 2
    assert sum(sizes) == total
    pieces = sizes[:2]  # of the head, whose gradient is first
    assert sum(pieces) == 512 * 64
    assert 20_000 < pieces[0] <= 20_000 + partition


@pytest.mark.parametrize("world", [3, 4, 8, 12, 16, 20, 48])
def test_quantised_gradients_take_groups_that_divide_the_world(world):
    plan = plan_of(workload(zero_quantized_gradients=True), world)
    assert all(world % size == 0 for size in sizes(plan).values())
