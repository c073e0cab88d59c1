"""Inverse questions against the forward model, and what has no answer."""

import json

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.errors import InfeasibleError, InputError
from sim.inputs.loader import load, load_topology
from sim.inputs.price import PriceRow
from sim.inputs.shares import batch_of
from sim.memory.report import memory
from sim.report.formats.table import render
from sim.report.need import bandwidth_view, gpus_view, price_view
from sim.result.predict import predict
from sim.step.step import step
from sim.study.inverse import bandwidth_for, context_for, gpus_for, price_for
from sim.study.machine_offers import like_for_like

HOUR = 3600.0


def told(shown):
    """A view as text, its wrapped lines joined."""
    return " ".join(render(shown).split())


def efficiency(rate):
    one = load("dgx-a100", "llama3-8b-sft", ["nodes=1", "micro_batch=1"])
    two = load("dgx-a100", "llama3-8b-sft",
               ["nodes=4", "micro_batch=1", f"node.nics.rate={rate} B/s"])  # fmt: skip
    rates = [
        batch_of(p.topology, p.workload).tokens
        / step(p.topology, p.workload).time_s
        / p.topology.nodes
        for p in (one, two)
    ]
    return rates[1] / rates[0]


def test_bandwidth_for_an_efficiency_is_the_least_that_does():
    found = bandwidth_for("dgx-a100", "llama3-8b-sft", 0.8, ["nodes=4", "micro_batch=1"])
    assert found.efficiency >= 0.8
    assert efficiency(found.rate_bytes_per_s) == pytest.approx(found.efficiency, rel=1e-6)
    assert efficiency(found.rate_bytes_per_s / 1.01) < 0.8
    assert found.now_bytes_per_s == 25e9


def test_a_rate_is_asked_with_the_oversubscription_that_is_written():
    sets = ["nodes=2", "micro_batch=1"]
    found = bandwidth_for("dgx-a100", "llama3-8b-sft", 0.8, [*sets, "network.oversubscription=4"])
    assert found.oversubscription == 4.0
    said = "switches are oversubscribed 4 : 1 at every rate; --set network.oversubscription=1"
    assert said in told(bandwidth_view(found))
    plain = bandwidth_for("dgx-a100", "llama3-8b-sft", 0.8, sets)
    assert "oversubscribed" not in told(bandwidth_view(plain))


@pytest.mark.parametrize("said", ["80%", "0.8"])
def test_an_efficiency_is_said_as_a_share_or_in_per_cent(said):
    asked = ["need", "bandwidth", "dgx-a100", "llama3-8b-sft", "--set", "nodes=2", "--json"]
    done = CliRunner().invoke(group, [*asked, "--efficiency", said])
    assert json.loads(done.stdout)["asked_efficiency"] == 0.8


@pytest.mark.parametrize(
    ("said", "told_so"), [("151%", "1.51 is not in the range"), ("x%", "'x%' is no share")]
)
def test_what_is_no_efficiency_is_refused(said, told_so):
    done = CliRunner().invoke(
        group, ["need", "bandwidth", "dgx-a100", "llama3-8b-sft", "--efficiency", said]
    )
    assert done.exit_code == 2
    assert told_so in done.output


def test_no_network_gives_more_than_the_node_allows():
    with pytest.raises(InfeasibleError, match="no network gives"):
        bandwidth_for("dgx-a100", "llama3-8b-sft", 1.4, ["nodes=4"])
    with pytest.raises(InputError, match="two nodes"):
        bandwidth_for("dgx-a100", "llama3-8b-sft", 0.9, ["nodes=1"])


def test_a_network_that_is_there_gives_what_it_gives():
    """405B cut eight ways a node, whose NICs have all of PCIe already: little is left to gain."""
    asked = ("dgx-h100", "llama3-405b")
    found = bandwidth_for(*asked, 0.88, ["nodes=64"])
    assert found.rate_bytes_per_s <= found.now_bytes_per_s
    assert found.best_efficiency >= found.now_efficiency >= 0.88
    quicker = bandwidth_for(*asked, 0.9, ["nodes=64"])
    assert quicker.now_efficiency < 0.9 <= quicker.efficiency <= quicker.best_efficiency
    assert quicker.rate_bytes_per_s > quicker.now_bytes_per_s
    with pytest.raises(InfeasibleError, match=r"no network gives 97.0 %: with 1000 GB/s"):
        bandwidth_for(*asked, 0.97, ["nodes=64"])


