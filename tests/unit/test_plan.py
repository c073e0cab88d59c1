"""Several jobs on one cluster: hand-worked schedules, sharing of uplinks, the smallest cluster."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from sim.cli import group
from sim.errors import InfeasibleError, InputError
from sim.report.formats.table import render
from sim.report.plan import view
from sim.report.terminal import table_lines
from sim.report.view import Table
from sim.study.cluster import Cluster, Request
from sim.study.jobs import cluster_of
from sim.study.plan import fewest, plan, serve, smallest
from sim.study.pool import Pool
from sim.study.scenarios import compare_plans
from sim.study.schedule import DEPTH, POLICIES, schedule

HOUR = 3600.0


def cluster(nodes=4, **network):
    topology = cluster_of("dgx-h100", [f"nodes={nodes}"]).topology
    if network:
        changed = topology.network.model_copy(update=network)
        topology = topology.model_copy(update={"network": changed})
    return Cluster(topology)


def job(name, nodes, arrival, hours, deadline=None, priority=0, save=0.0, resume=0.0, busy=0.0):
    limit = None if deadline is None else deadline * HOUR
    return Request(
        name, nodes, arrival * HOUR, limit, priority, hours * HOUR, save, resume, busy, 0
    )


def times(logs):
    return {log.request.name: (log.start_s / HOUR, log.finish_s / HOUR) for log in logs}


# --- hand-worked schedules -----------------------------------------------------------------------

# four nodes; a takes 3 for 4 h, b wants all 4 for 2 h, c wants 1 for 3 h, d 1 for 5 h
QUEUE = [job("a", 3, 0, 4), job("b", 4, 1, 2), job("c", 1, 2, 2), job("d", 1, 2.5, 5)]


def test_fifo_starts_nobody_before_the_first_in_the_queue():
    logs = schedule(cluster(), QUEUE, 4, "fifo")
    assert times(logs) == {"a": (0, 4), "b": (4, 6), "c": (6, 8), "d": (6, 11)}
    assert [log.waiting_s / HOUR for log in logs] == [0, 3, 4, 3.5]


def test_a_priority_that_nobody_asks_for_is_told():
    line = {"name": "a", "workload": "llama3-8b-lora", "nodes": 1}
    found = {
        policy: sim.plan("dgx-h100", {"jobs": [line | {"priority": 1}]}, policy=policy, replicas=0)
        for policy in ("fifo", "priority")
    }
    assert found["fifo"].notes == (
        "the priority of 1 job counts for nothing under fifo: --policy priority heeds it",
    )
    assert not found["priority"].notes
    assert not sim.plan("dgx-h100", {"jobs": [line]}, replicas=0).notes


def test_backfill_lets_in_who_does_not_delay_the_first():
    # c ends at 4, just when b can start; d would hold its node until 7.5 and has to wait
    logs = schedule(cluster(), QUEUE, 4, "backfill")
    assert times(logs) == {"a": (0, 4), "c": (2, 4), "b": (4, 6), "d": (6, 11)}


def test_backfill_may_use_for_long_what_the_first_leaves_over():
    queue = [job("a", 3, 0, 4), job("b", 3, 1, 2), job("c", 1, 2, 9)]
    logs = schedule(cluster(), queue, 4, "backfill")
    assert times(logs) == {"a": (0, 4), "b": (4, 6), "c": (2, 11)}


def test_backfill_looks_at_no_arrival_behind_those_it_looks_at(monkeypatch):
    tried = []
    usual = Pool.copy
    monkeypatch.setattr(Pool, "copy", lambda pool: tried.append(1) or usual(pool))
    # b waits for a; each of the others has its node, which b needs before it were done
    late = [job(str(i), 1, 2 + i / 1e4, 9) for i in range(4 * DEPTH)]
    while_waiting = []
    schedule(
        cluster(), [job("a", 3, 0, 4), job("b", 4, 1, 2), *late], 4, "backfill",
        told=lambda: while_waiting.append(len(tried)),
    )  # fmt: skip
    assert DEPTH - 2 <= while_waiting[0] <= DEPTH + 2


def test_priority_preempts_saves_and_resumes():
    # low has done 1 h of 4 when high comes; saves 6 min; high runs 2 h; low restarts (12 min) and
    # does its last 3 h
    low = job("low", 4, 0, 4, save=0.1 * HOUR, resume=0.2 * HOUR)
    high = job("high", 2, 1, 2, priority=5)
    logs = {log.request.name: log for log in schedule(cluster(), [low, high], 4, "priority")}
    assert times(logs.values())["high"] == pytest.approx((1.1, 3.1))
    assert logs["low"].finish_s / HOUR == pytest.approx(3.1 + 0.2 + 3)
    assert logs["low"].preemptions == 1
    assert logs["low"].held_s / HOUR == pytest.approx(1.1 + 3.2)
    assert logs["low"].waiting_s / HOUR == pytest.approx(2.0)


def test_equal_priority_does_not_preempt():
    logs = schedule(cluster(), [job("a", 4, 0, 4, priority=1), job("b", 4, 1, 1, priority=1)], 4,
                    "priority")  # fmt: skip
    assert times(logs) == {"a": (0, 4), "b": (4, 5)}


requests = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 10), st.integers(1, 5), st.integers(0, 2)),
    min_size=1, max_size=12,
)  # fmt: skip


@given(requests, st.sampled_from(list(POLICIES)))
@settings(max_examples=60, deadline=None)
def test_nodes_are_never_given_out_twice_and_work_is_done(drawn, policy):
    jobs = [
        job(f"j{i}", nodes, at, hours, priority=priority)
        for i, (nodes, at, hours, priority) in enumerate(sorted(drawn, key=lambda d: d[1]))
    ]
    logs = schedule(cluster(), jobs, 4, policy)
    for log in logs:
        assert log.start_s >= log.request.arrival_s
        assert log.held_s == pytest.approx(log.request.alone_s)
        assert log.waiting_s >= -1e-6
    if policy != "priority":  # uninterrupted: at no start are more than four nodes in use
        for log in logs:
            inside = [
                o for o in logs if o.start_s <= log.start_s < o.finish_s - 1e-6
            ]  # fmt: skip
            assert sum(o.request.nodes for o in inside) <= 4


# --- the network is shared -----------------------------------------------------------------------


class Priced(Cluster):
    """Slowdown as asked for, so that who shares with whom can be checked by hand."""

    def __init__(self, topology):
        super().__init__(topology)
        self.asked = []

    def slowdown(self, kind, widest, oversubscription):
        self.asked.append((widest, oversubscription))
        return max(1.0, oversubscription)


def test_jobs_that_cross_the_same_uplinks_slow_each_other():
    # leaves of 2 nodes, uplinks of 2 / 2 = 1 node's NICs. x holds 1 + 2 and y 1 + 2 nodes of three
    # leaves: they meet on one leaf. y communicates half its time: x gets max(1 - 0.5, 1 / 1.5).
    shared = Priced(cluster(6, nodes_per_leaf=2, oversubscription=2.0).topology)
    jobs = [job("x", 3, 0, 3, busy=1.0), job("y", 3, 0, 3, busy=0.5)]
    logs = schedule(shared, jobs, 6, "fifo")
    # x: two nodes on its widest leaf, over 2/3 of a NIC set: 3; y: 2 over 1/2: 4
    asked = {(widest, round(over, 9)) for widest, over in shared.asked}
    assert asked == {(2, 3.0), (2, 4.0), (2, 2.0)}
    x, y = logs
    assert x.finish_s / HOUR == pytest.approx(9.0)
    # y did 9/4 h of work until 9 h; alone on the uplinks its oversubscription is 2 / 1
    assert y.finish_s / HOUR == pytest.approx(9.0 + (3 - 9 / 4) * 2)


def test_a_job_under_one_leaf_is_left_alone():
    shared = Priced(cluster(8, nodes_per_leaf=4, oversubscription=4.0).topology)
    logs = schedule(shared, [job("x", 4, 0, 3, busy=1.0), job("y", 4, 0, 3, busy=1.0)], 8, "fifo")
    assert not shared.asked
    assert [log.slowdown for log in logs] == [1.0, 1.0]


JOBS = """
jobs:
  - {name: pair, workload: llama3-8b-sft, nodes: 3, count: 2, set: {tokens: 1e8, micro_batch: 1}}
