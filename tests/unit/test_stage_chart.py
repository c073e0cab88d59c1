"""The chart of a pipeline's ranks: actions in the order of the schedule, and where ranks wait."""

from __future__ import annotations

import json
import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.errors import InputError
from sim.pipeline.schedules import SCHEDULES, PipelineShape
from sim.report.formats import rendered
from sim.report.stages import picture, view

ROOT = Path(__file__).parents[2]
DRAWN = runpy.run_path(str(ROOT / "scripts" / "draw_schedules.py"))
SHAPES = {name: PipelineShape(4, 8, schedule.virtual) for name, schedule in SCHEDULES.items()}


@pytest.fixture(scope="module", params=sorted(SCHEDULES))
def drawn(request):
    return request.param, DRAWN["chart"](request.param)


def test_ranks_do_what_the_schedule_says(drawn):
    """In its order, one after the other; the first stage's weights are a whole backward."""
    name, chart = drawn
    schedule, shape = SCHEDULES[name], SHAPES[name]
    for rank, order in schedule.computed(shape).items():
        said = [str(part) for action in order for part in action.parts]
        firsts = [text for text in said if not text.startswith("0I")]  # nothing to compute
        own = [run for run in chart.runs if run.rank == rank]
        found = [re.sub("^0B", "0W", run.name) for run in own]
        assert found == [re.sub("^0B", "0W", text) for text in firsts]
        assert all(a.end_s <= b.start_s for a, b in pairwise(own))


def test_a_stage_waits_for_the_one_before(drawn):
    _, chart = drawn
    ends = {(r.stage, r.kind, r.micro_batch): r.end_s for r in chart.runs}
    for run in chart.runs:
        if run.kind == "F" and run.stage:
            assert run.start_s >= ends[run.stage - 1, "F", run.micro_batch]
    assert all(0.0 < share < 0.6 for share in chart.idle)


def test_pictures_of_the_documentation_show_what_runs(drawn):
    """Actions in order; their places move with every constant."""
    name, chart = drawn
    kept = (ROOT / "docs" / "schedules" / f"{name}.svg").read_text()
    names = re.compile(r"<title>(\d+[FBIW]\d+) ")
    assert names.findall(kept) == names.findall(picture(chart)) == [r.name for r in chart.runs]


def test_zero_bubble_is_less_idle_than_1f1b():
    idle = {}
    for name in ("1f1b", "interleaved-zero-bubble"):
        chart = DRAWN["chart"](name)
        idle[name] = sum(chart.idle) / chart.ranks
    assert idle["interleaved-zero-bubble"] < 0.7 * idle["1f1b"]


def test_forms(tmp_path):
    chart = DRAWN["chart"]("1f1b")
    text = rendered(view(chart), "table")
    assert "1F1B on 4 ranks, 8 micro-batches" in text
    assert re.search(r"^ +0 F+\.+B", text, re.M)
    assert len(json.loads(rendered(view(chart), "json"))["runs"]) == 4 * 16
    sets = [word for key in DRAWN["SETS"] for word in ("--set", key)]
    target = tmp_path / "chart.svg"
    done = CliRunner().invoke(
        group, ["trace", DRAWN["MACHINE"], DRAWN["JOB"], *sets, "-o", str(target)]
    )
    assert done.exit_code == 0, done.output
    assert target.read_text() == picture(chart)


def test_the_chrome_trace_has_a_track_a_rank():
    events = sim.trace(DRAWN["MACHINE"], DRAWN["JOB"], overrides=DRAWN["SETS"]).to_dict()
    process = {
        e["pid"] for e in events["traceEvents"]
        if e["name"] == "process_name" and e["args"]["name"] == "pipeline"
    }  # fmt: skip
    runs = [e for e in events["traceEvents"] if e["ph"] == "X" and e["pid"] in process]
    assert len(runs) == 4 * 16
    assert {e["tid"] for e in runs} == {0, 1, 2, 3}


def test_checkpointing_repeats_inside_an_action():
    sets = [*DRAWN["SETS"][:3], "parallelism.pipeline_parallel=4", "activation_checkpointing=full"]
    chart = sim.stages(DRAWN["MACHINE"], DRAWN["JOB"], overrides=sets)
    longer = [r.end_s - r.start_s for r in chart.runs if r.name == "1B3"]
    plain = [r.end_s - r.start_s for r in DRAWN["chart"]("1f1b").runs if r.name == "1B3"]
    assert longer[0] > 1.3 * plain[0]


def test_no_pipeline_is_said():
    with pytest.raises(InputError, match="no pipeline"):
        sim.stages("dgx-h100", "llama3-8b-sft")


def test_a_long_step_is_drawn_whole():
    """A few micro-batches stand for many where time is all that is asked."""
    sets = ["nodes=1", "micro_batch=1", "gradient_accumulation=40", "model.layers=8"]
    chart = sim.stages("dgx-h100", "llama3-8b-sft", overrides=[*sets, DRAWN["SETS"][-1]])
    assert len(chart.runs) == 4 * 2 * 40
