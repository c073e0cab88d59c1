"""Failures and goodput of published runs, from the defaults of data/constants/reliability.toml.

The rates were taken from Llama 3's run alone (test_job.py); all runs here were kept back, but where
a rate is named it is the run's own.
"""

import math

import pytest

from sim.inputs.loader import load_topology, load_workload
from sim.job.basis import Links
from sim.job.forecast import forecast_job
from sim.job.hazards import mean_time_between_failures
from sim.step.breakdown import Breakdown

DAY, HOUR = 86400.0, 3600.0
#: nodes of 8, days, failures expected by the defaults, and published
COUNTED = [
    # BLOOM-176B, bigscience/train/tr11-176B-ml/chronicles.md: about one GPU a week on 48 nodes
    (48, 7.0, 1.27, 1),
    # 63 nodes of B200, arXiv 2605.09370: 10 XID failures in 55 days
    (63, 55.0, 13.1, 10),
    # OPT-175B, metaseq/projects/OPT/chronicles: about two machines a day on 124 nodes of a cluster
    # in its first months: four times the default, as reliability.toml says of immature ones
    (124, 1.0, 0.47, 2),
    # RSC-1, arXiv 2410.21680: 6.5 per 1000 node-days
    (1000, 1.0, 3.79, 6.5),
]


@pytest.mark.parametrize(("nodes", "days", "expected", "published"), COUNTED)
def test_counts_of_failures(nodes, days, expected, published):
    machine = load_topology("dgx-h100", [f"nodes={nodes}"])
    assert days * DAY / mean_time_between_failures(machine) == pytest.approx(expected, rel=0.01)
    assert 0.2 < expected / published < 1.5


def test_the_b200_count_is_within_chance():
    # Poisson with a mean of 13.1: 10 or fewer with a probability of 0.24
    mean = 13.1
    at_most = sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(11))
    assert at_most == pytest.approx(0.24, abs=0.01)


def played(nodes, days, *sets, job=()):
    """A 405B job of `days` on so many nodes of 8; storage as Llama 3's."""
    rates = ["node.storage.read=1 GB/s", "node.storage.write=1 GB/s"]
    machine = load_topology("dgx-h100", [f"nodes={nodes}", *rates, *sets])
    work = load_workload("llama3-405b-54-days", [f"steps={int(days * DAY / 18)}", *job])
    found = forecast_job(
        machine, work, Breakdown(18.0, kernels={"gemm": 18.0}), links=Links(50e9, 50e9, 50e9),
        replicas=8,
    )  # fmt: skip
    assert found is not None
    return found.outcome


def test_byterobust():
    """9,600 GPUs for three months: 97 % of the time effective.

    Source: arXiv 2509.16293; it keeps copies in memory and on peers, and has machines standing by.
    Without these, with a save an hour, a tenth of the time would go.
    """
    copies = ["checkpoint.memory_interval=1 min", "checkpoint.peers=1", "checkpoint.interval=1 h"]
    found = played(1200, 90, job=copies)
    assert found.goodput == pytest.approx(0.97, abs=0.01)
    warm = played(1200, 90, "reliability.warm_restart=2 min", job=copies)
    assert warm.goodput == pytest.approx(0.98, abs=0.01)
    assert played(1200, 90, job=["checkpoint.interval=1 h"]).goodput < 0.9


def test_opt_175b_took_longer_than_its_failures_explain():
    """33 days of work took 57 (11 November to 6 January), at 16 failures per 1000 node-days.

    A miss: with half an hour a restart 36 days are expected, and 73 restarts (about 90 in its last
    lineage). It had 12 spares, then 18: repairs of a fortnight would have used them up, but how
    long they took was not published.
    """
    rate = ["reliability.node_mtbf=62.5 days", "reliability.gpu_mtbf=1e9 days"]
    found = played(124, 33, *rate, "reliability.restart=30 min", job=["checkpoint.interval=1 h"])
    assert found.failures == pytest.approx(73, rel=0.03)
    assert found.wall_p50_s / DAY == pytest.approx(36.6, rel=0.03)
    rate += ["reliability.restart=30 min", "reliability.spare_nodes=12"]
    slow = played(124, 33, *rate, "reliability.repair=14 d", job=["checkpoint.interval=1 h"])
    assert slow.wall_p50_s / DAY == pytest.approx(60.0, rel=0.05)


def test_bloom_lost_three_hours_at_most():
    # a save every three hours: half of that is lost a failure, and the closed form says as much
    found = played(48, 100, job=["checkpoint.interval=3 h"])
    lost_s = found.shares["lost_work"] * found.wall_mean_s / found.failures
    assert lost_s == pytest.approx(1.5 * HOUR, rel=0.15)