def test_what_is_left_where_the_network_is_endless_is_named():
    """Four nodes of A100s: 578 of 648 ms a step more than on one are for the slowest of 32."""
    with pytest.raises(InfeasibleError, match=r"waiting for the slowest rank, 5\d\d ms a step"):
        bandwidth_for("dgx-a100", "llama3-8b-sft", 0.995, ["nodes=4"])


def test_gpus_for_a_deadline_and_one_size_below():
    found = gpus_for("dgx-h100", "llama3-70b-full", 8 * HOUR)
    assert found.job.wall_s <= 8 * HOUR
    nodes, below = found.below
    assert nodes < found.nodes
    assert below.wall_s > 8 * HOUR


def test_power_counts_what_the_gpu_waits_for_as_in_a_run():
    # over PCIe a third of the step is exposed communication, which draws less than kernels do
    found = gpus_for("pcie5-h100-8", "mistral-7b-lora", 1e9)
    loaded = load("pcie5-h100-8", "mistral-7b-lora")
    assert found.nodes == loaded.topology.nodes
    run = predict(loaded.topology, loaded.workload, scaling=False, fixes=False)
    assert found.job.energy.gpu_w == pytest.approx(run.energy.gpu_w, rel=1e-4)


def test_the_fewest_gpus_may_be_those_that_hold_the_model():
    found = gpus_for("dgx-h100", "llama3-70b-full", 1000 * HOUR)
    assert found.below[1] is None
    held = load("dgx-h100", "llama3-70b-full", [f"nodes={found.nodes}"])
    smaller = load("dgx-h100", "llama3-70b-full", [f"nodes={found.below[0]}"])
    assert memory(held.topology, held.workload).fits
    assert not memory(smaller.topology, smaller.workload).fits


def test_a_deadline_that_no_size_meets():
    with pytest.raises(InfeasibleError, match="the fastest is"):
        gpus_for("lambda-8x-h100", "llama3-8b-sft", 60.0)


NO_NICS = {"name": "a", "node": {"gpu": "h100", "gpus": 8}}
NICS = "node.nics={count: 8, rate: 400 Gb/s}"


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("llama3-8b-sft", "of which 1 node was tried, ends in 2 h; the fastest is 1 node with"),
        ("llama3-70b-full", "of which 1 node was tried, has room for llama3-70b-full"),
    ],
)
def test_a_machine_without_nics_is_one_node_and_says_what_gives_more(job, said):
    with pytest.raises(InfeasibleError, match=said) as refused:
        gpus_for(NO_NICS, job, 7200.0)
    assert f"it has no NICs; add --set '{NICS}'" in str(refused.value)
    assert gpus_for(NO_NICS, "llama3-8b-sft", 7200.0, [NICS]).nodes > 1


def test_a_bandwidth_for_a_machine_without_nics_advises_what_works():
    with pytest.raises(InputError, match="it has no NICs") as refused:
        bandwidth_for(NO_NICS, "llama3-8b-sft", 0.9)
    assert f"add --set '{NICS}' --set nodes=2" in str(refused.value)
    found = bandwidth_for(NO_NICS, "llama3-8b-sft", 0.9, [NICS, "nodes=2"])
    assert found.rate_bytes_per_s < 50e9
    assert found.efficiency >= 0.9


def test_longest_context_fits_and_one_step_more_does_not():
    found = context_for("dgx-h100", "llama3-8b-sft")
    for length, fits in ((found.value, True), (found.value + 256, False)):
        at = load("dgx-h100", "llama3-8b-sft", [f"sequence_length={length}"])
        assert memory(at.topology, at.workload).fits is fits


def test_at_the_break_even_price_both_cost_the_same():
    found = price_for("oci-bm-gpu-h100-8", "aws-p4de", "llama3-8b-sft")
    again = price_for(
        load("oci-bm-gpu-h100-8", "llama3-8b-sft",
             [f"offer.price_per_gpu_hour={found.break_even_usd!r} USD"]).topology,
        "aws-p4de", "llama3-8b-sft",
    )  # fmt: skip
    assert again.first_job.cost.total_usd == pytest.approx(again.other_job.cost.total_usd, rel=1e-6)
    assert 1.5 < found.speed_ratio < 3.5  # an H100 against an A100


def test_prices_of_two_providers_are_told_and_set_beside_one_providers():
    found = price_for("dgx-h100", "dgx-a100", "llama3-8b-sft")
    same = found.like_for_like
    assert not found.alike
    assert same.first_place.split()[0] == same.other_place.split()[0]
    assert same.speed_ratio == pytest.approx(found.speed_ratio)
    assert same.now_usd != found.now_usd
    said = told(price_view(found))
    assert f"not like for like: priced at {found.first_place} against {found.other_place}" in said
    assert f"at {same.first_place}" in said


