"""Corners of what strategies issue: sizes of kernels and collectives that no recording reaches."""

from types import SimpleNamespace

import pytest

from sim.blocks.parameters import build_tree, count_parameters
from sim.inputs.shares import mesh_on
from sim.inputs.strategy import strategy_of
from sim.strategies import build_plans
from sim.strategies.plan import COLLECTIVE, KERNEL
from sim.strategies.reduced import in_master_dtype
from sim.strategies.units import dtypes, trainable_elements
from sim.strategies.zero3_quantized import quantized_reduce
from tests.unit import test_fsdp_schedules as fsdp
from tests.unit import zero_jobs as zero


class Heard:
    """A recorder that keeps the kernels and collectives it is told of."""

    def __init__(self):
        self.kernels, self.collectives = [], []

    def kernel(self, stream, name, phase, traffic, *_):
        self.kernels.append((name, traffic))
        return len(self.kernels)

    def collective(self, stream, name, phase, group, bytes_in, bytes_out, *_):
        self.collectives.append((name, group, bytes_in, bytes_out))
        return len(self.collectives)


def kernels(plan, name):
    return [op for op in plan.ops if op.kind == KERNEL and op.name == name]


def test_a_shard_that_adds_up_for_the_last_micro_step_is_read_twice_and_written():
    """HSDP without all-reduces until the third micro-step: the second and third add to the first's
    shard: three times its 4 bytes an element."""
    plan = fsdp.plan_of(16, replicate=2, accumulate=3, requires_all_reduce="last")
    scattered = {op.unit: op.bytes_out for op in fsdp.issued(plan, "reduce_scatter")}
    added = kernels(plan, "accumulate")
    assert len(added) == 2 * len(scattered)
    assert all(op.bytes == 3 * scattered[op.unit] for op in added)


@pytest.mark.parametrize(
    ("reduced", "divide", "stored", "heard"),
    [
        ("bf16", False, 2000.0, [("cast", 3000.0)]),  # 1,000 bytes of bf16 are 2,000 of fp32
        ("fp32", False, 1000.0, []),
        ("fp32", True, 1000.0, [("postdivide", 2000.0)]),
    ],
)
def test_a_reduced_gradient_is_stored_as_its_parameter(reduced, divide, stored, heard):
    types = dtypes(fsdp.workload(reduce_dtype=reduced))
    unit, r = SimpleNamespace(name="u", block=1), Heard()
    assert in_master_dtype(r, "reduce_scatter", unit, 1000.0, types, divide=divide) == stored
    assert r.kernels == heard


@pytest.mark.parametrize(("nodes", "replicas"), [(1, {1}), (4, {1, 2, 4}), (12, {1, 2, 4, 12})])
def test_layouts_of_fsdp2_that_are_tried(nodes, replicas):
    tried = list(strategy_of(fsdp.workload()).trials(nodes))
    assert {trial.knobs["replicate"] for trial in tried} == replicas
    assert len(tried) == 2 * len(replicas)


def test_a_bucket_averaged_in_another_dtype_is_cast_there_and_back():
    """ZeRO-1 in bf16 that reduces in fp32: read and written in bf16, and cast: 4 + 2 + 4 bytes."""
    plan = zero.plan_of(zero.workload("zero1", communication_data_type="fp32"))
    sent = [op for op in plan.ops if op.kind == COLLECTIVE and op.phase == "backward"]
    averaged = kernels(plan, "average")
    assert len(averaged) == len(sent) > 0
    for average, reduction in zip(averaged, sent, strict=True):
        assert average.bytes == 10 * reduction.bytes_in / 4


def test_secondary_shards_are_a_rank_s_part_read_and_written():
    """hpZ 4: of each parameter that is not persistent a quarter, two bytes in and two out."""
    job = zero.workload(shape=zero.model(layers=16), zero_hpz_partition_size=4, **zero.SMALL)
    cut = kernels(zero.plan_of(job), "secondary_shard")
    persistent = 64 * 33
    parameters = count_parameters(job.model).total - persistent
    assert sum(op.bytes for op in cut) == 2 * 2 * parameters / 4


def test_gradients_that_are_not_quantised_are_padded_to_equal_parts():
    """A vector of ten over four ranks: three each; a matrix of 36 is no multiple of eight."""
    r = Heard()
    quantized_reduce(r, [(10, 0), (36, 6)], 4, 2, "fp32", "u")
    assert r.collectives == [
        ("reduce_scatter", "shard", 48.0, 12.0), ("reduce_scatter", "shard", 144.0, 36.0)
    ]  # fmt: skip
    assert r.kernels == []


def test_a_flat_gradient_is_written_in_fp32_and_cast_back():
    """ZeRO-3's clipping and update: two bytes in and four out an element, and the way back."""
    plan = zero.plan_of(zero.workload(**zero.SMALL))
    for name in ("flatten", "cast"):
        [op] = kernels(plan, name)
        assert op.bytes == 6 * plan.owned_numel


def test_experts_are_shared_by_what_is_left_of_the_ranks():
    """Sixteen ranks, matrices cut in two: a shard is as large where each rank of four has a quarter
    of the experts whole, 8 x 2 / 4 to a matrix, as where eight share halves of all."""
    shape = {"experts": 8, "experts_per_token": 2, "expert_ffn_size": 160, "heads": 4}
    halves = fsdp.workload(tensor_parallel=2)
    halves = halves.model_copy(update={"model": halves.model.model_copy(update=shape)})
    cut = halves.parallelism.model_copy(update={"expert_parallel": 4})
    quarters = halves.model_copy(update={"parallelism": cut})
    assert trainable_elements(quarters, 8)[0] == trainable_elements(halves, 8)[0]


def test_a_stage_records_few_of_its_micro_batches():
    """Two stages, 12 micro-batches: most of the 24 passes of a rank are copies of earlier ones."""
    job = fsdp.workload(pipeline_parallel=2, accumulate=12)
    plans = build_plans(job, build_tree(job.model, job.method), mesh_on(job, 8))
    assert len(plans) == 2
    for plan in plans:
        assert len(plan.issued) / 2 < sum(copy.size for copy in plan.copies) < len(plan.issued)
