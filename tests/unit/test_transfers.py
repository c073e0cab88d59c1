"""What collectives and copies lose to what shares their links, by cause."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from sim.cli import group
from sim.engine import compiled
from sim.engine.losses import CAUSES, KINDS, Transfers, losses
from sim.inputs.loader import load
from sim.step.run import run_step
from sim.step.transfers import ASIDE, COLLECTIVES, COPIES, KERNELS, beside, shared
from sim.step.windows import Window, Windows

JOB = {"name": "x", "model": "llama-3-8b", "sequence_length": 2048, "micro_batch": 2}
OFFLOADED = "parallelism={strategy: zero3, offload: optimizer}"
HYBRID = "parallelism={strategy: fsdp2, replicate: 2}"


def outcome(machine, *sets, level="folded"):
    loaded = load(machine, JOB, ["model.layers=3", *sets])
    return run_step(loaded.topology, loaded.workload, engine="python", level=level)


def some_transfers(rng, n=9, routes=4, resources=3):
    """Transfers that meet each other here and there."""
    start = np.sort(rng.integers(0, 12, n) / 4.0)
    moving = start + rng.integers(0, 3, n) / 8.0
    end = moving + rng.integers(0, 8, n) / 4.0
    alone = (end - start) * rng.choice([0.4, 0.7, 1.0], n)
    nothing = rng.random(n) < 0.15
    alone[nothing], moving[nothing] = np.inf, end[nothing]
    demands = [rng.permutation(resources)[: rng.integers(0, 3)] for _ in range(routes)]
    first = np.cumsum([0, *map(len, demands)])
    return Transfers(
        start, moving, end, alone, np.where(nothing, 0.0, rng.choice([1.0, 2.0], n)),
        i4(rng.random(n) < 0.7), i4(rng.integers(0, routes, n)), i4(moving.argsort()),
        i4(end.argsort()), n, i4(rng.integers(0, 2, routes)), i4(first), routes,
        i4(np.concatenate(demands)), rng.choice([0.3, 0.6, 1.2], first[-1]), np.ones(resources),
        2, np.array([0.0, 1.0]), np.array([9.0, 2.0]),
    )  # fmt: skip


def i4(column):
    return np.asarray(column, dtype=np.int32)


def told_otherwise(t):
    """What transfers lose, moment by moment: all times are eighths."""
    found = np.zeros((2, KINDS, CAUSES))
    ways = [slice(*t.first[r : r + 2]) for r in range(t.n_routes)]
    moments = np.arange(0.0, 12.0, 0.125) + 1 / 16
    for w, (begin, finish) in enumerate(zip(t.begin, t.finish, strict=True)):
        more = t.end - t.start - t.alone
        losers = np.flatnonzero((t.own > 0) & (t.start >= begin) & (t.start < finish))
        losers = [i for i in losers if more[i] > 1e-6 * t.alone[i]]
        near = (t.end > begin) & (t.start < max((t.end[i] for i in losers), default=begin))
        load = np.zeros((t.n_routes, t.capacity.size))
        for r, way in enumerate(ways):
            pace = max(t.weight[near & (t.route == r)], default=0.0)
            load[r, t.resource[way]] = t.amount[way] * pace
        for i in losers:
            mine = t.route[i]
            on = t.resource[ways[mine]]
            alike = (load[mine, on] > t.capacity[on]).any()
            both = (load[:, on] + load[mine, on] > t.capacity[on]) & (load[:, on] > 0.0)
            meets = both.any(axis=1)
            seconds = []
            for kind in range(KINDS):
                own = kind == t.kind[mine]
                if own and alike:
                    seconds.append(t.end[i] - t.start[i])
                    continue
                some = meets[t.route] & (t.kind[t.route] == kind)
                flying = (t.moving[some, None] < moments) & (moments < t.end[some, None])
                enough = flying.sum(axis=0) >= (2 if own and meets[mine] else 1)
                seconds.append(0.125 * enough[(moments > t.start[i]) & (moments < t.end[i])].sum())
            share = np.array(seconds) / sum(seconds) if sum(seconds) > 0.0 else np.zeros(KINDS)
            found[w, t.kind[mine]] += more[i] * np.append(share, sum(seconds) == 0.0)
    return found.reshape(2, -1)


def test_what_is_lost_is_what_a_plain_reading_says():
    rng = np.random.default_rng(7)
    many = [some_transfers(rng) for _ in range(200)]
    seen = np.zeros((2, KINDS * CAUSES))
    for columns in many:
        [found] = losses(columns, 1)
        np.testing.assert_allclose(found, told_otherwise(columns), rtol=1e-12, atol=1e-12)
        seen += found
    assert (seen > 0.0).all()


def test_it_is_the_same_as_machine_code_and_in_plain_python(monkeypatch):
    rng = np.random.default_rng(8)
    one, *_ = many = [some_transfers(rng) for _ in range(5)]
    rows = ("start", "moving", "end", "alone", "weight", "by_moving", "by_end")
    stack = one._replace(
        **{name: np.stack([getattr(each, name) for each in many]) for name in rows},
        windows=np.array([2, 1, 2, 2, 1]),
    )
    monkeypatch.setitem(sys.modules, "sim.engine.compiled", compiled)
    fast = losses(stack, 5)
    monkeypatch.delitem(sys.modules, "sim.engine.compiled")
    slow = losses(stack, 5)
    assert fast.tolist() == slow.tolist()
    assert (fast[:, 0].sum(axis=1) > 0.0).all()
    assert not fast[[1, 4], 1].any()  # no such windows


@pytest.mark.parametrize("strategy", ["fsdp1", "fsdp2"])
def test_gradients_that_leave_on_the_stream_of_their_reduction_are_copies(strategy):
    found = outcome("pcie4-a100-8", f"parallelism={{strategy: {strategy}, offload: all}}")
    view, plan_op = found.lowered.views[0], found.lowered.plan_op
    moved = [i for i, op in enumerate(view.plan.ops) if op.name in ("h2d", "d2h")]
    assert {view.plan.ops[i].stream for i in moved} >= {"reduce_scatter"}
    assert set(moved) <= set(plan_op[view.copies])
    # two GPUs share a switch: what one sends, the other waits for
    assert found.breakdown.transfers[beside(COPIES, COPIES)] > 0.0
    assert found.breakdown.parts["copies"] > 0.0


@pytest.mark.parametrize(
    ("machine", "sets", "largest"),
    [
        ("pcie4-a100-8", (OFFLOADED,), (COPIES, COPIES)),
        ("pcie5-h100-8", ("nodes=2", HYBRID), (COLLECTIVES, COLLECTIVES)),
        ("dgx-h100", (), (COLLECTIVES, KERNELS)),
    ],
)
def test_causes_add_up_and_do_not_depend_on_the_level(machine, sets, largest):
    folded, ranks = (outcome(machine, *sets, level=level) for level in ("folded", "ranks"))
    found = folded.breakdown.transfers
    assert max(found, key=found.__getitem__) == beside(*largest)
    assert found == pytest.approx(ranks.breakdown.transfers, rel=1e-6)
    program, timeline, view = folded.lowered.program, folded.timeline, folded.lowered.views[0]
    ops = np.unique(np.concatenate((program.hold_until[view.comm_begin], view.copies)))
    ops = ops[(program.curve[ops] < 0) & (program.work[ops] > 0.0)]
    rows = zip(program.demand_ptr[program.route[ops]], program.demand_ptr[program.route[ops] + 1],
               program.bound[ops], strict=True)  # fmt: skip
    # a copy is held by the narrowest link of its way, a collective by its bound
    paces = [
        (program.capacity[program.demand_resource[a:b]] / program.demand_amount[a:b]).min()
        if np.isinf(bound) else bound for a, b, bound in rows
    ]  # fmt: skip
    alone = program.latency[ops] + program.work[ops] / np.array(paces)
    longer = timeline.end[ops] - timeline.start[ops] - alone
    of_kernels = found.pop(ASIDE, 0.0)
    assert sum(found.values()) == pytest.approx(longer.sum(), rel=1e-4)
    beside_others = [
        folded.lowered.lane_names.index(f"rank {view.rank} {stream}")
        for stream in ("copy_in", "reduce_scatter", "all_reduce")
        if f"rank {view.rank} {stream}" in folded.lowered.lane_names
    ]
    kernels = np.isin(program.lane, beside_others) & (program.curve >= 0)
    longer = (timeline.end - timeline.start - folded.lowered.alone_s)[kernels]
    assert of_kernels == pytest.approx(longer.sum(), rel=1e-4, abs=1e-9)


def test_the_copy_before_a_gather_loses_to_kernels_that_hbm_bounds():
    """What FSDP2 gathers next is copied beside the compute stream: by hand 2 bytes of HBM a byte,
    and where a kernel takes all of HBM too, each has half of it and the copy takes twice as long.
    """
    found = outcome("dgx-h100", "parallelism={strategy: fsdp2}")
    lowered, timeline = found.lowered, found.timeline
    lane = lowered.lane_names.index("rank 0 copy_in")
    copies = lowered.program.lane == lane
    alone, took = lowered.alone_s[copies], (timeline.end - timeline.start)[copies]
    assert 1.5 < (took / alone).max() < 2.01
    assert 0.0 < found.breakdown.transfers[ASIDE] < (took[took > 1.001 * alone]).sum()


def test_what_meets_nothing_loses_nothing():
    """Buckets that are reduced one after another over NICs of their own."""
    alone = outcome("dgx-h100", "nodes=2", "parallelism={strategy: ddp}", "model=llama-3.2-1b")
    assert alone.breakdown.transfers == {}


def test_a_copy_alone_loses_nothing():
    """Without bounds of their own, copies counted all their time as lost to gathers beside them."""
    one = "node={gpu: a100-pcie-80gb, gpus: 1, pcie: {generation: 4}}"
    found = outcome("pcie4-a100-8", "nodes=1", one, OFFLOADED)
    assert found.breakdown.copy_s > 0.0
    assert found.breakdown.transfers.keys() == {ASIDE}  # of kernels, beside others


def test_a_faster_slot_of_the_host_takes_from_gathers():
    """Two L40S behind a switch, both copying to the host: PCIe 4 above it holds each to 13 GB/s and
    leaves gathers their half of the GPU's own slot; PCIe 5 above it does not."""
    lost = []
    for generation in (4, 5):
        node = (
            f"node={{gpu: l40s-pcie-48gb, gpus: 2, pcie: {{generation: {generation}, "
            "gpus_per_switch: 2}, cpu: {sockets: 1}, nics: {count: 1, rate: 100 Gb/s}}"
        )
        job = "parallelism={strategy: zero3, offload: all}"
        found = outcome("pcie4-a100-8", "nodes=4", node, job).breakdown
        lost.append(found.transfers.get(beside(COLLECTIVES, COPIES), 0.0))
    assert lost[0] < lost[1]


