"""Jobs of several sizes, odds of deadlines, what to keep and rent, clusters side by side."""

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner

from sim.cli import group
from sim.errors import InputError
from sim.inputs.loader import load, load_topology
from sim.inputs.topology import Offer, Ownership
from sim.job.basis import terms_of
from sim.job.cost import owned_rate
from sim.job.energy import full_site_watts
from sim.job.spec import JobSpec
from sim.report.gantt import chart
from sim.study.burst import capacity_of
from sim.study.cluster import Cluster, Request
from sim.study.jobs import cluster_of
from sim.study.plan import TimedJobs, finished, plan, serve, with_odds
from sim.study.scenarios import compare_plans, grown
from sim.study.schedule import POLICIES, schedule

HOUR = 3600.0


def cluster(nodes=8, *sets):
    return Cluster(cluster_of("dgx-h100", [f"nodes={nodes}", *sets]).topology)


def job(name, nodes, arrival, hours, deadline=None, **more):
    limit = None if deadline is None else deadline * HOUR
    return Request(name, nodes, arrival * HOUR, limit, 0, hours * HOUR, 0.0, 0.0, 0.0, 0, **more)


def sizes(name, arrival, hours, deadline=None):
    """A job that takes `hours[n]` on n nodes."""
    first, *others = (job(name, n, arrival, h, deadline) for n, h in hours.items())
    return replace(first, others=tuple(others))


# --- jobs of several sizes -----------------------------------------------------------------------

HALVED = {1: 8.0, 2: 4.5, 4: 3.0}  # 8, 9 and 12 node-hours


@pytest.mark.parametrize(
    ("deadline", "free", "taken", "start"),
    [
        (None, 8, 4, 0.0),  # ends first
        (9.0, 8, 1, 0.0),  # the fewest node-hours in time
        (5.0, 8, 2, 0.0),
        (3.5, 8, 4, 0.0),
        (1.0, 8, 4, 0.0),  # none in time: the first to end
        (None, 3, 4, 1.0),  # worth the wait: 1 + 3 h against 4.5 h at once
        (5.0, 3, 2, 0.0),  # in time as it is
    ],
)
def test_a_job_takes_the_size_that_suits_its_deadline(deadline, free, taken, start):
    others = [job("other", 8 - free, 0.0, 1.0)] if free < 8 else []
    logs = schedule(cluster(), [*others, sizes("a", 0.0, HALVED, deadline)], 8)
    assert (logs[-1].request.nodes, logs[-1].start_s / HOUR) == (taken, start)
    assert logs[-1].held_s == pytest.approx(HALVED[taken] * HOUR)


def test_backfill_uses_a_smaller_size_where_that_delays_nobody():
    # four nodes; a holds 3 for 4 h, b wants all 4; c could have 1 node for 3 h or 2 for 2 h
    queue = [job("a", 3, 0, 4), job("b", 4, 1, 2), sizes("c", 1.5, {1: 2.5, 2: 2.0})]
    logs = schedule(cluster(4), queue, 4, "backfill")
    assert (logs[2].request.nodes, logs[2].start_s / HOUR, logs[1].start_s / HOUR) == (1, 1.5, 4.0)


def test_the_step_model_times_every_size(tmp_path):
    path = tmp_path / "jobs.yaml"
    path.write_text(
        "jobs: [{name: a, workload: llama3-70b-full, nodes: [1, 4, 2], set: {tokens: 1e8}}]"
    )
    report = plan("dgx-h100", path, sets=["nodes=4"], replicas=0)
    forms = report.logs[0].request.forms
    # one node is too small for its memory, which is no fault where others are not
    assert [form.nodes for form in forms] == [4] or [form.nodes for form in forms] == [2, 4]
    assert report.logs[0].request.nodes == 4
    path.write_text("jobs: [{name: a, workload: llama3-8b-sft, nodes: []}]")
    with pytest.raises(InputError, match="lists 0 numbers of nodes; write 1 to 16"):
        plan("dgx-h100", path)


# --- policies ------------------------------------------------------------------------------------


def test_shortest_first_and_earliest_deadline_first():
    # all four nodes each; all wait while z runs
    queue = [
        job("z", 4, 0, 1), job("long", 4, 0.1, 5, 20), job("short", 4, 0.2, 1, 30),
        job("due", 4, 0.3, 3, 6),
    ]  # fmt: skip
    starts = {
        policy: [log.request.name for log in sorted(
            schedule(cluster(4), queue, 4, policy), key=lambda log: log.start_s)]
        for policy in POLICIES
    }  # fmt: skip
    assert starts["fifo"] == ["z", "long", "short", "due"]
    assert starts["sjf"] == ["z", "short", "due", "long"]
    assert starts["edf"] == ["z", "due", "long", "short"]


# --- odds ----------------------------------------------------------------------------------------


