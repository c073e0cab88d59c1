"""Runs that calibrations are fitted to: lists, logs, single figures; and those held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim.calibration.runs import read_runs
from sim.cli import group
from sim.errors import InputError
from sim.inputs.calibration import CONSTANTS, read_calibration
from sim.inputs.shares import batch_on
from sim.interop.observations import gather
from tests.unit.sizing import JOB as SIZED

JOB = {**SIZED, "micro_batch": 2}
RUNS = """
- {topology: dgx-h100, workload: WORKLOAD, set: [nodes=2, model.layers=3], step_time_s: 0.1}
- name: second
  topology: dgx-h100
  workload: WORKLOAD
  set: model.layers=3
  tokens_per_s_per_gpu: 30000
"""


def test_runs(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps(JOB), encoding="utf-8")
    path = tmp_path / "runs.yaml"
    path.write_text(RUNS.replace("WORKLOAD", "job.yaml"), encoding="utf-8")  # beside the list
    told: list[tuple[int, int]] = []
    first, second = read_runs(path, progress=lambda *so_far: told.append(so_far))
    assert told == [(0, 2), (1, 2)]
    assert (first.step_time_s, first.topology.world_size) == (0.1, 16)
    assert (second.name, second.step_time_s) == ("second", pytest.approx(2 * 2048 / 30000))
    assert batch_on(second.workload).tokens_per_rank == 4096


def test_runs_in_any_figure_that_diagnose_takes(tmp_path: Path) -> None:
    """64 sequences of 2,048 tokens a step, in 0.1 s."""
    path = tmp_path / "runs.yaml"
    job = "topology: dgx-h100, workload: llama3-8b-lora, set: [sequence_length=2048]"
    given = ("it_per_s: 10", "s_per_it: 0.1", "tokens_per_s: 1310720", "samples_per_s: 640",
             "step_time_s: 100 ms")  # fmt: skip
    path.write_text("".join(f"- {{{job}, {each}}}\n" for each in given), encoding="utf-8")
    assert [run.step_time_s for run in read_runs(path)] == pytest.approx([0.1] * len(given))


def test_what_is_fitted_is_not_held_out(tmp_path: Path) -> None:
    """Whatever it is called there; the same job in another time is another run."""
    job = "topology: dgx-h100, workload: llama3-8b-lora, step_time_s"
    fitted, other, same = (tmp_path / name for name in ("fitted", "other", "same"))
    fitted.write_text(f"- {{{job}: 1}}\n- {{{job}: 2}}\n", encoding="utf-8")
    other.write_text(f"- {{{job}: 3}}\n", encoding="utf-8")
    same.write_text(f"- {{{job}: 3}}\n- {{{job}: 2.0, name: x}}\n", encoding="utf-8")
    measured = [str(fitted)]
    _, held, _ = gather("dgx-h100", None, [], measured=measured, holdout=[str(other)])
    assert [o.measured for o in held] == [3.0]
    with pytest.raises(InputError, match="x is among the runs of --measured too") as refused:
        gather("dgx-h100", None, [], measured=measured, holdout=[str(same)])
    assert [fault.path for fault in refused.value.faults] == ["[1]"]


def test_a_log_or_one_figure_is_a_run_of_the_job(tmp_path):
    """What `diagnose` takes, `calibrate` fits: a third of the speed is a slower cluster's."""
    log = tmp_path / "train.log"
    log.write_text("\n".join(f"{{'loss': 1.0, 'tokens_per_second_per_gpu': {4000 + i}}}"
                             for i in range(9)))  # fmt: skip
    job = ("dgx-h100", "llama3-8b-sft")
    assert sim.calibrate(*job, log=log, fit=["gemm_clock"]).calibration.gemm_clock < 0.9
    (by_log,), _, notes = gather(*job, [], log=[str(log)])
    (by_figure,), _, _ = gather(*job, [], measured=["tokens_per_s_per_gpu=4004.5"])
    assert by_log.measured == pytest.approx(by_figure.measured, rel=1e-3)
    (note,) = notes
    assert note.startswith(f"{log}: tokens_per_s_per_gpu=4004.5 (tokens_per_second_per_gpu, as ")
    assert note.endswith(", the median of 8 of 9)")
    done = CliRunner().invoke(group, ["calibrate", *job, "--measured", "12.5s/it"])
    assert done.exit_code == 0, done.output
    assert "12.5 s " in done.output
    for given in ({"log": [str(log)]}, {"measured": ["12.5s/it"]}, {"measured": [str(log)]}):
        with pytest.raises(InputError, match="name its WORKLOAD after the topology"):
            gather("dgx-h100", None, [], **given)
    with pytest.raises(InputError, match=r"runs\.yml  no such file"):
        gather(*job, [], measured=["runs.yml"])


