"""Every collective of recorded runs on a device mesh: every kind of parallelism."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sim.blocks.parameters import tree_of
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Precision, Workload
from sim.strategies import build_plan, build_plans
from sim.strategies.plan import COLLECTIVE

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "mesh"
DATA = ROOT / "tests" / "data" / "mesh_recordings.json"
RUNS = json.loads(DATA.read_text())["recordings"]
TITAN = json.loads((DATA.parent / "titan_recordings.json").read_text())["recordings"]
PIPELINES = json.loads((DATA.parent / "pipeline_recordings.json").read_text())["recordings"]


def workload_of(run):
    return Workload(
        name="recorded",
        model=Model(**run["model"]),
        sequence_length=run["sequence_length"],
        micro_batch=run["micro_batch"],
        gradient_accumulation=run["gradient_accumulation"],
        attention=run.get("attention", "flash2"),
        loss="chunked" if run.get("loss_chunks") else "eager",
        loss_chunks=run.get("loss_chunks") or 8,
        precision=Precision(master=run.get("master", "fp32")),
        parallelism=Parallelism(**run["parallelism"]),
        # torchtitan's checkpoint wrapper repeats the whole block
        activation_checkpointing=Checkpointing(kind=run["checkpointing"], early_stop=False),
    )


def planned(run):
    workload = workload_of(run)
    return build_plan(workload, tree_of(workload), mesh_on(workload, run["world"]))


@pytest.mark.parametrize("run", [*RUNS.values(), *TITAN.values()], ids=[*RUNS, *TITAN])
def test_collectives_equal_the_recording(run):
    issued = [
        f"{op.collective} {op.phase} {op.group} {op.dtype} {op.bytes_in:.0f} {op.bytes_out:.0f}"
        for op in planned(run).ops
        if op.kind == COLLECTIVE and op.group == run.get("only", op.group)
    ]
    assert run.get("missing") in (None, *issued)
    assert [op for op in issued if op != run.get("missing")] == run["ops"]


def issued_by(plan):
    """Messages as a rank sees them, and collectives."""
    found = []
    for op in plan.ops:
        if op.kind != COLLECTIVE:
            continue
        if op.collective == "send":
            way = "send" if int(op.group.split()[1]) == plan.stage else "recv"
            found.append(f"{way} {op.bytes_in:.0f}")
        elif op.collective == "send_recv":
            found.append(f"send recv {op.bytes_in:.0f}")
        else:
            found.append(
                f"{op.collective} {op.group} {op.dtype} {op.bytes_in:.0f} {op.bytes_out:.0f}"
            )
    return found


@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline_ranks_equal_the_recording(name):
    run = PIPELINES[name]
    workload = workload_of(run)
    plans = build_plans(workload, tree_of(workload), mesh_on(workload, run["world"]))
    issued, missing = {str(plan.stage): issued_by(plan) for plan in plans}, run.get("missing")
    assert all(missing in (None, *ops) for ops in issued.values())
    assert {k: [op for op in ops if op != missing] for k, ops in issued.items()} == run["ops"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no recordings beside the checkout")
def test_expectations_are_the_recordings(tmp_path):
    script = ROOT / "scripts" / "carry_mesh_recordings.py"
    subprocess.run([sys.executable, script, SHARED, tmp_path], check=True)
    for again in tmp_path.iterdir():
        assert json.loads(again.read_text()) == json.loads((DATA.parent / again.name).read_text())
