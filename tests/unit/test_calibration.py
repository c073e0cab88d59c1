"""A topology's calibration: where it acts, that it changes nothing at 1, and how it is fitted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import sim
from sim import simulate
from sim.blocks.kernels import Kernel
from sim.calibration.calibrate import PRIORS, calibrate, mean_error
from sim.calibration.observation import run_observation
from sim.calibration.runs import LoggedRun, read_runs
from sim.cli import group
from sim.cost.collectives import plan_collective
from sim.cost.kernel_cost import CostModel
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.inputs.calibration import CONSTANTS, Calibration, read_calibration, written
from sim.inputs.loader import load, load_topology
from sim.inputs.shares import batch_on
from sim.interop.observations import gather, kineto_observations, nccl_observations
from sim.report.calibration import view
from sim.report.formats import rendered
from sim.step.chrome_trace import Trace
from sim.step.run import run_step
from sim.step.step import step

GIB = 2.0**30
JOB = {
    "name": "small", "model": "llama-3.2-1b", "sequence_length": 2048, "micro_batch": 2,
    "tokens": 1e9, "parallelism": "fsdp2",
}  # fmt: skip
SMALL = ["model.layers=3"]


def known(**factors: float) -> Calibration:
    return Calibration.model_construct(**factors)


def machine(nodes: int = 2, **factors: float):
    topology = load_topology("dgx-h100", [f"nodes={nodes}"])
    return topology.model_copy(update={"calibration": known(**factors)}) if factors else topology


# --- where it acts -------------------------------------------------------------------------------


def test_ones_change_no_bit() -> None:
    loaded = load("dgx-h100", JOB, SMALL)
    plain = run_step(loaded.topology, loaded.workload)
    ones = loaded.topology.model_copy(update={"calibration": known()})
    again = run_step(ones, loaded.workload)
    assert again.breakdown == plain.breakdown
    assert np.array_equal(again.timeline.end, plain.timeline.end)


def test_caches_tell_calibrations_apart() -> None:
    loaded = load("dgx-h100", JOB, SMALL)
    first = step(loaded.topology, loaded.workload).breakdown
    slow = loaded.topology.model_copy(update={"calibration": known(gemm_clock=0.5)})
    assert step(slow, loaded.workload).time_s > first.time_s
    assert step(loaded.topology, loaded.workload).breakdown == first


@pytest.mark.parametrize("nodes", [1, 2])
def test_links(nodes: int) -> None:
    """Twice the time in transfer where the link it halves is the tightest; no other algorithm."""
    name = "network_bandwidth" if nodes > 1 else "nvlink_bandwidth"
    ranks = range(8 * nodes)
    plain = plan_collective(compile_fabric(machine(nodes)), "all_gather", ranks, 16 * GIB)
    half = plan_collective(
        compile_fabric(machine(nodes, **{name: 0.5})), "all_gather", ranks, 16 * GIB
    )
    # slower bytes hide a little more of the hops beside them
    assert half.latency_s == pytest.approx(plain.latency_s, rel=0.01)
    # PCIe, at 48 of the NIC's 50 GB/s, is what holds the plain one back
    expected = 2.0 if nodes == 1 else 48 / 25
    assert plain.bound_bytes_per_s / half.bound_bytes_per_s == pytest.approx(expected, rel=0.05)
    assert (half.algorithm, half.protocol, half.channels) == (
        plain.algorithm, plain.protocol, plain.channels,
    )  # fmt: skip


def test_latency() -> None:
    """Exactly the fixed part."""
    fabrics = [compile_fabric(machine(2)), compile_fabric(machine(2, collective_latency=3.0))]
    plain, slow = (plan_collective(f, "all_reduce", range(16), 8.0) for f in fabrics)
    assert slow.latency_s == pytest.approx(3.0 * plain.latency_s, rel=1e-12)
    assert slow.bound_bytes_per_s == plain.bound_bytes_per_s


def test_kernels() -> None:
    gpu = machine(1).first_gpu
    plain = CostModel(gpu)
    slow = CostModel(gpu, calibration=known(gemm_clock=0.5, hbm_bandwidth=0.8))
    gemm = Kernel("w", "w", "gemm", 2 * 8192.0**3, 3 * 2 * 8192.0**2, (8192, 8192, 8192, 1))
    norm = Kernel("n", "n", "norm", 0.0, 4e9)
    assert slow.cost(gemm).compute_s == pytest.approx(2 * plain.cost(gemm).compute_s, rel=0.02)
    moved = [m.cost(norm).memory_s for m in (slow, plain)]
    assert moved[0] / moved[1] == pytest.approx(1 / 0.8)


def test_slowest_gpu_holds_all_up() -> None:
    """A job bound by compute takes as long as if every GPU were as slow."""
    loaded = load("dgx-h100", JOB, [*SMALL, "sequence_length=8192"])
    times = {}
    for name, factors in {"one": {"slowest_gpu": 0.5}, "none": {}}.items():
        topology = loaded.topology.model_copy(update={"calibration": known(**factors)})
        times[name] = step(topology, loaded.workload).time_s
    assert 1.7 < times["one"] / times["none"] < 2.1


# --- the file ------------------------------------------------------------------------------------


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    made = Calibration.model_construct(network_bandwidth=0.81, fitted_on=('a "b": c', "d"))
    path.write_text(written(made, "a note\nof two lines"), encoding="utf-8")
    assert read_calibration(path) == made


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("netwrk: 2", "unknown key"),
        ("gemm_clock: 0", "gemm_clock"),
        ("gemm_clock: fast", "gemm_clock"),
        ("- 1", "mapping"),
        ("", "empty"),
    ],
)
def test_faults_of_the_file(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=fault):
        read_calibration(path)


def test_option_setting_and_argument_agree(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("gemm_clock: 0.7\nnetwork_bandwidth: 0.5\n", encoding="utf-8")
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps(JOB), encoding="utf-8")
    sets = [part for text in [*SMALL, "nodes=2"] for part in ("--set", text)]
    common = ["run", "dgx-h100", str(job), *sets, "--json", "--no-scaling"]
    printed = CliRunner().invoke(group, [*common, "--calibration", str(path)])
    assert printed.exit_code == 0, printed.output
    by_option = json.loads(printed.stdout)["step"]["time_s"]
    same = ["calibration.gemm_clock=0.7", "calibration.network_bandwidth=0.5"]
    by_set = simulate(
        "dgx-h100", JOB, overrides=[*SMALL, "nodes=2", *same], scaling=False, fixes=False
    )
    by_argument = simulate(
        "dgx-h100", JOB, overrides=[*SMALL, "nodes=2"], calibration=path, scaling=False, fixes=False
    )
    assert by_option == pytest.approx(by_set.step.time_s, rel=1e-11)
    assert by_argument.step.time_s == by_set.step.time_s


# --- the fit -------------------------------------------------------------------------------------


def test_calibration_finds_planted_factors(tmp_path: Path) -> None:
    """Logs and step times made by the model itself, of a cluster 10 to 50 % off the shipped one."""
    truth = known(network_bandwidth=0.6, collective_latency=1.8, gemm_clock=0.88)
    topology = machine(2)
    real = compile_fabric(topology.model_copy(update={"calibration": truth}))
    lines = [
        "NCCL version 2.21.5+cuda12.4",
        "#  size  count  type  redop  root  time  algbw busbw #wrong",
    ]
    for power in range(3, 34):
        size = 2.0**power
        us = 1e6 * plan_collective(real, "all_reduce", range(16), size, "2.21.5").time_s
        alg = size / us / 1e3
        lines.append(
            f"{size:.0f} {size / 4:.0f} float sum -1 {us:.2f} {alg:.3f} {alg * 1.875:.3f} 0"
        )
    log = tmp_path / "all_reduce.log"
    log.write_text("\n".join(lines), encoding="utf-8")
    runs = []
    for length in (2048, 4096, 8192, 1024):
        loaded = load(topology, JOB, [*SMALL, f"sequence_length={length}"])
        slow = loaded.topology.model_copy(update={"calibration": truth})
        runs.append(LoggedRun(f"s{length}", loaded.topology, loaded.workload,
                        step(slow, loaded.workload).time_s))  # fmt: skip
    observations, notes = nccl_observations(str(log), machine(1))
    assert notes == [f"{log}: 16 ranks, from bus over algbw"]
    report = calibrate(
        [*observations, *(run_observation(r) for r in runs[:3])], [run_observation(runs[3])]
    )
    found = {c.name: c for c in report.constants}
    assert found["network_bandwidth"].value == pytest.approx(0.6, rel=0.03)
    assert found["collective_latency"].value == pytest.approx(1.8, rel=0.05)
    # step times alone do not tell products from memory-bound kernels: the prior shares it out
    assert 0.86 < found["gemm_clock"].value < 0.97
    assert found["pcie_bandwidth"].informed < 0.1
    (held,) = report.held_out
    assert abs(held.before) > 0.05
    assert abs(held.after) < 0.01
    seen = [c for c in report.fitted if c.kind == "run"]
    assert mean_error([c.left_out for c in seen]) < 0.3 * mean_error([c.before for c in seen])
    assert "fell" in rendered(view(report), "table").splitlines()[-1]
    assert json.loads(rendered(view(report), "json"))["constants"].keys() == PRIORS.keys()


def test_a_trace_tells_products_from_memory_bound_kernels(tmp_path: Path) -> None:
    """A trace of the model itself, of GPUs 15 and 10 % slower than the shipped ones."""
    loaded = load("dgx-a100", JOB, SMALL)
    truth = known(gemm_clock=0.85, hbm_bandwidth=0.9)
    slow = loaded.topology.model_copy(update={"calibration": truth})
    path = tmp_path / "trace.json"
    text = Trace(run_step(slow, loaded.workload), loaded.workload).to_json()
    path.write_text(text, encoding="utf-8")
    found, notes = kineto_observations(str(path), loaded.topology, loaded.workload)
    assert notes == []
    report = calibrate(found)
    values = {c.name: c.value for c in report.constants}
    # one trace: the prior holds a quarter of it
    assert values["gemm_clock"] == pytest.approx(0.85, rel=0.04)
    assert values["hbm_bandwidth"] == pytest.approx(0.9, rel=0.03)
    assert values["nvlink_bandwidth"] == pytest.approx(1.0, rel=0.03)


def test_a_constant_at_its_bound_is_said() -> None:
    """A run ten times faster than it can be is no calibration."""
    loaded = load("dgx-h100", JOB, SMALL)
    seconds = step(loaded.topology, loaded.workload).time_s / 10
    runs = [LoggedRun(str(i), loaded.topology, loaded.workload, seconds) for i in range(3)]
    report = calibrate([run_observation(r) for r in runs])
    assert any("stopped at its bound" in note for note in report.notes)


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
    for given in ({"log": [str(log)]}, {"measured": ["12.5s/it"]}):
        with pytest.raises(InputError, match="needs the WORKLOAD it is of"):
            gather("dgx-h100", None, [], **given)
    with pytest.raises(InputError, match=r"runs\.yml  no such file"):
        gather(*job, [], measured=["runs.yml"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("all_foo", "no operation is called all_foo; known are all_gather"),
        ("all_gathr", 'called all_gathr; did you mean "all_gather"'),
    ],
)
def test_an_operation_that_nobody_knows(tmp_path: Path, name: str, said: str) -> None:
    log = tmp_path / "log"
    log.touch()
    with pytest.raises(InputError, match=said):
        nccl_observations(f"{name}={log}", machine(1))


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


def test_evidence_of_another_gpu_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "all_reduce.log"
    head = "".join(
        f"#  Rank {r} Pid 1 on h device {r} [0x00] NVIDIA A100-SXM4-80GB\n" for r in range(8)
    )
    log.write_text(f"{head}1048576 262144 float sum -1 61.5 17.05 29.84 0\n", encoding="utf-8")
    with pytest.raises(InputError, match="A100-SXM4-80GB, but dgx-h100"):
        nccl_observations(str(log), load_topology("dgx-h100"))
    assert len(nccl_observations(str(log), load_topology("dgx-a100"))[0]) == 1


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "nothing to fit"),
        (["--kineto", "x.json"], "needs the WORKLOAD"),
        (["--nccl-tests", "no-such-file"], "no such file"),
        (["--set", "calibration.gemm_clock=2"], "starts from the shipped constants"),
    ],
)
def test_command_says_what_is_wrong(arguments: list[str], fault: str) -> None:
    result = CliRunner().invoke(group, ["calibrate", "dgx-h100", *arguments])
    assert isinstance(result.exception, InputError)
    assert fault in str(result.exception)


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


def test_a_calibrated_result_says_so() -> None:
    settings = [*SMALL, "calibration.network_bandwidth=0.8"]
    result = simulate("dgx-h100", JOB, overrides=settings, scaling=False, fixes=False)
    assert result.provenance["calibration"] == "network_bandwidth x 0.8"
    plain = simulate("dgx-h100", JOB, overrides=SMALL, scaling=False, fixes=False)
    assert "calibration" not in plain.provenance
