"""A recorded step beside the simulated one: where the host launched a kernel says its phase."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.interop.profile import profile_of
from sim.interop.trace_diff import compared, recorded_profile
from sim.interop.trace_file import read_trace
from sim.report.formats import rendered
from sim.report.trace_diff import sentence, view

MAIN, ENGINE, STREAM, WIRE = (7, 7), (7, 8), (0, 20), (0, 21)
GEMM, FLASH = "nvjet_hsh_128x256", "flash_fwd_kernel<Traits>(int)"
SHORT = {"gradient_accumulation": 2}
ADAM = "multi_tensor_apply_kernel"


def event(name, category, thread, start, duration, **arguments):
    return {"ph": "X", "name": name, "cat": category, "pid": thread[0], "tid": thread[1],
            "ts": start, "dur": duration, "args": arguments}  # fmt: skip


def step(number: int, begin: float, longer: float = 0.0) -> list[dict]:
    """1,000 us: forward 200 + 100, a wait of 50, backward 400 (and `longer`), update 100."""
    calls = [
        (MAIN, 10, GEMM, STREAM, 100, 200), (MAIN, 20, FLASH, STREAM, 300, 100),
        (ENGINE, 200, GEMM, STREAM, 450, 400 + longer),
        (MAIN, 620, "elementwise_kernel", STREAM, 900 + longer, 30),
        (MAIN, 640, ADAM, STREAM, 950 + longer, 50),
    ]  # fmt: skip
    found = [
        event(f"ProfilerStep#{number}", "user_annotation", MAIN, begin, 1000 + longer),
        event("autograd::engine::evaluate_function: MmBackward0", "cpu_op", ENGINE, begin + 190,
              410),
        event("Optimizer.step#AdamW.step", "user_annotation", MAIN, begin + 630, 100),
        event("ncclDevKernel_AllGather_RING_LL(args)", "kernel", WIRE, begin + 380, 70,
              **{"Collective name": "_allgather_base", "In msg nelems": 1000,
                 "Out msg nelems": 8000, "Group size": 8, "dtype": "BFloat16",
                 "correlation": 10 * number + 9}),
        event("cudaLaunchKernelExC", "cuda_runtime", MAIN, begin + 30, 5,
              correlation=10 * number + 9),
    ]  # fmt: skip
    for k, (thread, at, name, stream, start, duration) in enumerate(calls):
        key = 10 * number + k
        found.append(event("cudaLaunchKernel", "cuda_runtime", thread, begin + at, 5,
                           correlation=key))  # fmt: skip
        found.append(event(name, "kernel", stream, begin + start, duration, correlation=key))
    return found


HEAD = {
    "deviceProperties": [{"name": "NVIDIA H100 80GB HBM3"}],
    "distributedInfo": {"rank": 3, "world_size": 8},
}


def recorded(longer: float = 0.0):
    events = [*step(1, 0.0, longer), *step(2, 1000.0 + longer, longer)]
    return profile_of(HEAD, events, "rank3.json")


def test_a_kernel_belongs_to_the_phase_that_launched_it() -> None:
    found = recorded()
    us = {key: round(1e6 * share.seconds, 6) for key, share in found.parts.items()}
    assert us == {
        ("forward", "gemm"): 200.0, ("forward", "attention"): 100.0, ("backward", "gemm"): 400.0,
        ("update", "other"): 30.0, ("update", "optimizer"): 50.0,
        ("all_gather", "exposed"): 50.0,  # 400 to 450 of its 380 to 450
        ("", "beside"): 0.0,
        # 850 to 900, 930 to 950 of each step, and 100 between the two
        ("", "idle"): 120.0,
    }  # fmt: skip
    assert (found.rank, found.world_size, found.steps, found.gpu) == (
        3, 8, 2, "NVIDIA H100 80GB HBM3",
    )  # fmt: skip
    # from the first kernel at 100 to the last one's end at 2,000
    assert found.step_s == pytest.approx(950e-6)
    assert sum(share.seconds for share in found.parts.values()) == pytest.approx(found.step_s)
    assert found.collectives == ((
        "all_gather", 8, 16000.0, 1.0, pytest.approx(70e-6), pytest.approx(70e-6),
    ),)  # fmt: skip


def test_streams_and_the_longest_waits() -> None:
    found = recorded()
    us = [(round(1e6 * w.seconds), round(1e6 * w.at_s), w.cause, w.before) for w in found.waits]
    assert us[0] == (100, 900, "idle", GEMM)  # between the steps
    assert set(us[1:]) <= {
        (50, 300, "all_gather", GEMM), (50, 1300, "all_gather", GEMM),
        (50, 750, "idle", "elementwise_kernel"), (50, 1750, "idle", "elementwise_kernel"),
    }  # fmt: skip
    lanes = [(lane.stream, lane.mostly, round(1e6 * lane.seconds), lane.calls)
             for lane in found.lanes]  # fmt: skip
    assert lanes == [("20", "gemm", 780, 5.0), ("21", "all_gather", 70, 1.0)]


def test_differences_add_up_and_the_largest_comes_first() -> None:
    found = compared(recorded(longer=60.0), recorded())
    first = found.parts[0]
    assert (first.name, first.recorded_calls) == ("backward: matrix products", 1.0)
    assert first.difference_s == pytest.approx(60e-6)
    off = found.recorded.step_s - found.simulated.step_s
    assert sum(part.difference_s for part in found.parts) == pytest.approx(off)
    assert off == pytest.approx(60e-6)


def test_shares_are_of_the_simulated_step_in_the_sentence_and_the_table() -> None:
    """950 us simulated: twice as long, and half, are +100 % and -50 % of it."""
    for ratio, said in ((2.0, "+100.0 %"), (0.5, "-50.0 %")):
        theirs, ours = recorded(), recorded()
        found = compared(replace(theirs, step_s=ratio * ours.step_s), ours)
        text = rendered(view(found), "table")
        assert sentence(found).split(": ")[1].startswith(said)
        (whole,) = [line for line in text.splitlines() if line.strip().startswith("the step ")]
        assert said in whole
        assert "of the simulated" in text


def test_without_launches_phases_are_one() -> None:
    bare = [e for e in step(1, 0.0) if e["cat"] != "cuda_runtime"]
    found = compared(profile_of({}, bare, "bare"), recorded())
    assert {part.phase for part in found.parts} == {"", "all_gather"}
    products = next(part for part in found.parts if part.kind == "gemm")
    assert (products.recorded_s, products.simulated_s) == pytest.approx((600e-6, 600e-6))
    assert any("phases" in note for note in found.notes)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "ours.json.gz"
    trace = sim.trace("dgx-h100", "mistral-7b-lora", overrides=SHORT, all_micro_steps=True)
    path.write_bytes(gzip.compress(trace.to_json().encode()))
    return path


def test_our_own_trace_differs_in_nothing(ours: Path) -> None:
    found = sim.trace_diff(ours, "dgx-h100", "mistral-7b-lora", overrides=SHORT)
    assert [part for part in found.parts if part.difference_s] == []
    assert all(p.recorded_s == p.simulated_s for p in found.collectives)
    result = sim.simulate(
        "dgx-h100", "mistral-7b-lora", overrides=SHORT, scaling=False, fixes=False
    )
    assert found.recorded.step_s == pytest.approx(result.step.time_s, rel=1e-5)
    assert {part.phase for part in found.parts} >= {"forward", "backward", "update"}


def test_a_slower_machine_shows_where(ours: Path) -> None:
    found = sim.trace_diff(ours, "dgx-a100", "mistral-7b-lora", overrides=SHORT)
    assert found.parts[0].kind == "gemm"
    assert found.parts[0].difference_s < 0.0
    again = sim.trace_diff(ours, str(ours))  # two files
    assert again.content()["difference_s"] == 0.0


def test_our_own_trace_of_a_later_stage_differs_in_nothing(tmp_path: Path) -> None:
    sets = ["parallelism.pipeline_parallel=2", "gradient_accumulation=2"]
    last = sim.trace("dgx-h100", "llama3-8b-sft", overrides=sets, ranks=[7], all_micro_steps=True)
    path = tmp_path / "rank7.json"
    path.write_text(last.to_json())
    found = sim.trace_diff(path, "dgx-h100", "llama3-8b-sft", overrides=sets)
    assert (found.recorded.rank, found.simulated.rank) == (7, 7)
    assert [part for part in found.parts if part.difference_s] == []


def test_a_rank_of_a_pipeline_is_compared_with_its_own_stage() -> None:
    sets = ["parallelism.pipeline_parallel=2", "gradient_accumulation=4"]
    last = sim.trace("dgx-h100", "llama3-8b-sft", overrides=sets, ranks=[7], all_micro_steps=True)
    document = last.to_dict()
    theirs = profile_of(document, document["traceEvents"], "rank 7")
    from sim.inputs.loader import load
    from sim.interop.trace_diff import simulated_profile

    loaded = load("dgx-h100", "llama3-8b-sft", sets)
    assert simulated_profile(loaded, 7).parts == theirs.parts
    # the last stage has the head, the first the embedding
    first = simulated_profile(loaded, 0)
    assert first.parts["forward", "gemm"].calls < theirs.parts["forward", "gemm"].calls


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.json", "dgx-h100", "mistral-7b-lora"], "no such file"),
        (["{text}", "dgx-h100", "mistral-7b-lora"], "is not JSON"),
        (["{ours}", "{ours}", "--set", "nodes=2"], "no keys to set"),
        (["{ours}", "{ours}", "--steps", "2"], "marks 1 step itself"),
        (["{unmarked}", "{ours}"], "say with --steps how many"),
        (["{empty}", "{ours}"], "has no GPU kernels"),
        (["{nought}", "{ours}", "--steps", "1"], "its kernels take no time"),
        (["{cut}", "{ours}"], "has 3 of 16 micro-steps"),
        (["{far}", "dgx-h100", "mistral-7b-lora"], "12 is none of ranks 0 to 7"),
        (["dgx-h100", "mistral-7b-lora"], "is a machine; name the recorded trace"),
    ],
)
def test_wrong_arguments_say_what_would_be_right(tmp_path, ours, arguments, said) -> None:
    unmarked = [e for e in step(1, 0.0) if not e["name"].startswith("ProfilerStep")]
    files = {
        "text": "hello",
        "unmarked": json.dumps(unmarked),
        "empty": json.dumps([e for e in step(1, 0.0) if e["cat"] != "kernel"]),
        "nought": json.dumps([event("gemm", "kernel", (0, 7), 5.0, 0.0)]),
        "cut": json.dumps({"microSteps": {"shown": 3, "of": 16}, "traceEvents": step(1, 0.0)}),
        "far": json.dumps({"distributedInfo": {"rank": 12}, "traceEvents": step(1, 0.0)}),
    }
    names = {"ours": str(ours)}
    for name, text in files.items():
        path = tmp_path / f"{name}.json"
        path.write_text(text, encoding="utf-8")
        names[name] = str(path)
    words = [word.format(**names) for word in arguments]
    done = CliRunner().invoke(group, ["trace", "diff", *words])
    assert done.exit_code != 0
    assert said in str(done.exception)


def test_it_prints_a_table_and_writes_a_page(tmp_path: Path, ours: Path) -> None:
    page = tmp_path / "page.html"
    # the machine and the job first, as every other verb has them
    words = ["trace", "diff", "dgx-a100", "mistral-7b-lora", str(ours), "--report", str(page)]
    done = CliRunner().invoke(group, words)
    assert done.exit_code == 0, done.output
    assert "where the difference is" in done.output
    assert "the step" in done.output
    text = page.read_text(encoding="utf-8")
    assert 'data-name="trace-parts"' in text
    assert 'data-name="trace-differences"' in text
    assert str(tmp_path) not in text
    assert len(text) < 500_000


def test_unmarked_steps_are_counted_by_the_reader(tmp_path: Path) -> None:
    events = [
        e for n in (1, 2) for e in step(n, 1000.0 * (n - 1))
        if not e["name"].startswith("ProfilerStep")
    ]  # fmt: skip
    path = tmp_path / "two.json"
    path.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")
    assert len([*read_trace(path)[1]]) == len(events)
    found = recorded_profile(str(path), steps=2)
    assert found.source == "two.json"
    assert found.step_s == pytest.approx(950e-6)
    # the last backward of both is where the update of both begins: only its own mark tells
    assert found.parts["update", "optimizer"].calls == 1.0
