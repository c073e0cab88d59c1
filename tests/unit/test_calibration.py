"""A topology's calibration: where it acts, that it changes nothing at 1, and how it is fitted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sim import simulate
from sim.blocks.kernels import Kernel
from sim.calibration.calibrate import PRIORS, calibrate, mean_error
from sim.calibration.observation import run_observation
from sim.calibration.runs import LoggedRun
from sim.cli import group
from sim.cost.collectives import plan_collective
from sim.cost.kernel_cost import CostModel
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.inputs.calibration import Calibration, read_calibration, written
from sim.inputs.loader import load, load_topology
from sim.interop.observations import kineto_observations, nccl_observations
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


def test_a_calibrated_result_says_so() -> None:
    settings = [*SMALL, "calibration.network_bandwidth=0.8"]
    result = simulate("dgx-h100", JOB, overrides=settings, scaling=False, fixes=False)
    assert result.provenance["calibration"] == "network_bandwidth x 0.8"
    plain = simulate("dgx-h100", JOB, overrides=SMALL, scaling=False, fixes=False)
    assert "calibration" not in plain.provenance
