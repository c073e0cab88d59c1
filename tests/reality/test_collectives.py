"""Published collectives: the errors may not grow. In full: `scaling-sim validate collectives`."""

import statistics

import pytest

from sim.calibration.validate_collectives import (
    measurements,
    quantile,
    systems,
    table,
    validate_collectives,
)
from sim.cost.collectives import plan_collective
from sim.fabric import compile_fabric
from sim.spec.loader import load_topology

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
    assert max(busbw) <= 0.056  # A100 all-gather of 256 MiB: 5.3 %


@pytest.mark.parametrize(
    ("name", "bound"),
    [("l40s-pcie", 0.15), ("b200-sxm", 0.05), ("b300-sxm", 0.05), ("gb200-tray", 0.05),
     ("rtx-pro-6000", 0.07)],
)  # fmt: skip
def test_other_single_nodes(report, name, bound):
    assert statistics.median(abs(e) for e in errors(report, (name,), 64 * KIB)) <= bound


@pytest.mark.parametrize(
    "name", ["aws-p4de-x2", "gcp-a3-mega-x2", "oci-h100-x2", "oci-a100-x2", "coreweave-h100-x12"]
)
def test_several_nodes(report, name):
    assert max(abs(e) for e in errors(report, (name,), 64 * MIB)) <= 0.12


@pytest.mark.parametrize(("name", "bound"), [("aws-p6-b200", 0.06), ("gh200-slingshot-x2", 0.15)])
def test_machines_that_were_not_fitted(report, name, bound):
    assert "not_fitted" in systems()[name]
    assert statistics.median(abs(e) for e in errors(report, (name,), 64 * MIB)) <= bound


def test_every_figure_is_predicted_or_left_out_with_a_reason(report):
    left_out = sum(rows for _, rows, _ in report.anomalies)
    assert len(report.points) + left_out == len(measurements())
    assert all(reason for _, _, reason in report.anomalies)
    assert len(report.misses) <= 75
    text = table(report)
    for name in systems():
        assert name in text


# NIC bus bandwidth reached over NIC rate, by bytes, for 2, 4, 8, 16, 32 nodes of 8 GPUs.
# Source: aliyun/SimAI, astra-sim-alibabacloud/inputs/ratio (A100 and H100 over RoCE).
SIMAI = {
    64 * MIB: (0.50, 0.53, 0.39, 0.21, 0.106),
    256 * MIB: (0.85, 0.77, 0.69, 0.57, 0.387),
    GIB: (0.92, 0.93, 0.90, 0.76, 0.74),
    4 * GIB: (0.95, 0.95, 0.95, 0.95, 0.923),
    16 * GIB: (0.96, 0.96, 0.96, 0.96, 0.957),
}


def test_efficiency_with_nodes_has_the_measured_shape():
    ours = {}
    for i, nodes in enumerate((2, 4, 8, 16, 32)):
        fabric = compile_fabric(load_topology("dgx-a100", [f"nodes={nodes}"]))
        for size in SIMAI:
            cost = plan_collective(fabric, "all_gather", range(fabric.n_ranks), size)
            ours[size, i] = cost.busbw_bytes_per_s / (8 * 25e9)
    for size, row in SIMAI.items():
        for i, measured in enumerate(row):
            # SimAI's figures join machines of both kinds; below 256 MiB they are lower than ours
            assert ours[size, i] == pytest.approx(measured, abs=0.31 if size < 256 * MIB else 0.26)
            if size >= GIB:
                assert ours[size, i] == pytest.approx(measured, abs=0.10)
    for i in range(5):  # efficiency grows with size and falls with nodes
        column = [ours[size, i] for size in sorted(SIMAI)]
        assert column == sorted(column)
    for size in sorted(SIMAI)[1:]:
        line = [ours[size, i] for i in range(5)]
        assert line == sorted(line, reverse=True)
