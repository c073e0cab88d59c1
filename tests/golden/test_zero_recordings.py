"""Every collective of DeepSpeed's recorded steps: which, when, why, how many bytes, in order."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from sim.blocks.parameters import build_tree
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Workload
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE
from sim.strategies.zero3 import play

ROOT = Path(__file__).parents[2]
DATA = json.loads((ROOT / "tests" / "data" / "zero_recordings.json").read_text())
SHARED = ROOT.parent / "shared" / "fsdp"
RUNS = DATA["runs"]
ZERO3 = [name for name in RUNS if "z3" in name]
OPERATION = {"all_gather": "G", "reduce_scatter": "S", "all_reduce": "R"}
PHASE = {"forward": "f", "backward": "b", "recompute": "r", "clip": "s", "optimizer": "s"}
TRIGGER = {"prefetch": "p", "on_demand": "d", "ipg_bucket": "-"}
AUTO = (
    "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "reduce_bucket_size",
)  # fmt: skip
needs_recordings = pytest.mark.skipif(not SHARED.is_dir(), reason="no recordings beside checkout")
ALL_LINEAR = ("q", "k", "v", "o", "gate", "up", "down")


def workload_of(options):
    layers, dim, heads, kv, ffn, vocab = options["model"]
    model = Model(
        name="recorded", layers=layers, hidden_size=dim, heads=heads, kv_heads=kv,
        head_dim=dim // heads, ffn_size=ffn, vocab_size=vocab,
    )  # fmt: skip
    knobs = dict(options["zero"], strategy=f"zero{options.get('stage', 3)}")
    if options.get("hf_auto"):
        knobs |= dict.fromkeys(AUTO, "auto")
    if options.get("comm_dtype"):
        knobs["communication_data_type"] = options["comm_dtype"]
    if options.get("pre8148"):
        knobs["deepspeed_version"] = "0.19.2"
    method = Method()
    if options.get("lora"):
        method = Method(
            kind="lora", rank=options["lora"], targets=ALL_LINEAR,
            input_require_grads=bool(options.get("input_grads")),
        )  # fmt: skip
    policy = Checkpointing()
    if options.get("ac"):
        policy = Checkpointing(kind="full", reentrant=options["ac"] == "reentrant")
    return Workload(
        name="recorded", model=model, method=method, sequence_length=16,
        gradient_accumulation=options.get("accum", 1), parallelism=Parallelism(**knobs),
        activation_checkpointing=policy,
    )  # fmt: skip


def built(name, **how):
    options = RUNS[name]["options"]
    workload = workload_of(options)
    return play(
        workload,
        build_tree(workload.model, workload.method),
        mesh_on(workload, options["ws"]),
        **how,
    )


def totals(plan):
    sums = defaultdict(lambda: [0, 0, 0])
    for op in plan.ops:
        if op.kind == COLLECTIVE:
            phase = "step" if PHASE[op.phase] == "s" else op.phase
            row = sums[f"{op.collective}/{phase}"]
            row[0] += 1
            row[1] += op.bytes_in
            row[2] += op.bytes_out
    return dict(sums)


def row_of(op, world, issued=None):
    small, large = sorted((op.bytes_in, op.bytes_out))
    if op.collective != "all_reduce":
        assert large == small * world
        assert (small == op.bytes_in) == (op.collective == "all_gather")
    else:
        assert small == large
    why = TRIGGER[issued.trigger] if issued else "-"
    module = issued.module if issued else "-"
    row = [OPERATION[op.collective], PHASE[op.phase], module, why, str(int(small))]
    return " ".join(row if op.dtype == "bf16" else [*row, op.dtype])


@pytest.mark.parametrize("name", ZERO3)
def test_zero3_issues_what_was_recorded(name):
    played = built(name)
    issued = {i.op: i for i in played.issued}
    world = RUNS[name]["options"]["ws"]
    ops = played.recorder.plan.ops
    rows = [row_of(op, world, issued.get(i)) for i, op in enumerate(ops) if op.kind == COLLECTIVE]
    assert rows == [DATA["rows"][i] for i in RUNS[name]["events"]]


@pytest.mark.parametrize("name", [n for n in ZERO3 if "peak_live" in RUNS[n]])
def test_zero3_holds_what_was_recorded(name):
    assert built(name).peak_live == RUNS[name]["peak_live"]


@pytest.mark.parametrize("name", ZERO3)
def test_zero3_first_step_records_the_trace(name):
    assert totals(built(name, first_step=True).recorder.plan) == RUNS[name]["first_step"]


@pytest.mark.parametrize("name", ZERO3)
def test_zero3_second_step_equals_the_first_steady_one(name):
    one, two = built(name).recorder.plan, built(name, steps=2).recorder.plan
    assert totals(two) == {k: [2 * x for x in v] for k, v in totals(one).items()}


@pytest.mark.parametrize("name", [n for n in RUNS if n not in ZERO3])
def test_zero12_issues_what_was_recorded(name):
    workload = workload_of(RUNS[name]["options"])
    world = RUNS[name]["options"]["ws"]
    plan = build_plan(workload, build_tree(workload.model), mesh_on(workload, world))
    rows = [row_of(op, world) for op in plan.ops if op.kind == COLLECTIVE]
    assert rows == [DATA["rows"][i] for i in RUNS[name]["events"]]


def _files():
    return sorted([*SHARED.glob("traces/ds_*.json"), *SHARED.glob("extra/traces/ds_*.json")])


@needs_recordings
def test_every_recording_has_its_expectations():
    assert {f.stem for f in _files()} == set(RUNS)


@needs_recordings
@pytest.mark.parametrize("name", ZERO3)
def test_zero3_gathers_and_reduces_the_recorded_parameters(name):
    """Which parameters ride in each collective, and where compute marks stand between them."""
    file = next(f for f in _files() if f.stem == name)
    names = {"tok_embeddings.weight": "embedding.weight", "lm_head.weight": "head.weight"}
    played = built(name)
    ours = [sorted(played.trace.parameter_names[p] for p in i.parameters) for i in played.issued]
    theirs = [
        sorted(names.get(n, n.replace(".base.weight", ".weight")) for n in event["params"])
        for event in json.loads(file.read_text())["events"]
        if event.get("params")
    ]
    assert ours == theirs