"""


def write(tmp_path, text):
    path = tmp_path / "jobs.yaml"
    path.write_text(text)
    return path


def test_the_step_model_prices_the_sharing(tmp_path):
    path = write(tmp_path, JOBS)
    wide = ["nodes=6", "network.nodes_per_leaf=2"]
    free = plan("dgx-h100", path, sets=wide)
    tight = plan("dgx-h100", path, sets=[*wide, "network.oversubscription=8"])
    assert [log.slowdown for log in free.logs] == pytest.approx([1.0, 1.0], abs=0.02)
    assert all(log.slowdown > 1.1 for log in tight.logs)
    assert [log.request.kind for log in tight.logs] == [0, 0]  # of one job, priced once


# --- files and answers ---------------------------------------------------------------------------

WEEK = """
jobs:
  - {name: sft, workload: llama3-8b-sft, nodes: 2, count: 6, every: 20 h, deadline: 6 h}
  - {name: lora, workload: llama3-70b-lora, nodes: 4, arrival: 1 h, count: 5, every: 24 h, deadline: 5 h, priority: 1}
"""  # noqa: E501


def test_a_week_of_jobs(tmp_path):
    report = plan("dgx-h100", write(tmp_path, WEEK), policy="backfill", sets=["nodes=4"])
    assert len(report.logs) == 11
    held = sum(log.held_s * log.request.nodes for log in report.logs)
    assert report.utilisation == pytest.approx(held / (4 * report.span_s))
    price = 2.95 * 8 / 3600
    assert report.cost_usd == pytest.approx(price * 4 * report.span_s)
    assert report.idle_usd == pytest.approx(price * (4 * report.span_s - held))


def test_a_cluster_that_is_never_idle_pays_nothing_for_idling(tmp_path):
    """A sum of rounded times: -5e-11 dollars, and 1.0000000000000002 of the time in use."""
    jobs = """
