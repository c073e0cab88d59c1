"""Variation, allocator retries and bands: worked values and what must hold."""

import math
from itertools import pairwise

import numpy as np
import pytest

from sim import simulate
from sim.blocks.parameters import build_tree
from sim.inputs.loader import load
from sim.memory.states import in_flight_bytes
from sim.memory.verdict import Verdict
from sim.result.bands import STAND_IN, UNSEEN, Evidence, band
from sim.result.likeness import JobTraits, Residual, doubts
from sim.step.breakdown import Breakdown
from sim.step.pressure import (
    EXCHANGES,
    PER_BLOCK,
    retry_s,
    retry_share,
    retry_warnings,
    with_retries,
)
from sim.step.ready import priced_of
from sim.step.run import run_step
from sim.step.slowest import Ranks, deviation, expected_largest
from sim.step.straggle import ranks_of
from sim.step.variation import Variation

DGX_A100 = load("dgx-a100", "mpt-7b-pretrain").topology
A100 = DGX_A100.first_gpu


def job(**keys):
    model = {
        "name": "m", "layers": 16, "hidden_size": 1024, "heads": 16, "kv_heads": 16,
        "head_dim": 64, "ffn_size": 4096, "ffn": "gelu", "norm": "layernorm",
        "positions": "learned", "bias": True, "vocab_size": 50368, "max_positions": 2048,
    }  # fmt: skip
    strategy = {"strategy": keys.pop("strategy", "fsdp1"), "reduce_dtype": "fp32"}
    if strategy["strategy"] not in ("fsdp1", "fsdp2"):
        del strategy["reduce_dtype"]
    work = {"name": "w", "model": model, "sequence_length": 2048, "parallelism": strategy, **keys}
    return load("dgx-a100", work).workload


@pytest.mark.parametrize(("n", "mean"), [(2, 0.5642), (8, 1.4236), (64, 2.3437), (512, 3.0369)])
def test_expected_largest(n, mean):
    """Tabulated means of the largest of n standard normals."""
    assert expected_largest(n) == pytest.approx(mean, rel=0.05 if n == 2 else 0.01)


def test_what_eight_ranks_lose_is_in_the_kernel_constants():
    slowdowns = [Ranks(n, 0.04, 0.04).slowdown for n in (1, 2, 8, 16, 64, 512)]
    assert slowdowns[:3] == [1.0, 1.0, 1.0]
    assert slowdowns[2:] == sorted(slowdowns[2:])
    # 0.04 (2.344 - 1.424)
    assert slowdowns[4] == pytest.approx(1.0368, abs=1e-3)
    # twice the usual deviation shows on eight ranks too
    assert Ranks(8, 0.08, 0.04).slowdown == pytest.approx(1 + 0.04 * 1.424, rel=1e-3)


def test_quantiles_of_the_slowest_rank_are_those_of_the_largest_of_n():
    ranks = Ranks(64, 0.05, 0.05)
    z = np.random.default_rng(2).standard_normal((20_000, 64)).max(axis=1)
    for q in (0.1, 0.5, 0.9):
        found = ranks.lateness(float(np.quantile(z, q)))
        assert ranks.slowdown_at(q) == pytest.approx(found, abs=1e-3)
    assert ranks.wait == pytest.approx(0.05 * 2.344 / ranks.slowdown, rel=0.01)


def test_hosts_add_to_boards_by_the_unit():
    """1.8 ms a unit beside an A100: 100 units in 10 s of kernels are 1.8 %, in 1 s 18 %."""
    assert deviation("a100", 10.0, 0) == 0.03
    assert deviation("a100", 10.0, 100) == pytest.approx(0.048)
    assert deviation("a100", 1.0, 100) == pytest.approx(0.21)
    assert deviation("z9000", 1.0, 100) == deviation("h100", 1.0, 100)
    assert deviation("a100", 10.0, 100, 2.0) == pytest.approx(0.066)  # on cores half as fast


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_slow_hosts_are_waited_for_where_units_are_handed_on(gpus):
    """Cores half as fast: 1.8 ms a unit more, 33 units, times what the latest of n is late."""
    changes = [
        f"node.gpus={gpus}", "node.nics=null", "node.cpu.cores=64",
        "parallelism={strategy: fsdp1}", "gradient_accumulation=1",
    ]  # fmt: skip
    took = {}
    for speed in (1.0, 0.5):
        loaded = load("dgx-a100", "llama3-8b-sft", [*changes, f"node.cpu.speed={speed}"])
        took[speed] = run_step(loaded.topology, loaded.workload).breakdown
    late = took[0.5].waiting_s - took[1.0].waiting_s
    assert late == pytest.approx(33 * 1.8e-3 * expected_largest(gpus), rel=0.1, abs=1e-9)


