"""The step's timeline as a Chrome trace and its collectives as CSV."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.commands.output import emit
from sim.inputs.loader import load
from sim.interop.kineto import read_kineto
from sim.report.formats import rendered
from sim.report.trace import view
from sim.step.chrome_trace import Trace
from sim.step.run import run_step

JOB = {
    "name": "small", "model": "llama-3.2-1b", "sequence_length": 2048, "micro_batch": 2,
    "tokens": 1e9, "gradient_accumulation": 2, "parallelism": "fsdp2",
}  # fmt: skip


def simulated(topology: object = "dgx-h100", *sets: str, **kwargs: object):
    loaded = load(topology, JOB, ["model.layers=3", *sets])  # type: ignore[arg-type]
    outcome = run_step(loaded.topology, loaded.workload, **kwargs)  # type: ignore[arg-type]
    return outcome, loaded.workload


@pytest.fixture(scope="module")
def traced():
    outcome, workload = simulated()
    return outcome, json.loads(Trace(outcome, workload, "small").to_json())


def test_it_covers_the_step(traced) -> None:
    outcome, document = traced
    spans = [e for e in document["traceEvents"] if e["ph"] == "X"]
    assert max(e["ts"] + e["dur"] for e in spans) == pytest.approx(1e6 * outcome.time_s, abs=1e-3)
    assert min(e["ts"] for e in spans) == 0.0
    assert all(e["dur"] >= 0 for e in spans)


def test_the_critical_path_is_marked_and_makes_the_step(traced) -> None:
    outcome, document = traced
    shares = document["criticalPath"]
    assert sum(shares.values()) == pytest.approx(outcome.time_s, rel=1e-12)
    assert next(iter(shares)) == "gemm"
    marked = [e for e in document["traceEvents"] if e.get("args", {}).get("critical")]
    assert {e["cat"] for e in marked} == {"kernel", "cuda_runtime"}
    # compute-bound: of the gathers only the first of a micro-step holds it up
    gathers = [e for e in marked if "AllGather" in e["name"]]
    assert {e["args"]["label"] for e in gathers} == {"first all_gather"}


def test_lanes_have_names_and_never_overlap(traced) -> None:
    _, document = traced
    lanes = defaultdict(list)
    names = {}
    for e in document["traceEvents"]:
        if e["ph"] == "M" and e["name"] == "thread_name":
            names[e["pid"], e["tid"]] = e["args"]["name"]
        elif e["ph"] == "X" and e["cat"] != "user_annotation":
            lanes[e["pid"], e["tid"]].append((e["ts"], e["ts"] + e["dur"]))
    assert set(lanes) <= set(names)
    assert {"host", "compute", "all_gather", "reduce_scatter"} <= set(names.values())
    for spans in lanes.values():
        spans.sort()
        # four decimals of a microsecond are written
        assert all(b[0] >= a[1] - 2e-4 for a, b in pairwise(spans))


@pytest.mark.parametrize(
    ("topology", "job", "sets"),
    [
        ("dgx-h100", JOB, []),
        ("dgx-h100", "llama3-8b-sft", ["parallelism.pipeline_parallel=2"]),
        ("pcie4-a100-16", JOB, ["parallelism.strategy=zero3"]),
    ],
    ids=["fsdp2", "pipeline", "zero3"],
)
def test_perfetto_would_drop_nothing(topology, job, sets) -> None:
    """What its importer counts as faults: slices that cross, arrows without ends, no numbers."""
    events = sim.trace(topology, job, overrides=sets).to_dict()["traceEvents"]
    threads = defaultdict(list)
    for e in events:
        assert isinstance(e["pid"], int)
        if e["ph"] == "X":
            begin = round(1e3 * e["ts"])  # it keeps nanoseconds
            threads[e["pid"], e["tid"]].append((begin, -round(1e3 * e["dur"])))
            assert 1e3 * e["ts"] == pytest.approx(begin, abs=1e-3)
        elif e["ph"] == "C":
            assert all(isinstance(value, int | float) for value in e["args"].values())
        elif e["ph"] in "sf":
            assert e["ph"] == "s" or e["bp"] == "e"
        else:
            assert e["ph"] == "M"
    for slices in threads.values():
        ends: list[int] = []  # of those that are open
        for begin, less in sorted(slices):
            while ends and ends[-1] <= begin:
                ends.pop()
            assert not ends or begin - less <= ends[-1]  # within the one around it
            ends.append(begin - less)
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert set(threads) <= named
    leaving = [e["id"] for e in events if e["ph"] == "s"]
    assert len(leaving) == len(set(leaving))
    assert sorted(leaving) == sorted(e["id"] for e in events if e["ph"] == "f")


def test_kernels_add_up_to_the_breakdown(traced) -> None:
    outcome, document = traced
    sums = defaultdict(float)
    compute = next(
        e["tid"] for e in document["traceEvents"]
        if e["name"] == "thread_name" and e["args"]["name"] == "compute"
    )  # fmt: skip
    for e in document["traceEvents"]:
        if e["ph"] == "X" and e["cat"] == "kernel" and e["tid"] == compute and "kind" in e["args"]:
            sums[e["args"]["kind"]] += e["dur"] * 1e-6
    kernels = outcome.breakdown.kernels
    assert sums.keys() == kernels.keys()
    for kind, seconds in kernels.items():
        assert sums[kind] == pytest.approx(seconds, rel=1e-4), kind


def test_kernels_carry_their_names(traced) -> None:
    _, document = traced
    gemms = {e["name"] for e in document["traceEvents"] if e.get("args", {}).get("kind") == "gemm"}
    assert any("wq" in name for name in gemms)
    assert not any(name in ("gemm forward", "gemm backward") for name in gemms)


def test_collectives_say_what_they_are(traced) -> None:
    outcome, document = traced
    found = [e for e in document["traceEvents"] if e["name"].startswith("nccl")]
    assert len(found) == len(outcome.lowered.views[0].comm_kind)
    gather = next(e for e in found if e["args"]["unit"] == "layers.1")
    assert gather["name"].startswith("ncclDevKernel_AllGather_")
    assert gather["args"]["bytes out"] == 8 * gather["args"]["bytes in"]
    assert {"algorithm", "protocol", "channels", "busbw alone GB/s"} <= set(gather["args"])


def test_a_profilers_reader_reads_it(tmp_path: Path, traced) -> None:
    outcome, document = traced
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    found = read_kineto(path)
    assert (found.steps, found.world_size) == (1, 8)
    assert found.per_step("gemm") == pytest.approx(outcome.breakdown.kernels["gemm"], rel=1e-4)
    gathers = [c for c in found.collectives if c.op == "all_gather"]
    priced = {
        c.work: c for n, c in outcome.priced.collectives.items() if n.collective == "all_gather"
    }
    assert {c.size for c in gathers} == set(priced)
    for c in gathers:
        assert c.least_s >= 0.999 * priced[c.size].time_s


@pytest.mark.parametrize("level", ["folded", "ranks"])
def test_csv_is_in_order(level: str) -> None:
    outcome, workload = simulated("dgx-a100", "nodes=2", level=level)
    rows = list(csv.DictReader(io.StringIO(rendered(view(Trace(outcome, workload)), "csv"))))
    assert len(rows) == len(outcome.lowered.views[0].comm_kind)
    assert [int(r["order"]) for r in rows] == list(range(len(rows)))
    assert rows[0]["op"] == "all_gather"
    assert rows[0]["group_size"] == "16"
    for row in rows:
        assert float(row["end_s"]) - float(row["start_s"]) >= 0.999 * float(row["alone_s"])
        if row["op"] == "reduce_scatter":
            assert float(row["bytes_in"]) == 16 * float(row["bytes_out"])


@pytest.mark.parametrize(
    ("topology", "sets"),
    [
        ("a100-x1", []),  # no collective at all
        ("pcie4-a100-16", ["parallelism.strategy=zero3"]),
        ("dgx-h100", ["parallelism.strategy=ddp", "nodes=2"]),
        ("mixed-pairs", []),  # an explicit graph, ranks of several classes
        ("dgx-h100", ["calibration.slowest_gpu=0.8"]),
    ],
)
def test_other_machines_and_strategies(topology: str, sets: list[str]) -> None:
    outcome, workload = simulated(topology, *sets)
    document = Trace(outcome, workload).to_dict()
    ends = [e["ts"] + e["dur"] for e in document["traceEvents"] if e["ph"] == "X"]
    assert max(ends) <= 1e6 * float(outcome.timeline.end.max()) * (1 + 1e-9) + 1e-3
    processes = {e["pid"] for e in document["traceEvents"]}
    assert processes == set(range(len(outcome.lowered.views)))


def test_command(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps(JOB), encoding="utf-8")
    out = tmp_path / "trace.json"
    common = ["trace", "dgx-h100", str(job), "--set", "model.layers=2"]
    done = CliRunner().invoke(group, [*common, "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text(encoding="utf-8"))["traceName"] == "small on dgx-h100"
    listed = CliRunner().invoke(group, [*common, "--format", "csv"])
    assert listed.stdout.startswith("order,op,phase,unit,bytes_in,bytes_out,dtype,group,group_size")


def test_arrows_lead_from_launches_and_collectives_to_what_waits_for_them(traced) -> None:
    _, document = traced
    arrows = defaultdict(dict)
    for e in document["traceEvents"]:
        if e["ph"] in "sf":
            arrows[e["id"]][e["ph"]] = e
    assert all(set(ends) == {"s", "f"} for ends in arrows.values())
    assert all(ends["f"]["ts"] >= ends["s"]["ts"] - 2e-4 for ends in arrows.values())
    assert {ends["s"]["name"] for ends in arrows.values()} == {"launch", "wait"}
    # every arrow stands on slices: Perfetto binds it to the one around its time
    slices = defaultdict(list)
    for e in document["traceEvents"]:
        if e["ph"] == "X":
            slices[e["tid"]].append((e["ts"] - 2e-4, e["ts"] + e["dur"] + 2e-4))
    for ends in arrows.values():
        for e in ends.values():
            assert any(a <= e["ts"] <= b for a, b in slices[e["tid"]])


def test_counters_and_marked_stretches_are_those_of_the_step(traced) -> None:
    outcome, document = traced
    events = document["traceEvents"]
    memory = [sum(e["args"].values()) for e in events if e["name"] == "memory GiB"]
    assert len(memory) > 15
    assert max(memory) > 1.2 * memory[0]
    traffic = [e["args"]["in flight"] for e in events if e["name"] == "collectives GB/s"]
    assert min(traffic) == 0.0 == traffic[-1]
    assert max(traffic) > 10
    threads = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    lengths = {
        name: sum(e["dur"] for e in events if e["ph"] == "X" and e["tid"] == threads[name]) * 1e-6
        for name in ("exposed communication", "critical path")
    }
    assert lengths["exposed communication"] == pytest.approx(outcome.breakdown.exposed_s, rel=1e-3)
    assert lengths["critical path"] == pytest.approx(outcome.time_s, rel=0.01)


def test_calibrating_on_our_own_trace_moves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    job = {**JOB, "gradient_accumulation": 4}
    path.write_text(sim.trace("dgx-h100", job).to_json(), encoding="utf-8")
    found = sim.calibrate("dgx-h100", str(_written(tmp_path, job)), kineto=[path])
    assert {c.name for c in found.constants if abs(c.value - 1.0) > 0.005} == set()
    kernels = [c for c in found.fitted if c.kind == "kernels"]
    assert len(kernels) == 3
    assert all(abs(c.before) < 1e-3 for c in kernels)


def _written(folder: Path, job: dict) -> Path:
    path = folder / "job.yaml"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def test_a_cut_trace_says_so_and_marks_no_step(tmp_path: Path) -> None:
    job = {**JOB, "gradient_accumulation": 8, "model": "llama-3.2-1b"}
    cut = sim.trace("dgx-h100", job, all_micro_steps=False)
    assert (cut.shown, cut.micro_steps) == (3, 8)
    path = tmp_path / "cut.json"
    path.write_text(cut.to_json(), encoding="utf-8")
    found = read_kineto(path)
    assert found.steps == 0
    assert "no ProfilerStep marks" in found.notes[0]
    assert '"3 of 8 micro-steps"' in cut.to_json()
    assert sim.trace("dgx-h100", job).shown == 8


def test_some_ranks_of_many_and_stages_as_processes() -> None:
    some = sim.trace("dgx-h100", JOB, ranks=[0, 3], slow=["rank:3=0.8"]).to_dict()
    names = [e["args"]["name"] for e in some["traceEvents"] if e["name"] == "process_name"]
    assert names == ["rank 0", "rank 3"]
    with pytest.raises(sim.InputError, match="9 is none of ranks 0 to 7"):
        sim.trace("dgx-h100", JOB, ranks=[9])
    piped = sim.trace("dgx-h100", "llama3-8b-sft", overrides=["parallelism={pipeline_parallel: 2}"])
    events = piped.to_dict()["traceEvents"]
    assert len({e["pid"] for e in events}) == 3  # two stages, and the pipeline
    assert any(e["name"] == "ncclDevKernel_SendRecv" for e in events)


def test_a_trace_in_parts_is_the_whole(monkeypatch) -> None:
    """It is written some events at a time, with a word between."""
    outcome, workload = simulated()
    trace = Trace(outcome, workload, "small")
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("sim.step.chrome_trace._TOGETHER", 100)
    text = trace.to_json(progress=lambda *at: told.append(at))
    assert json.loads(text) == json.loads(json.dumps(trace.to_dict()))
    assert [done for done, _ in told][:2] == [100, 200]
    assert all(done <= whole for done, whole in told)


def test_a_trace_is_written_as_it_is_made(monkeypatch, tmp_path) -> None:
    """A file has its parts, packed or not, and none is left where one cannot be made."""
    outcome, workload = simulated()
    trace = Trace(outcome, workload, "small")
    monkeypatch.setattr("sim.step.chrome_trace._TOGETHER", 100)
    parts = list(trace.parts())
    assert len(parts) > 10
    assert "".join(parts) == trace.to_json()
    for name, read in (("plain.json", Path.read_bytes), ("packed.json.gz", unpacked)):
        emit(iter(parts), tmp_path / name)
        assert read(tmp_path / name).decode() == "".join([*parts, "\n"])

    def stopped() -> Iterator[str]:
        yield parts[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        emit(stopped(), tmp_path / "plain.json")
    assert (tmp_path / "plain.json").read_text() == "".join([*parts, "\n"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed.json.gz", "plain.json"]


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def test_rows_are_made_when_they_are_looked_at() -> None:
    outcome, workload = simulated()
    rows = Trace(outcome, workload, "small").records()
    assert [row["order"] for row in rows] == list(range(len(rows)))
    assert rows[-1] == list(rows)[-1]
    assert rows[1:3] == [rows[1], rows[2]]
    with pytest.raises(IndexError):
        rows[len(rows)]


@pytest.mark.parametrize("schedule", ["interleaved-1f1b", "zbv"])
def test_a_pipeline_of_many_micro_batches_is_cut_to_two_rounds(schedule):
    """Its cycles come again: a trace shows how they begin and end, and how many are missing."""
    job = {"pipeline_parallel": 4, "pipeline_schedule": schedule, "tensor_parallel": 2}
    knobs = [f"parallelism.{key}={value}" for key, value in job.items()]
    sets = ["model.layers=8", "sequence_length=1024", "gradient_accumulation=4096", *knobs]
    found = sim.trace("dgx-h100", "llama3-8b-sft", overrides=sets)
    assert (found.shown, found.micro_steps) == (8, 4096)
    assert "8 of 4096 micro-steps" in found.to_json()


@pytest.mark.parametrize(
    ("steps", "said"), [(65536, "64.5 GiB of memory"), (1_000_000, "983.8 GiB of memory")]
)
def test_micro_steps_beyond_memory_are_refused_before_they_are_made(steps, said) -> None:
    job = "dgx-h100", "llama3-8b-sft"
    with pytest.raises(sim.InputError, match=f"gradient_accumulation .* {said}, more than"):
        sim.trace(*job, all_micro_steps=True, gradient_accumulation=steps)


def test_a_timeline_beyond_memory_is_refused(monkeypatch) -> None:
    found = sim.trace("dgx-h100", "llama3-8b-sft")
    monkeypatch.setattr("sim.step.chrome_trace.most_bytes", lambda needed: needed / 2)
    with pytest.raises(sim.InputError, match=r"needs .* or some of its ranks"):
        found.to_json()


def test_one_gpu_has_no_collectives_to_list(tmp_path) -> None:
    job = ["trace", "h100-x1", "llama3-8b-lora"]
    path = tmp_path / "none.jsonl"
    for words, said in (("--format csv", "order,op,phase,"), ("--format jsonl", "")):
        done = CliRunner().invoke(group, [*job, *words.split()])
        assert done.exit_code == 0
        assert done.stdout.startswith(said)
        assert done.stdout.count("\n") == bool(said)
    assert CliRunner().invoke(group, [*job, "-o", str(path)]).exit_code == 0
    assert path.read_bytes() == b""