jobs:
  - {name: a, workload: mistral-7b-lora, nodes: 4, arrival: 5 h, count: 3, every: 6 h}
  - {name: b, workload: mpt-7b-pretrain, nodes: 4, count: 3, every: 6 h}
"""
    report = plan("dgx-h100", write(tmp_path, jobs), policy="sjf", sets=["nodes=4"])
    assert report.idle_usd == 0.0
    assert report.utilisation == 1.0


def test_a_row_a_job_in_eighty_columns(pytestconfig):
    """Late jobs first, by how much; what tells no jobs apart takes no column."""
    jobs = pytestconfig.rootpath / "docs" / "examples" / "week.yaml"
    found = sim.plan("dgx-h100", jobs, overrides={"nodes": 8}, replicas=2)
    assert max(len(line) for line in render(view(found)._replace(width=80)).splitlines()) <= 80
    table = next(part for part in view(found).sections if isinstance(part, Table))
    heads = [column.head for column in table.columns]
    assert heads == ["job", "nodes", "arrives", "waits", "holds", "to spare", "in time"]
    rows = list(table_lines(table, 80))[1:]
    assert len(rows) == len(found.logs)
    assert ["-" in row.removeprefix(row.split()[0]) for row in rows[:4]] == [True] * 4
    assert "-17 h 52 min" in rows[0]
    assert [row[5] for row in table.rows if row[5].value is None] == [("-", None, "")]
    assert sum(row[5].value < 0.0 for row in table.rows if row[5].value is not None) == 3
    shared = sim.plan("dgx-h100", jobs, overrides={"nodes": 8}, policy="priority", replicas=0)
    assert {"pace", "lost"} <= {
        column.head
        for part in view(shared).sections
        if isinstance(part, Table)
        for column in part.columns
    }


def test_the_smallest_cluster_is_the_first_that_does():
    jobs = [job(f"j{i}", 2, 0, 2, deadline=4) for i in range(6)]
    # each runs 2 h within 4 h: two rounds, so three at once: 6 nodes; 5 nodes hold two pairs
    found, _ = smallest(cluster(), jobs, "fifo", 1.0)
    assert found is not None
    assert found.nodes == 6
    assert serve(cluster(), jobs, 5, "fifo").on_time == pytest.approx(4 / 6)
    relaxed, _ = smallest(cluster(), jobs, "fifo", 0.6)
    assert relaxed is not None
    assert relaxed.nodes == 4


def test_no_cluster_is_large_enough_for_a_job_that_is_too_slow_alone(tmp_path):
    path = write(tmp_path, "jobs: [{name: a, workload: llama3-8b-sft, deadline: 1 min}]")
    with pytest.raises(InfeasibleError, match="give it more nodes"):
        fewest("dgx-h100", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs: [{name: a, workload: llama3-8b-sft, node: 1}]", 'did you mean "nodes"'),
        ("jobs: [{name: a, workload: llama3-9b}]", "no workload of that name"),
        ("jobs: []", "lists no job"),
        ("jobs: [{name: a, workload: llama3-8b-sft, nodes: 99}]", "wants 99 nodes"),
        ("jobs: [{name: a, workload: llama3-70b-full, nodes: 1}]", "does not fit on 1 node: "),
        ("jobs: [{name: a, workload: llama3-8b-sft, deadline: 5}]", "has no unit"),
        ("jobs: [{name: a, workload: llama3-8b-sft, set: {micro_bach: 1}}]", "unknown key"),
        ("jobs: [{name: a, workload: llama3-8b-sft, set: 3}]", "no mapping of keys"),
        ("- a", "is no mapping"),
    ],
)
def test_faults_of_a_jobs_file(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        plan("dgx-h100", write(tmp_path, text))


def test_command(tmp_path):
    path = str(write(tmp_path, WEEK))
    result = CliRunner().invoke(group, ["plan", "dgx-h100", path, "--set", "nodes=4", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["nodes"] == 4
    assert len(document["jobs"]) == 11
    table = CliRunner().invoke(group, ["plan", "dgx-h100", path, "--smallest"])
    assert "are the fewest on which 95 % of deadlines are met" in table.stdout


def test_all_plans_say_how_far_they_are(tmp_path):
    rows = "".join(f"j{i},{60 * i},8,30,30000000\n" for i in range(1200))
    path = tmp_path / "jobs.csv"
    path.write_text("job_id,submit_time,gpu_num,duration,deadline\n" + rows)
    told = []
    fewest("dgx-h100", path, replicas=0, progress=lambda *at: told.append(at))
    assert told[0][0] == 1000
    assert all(done <= whole for done, whole in told)
    told.clear()
    compare_plans(
        ["dgx-h100"], path, policies=("fifo", "sjf"), progress=lambda *at: told.append(at)
    )
    assert told == [(0, 2), (1, 2), (2, 2)]