@pytest.mark.parametrize(("strategy", "waits"), [("fsdp1", True), ("fsdp2", True), ("ddp", False)])
def test_ranks_hand_on_units_where_blocks_are_gathered(strategy, waits):
    loaded = load("dgx-a100", "mpt-7b-pretrain", ["nodes=8"])
    w = job(strategy=strategy, gradient_accumulation=2)
    outcome = run_step(loaded.topology, w)
    priced = priced_of(loaded.topology, w, Variation(), "folded")
    (ranks,) = ranks_of(priced, w)
    own = outcome.breakdown.compute_s - outcome.breakdown.waiting_s
    assert ranks.n == 64
    assert (ranks.deviation > 0.03) == waits
    # blocks, which units make differ more, lose more to what runs beside them than the update does
    near = 0.05 if waits else 1e-6
    assert outcome.breakdown.deviation_s == pytest.approx(ranks.deviation * own, rel=near)
    assert ranks_of(priced, w.model_copy(update={"cuda_graphs": True}))[0].deviation == 0.03


def test_a_step_is_split_into_kernels_and_waiting_for_the_slowest():
    loaded = load("dgx-a100", "mpt-7b-pretrain", ["nodes=8"])
    one, many = (run_step(load("dgx-a100", "mpt-7b-pretrain", [f"nodes={n}"]).topology,
                          loaded.workload).breakdown for n in (1, 8))  # fmt: skip
    assert "waiting" not in one.parts
    assert sum(many.parts.values()) == pytest.approx(many.time_s)
    assert many.parts["waiting"] == many.waiting_s > 0.02 * many.time_s
    assert many.kernels["gemm"] == pytest.approx(one.kernels["gemm"], rel=0.02)


def found(work, reserved, capacity):
    """Verdict of a job whose pools take so much."""
    set_ = in_flight_bytes(work, build_tree(work.model, work.method), reserved)
    return Verdict(reserved, capacity, reserved, in_flight_bytes=set_)


def test_retries_begin_where_a_second_set_no_longer_fits():
    """A block of 4 h^2 + 8 h^2 (+ biases): 12.6 M parameters, 2 + 4 bytes each, twice in flight."""
    h = 1024
    block = 12 * h * h + 9 * h + 4 * h  # weights, biases of four linears, two norms
    slack, capacity = 2 * 6 * block, 8e9
    begins = capacity - slack
    assert retry_share(found(job(), begins - 1e6, capacity)) == 0.0
    halfway = found(job(), begins + 0.005 * capacity, capacity)
    assert retry_share(halfway) == pytest.approx(0.5, abs=0.01)
    assert halfway.word == "at risk"
    assert retry_share(found(job(), capacity - 1.0, capacity)) == 1.0
    assert retry_share(found(job(), 2 * capacity, capacity)) == 1.0  # as if it just ran
    other = job(strategy="fsdp2")
    assert retry_share(found(other, capacity - 1.0, capacity)) == 0.0
    assert retry_share(found(other, 1.005 * capacity, capacity)) == pytest.approx(0.5)


