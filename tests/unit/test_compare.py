"""`compare`: deltas that add up, reasons that name what moved, and every format."""

import csv
import io
import json
import math

import pytest
from click.testing import CliRunner

from sim import compare
from sim.cli import group
from sim.errors import InputError
from sim.inputs.arguments import split_inputs
from sim.report.compare import view
from sim.report.formats import rendered
from sim.study.axes import from_options


@pytest.fixture(scope="module")
def machines():
    return compare(["dgx-a100", "dgx-h100"], ["mistral-7b-lora"])


def test_parts_add_up_to_the_delta(machines):
    (delta,) = machines.deltas
    first, second = (v.result for v in machines.variants)
    before = 1 / first.throughput.tokens_per_s_per_gpu
    after = 1 / second.throughput.tokens_per_s_per_gpu
    assert sum(p.first_s for p in delta.parts) == pytest.approx(before, rel=1e-9)
    assert sum(p.second_s for p in delta.parts) == pytest.approx(after, rel=1e-9)
    assert sum(p.share for p in delta.parts) == pytest.approx(1 / delta.per_gpu_ratio - 1, rel=1e-9)


def test_the_wait_for_the_slowest_rank_is_a_part_of_its_own():
    found = compare(["dgx-h100"], ["llama3-8b-sft"], vary=["nodes=1,4"])
    [delta], step = found.deltas, found.variants[1].result.step
    parts = {part.name: part.second_s for part in delta.parts}
    whole = sum(parts.values())
    assert parts["slowest rank"] / whole == pytest.approx(step.breakdown["waiting"] / step.time_s)
    beside = step.breakdown["host"] + step.breakdown["copies"]
    assert parts["overhead"] / whole == pytest.approx(beside / step.time_s)
    assert whole == pytest.approx(1 / found.variants[1].result.throughput.tokens_per_s_per_gpu)


def test_reasons_name_the_largest_part_and_its_datasheet_ratio(machines):
    (delta,) = machines.deltas
    largest = max(delta.parts, key=lambda p: abs(p.share))
    assert delta.reasons[0].startswith(largest.name)
    # datasheets: 989.4 / 312 TFLOP/s = 3.17; 3.35 / 2.039 TB/s = 1.64
    gemm = next(r for r in delta.reasons if r.startswith("GEMM"))
    assert "peak rate 3.17 x" in gemm
    hbm = next(r for r in delta.reasons if r.startswith("HBM"))
    assert "HBM rate 1.64 x" in hbm


def test_costs_of_jobs_of_unlike_lengths_are_compared_by_the_token():
    """Ten times the tokens cost ten times as much, and as much a token."""
    found = compare(["dgx-h100"], ["mistral-7b-lora"], vary=["tokens=1e9,1e10", "nodes=1"])
    [delta] = found.deltas
    assert not found.as_long
    assert delta.cost_ratio == pytest.approx(10.0, rel=1e-3)
    assert delta.tie_price_usd is None
    assert "at 1.00 x the cost of a token" in found.summary[0]
    assert delta.reasons[-1].endswith("for 10 x the tokens")
    assert "(1 B, 10 B tokens)" in found.notes[0]


def test_of_jobs_of_one_length_no_length_is_said(machines):
    assert machines.as_long
    assert not [note for note in machines.notes if "equally long" in note]


def test_twice_the_bandwidth_moves_only_what_waits_for_bandwidth():
    """Twice the HBM rate: GEMM time stays, HBM-bound kernels fall to about a half."""
    found = compare(
        ["dgx-a100"], ["mistral-7b-lora"],
        vary={"node.gpu.memory_bandwidth": ["2.039 TB/s", "4.078 TB/s"]},
    )  # fmt: skip
    parts = {p.name: p for p in found.deltas[0].parts}
    assert parts["attention"].share == pytest.approx(0.0, abs=1e-4)
    assert parts["HBM-bound kernels"].speedup == pytest.approx(2.0, rel=0.25)
    assert abs(parts["GEMM"].share) < abs(parts["HBM-bound kernels"].share) / 3


def test_more_gpus_are_a_factor_of_their_own():
    found = compare(["dgx-h100"], ["llama3-8b-sft"], vary=["nodes=1,2"])
    (delta,) = found.deltas
    assert delta.tokens_per_s_ratio == pytest.approx(2.0 * delta.per_gpu_ratio, rel=1e-12)
    assert delta.reasons[0].startswith("16 GPUs instead of 8")


def test_identical_variants_have_no_reason():
    found = compare(["dgx-h100"], ["llama3-8b-lora"], vary={"checkpoint.mode": ["sharded", "full"]})
    (delta,) = found.deltas
    assert delta.per_gpu_ratio == 1.0
    assert delta.reasons == ("no part of the step differs by 2 % of the time",)


def test_all_combinations_of_varied_keys():
    found = compare(
        ["dgx-h100"], ["llama3-8b-lora"], vary=["micro_batch=1,2", "attention=sdpa,flash2"]
    )
    assert [v.changes for v in found.variants] == [
        ("micro_batch=1", "attention=sdpa"), ("micro_batch=1", "attention=flash2"),
        ("micro_batch=2", "attention=sdpa"), ("micro_batch=2", "attention=flash2"),
    ]  # fmt: skip
    assert len({v.label for v in found.variants}) == 4
    assert found.summary[-1].startswith("fastest that fits")


