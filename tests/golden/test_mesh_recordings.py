"""Every collective of recorded runs on a device mesh, in order: tensor parallelism with FSDP2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sim.blocks.parameters import tree_of
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Workload
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "mesh"
DATA = ROOT / "tests" / "data" / "mesh_recordings.json"
RUNS = json.loads(DATA.read_text())["recordings"]


def planned(run):
    workload = Workload(
        name="recorded",
        model=Model(**run["model"]),
        sequence_length=run["sequence_length"],
        micro_batch=run["micro_batch"],
        gradient_accumulation=run["gradient_accumulation"],
        parallelism=Parallelism(**run["parallelism"]),
        # torchtitan's checkpoint wrapper repeats the whole block
        activation_checkpointing=Checkpointing(kind=run["checkpointing"], early_stop=False),
    )
    return build_plan(workload, tree_of(workload), mesh_on(workload, run["world"]))


@pytest.mark.parametrize("name", RUNS)
def test_collectives_equal_the_recording(name):
    issued = [
        f"{op.collective} {op.phase} {op.group} {op.dtype} {op.bytes_in:.0f} {op.bytes_out:.0f}"
        for op in planned(RUNS[name]).ops
        if op.kind == COLLECTIVE
    ]
    assert issued == RUNS[name]["ops"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no recordings beside the checkout")
def test_expectations_are_the_recordings(tmp_path):
    script = ROOT / "scripts" / "carry_mesh_recordings.py"
    again = tmp_path / "again.json"
    subprocess.run([sys.executable, script, SHARED, again], check=True)
    assert json.loads(again.read_text()) == json.loads(DATA.read_text())
