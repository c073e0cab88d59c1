"""Calibrations on a part of published runs lower the error on the rest of their source."""

from __future__ import annotations

import pytest

from sim.calibration.calibrate import calibrate, mean_error
from sim.calibration.observation import Observation, run_observation
from sim.calibration.runs import LoggedRun
from sim.calibration.validate_collectives import measurements
from sim.cost.collectives import bus_factor
from sim.inputs.loader import load_topology
from sim.inputs.shares import batch_on
from sim.interop.observations import nccl_observations
from sim.published.rows import training_rows


def rows(group: str, status: str) -> dict[str, Observation]:
    """Runs of a source on up to 128 GPUs, as a user's own."""
    out = {}
    for row in training_rows():
        if (row.group, row.status) == (group, status) and row.gpus <= 128:
            assert row.tokens_per_s_per_gpu is not None
            seconds = batch_on(row.workload).tokens_per_rank / row.tokens_per_s_per_gpu
            out[row.id] = run_observation(LoggedRun(row.id, row.topology, row.workload, seconds))
    return out


def log_of(system: str, op: str, ranks: int) -> str:
    """Published rows of a machine as the log they came from."""
    lines = ["#       size         count      type   redop    root     time   algbw   busbw #wrong"]
    for m in measurements():
        if (m.system, m.op, m.ranks) == (system, op, ranks):
            alg = m.size / m.time_s / 1e9
            count = m.size / 4 / (1 if op == "all_reduce" else ranks)
            lines.append(
                f"{m.size:.0f} {count:.0f} float sum -1 {m.time_s * 1e6:.3f} {alg:.3f} "
                f"{alg * bus_factor(op, ranks):.3f} 0"
            )
    return "\n".join(lines)


def test_one_log_and_three_step_times(tmp_path) -> None:
    """InternEvo's 7B on 8 to 128 A100: the runs that were not fitted come closer."""
    runs = rows("internevo", "complete")
    fitted = ["internevo:L37-8", "internevo:L38-32", "internevo:L63"]
    system = next(m.system for m in measurements() if m.op == "all_gather" and "a100" in m.system)
    ranks = next(m.ranks for m in measurements() if (m.system, m.op) == (system, "all_gather"))
    log = tmp_path / "all_gather.log"
    log.write_text(log_of(system, "all_gather", ranks), encoding="utf-8")
    logged, _ = nccl_observations(str(log), load_topology("dgx-a100"))
    report = calibrate(
        [*logged, *(runs[name] for name in fitted)],
        [o for name, o in runs.items() if name not in fitted],
    )
    before = mean_error([c.before for c in report.held_out])
    after = mean_error([c.after for c in report.held_out])
    assert len(report.held_out) >= 15
    assert after < before
    assert after < 0.025
    logs = [c for c in report.fitted if c.kind == "collective"]
    # near as they come; step times that pull elsewhere may not spoil them
    assert mean_error([c.before for c in logs]) < 0.04
    assert mean_error([c.after for c in logs]) < 0.05


@pytest.mark.parametrize(("group", "status"), [("qwen-multinode", "incomplete")])
def test_an_unknown_network(group: str, status: str) -> None:
    """Qwen-7B LoRA on two machines whose network the source does not name: three of six runs."""
    runs = rows(group, status)
    names = list(runs)
    report = calibrate([runs[n] for n in names[::2]], [runs[n] for n in names[1::2]])
    before = mean_error([c.before for c in report.held_out])
    assert before > 0.15
    assert mean_error([c.after for c in report.held_out]) < 0.6 * before