def test_a_log_is_one_whichever_option_it_is_given_to(tmp_path):
    """`--measured` takes lists, and a log is none: it is read as `--log` reads it."""
    job, log, other = ("dgx-h100", "llama3-8b-sft"), tmp_path / "train.log", tmp_path / "b.log"
    log.write_text("{'loss': 1.0}\n{'train_steps_per_second': 0.1, 'epoch': 1.0}\n")
    other.write_text("{'train_steps_per_second': 0.08}\n")
    found, held, notes = gather(*job, [], measured=[str(log)], holdout=[str(other)])
    assert [found[0].measured, held[0].measured] == pytest.approx([10.0, 12.5])
    assert [note.partition(" (")[0] for note in notes] == [
        f"{log}: it_per_s=0.1", f"{other}: it_per_s=0.08",
    ]  # fmt: skip
    log.write_text("nothing: [")
    with pytest.raises(InputError, match="says no rate in any of") as refused:
        gather(*job, [], measured=[str(log)])
    assert "not YAML" in str(refused.value)  # it may have been meant as a list
    listed = log.rename(tmp_path / "runs.yaml")
    with pytest.raises(InputError, match="not YAML") as refused:
        gather(*job, [], measured=[str(listed)])
    assert "no rate" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1", "no list of runs"),
        ("- 3", "no mapping"),
        ("- {topology: dgx-h100, step_time_s: 1}", "workload: is missing"),
        ("- {topology: dgx-h100, workload: llama3-8b-sft}", "one of tokens_per_s_per_gpu"),
        ("- {topology: dgx-h100, workload: llama3-8b-sft, step_time_s: -1}", "no positive number"),
        ("- {topology: dgx-h100, workload: llama3-8b-sft, step_time_s: [1]}", "no positive number"),
        ("- {topology: dgx-h100, workload: llama3-8b-sft, mfu: 110}", r":1:.*mfu: 110 is more"),
        ("- {topology: dgx-h100, workload: llama3-8b-sft, mfu: 1.2}", "1.2% if per cent is meant"),
        ("- {topology: nowhere, workload: llama3-8b-sft, step_time_s: 1}", "nowhere"),
        ("- {topology: dgx-h100, workload: llama3-8b-sft, set: 5, step_time_s: 1}", "key=value"),
        ("- {topo: dgx-h100, workload: llama3-8b-sft, step_time_s: 1}", "unknown key"),
    ],
)
def test_faults_of_runs(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "runs.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=fault):
        read_runs(path)


def test_command_writes_what_the_option_reads(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps(JOB), encoding="utf-8")
    runs = tmp_path / "runs.yaml"
    runs.write_text(RUNS.replace("WORKLOAD", "job.yaml"), encoding="utf-8")
    out = tmp_path / "mine.yaml"
    done = CliRunner().invoke(
        group,
        ["calibrate", "dgx-h100", "--measured", str(runs), "--fit", "gemm_clock", "-o", str(out)],
    )
    assert done.exit_code == 0, done.output
    assert "left out of its own fit" in done.stdout
    found = read_calibration(out)
    assert found.gemm_clock != 1.0
    assert all(getattr(found, name) == 1.0 for name in CONSTANTS if name != "gemm_clock")
    assert found.fitted_on == ("run 1: small on 16 GPUs", "second")


def test_predictions_of_a_fit_are_counted(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps(JOB), encoding="utf-8")
    runs = tmp_path / "runs.yaml"
    runs.write_text(RUNS.replace("WORKLOAD", "job.yaml"), encoding="utf-8")
    told: list[tuple[int, int]] = []
    sim.calibrate(
        "dgx-h100", measured=[runs], fit=["gemm_clock"], progress=lambda *at: told.append(at)
    )
    assert told[:2] == [(0, 2), (1, 2)]  # runs that are read
    # of two runs, before the fit, at 1, and beside it: the first of them at least
    del told[:2]
    assert [done for done, _ in told] == [*range(len(told))]
    assert len(told) >= 6
    assert all(done <= whole for done, whole in told)
