"""Distributions of sample lengths: closed forms, and what rows become of them."""

from math import erf, exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.blocks.unroll import unroll
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.models import resolve_model
from sim.inputs.rows import Computed, as_run, at_longest, real_length
from sim.inputs.workload import Data, Parallelism, SampleLengths, Workload
from sim.mesh.lengths import listed, lognormal, sigma

MODEL = resolve_model("llama-3.2-3b")


def job(world=1, **update):
    keys = {"name": "j", "model": MODEL, "sequence_length": 4096, "micro_batch": 2, "steps": 100}
    return Workload(**(keys | update))


def data(packing=False, **keys):
    return Data(packing=packing, sequence_lengths=SampleLengths(**keys))


def normal(x):
    return 0.5 * (1.0 + erf(x / sqrt(2.0)))


def test_spread_from_mean_and_maximum():
    """The longest of 50,000 stands 4.107 standard deviations up: both equations hold."""
    s = sigma(105.0, 1300.0)
    mu = log(105.0) - s * s / 2
    assert exp(mu + 4.107 * s) == pytest.approx(1300.0, rel=1e-9)
    assert sigma(512.0, 512.0) == 0.0
    assert sigma(1.0, 1e9) == pytest.approx(4.107)  # no lognormal is wider


@pytest.mark.parametrize("maximum", [300, 1300, 4096])
def test_moments_of_a_lognormal(maximum):
    """E[l^2]/E[l] = mean exp(s^2); E[longest of 2] = 2 mean Phi(s / sqrt 2)."""
    s = sigma(105.0, maximum)
    d = lognormal(105.0, maximum, 10**9)
    assert d.mean == pytest.approx(105.0, rel=2e-3)
    assert d.attended == pytest.approx(105.0 * exp(s * s), rel=5e-3)
    assert d.longest(2).mean == pytest.approx(2 * 105.0 * normal(s / sqrt(2)), rel=2e-3)


def test_two_lengths_by_hand():
    """Half of the samples have 100 tokens, half 300: of three, the longest is 100 in one of 8."""
    d = listed([100, 300], [0.5, 0.5], 4096)
    assert d.mean == pytest.approx(200.0)
    assert d.longest(3).mean == pytest.approx(100 / 8 + 300 * 7 / 8)
    assert d.attended == pytest.approx((100**2 + 300**2) / 2 / 200)
    total = d.total(2)  # 200, 400, 600 with 1/4, 1/2, 1/4
    assert total.mean == pytest.approx(400.0)
    assert total.longest(2).mean == pytest.approx(200 / 16 + 400 * 8 / 16 + 600 * 7 / 16)


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=12), st.integers(1, 40), st.integers(1, 9)
)
def test_orders_of_longest_and_sum(lengths, many, more):
    d = listed(lengths, [1.0] * len(lengths), 10**6)
    assert d.mean == pytest.approx(np.mean(lengths), rel=1e-3)
    longest = d.longest(many).mean
    assert d.mean - 1e-6 <= longest <= d.longest(many + more).mean + 1e-6 <= max(lengths) + 2
    assert d.total(many).mean == pytest.approx(many * d.mean, rel=1e-6)


@settings(max_examples=40)
@given(st.integers(1, 64), st.integers(1, 64))
def test_rows_grow_with_micro_batch_and_ranks(micro, ranks):
    def length(m, r):
        return as_run(job(micro_batch=m, data=data(mean=300.0, maximum=4096)), r).sequence_length

    assert 296 <= length(micro, ranks) <= length(micro + 1, ranks) <= 4096
    assert length(micro, ranks) <= length(micro, ranks + 1)


def test_full_rows_are_the_job_itself():
    for plain in (job(), job(data=Data(mean_length=100)), job(data=Data(packing=False))):
        assert as_run(plain, 8) is plain
        assert at_longest(plain, 8) is plain


def test_equal_samples_are_packed_rows_of_that_length():
    same = job(data=data(shape="constant", mean=512.0))
    run = as_run(same, 8)
    assert (run.sequence_length, run.micro_batch) == (512, 2)
    free = as_run(job(data=data("padding-free", shape="constant", mean=512.0)), 8)
    assert (free.sequence_length, free.micro_batch) == (1024, 1)
    assert isinstance(free, Computed)
    assert free.attended == pytest.approx(512.0)
    assert real_length(same) == 512.0