def test_the_odds_of_a_deadline_are_those_of_its_failures():
    """An hour of work that starts over at a failure, one in five hours: done in one with e^-0.2."""
    spec = JobSpec(steps=3600, step_s=1.0, mtbf_s=5 * HOUR)
    jobs = [job(f"j{i}", 1, 0, 1.0, 1.001, spec=spec) for i in range(40)]
    shared = cluster(40)
    report = with_odds(serve(shared, jobs, 40, "fifo"), TimedJobs(shared, jobs), 50)
    assert report.replicas == 50
    assert with_odds(serve(shared, jobs, 40, "fifo"), TimedJobs(shared, jobs), 2).replicas == 2
    assert report.on_time_expected == pytest.approx(math.exp(-0.2), abs=0.03)
    assert report.on_time == 1.0  # as planned, all are


def test_who_waits_for_a_job_waits_for_its_failures_too():
    spec = JobSpec(steps=3600, step_s=1.0, mtbf_s=5 * HOUR)
    jobs = [job("first", 1, 0, 1.0, spec=spec), job("next", 1, 0, 1.0, 2.001)]
    shared = cluster(1)
    report = with_odds(serve(shared, jobs, 1, "fifo"), TimedJobs(shared, jobs), 400)
    assert report.logs[1].odds == pytest.approx(math.exp(-0.2), abs=0.06)
    assert report.logs[0].odds is None  # it has no deadline


def test_neighbours_in_size():
    jobs = [job(f"j{i}", 1, 0, 2.0, 3.0) for i in range(4)]
    shared = cluster(3, "offer={price_per_gpu_hour: 1 USD}")
    report = finished(TimedJobs(shared, jobs), serve(shared, jobs, 3, "fifo"), 0)
    less, more = report.marginal
    assert (less.nodes, less.on_time, less.span_s / HOUR) == (2, 0.5, 4.0)
    assert (more.nodes, more.on_time, more.span_s / HOUR) == (4, 1.0, 2.0)
    assert report.cost_usd == pytest.approx(3 * 8 * 4)
    assert more.cost_usd == pytest.approx(4 * 8 * 2)


# --- own, rent, keep -----------------------------------------------------------------------------


def test_a_gpu_of_ones_own_by_hand():
    # 35,064 USD over four years of 8,766 h: 1.00 USD/h; 5 % on half of it 0.10; 876.6 USD a year of
    # staff 0.10; 73 USD a month of room 0.10; in use for 65 % of its life
    own = Ownership(
        price_per_gpu=35_064.0, interest=0.05, staff_per_gpu_year=876.6, space_per_gpu_month=73.0,
        in_use=0.65,
    )  # fmt: skip
    assert owned_rate(own) == pytest.approx(1.3 / 0.65)
    # half of the price comes back: half is written off, three quarters are tied up
    half = own.model_copy(update={"resale": 0.5, "in_use": 1.0})
    assert owned_rate(half) == pytest.approx(0.5 + 0.15 + 0.2)


def test_owning_pays_where_there_is_no_price_or_where_it_is_said():
    own = Ownership(price_per_gpu=35_064.0)
    assert terms_of(Offer(own=own)).kind == "owned"
    assert terms_of(Offer(own=own)).price_per_gpu_hour_usd == pytest.approx(1.0)
    assert terms_of(Offer(own=own, price_per_gpu_hour=3.0)).price_per_gpu_hour_usd == 3.0
    owned = Offer(own=own, price_per_gpu_hour=3.0, capacity="owned")
    assert terms_of(owned).price_per_gpu_hour_usd == pytest.approx(1.0)
    with pytest.raises(InputError, match="owned, and nothing says what it cost"):
        load("dgx-h100", "llama3-8b-sft", ["offer.capacity=owned"])


def test_what_to_keep_and_what_to_rent():
    """Two nodes for ten hours, two more for one: kept at 0.5 of the hourly price, two are kept."""
    keys = ["offer={price_per_gpu_hour: 2 USD, commitment_discount: 50 %}"]
    shared = cluster(4, *keys)
    jobs = [job("base", 2, 0, 10), job("peak", 2, 3, 1)]
    found = capacity_of(serve(shared, jobs, 4, "fifo"), shared.topology)
    assert (found.peak_nodes, found.base_nodes, found.base_kind) == (4, 2, "committed")
    assert found.even_share == pytest.approx(0.5)
    assert found.rented_usd == pytest.approx(2.0 * 8 * (2 * 10 + 2 * 1))
    assert found.kept_usd == pytest.approx(1.0 * 8 * 4 * 10)
    assert found.mixed_usd == pytest.approx(8 * (1.0 * 2 * 10 + 2.0 * 2 * 1))
    assert capacity_of(serve(shared, jobs, 4, "fifo"), load_topology("dgx-h100")) is None


def test_a_kept_machine_draws_power_while_it_works():
    # 700 W x 1.4 for the node x 1.25 for the site: 1.225 kW at 0.2 USD/kWh
    offer = "price_per_gpu_hour: 2 USD, energy_per_kwh: 0.2 USD, own: {price_per_gpu: 0 USD}"
    shared = cluster(1, f"offer={{{offer}}}")
    assert full_site_watts(shared.topology.first_gpu) == pytest.approx(1225.0)
    found = capacity_of(serve(shared, [job("a", 1, 0, 10)], 1, "fifo"), shared.topology)
    assert found.kept_usd == pytest.approx(8 * 10 * 0.245)


