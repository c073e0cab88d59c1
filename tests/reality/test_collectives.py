"""Published collectives: the errors may not grow. In full: `scaling-sim validate collectives`."""

import statistics

import pytest

from bench.network_scaling import MACHINES, measured, ours
from sim.calibration.validate_collectives import (
    measurements,
    quantile,
    systems,
    validate_collectives,
)
from sim.calibration.validation import Validation
from sim.cost.collectives import plan_collective
from sim.fabric import compile_fabric
from sim.inputs.loader import load_topology
from sim.report.formats.table import render
from sim.report.validation import view

KIB, MIB, GIB = 2**10, 2**20, 2**30
H100_NODES = ("h100-sxm", "dgx-h100", "oracle-h100", "supermicro-h100")


@pytest.fixture(scope="module")
def report():
    return validate_collectives()


def errors(report, names, low, op=None, ranks=None):
    """Relative errors of time of some machines from a size up."""
    found = [
        p.error
        for p in report.points
        if p.measured.system in names
        and p.measured.size >= low
        and op in (None, p.measured.op)
        and ranks in (None, p.measured.ranks)
    ]
    assert found
    return found


@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter", "all_reduce"])
@pytest.mark.parametrize("names", [("a100-sxm",), H100_NODES])
def test_eight_gpus_on_nvlink(report, names, op):
    found = [abs(e) for e in errors(report, names, 64 * KIB, op, 8)]
    assert statistics.median(found) <= 0.06
    assert quantile(found, 0.9) <= 0.20
    # bus bandwidth is 1 / (1 + error) of the measured one
    large = errors(report, names, 256 * MIB, op, 8)
    busbw = [abs(1 / (1 + e) - 1) for e in large]
    assert statistics.median(busbw) <= 0.05
    assert max(busbw) <= 0.058  # A100 all-gather of 256 MiB: 5.8 %


@pytest.mark.parametrize(
    ("name", "bound"),
    [("l40s-pcie", 0.05), ("b200-sxm", 0.035), ("b300-sxm", 0.035), ("gb200-tray", 0.035),
     ("rtx-pro-6000", 0.04)],
)  # fmt: skip
def test_other_single_nodes(report, name, bound):
    assert statistics.median(abs(e) for e in errors(report, (name,), 64 * KIB)) <= bound


@pytest.mark.parametrize(
    "name", ["aws-p4de-x2", "gcp-a3-mega-x2", "oci-h100-x2", "oci-a100-x2", "coreweave-h100-x12"]
)
def test_several_nodes(report, name):
    assert max(abs(e) for e in errors(report, (name,), 64 * MIB)) <= 0.12


def test_half_of_all_figures_are_within_three_and_a_half_percent(report):
    points = [p for p in report.points if p.measured.size >= 64 * KIB]
    assert statistics.median(abs(p.error) for p in points) <= 0.035
    for name in {p.measured.system for p in points}:
        own = [abs(p.error) for p in points if p.measured.system == name]
        assert statistics.median(own) <= 0.101, name


def test_blackwell_leaves_ll128_in_a_node_with_nccl_2_29(report):
    """16 MiB all-gather of 8: 53 us with 2.28.9, 100 us with 2.29.2."""
    wanted = "all_gather", 8, 16 * MIB
    for name, protocol in (("b200-sxm", "ll128"), ("b300-sxm", "simple")):
        (point,) = (p for p in report.points
                    if p.measured.system == name and p.measured[1:4] == wanted)  # fmt: skip
        assert point.predicted.protocol == protocol
        assert abs(point.error) <= 0.15


@pytest.mark.parametrize(("nccl", "chosen"), [("2.20", "simple"), ("2.27", "ll128")])
def test_superchips_run_ll128_over_a_network_once_nccl_knows_their_way(nccl, chosen):
    keys = dict(systems()["gh200-slingshot-x2"]["topology"])
    keys["nics"] = {**keys["nics"], "kind": "infiniband"}
    fabric = compile_fabric(load_topology({"name": "gh200", "nodes": 2, "node": keys}))
    assert plan_collective(fabric, "all_reduce", range(8), 8 * MIB, nccl).protocol == chosen


@pytest.mark.parametrize(
    ("name", "bound"),
    [("aws-p6-b200", 0.06), ("coreweave-gb200-nvl72", 0.06), ("coreweave-gb200-x2", 0.101)],
)
def test_machines_that_were_not_fitted(report, name, bound):
    assert "not_fitted" in systems()[name]
    assert statistics.median(abs(e) for e in errors(report, (name,), 64 * MIB)) <= bound


def test_every_figure_is_predicted_or_left_out_with_a_reason(report):
    left_out = sum(rows for _, rows, _ in report.anomalies)
    assert len(report.points) + left_out == len(measurements())
    assert all(reason for _, _, reason in report.anomalies)
    assert len(report.misses) <= 75
    text = render(view(Validation(collectives=report)))
    for name in systems():
        assert name in text


# large messages run Simple whatever the rest does: (bytes, nodes, share)
SOME = [(4 * GIB, 8, 0.95), (16 * GIB, 64, 0.958), (GIB, 4, 0.93)]


def test_efficiency_with_nodes_is_as_measured():
    """42 figures from 16 MiB to 16 GiB and 2 to 128 nodes, by NCCL's own choice of protocol.

    The source joins A100 and H100 machines, so do we. LL128's hop over the network comes from them.
    """
    rows = measured()
    assert len(rows) == 6
    mean = {
        (size, nodes): statistics.mean(ours(machine, size, nodes) for machine in MACHINES)
        for size, row in rows.items()
        for nodes in row
    }
    off = {key: abs(mean[key] - rows[key[0]][key[1]]) for key in mean}
    assert statistics.mean(off.values()) < 0.04
    assert max(off.values()) < 0.1
    assert max(abs(ours(m, s, n, "simple") - v) for s, n, v in SOME for m in MACHINES) < 0.12
    for size in rows:  # efficiency grows with size and falls with nodes
        line = [mean[size, n] for n in rows[size]]
        assert line == sorted(line, reverse=True)
    for nodes in rows[GIB]:
        column = [mean[size, nodes] for size in sorted(rows)]
        assert column == sorted(column)