def test_retries_lengthen_the_step_by_blocks_and_micro_steps():
    capacity, reserved = 80e9, 80e9 - 1.0
    work = job(gradient_accumulation=3)
    before = Breakdown(time_s=2.0, host_s=0.5)
    after = with_retries(before, work, DGX_A100, found(work, reserved, capacity))
    lost = retry_share(found(work, reserved, capacity)) * PER_BLOCK * 16 * 3 * 18e-3
    assert after.time_s - 2.0 == pytest.approx(lost)
    assert after.host_s - 0.5 == pytest.approx(lost)
    (warning,) = retry_warnings(work, lost, after.time_s)
    assert warning.code == "allocator-retries"
    assert f"{100 * lost / (2 + lost):.0f} %" in warning.message
    assert retry_warnings(work, 0.0, before.time_s) == ()
    once_a_step = work.parallelism.model_copy(update={"gradient_sync": "last"})  # no_sync
    last = work.model_copy(update={"parallelism": once_a_step})
    once = with_retries(before, last, DGX_A100, found(last, reserved, capacity))
    assert retry_share(found(last, reserved, capacity)) == 1.0  # its pools have holes besides
    assert once.time_s - 2.0 == pytest.approx(PER_BLOCK * 16 * 18e-3)


def test_time_grows_with_memory_through_capacity():
    """Retries neither jump nor stop where a job no longer fits."""
    capacity, before = 80e9, Breakdown(time_s=2.0)
    for strategy, most in (("fsdp1", PER_BLOCK * 16), ("fsdp2", EXCHANGES)):
        work = job(strategy=strategy)
        sizes = [capacity * (0.9 + 0.0005 * n) for n in range(400)]
        times = [
            with_retries(before, work, DGX_A100, found(work, size, capacity)).time_s
            for size in sizes
        ]
        assert times == sorted(times)
        assert max(b - a for a, b in pairwise(times)) < 0.051 * most * 18e-3
        assert times[0] == 2.0
        assert times[-1] == pytest.approx(2.0 + most * 18e-3)


def test_expandable_segments_retry_for_less():
    work = job()
    stack = work.stack.model_copy(update={"expandable_segments": True})
    assert retry_s(work.model_copy(update={"stack": stack}), DGX_A100) < retry_s(work, DGX_A100) / 4


def test_retries_cost_what_the_machine_asks_for_them():
    """18 ms beside an A100, 4 ms beside an H100, 0.1 s on a virtual machine."""
    h100 = load("dgx-h100", "llama3-8b-sft").topology
    rented = load("dgx-h100", "llama3-8b-sft", ["node.virtual=true"]).topology
    assert [retry_s(job(), machine) for machine in (DGX_A100, h100, rented)] == [18e-3, 4e-3, 0.1]


def test_gradients_kept_whole_leave_holes():
    """no_sync: a twentieth of the pools, between micro-steps alone."""
    work = job(gradient_accumulation=4)
    last = work.parallelism.model_copy(update={"gradient_sync": "last"})
    kept = work.model_copy(update={"parallelism": last})
    tree = build_tree(work.model, work.method)
    plain = in_flight_bytes(work, tree, 60e9)
    assert in_flight_bytes(kept, tree, 60e9) - plain == pytest.approx(3e9)
    once = kept.model_copy(update={"gradient_accumulation": 1})
    assert in_flight_bytes(once, tree, 60e9) == plain


SAME = JobTraits("a100", "fsdp1", "full", 8, 7e9, 8192.0, "composer", "nvlink", scale=0.05)


def rows(n, size, source="s", **keys):
    """Residuals from size / n to size."""
    job = SAME._replace(**keys)
    found = [size * (i + 1) / n for i in range(n)]
    return [Residual(f"r{i}", source, "m", job, e, e) for i, e in enumerate(found)]


def band_of(job, known):
    return band(job, Evidence(known))


def test_band_is_the_quantile_of_equal_rows():
    """Of 100 residuals from 0.1 to 10 % the 80.4 % quantile: 0.2 / 51 more for their number."""
    found = band_of(SAME, rows(100, 0.1))
    assert found.rows == pytest.approx(100)
    assert found.half_width == pytest.approx(0.081, abs=0.001)
    low, high = found.factors
    assert low * high == pytest.approx(1.0)