# --- side by side --------------------------------------------------------------------------------


def test_growth_takes_every_other_job_twice():
    jobs = [job(f"j{i}", 1, i, 1.0, i + 2.0) for i in range(4)]
    more = grown(jobs, 1.5)
    assert [r.name for r in more] == ["j0", "j1", "j1+1", "j2", "j3", "j3+1"]
    assert more[2].arrival_s / HOUR == 1.5
    assert more[2].deadline_s / HOUR == 3.5
    assert len(grown(jobs, 0.5)) == 2
    assert grown(jobs, 1.0) == jobs


WEEK = "docs/examples/week.yaml"


def test_policies_and_growth_side_by_side(pytestconfig):
    path = pytestconfig.rootpath / WEEK
    found = compare_plans(
        ["dgx-h100"], path, policies=["fifo", "priority", "backfill"], growths=[1.0, 2.0],
        sets=["nodes=8"],
    )  # fmt: skip
    on_time = {(s.policy, s.growth): s.report.on_time for s in found.scenarios}
    assert on_time["fifo", 1.0] == pytest.approx(19 / 22)
    assert on_time["priority", 1.0] == 1.0
    assert on_time["fifo", 2.0] < on_time["fifo", 1.0] < on_time["backfill", 1.0]
    assert [found.scenarios[i].policy for i in found.best] == ["priority", "priority"]


def test_the_cheapest_machine_that_does(tmp_path):
    path = tmp_path / "jobs.yaml"
    path.write_text(
        "jobs: [{name: a, workload: llama3-8b-sft, count: 4, every: 4 h, deadline: 8 h}]"
    )
    found = compare_plans(
        ["dgx-h100", "dgx-a100"], path, fewest=True,
        sets=["offer={price_per_gpu_hour: 2 USD}"],
    )  # fmt: skip
    h100, a100 = found.scenarios
    assert h100.met
    assert h100.report.nodes == 2
    assert found.best == (0,)
    # 5.6 h on an H100 node, 12 h on one of A100s: no number of nodes helps a job of one
    assert a100.report is None
    assert "no number of nodes meets 95 % of the deadlines" in a100.reason
    late = compare_plans(["dgx-a100"], path, fewest=True)
    assert late.best == (-1,)


def test_commands(tmp_path, pytestconfig):
    path = str(pytestconfig.rootpath / WEEK)
    run = ["plan", "dgx-h100", path, "--set", "nodes=8"]
    both = CliRunner().invoke(group, [*run, "--policy", "fifo", "--policy", "priority"])
    assert "the cheapest that meets 95 % of deadlines: dgx-h100, 8 nodes, priority" in both.stdout
    document = json.loads(CliRunner().invoke(group, [*run, "--growth", "1,3", "--json"]).stdout)
    assert [s["growth"] for s in document["scenarios"]] == [1.0, 3.0]
    drawn = CliRunner().invoke(group, [*run, "--gantt", "--replicas", "0"]).stdout
    assert "· waits  █ runs  | deadline  ! past it" in drawn
    for of_one in (["--gantt"], ["--replicas", "200"]):
        refused = CliRunner().invoke(group, [*run, "--policy", "all", *of_one])
        assert refused.exit_code == 2
        assert f"{of_one[0]}: of one plan; several are compared here" in refused.output
    page = tmp_path / "plan.html"
    CliRunner().invoke(group, [*run, "--replicas", "2", "--report", str(page)])
    assert "Nodes over time" in page.read_text()


def test_a_gantt_chart_by_hand():
    # five hours in 60 columns, twelve an hour: b waits for a, is an hour late
    jobs = [job("a", 1, 0, 2, 3), job("b", 1, 0, 3, 4)]
    lines = chart(serve(cluster(1), jobs, 1, "fifo"))
    assert lines[0] == "a    1 " + "█" * 24 + " " * 12 + "|"
    assert lines[1] == "b    1 " + "·" * 24 + "█" * 24 + "!" + "█" * 11


@pytest.mark.parametrize(
    ("growths", "policies", "said"),
    [
        ([0.0], ["fifo"], "0 times the jobs"),
        ([1.0], ["lifo"], '"lifo" is no policy'),
        ([1.0] * 65, ["fifo"], "65 scenarios; at most 64"),
    ],
)
def test_faults_of_scenarios(growths, policies, said, pytestconfig):
    with pytest.raises(InputError, match=said):
        compare_plans(["dgx-h100"], pytestconfig.rootpath / WEEK, policies=policies,
                      growths=growths)  # fmt: skip


def test_growth_that_is_no_number(pytestconfig):
    with pytest.raises(InputError, match="is no list of numbers"):
        CliRunner().invoke(
            group, ["plan", "dgx-h100", str(pytestconfig.rootpath / WEEK), "--growth", "more"],
            catch_exceptions=False,
        )  # fmt: skip