def test_offers_are_paired_by_provider_then_region_then_price():
    def row(provider, gpu, price, region):
        return PriceRow(provider, gpu, gpu, 8, price, None, region, "", "2026", "test")

    h100, a100 = load_topology("dgx-h100"), load_topology("dgx-a100")
    a_name = a100.first_gpu.name
    rows = [
        row("a", "h100-sxm-80gb", 1.0, "x"), row("b", a_name, 0.5, "x"),
        row("c", "h100-sxm-80gb", 3.0, "x"), row("c", a_name, 2.0, "y"),
        row("c", "h100-sxm-80gb", 4.0, "y"),
    ]  # fmt: skip
    assert [r.usd_per_gpu_hour for r in like_for_like(h100, a100, rows)] == [4.0, 2.0]
    assert [r.usd_per_gpu_hour for r in like_for_like(h100, a100, rows[:4])] == [
        3.0,
        2.0,
    ]
    assert [r.usd_per_gpu_hour for r in like_for_like(h100, a100, rows[:2])] == [
        1.0,
        0.5,
    ]
    assert like_for_like(h100, a100, rows[:1]) == (None, None)


def test_a_machine_that_nobody_offers_is_refused():
    with pytest.raises(InputError, match="has no price"):
        price_for("dgx-h100", "mixed-h100-a100", "llama3-8b-sft")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpus", "dgx-h100", "llama3-8b-sft", "--deadline", "3h"], "nodes ("),
        (["context", "dgx-h100", "llama3-8b-sft"], "tokens fit"),
        (["price", "dgx-h100", "aws-p4de", "llama3-8b-sft"], "per GPU-hour"),
    ],
)
def test_commands_answer_in_words_and_json(arguments, said):
    result = CliRunner().invoke(group, ["need", *arguments])
    assert result.exit_code == 0, result.output
    assert said in result.stdout
    assert json.loads(CliRunner().invoke(group, ["need", *arguments, "--json"]).stdout)


def test_a_machine_without_a_price_is_taken_at_the_price_that_compare_takes():
    mine = {"name": "mine", "node": {"gpu": "H100", "gpus": 8}}
    found = price_for(mine, "dgx-a100", "llama3-8b-sft")
    compared = sim.compare([mine, "dgx-a100"], "llama3-8b-sft")
    costs = [variant.result.cost for variant in compared.variants]
    assert found.now_usd == costs[0].price_per_gpu_hour_usd
    assert found.other_job.cost.price_per_gpu_hour_usd == costs[1].price_per_gpu_hour_usd
    [same, _] = compared.deltas[0].prices
    assert found.like_for_like.now_usd == same.first_rate_usd


def test_fewest_nodes_without_a_deadline_are_those_that_hold_it():
    """How many GPUs a job needs had to be asked with a deadline."""
    found = sim.need_gpus("dgx-a100", "llama3-70b-full")
    assert (found.nodes, found.gpus, found.deadline_s) == (3, 24, None)
    assert found.below == (2, None)
    assert gpus_view(found).title.startswith("3 nodes (24 GPUs) hold it in memory: done in ")
    with pytest.raises(InfeasibleError, match="has room for"):
        sim.need_gpus("l40s-x1", "llama3-70b-full")


@pytest.mark.parametrize(
    ("nodes", "sets", "keys"),
    [
        (1, {}, set()),
        (4, {"parallelism.replicate": 4}, {"nodes", "parallelism.replicate"}),
        (4, {"global_batch": 128}, {"nodes", "gradient_accumulation"}),
    ],
)
def test_the_job_of_the_fewest_gpus_is_what_run_says_of_its_settings(nodes, sets, keys):
    """Four replicas of 8 GPUs are one on 8; `run --set nodes=1` alone keeps four."""
    machine = load_topology("dgx-h100", [f"nodes={nodes}"])
    found = sim.need_gpus(machine, "llama3-8b-sft", overrides=sets)
    assert found.settings.keys() == keys
    both = {**sets, **found.settings}
    if "gradient_accumulation" in both:
        both.pop("global_batch")
    run = sim.simulate(machine, "llama3-8b-sft", overrides=both, scaling=False, fixes=False)
    assert run.memory.fits
    assert run.topology.nodes == found.nodes
    assert run.job.wall_clock_s == found.job.wall_s
    line = " ".join(f"--set {key}={value}" for key, value in found.settings.items())
    assert told(gpus_view(found)).endswith(f"As `run` with {line}" if line else "smallest size")