def test_band_grows_with_what_is_in_doubt():
    """Twice the scale, twice the band; a third of a step at 30 % is 10 %."""
    known = rows(100, 0.1)
    twice = band_of(SAME._replace(scale=0.1), known)
    assert twice.half_width == pytest.approx(2 * band_of(SAME, known).half_width)
    shares = doubts({"gemm": 4.0, "norm": 1.0, "exposed_communication": 5.0}, slowdown_s=0.5)
    assert shares == {
        "products": 0.4, "attention": 0.0, "maps": 0.1, "slowdown": 0.05, "host": 0.0,
        "exposed": 0.5, "waiting": 0.0, "retries": 0.0,
    }  # fmt: skip
    near = doubts({"gemm": 6.0, "host": 4.0}, slowdown_s=0.0, retries_s=3.0)
    assert (near["host"], near["retries"]) == pytest.approx((0.1, 0.3))


def test_band_widens_with_what_no_row_shows():
    known = rows(100, 0.1)
    width = band_of(SAME, known).half_width

    def wider(*names):
        return pytest.approx(math.hypot(width, *(UNSEEN[name] for name in names)))

    other = band_of(SAME._replace(generation="b200", strategy="zero3"), known)
    assert other.half_width == wider("generation", "strategy")
    assert other.beyond == ("generation b200", "strategy zero3")
    assert other.shown == width
    stack = band_of(SAME._replace(trainer="torchtitan", fp8=True, compiled=True), known)
    assert stack.half_width == wider("trainer", "fp8", "compiled")
    assert stack.beyond == ("trainer torchtitan", "FP8", "a compiled model")
    foreign = band_of(SAME._replace(generation="foo", stand_in=True), known)
    squares = UNSEEN["generation"] ** 2 + STAND_IN**2
    assert foreign.half_width == pytest.approx(math.hypot(width, math.sqrt(squares)))
    assert foreign.beyond == ("generation foo", "kernels of its architecture")
    widths = [band_of(SAME._replace(gpus=n), known).half_width for n in (8, 64, 512)]
    assert widths == sorted(widths)


def test_rows_of_the_same_kind_count_most():
    known = rows(50, 0.02) + rows(50, 0.4, "t", method="nf4")
    assert band_of(SAME, known).half_width < 0.1
    assert band_of(SAME._replace(method="nf4"), known).half_width > 0.2


def test_many_rows_of_one_source_are_not_many_witnesses():
    """400 rows of one source count twice as much as 100 of another."""
    known = Evidence([*rows(400, 0.1), *rows(100, 0.1, "t")])
    weights = known.likeness(SAME)
    assert weights[:400].sum() == pytest.approx(2 * weights[400:].sum())


def test_every_headline_figure_carries_its_band():
    newer = ["stack.torch=2.7", "stack.cuda=12.8", "stack.nccl=2.25"]

    def bands(machine):
        result = simulate(machine, "llama3-8b-sft", overrides=newer, scaling=False, fixes=False)
        return result, result.uncertainty

    result, found = bands("dgx-h100")
    shown = {
        "step_time_s": result.step.time_s,
        "tokens_per_s_per_gpu": result.throughput.tokens_per_s_per_gpu,
        "mfu": result.throughput.mfu,
        "peak_reserved_bytes": result.memory.peak_reserved_bytes,
        "wall_clock_s": result.job.wall_clock_s,
        "total_usd": result.cost.total_usd,
    }
    for name, value in shown.items():
        band = getattr(found, name)
        assert band.low < value < band.high
    assert found.beyond_data == ()
    assert "constants that had not seen them" in found.provenance

    other, wider = bands("dgx-b200")
    assert wider.beyond_data == ("generation b200",)
    spread = [u.step_time_s.high / r.step.time_s for r, u in ((result, found), (other, wider))]
    assert spread[1] > spread[0] > 1.0


def test_a_trend_carried_on_takes_nothing_below_nothing():
    """Of 4 and 8 blocks the deeper hides more of the embedding; 32 blocks would hide 1.2 of 1."""
    deep = Breakdown(time_s=8.0, kernels={"gemm": 7.0, "embedding": 0.7, "norm": 0.3})
    deep.add(Breakdown(time_s=0.0, kernels={"gemm": 0.0, "embedding": -0.9}))
    deep.level()
    assert deep.kernels == pytest.approx({"gemm": 6.8, "embedding": 0.0, "norm": 0.3})
    assert min(deep.kernels.values()) == 0.0
