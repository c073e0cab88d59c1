"""What collectives and copies lose to what shares their links, by cause."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from sim.cli import group
from sim.inputs.loader import load
from sim.step.run import run_step
from sim.step.transfers import COLLECTIVES, COPIES, KERNELS, beside, deep, shared

JOB = {"name": "x", "model": "llama-3-8b", "sequence_length": 2048, "micro_batch": 2}
OFFLOADED = "parallelism={strategy: zero3, offload: optimizer}"
HYBRID = "parallelism={strategy: fsdp2, replicate: 2}"


def outcome(machine, *sets, level="folded"):
    loaded = load(machine, JOB, ["model.layers=3", *sets])
    return run_step(loaded.topology, loaded.workload, engine="python", level=level)


def test_where_several_intervals_overlap():
    start, end = np.array([0.0, 1.0, 4.0, 5.0]), np.array([3.0, 2.0, 6.0, 7.0])
    for least, wanted in ((1, [[0, 1, 2, 4, 5, 6], [1, 2, 3, 5, 6, 7]]), (2, [[1, 5], [2, 6]]),
                          (3, [[], []])):  # fmt: skip
        assert [found.tolist() for found in deep(start, end, least)] == wanted
    assert deep(np.array([1.0]), np.array([1.0]), 1)[0].size == 0


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
    assert sum(found.values()) == pytest.approx(longer.sum(), rel=1e-4)


def test_what_meets_nothing_loses_nothing():
    """Buckets that are reduced one after another over NICs of their own."""
    alone = outcome("dgx-h100", "nodes=2", "parallelism={strategy: ddp}", "model=llama-3.2-1b")
    assert alone.breakdown.transfers == {}


def test_a_copy_alone_loses_nothing():
    """Without bounds of their own, copies counted all their time as lost to gathers beside them."""
    one = "node={gpu: a100-pcie-80gb, gpus: 1, pcie: {generation: 4}}"
    found = outcome("pcie4-a100-8", "nodes=1", one, OFFLOADED)
    assert found.breakdown.copy_s > 0.0
    assert found.breakdown.transfers == {}


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
    [parts] = shared(lowered, timeline, view, [[(0.0, end / 2), (end / 2, 2 * end)]])
    both = {c: sum(p.get(c, 0.0) for p in parts) for c in parts[0] | parts[1]}
    assert sum(both.values()) == pytest.approx(sum(whole.breakdown.transfers.values()), rel=1e-9)
    assert shared(lowered, timeline, view, [[(2 * end, 3 * end)]]) == [[{}]]


def test_the_report_and_the_document_say_it():
    command = ["run", "pcie4-a100-8", "llama3-8b-sft", "--set", OFFLOADED, "--set",
               "model.layers=8"]  # fmt: skip
    printed = CliRunner().invoke(group, command).output
    assert "longer than alone: copies beside copies " in " ".join(printed.split())
    step = json.loads(CliRunner().invoke(group, [*command, "--json"]).output)["step"]
    assert sum(step["transfer_slowdown"].values()) == pytest.approx(step["transfer_slowdown_s"])
    assert 0.1 < step["transfer_slowdown_s"] / step["time_s"] < 0.2