def test_a_window_counts_what_starts_in_it():
    whole = outcome("pcie4-a100-8", OFFLOADED)
    lowered, timeline = whole.lowered, whole.timeline
    view, end = lowered.views[0], float(timeline.end.max())
    two = Windows.of([[Window(0.0, end / 2, 1), Window(end / 2, 2 * end, 0, 1)]])
    [parts] = shared(lowered, timeline, view, two)
    both = {c: sum(p.get(c, 0.0) for p in parts) for c in parts[0] | parts[1]}
    assert sum(both.values()) == pytest.approx(sum(whole.breakdown.transfers.values()), rel=1e-9)
    late = Windows.of([[Window(2 * end, 3 * end, 1)]])
    assert shared(lowered, timeline, view, late) == [[{}]]


def test_the_report_and_the_document_say_it():
    command = ["run", "pcie4-a100-8", "llama3-8b-sft", "--set", OFFLOADED, "--set",
               "model.layers=8"]  # fmt: skip
    printed = CliRunner().invoke(group, command).output
    assert "longer than alone: copies beside copies " in " ".join(printed.split())
    step = json.loads(CliRunner().invoke(group, [*command, "--json"]).output)["step"]
    assert sum(step["transfer_slowdown"].values()) == pytest.approx(step["transfer_slowdown_s"])
    assert 0.05 < step["transfer_slowdown_s"] / step["time_s"] < 0.2
