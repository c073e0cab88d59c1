"""Every collective of recorded FSDP runs, in order, and their timelines under given durations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.blocks.parameters import build_tree
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Precision, Workload
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE, SEGMENT
from tests.replay import replay

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "fsdp"
RUNS = json.loads((ROOT / "tests" / "data" / "fsdp_recordings.json").read_text())["recordings"]
TIMES = json.loads((ROOT / "tests" / "data" / "fsdp_timelines.json").read_text())
SHORT = {"all_gather": "AG", "reduce_scatter": "RS", "all_reduce": "AR"}
RECORDED = {"all_gather_list": "all_gather"}
SEGMENTS = {"forward": "fwd", "recompute": "refwd", "backward": "bwd"}


def planned(run):
    method = Method()
    if "method" in run:
        method = Method(**run["method"] | {"targets": tuple(run["method"]["targets"])})
    workload = Workload(
        name="recorded",
        model=Model(**run["model"]),
        method=method,
        sequence_length=16,
        gradient_accumulation=run.get("gradient_accumulation", 1),
        precision=Precision(kind=run.get("precision", "bf16")),
        parallelism=Parallelism(**run["parallelism"]),
        activation_checkpointing=Checkpointing(kind=run.get("checkpointing", "none")),
    )
    tree = build_tree(workload.model, method)
    mesh = mesh_on(workload, run["world"])
    return build_plan(workload, tree, mesh, run.get("steps", 1), run.get("cold", False))


def collectives(plan):
    return [
        [
            op.collective, op.phase, op.unit, op.bytes_in, op.bytes_out, op.dtype,
            plan.groups[op.group].size,
        ]
        for op in plan.ops
        if op.kind == COLLECTIVE
    ]  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_collectives_equal_the_recording(name):
    assert collectives(planned(RUNS[name])) == RUNS[name]["ops"]


@pytest.mark.parametrize("name", TIMES["timelines"])
def test_timelines_equal_the_replayed_recording(name):
    expected = TIMES["timelines"][name]
    plan = planned(RUNS[name])
    for case, values in expected["cases"].items():
        given = TIMES["durations"][case]

        def seconds(op, given=given):
            if op.kind == COLLECTIVE:
                return given[SHORT[op.collective]]
            if op.kind != SEGMENT or not op.unit.startswith("layers."):
                return 0.0
            if op.name == "backward" and op.unit in expected["unmarked_backward"]:
                return 0.0
            return given["B" if op.name == "backward" else "F"]

        shared = replay(plan, seconds, lambda op: plan.groups[op.group].size)
        assert shared.makespan == pytest.approx(values["shared_comm"], abs=1e-4)
        apart = replay(plan, seconds, lambda op: (plan.groups[op.group].size, op.collective))
        assert apart.makespan == pytest.approx(values["separate_comm"], abs=1e-4)
        if "timeline" in values:
            names = {**SHORT, **SEGMENTS}
            timeline = [
                [f"{names[op.name]} {op.unit}", round(start, 4), round(end, 4)]
                for op, start, end in zip(plan.ops, shared.start, shared.end, strict=True)
                if seconds(op)
            ]
            assert timeline == values["timeline"]


def test_separate_group_is_another_communicator():
    run = RUNS["fsdp2_tiny_ws8_separate_rs_group"]
    by_comm = {(op.collective, op.comm) for op in planned(run).ops if op.kind == COLLECTIVE}
    assert by_comm == {("all_gather", "shard"), ("reduce_scatter", "shard.reduce_scatter")}


@pytest.mark.skipif(not SHARED.is_dir(), reason="no recordings beside the checkout")
def test_expectations_are_the_recordings():
    seen = 0
    for folder in (SHARED, SHARED / "extra"):
        for entry in json.loads((folder / "index.json").read_text()):
            name = Path(entry["file"]).stem
            if "ds_" in name:
                continue
            events = json.loads((folder / entry["file"]).read_text())["events"]
            ops = [
                [
                    RECORDED.get(e["op"], e["op"]),
                    {"loss_allreduce": "loss"}.get(e["phase"], e["phase"]),
                    (e["module"] or "").replace("._checkpoint_wrapped_module", ""),
                    e["bytes_in"], e["bytes_out"], e["dtype"], e["group_size"],
                ]
                for e in events
                if "bytes_in" in e
            ]  # fmt: skip
            assert ops == RUNS[name]["ops"], name
            seen += 1
    assert seen == len(RUNS)