def test_ranks_that_meet_once_a_step_wait_less():
    """Sums of 16 micro-batches differ less than micro-batches do; one GPU waits for none."""
    lengths, p = data(mean=300.0, maximum=4096), Parallelism(strategy="ddp", gradient_sync="last")
    often = job(data=lengths, gradient_accumulation=16)
    once = job(data=lengths, gradient_accumulation=16, parallelism=p)
    assert as_run(once, 8).sequence_length < as_run(often, 8).sequence_length
    assert as_run(once, 1).sequence_length == as_run(often, 1).sequence_length


def test_memory_is_of_the_longest_micro_batch():
    """The longest of a long job, never longer than a row; a longer job meets longer ones."""
    lengths = data(mean=105.0, maximum=1300)
    run = as_run(job(data=lengths), 1).sequence_length
    short, long = (at_longest(job(data=lengths, steps=n), 1).sequence_length for n in (10, 10_000))
    assert run < short < long <= 1304
    cut = at_longest(job(data=lengths, steps=10_000, sequence_length=512), 1)
    assert cut.sequence_length == 512


def loaded(text, *sets):
    return load("dgx-h100", "llama3-8b-sft", [f"data={text}", "attention=flash2", *sets]).workload


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{sequence_lengths: {mean: 105, maximum: 1300}}", {"mean": 105.0, "maximum": 1300}),
        ("{sequence_lengths: [512, 2048]}", {"lengths": (512, 2048)}),
        (
            "{sequence_lengths: {histogram: {512: 0.3, 2048: 0.7}}}",
            {"lengths": (512, 2048), "weights": (0.3, 0.7)},
        ),
    ],
)
def test_ways_to_write_lengths(text, expected):
    assert loaded(text).data.sequence_lengths == SampleLengths(**expected)


def test_a_list_is_a_histogram_of_equal_bars():
    of_list = loaded("{packing: false, sequence_lengths: [512, 512, 2048]}")
    bars = loaded("{packing: false, sequence_lengths: {histogram: {512: 2, 2048: 1}}}")
    assert as_run(of_list, 4).sequence_length == as_run(bars, 4).sequence_length


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{sequence_lengths: 512}", "is no list of lengths"),
        ("{sequence_lengths: {maximum: 512}}", "needs the mean"),
        ("{sequence_lengths: {mean: 512, maximum: 100}}", "is below the mean"),
        ("{sequence_lengths: {mean: 512}, mean_length: 512}", "a second time"),
        ("{sequence_lengths: [0, 512]}", "is none"),
        ("{sequence_lengths: {histogram: [512]}}", "no mapping of lengths to weights"),
        ("{sequence_lengths: {histogram: {512: -1}}}", "not negative"),
        ("{sequence_lengths: {lengths: [512], weights: [1, 2]}}", "2 weights for 1 lengths"),
        ("{sequence_lengths: {lengths: [512], mean: 512}}", "their own mean"),
        ("{sequence_lengths: {mean: 512, shape: gamma}}", "not one of lognormal, constant"),
        ("{packing: padding-free}", "nothing says how long"),
        ("{document_masks: true}", "nothing says how long"),
        ("{packing: false, document_masks: true, mean_length: 512}", "no documents to tell"),
        ("{packing: sometimes}", "packing"),
    ],
)
def test_lengths_that_cannot_be(text, says):
    with pytest.raises(InputError, match=says):
        loaded(text)


def test_masks_need_a_kernel_that_has_them():
    with pytest.raises(InputError, match="does not stop at the ends of samples"):
        loaded("{packing: padding-free, mean_length: 512}", "attention=sdpa")


def test_document_masks_save_the_square_and_nothing_else():
    """Samples of 512 in rows of 8192: attention of 16 sequences, products as before."""
    whole = unroll(loaded("{packing: true}", "sequence_length=8192", "micro_batch=1"))
    text = "{document_masks: true, sequence_lengths: {mean: 512, shape: constant}}"
    job = as_run(loaded(text, "sequence_length=8192", "micro_batch=1"), 8)
    masked = unroll(job)
    for a, b in zip(whole.of("layer", "forward"), masked.of("layer", "forward"), strict=True):
        if a.kind == "attention":
            assert b.flops == pytest.approx(a.flops / 16)
            assert b.shape[:5] == (16, 32, 8, 512, 512)
        else:
            assert a == b