def test_commas_in_brackets_do_not_part_values():
    text = "precision=bf16,{fp8: {recipe: rowwise, all_gather: fp8}}"
    (axis,) = from_options([text], False)
    assert axis.points == (("bf16",), ("{fp8: {recipe: rowwise, all_gather: fp8}}",))


@pytest.mark.parametrize("text", ["nodes", "=1,2", "nodes=", "nodes=1,,2"])
def test_unreadable_axes_are_input_errors(text):
    with pytest.raises(InputError, match="key=value,value"):
        from_options([text], False)


def test_workloads_are_told_from_machines(tmp_path):
    job = tmp_path / "mine.yaml"
    job.write_text("model: mistral-7b\nsequence_length: 4096\n")
    names = ["dgx-h100", "mistral-7b-lora", str(job), "no-such-thing"]
    assert split_inputs(names) == (["dgx-h100", "no-such-thing"], ["mistral-7b-lora", str(job)])


def test_every_format_says_the_same(machines):
    document = json.loads(rendered(view(machines), "json"))
    ratio = document["deltas"][0]["ratios"]["tokens_per_s"]
    rows = list(csv.DictReader(io.StringIO(rendered(view(machines), "csv"))))
    assert float(rows[1]["tokens_per_s"]) / float(rows[0]["tokens_per_s"]) == pytest.approx(ratio)
    assert f"{ratio:.2f} x" in rendered(view(machines), "table")
    assert f"{ratio:.2f} x" in rendered(view(machines), "md")
    assert all(math.isfinite(float(r["step_time_s"])) for r in rows)


def test_one_variant_is_an_input_error():
    answer = CliRunner().invoke(group, ["compare", "dgx-h100", "mistral-7b-lora"])
    assert isinstance(answer.exception, InputError)
    assert "nothing to compare" in str(answer.exception)


def test_a_machine_without_a_price_gets_the_cheapest_offer_and_a_note(machines):
    # dgx-a100 names no price; of prices that are listed oci's BM.GPU.A100-v2.8 is cheapest
    assert any("dgx-a100 priced at $4.00" in note for note in machines.notes)
    first, second = (v.result for v in machines.variants)
    assert first.cost.price_per_gpu_hour_usd == 4.0
    reason = machines.deltas[0].reasons[-1]
    assert reason.startswith("cost")
    ratio = second.cost.total_usd / first.cost.total_usd
    hours = second.cost.gpu_hours / first.cost.gpu_hours
    assert ratio == pytest.approx(hours * 2.95 / 4.0, rel=1e-3)


def test_all_machines_at_one_provider_or_at_prices_of_ones_own(tmp_path):
    found = compare(["dgx-a100", "dgx-h100"], ["mistral-7b-lora"], offer="aws")
    rates = [v.result.cost.price_per_gpu_hour_usd for v in found.variants]
    assert rates == [3.431, 6.88]
    own = tmp_path / "mine.csv"
    own.write_text(
        "provider,instance,gpu,gpus_per_node,usd_per_gpu_hour\n"
        "home,old,a100-sxm-80gb,8,0.50\nhome,new,h100-sxm-80gb,8,2.00\n"
    )
    found = compare(["dgx-a100", "dgx-h100"], ["mistral-7b-lora"], offer="home", prices=own)
    assert found.deltas[0].cost_ratio > 1.0
    with pytest.raises(InputError, match="nobody"):
        compare(["dgx-a100", "dgx-h100"], ["mistral-7b-lora"], offer="nobody")


def test_waiting_for_data_is_a_reason():
    found = compare(["dgx-h100"], ["data-starved"], vary=["data.workers=14,8"])
    (delta,) = found.deltas
    assert "waiting for data takes 41 % of the job instead of 0 %" in delta.reasons


def test_the_price_at_which_the_answer_flips():
    sets = ["offer.price_per_gpu_hour=2 USD"]
    found = compare(["dgx-a100", "dgx-h100"], ["mistral-7b-lora"], overrides=sets)
    tie = found.deltas[0].tie_price_usd
    # nearly all of the cost is GPU-hours, so that it ties at the ratio of the times
    walls = [v.result.job.wall_clock_s for v in found.variants]
    assert tie == pytest.approx(2.0 * walls[0] / walls[1], rel=1e-3)


def test_many_variants_are_listed_one_a_line():
    found = compare(["dgx-h100"], ["llama3-8b-lora"], vary=["micro_batch=1,2,4,8,16"])
    head, *lines = rendered(view(found), "table").splitlines()
    assert "tokens/s" in head  # what is too wide for a terminal goes on below
    assert [line.split()[0] for line in lines[:5]] == [f"micro_batch={n}" for n in (1, 2, 4, 8, 16)]


def test_a_job_that_never_ends_has_no_ratio_of_costs():
    found = compare(["dgx-h100"], ["llama3-8b-sft"], vary=["reliability.gpu_mtbf=1 min,1000 h"])
    assert found.deltas[0].cost_ratio is None
    assert found.deltas[0].tie_price_usd is None
    for form in ("table", "md", "csv"):
        assert "nan" not in rendered(view(found), form)
    assert json.loads(rendered(view(found), "json"))["deltas"][0]["ratios"]["cost"] is None


def test_a_trainers_file_is_a_job(tmp_path):
    trainer = tmp_path / "axolotl.yml"
    trainer.write_text("base_model: meta-llama/Meta-Llama-3-8B\nsequence_len: 4096\n")
    assert split_inputs(["dgx-h100", str(trainer)]) == (["dgx-h100"], [str(trainer)])