def test_throughput_counts_no_padding():
    """Samples of 512 each in rows of 512: the same step and tokens as packed rows of 512."""
    text = "{packing: false, sequence_lengths: {mean: 512, shape: constant}}"

    def found(*sets):
        sets = ["model.layers=4", *sets]
        return simulate("dgx-h100", "llama3-8b-sft", overrides=sets, scaling=False, fixes=False)

    packed, padded = found("sequence_length=512"), found("sequence_length=4096", f"data={text}")
    assert padded.step.time_s == packed.step.time_s
    assert padded.throughput == packed.throughput
    assert padded.memory.peak_reserved_bytes == packed.memory.peak_reserved_bytes


@pytest.mark.parametrize(
    ("sets", "hint"),
    [
        ([], "write unpad"),
        (["trainer=accelerate"], "write unpad"),  # whose models are Hugging Face's as well
        (["trainer=composer"], "write unpad-each"),
        (["trainer=composer", "modelling=huggingface"], "write unpad"),
        (["attention_padding=unpad"], None),
        (["micro_batch=1"], None),
        (["trainer=torchtitan"], None),
        (["data={packing: true}"], None),
    ],
)
def test_padding_that_the_modelling_code_takes_out_is_mentioned(sets, hint):
    text = "data={packing: false, mean_length: 300}"
    base = ["attention=flash2", "micro_batch=4", "trainer=huggingface", text]
    notes = load("dgx-h100", "llama3-8b-sft", [*base, *sets]).notes
    hints = [w.hint for w in notes.warnings if "padding out in every layer" in w.message]
    assert hints == [hint] * (hint is not None)


def sampled(lengths, batch, ranks, rng):
    """Mean over micro-steps of the longest row of all ranks, as `Trainer` groups and deals.

    transformers/trainer_pt_utils.py, get_length_grouped_indices: shuffled, cut into pieces of fifty
    batches, each sorted from the longest on; batch is micro-batch x accumulation.
    """
    order = rng.permutation(lengths)
    pieces = [np.sort(order[i : i + 50 * batch])[::-1] for i in range(0, len(order), 50 * batch)]
    return np.concatenate(pieces)


@pytest.mark.parametrize(
    ("micro", "steps", "ranks"), [(1, 16, 1), (4, 4, 1), (4, 2, 8), (2, 1, 64), (16, 1, 8)]
)
def test_samples_grouped_by_length(micro, steps, ranks):
    rng = np.random.default_rng(3)
    s = sigma(105.0, 1304.0)
    drawn = np.exp(log(105.0) - s * s / 2 + s * rng.standard_normal(400_000))
    order = sampled(np.minimum(drawn, 512.0), micro * steps, ranks, rng)
    rows = order[: len(order) // (micro * ranks) * micro * ranks].reshape(-1, micro * ranks)
    said = Data(
        packing=False, group_by_length=True,
        sequence_lengths=SampleLengths(mean=105.0, maximum=1304),
    )  # fmt: skip
    workload = job(
        micro_batch=micro, gradient_accumulation=steps, sequence_length=512, data=said,
        steps=None, tokens=1e9, parallelism=Parallelism(strategy="fsdp2"),
    )  # fmt: skip
    length = as_run(workload, ranks).sequence_length
    assert length == pytest.approx(rows.max(axis=1).mean(), rel=0.04, abs=5)
    apart = workload.model_copy(update={"data": said.model_copy(update={"group_by_length": False})})
    assert length <= as_run(apart, ranks).sequence_length
    assert at_longest(workload, ranks).sequence_length == at_longest(apart, ranks).sequence_length


def test_full_rows_are_not_grouped_by_length():
    with pytest.raises(InputError, match="full rows are not grouped by length"):
        load("dgx-h100", "llama3-8b-sft", ["data.group_by_length=true"])
