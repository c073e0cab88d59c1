"""Memory of a step against PyTorch's own tracker, within 1 %, in all and by category."""

import json
from pathlib import Path

import pytest

from sim.blocks.parameters import build_tree
from sim.inputs.models import resolve_model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Stack, Workload
from sim.memory.report import walk

RECORDS = json.loads((Path(__file__).parents[1] / "data" / "mem.json").read_text())["cases"]
CATEGORY = {
    "Sharded Param": "sharded_parameters",
    "Unsharded Param": "unsharded_parameters",
    "Sharded Grad": "sharded_gradients",
    "Unsharded Grad": "unsharded_gradients",
    "Activation": "activations",
    "Temp": "temporaries",
    "All Gather": "all_gather_buffers",
    "Reduce Scatter": "reduce_scatter_buffers",
    "OptState": "optimizer_states",
    "Inputs": "inputs",
}


def ledger(record):
    """Walk the recorded job, whose code repeats keys and values."""
    torch = "2.13" if record["fused_norm"] else "2.5"
    workload = Workload(
        name=record["case"],
        model=resolve_model("llama-3.1-8b"),
        sequence_length=record["length"],
        micro_batch=record["micro_batch"],
        attention="sdpa",
        stack=Stack(torch=torch, transformers="4.53"),
        parallelism=Parallelism(
            wrap=record["wrap"],
            reshard_after_forward=record["reshard"],
            reduce_dtype=record["reduce"],
        ),
        activation_checkpointing=Checkpointing(kind=record["checkpointing"]),
    )
    return walk(
        workload, build_tree(workload.model, workload.method), mesh_on(workload, record["ranks"])
    )


@pytest.mark.parametrize("record", RECORDS, ids=[r["case"] for r in RECORDS])
def test_peak_of_forward_and_backward(record):
    peaks = ledger(record).peaks
    peak = max((peaks["forward"], peaks["backward"]), key=lambda p: p.total)
    assert peak.total == pytest.approx(record["peak"]["Total"], rel=1e-6)
    ours = peak.by_category()
    for theirs, name in CATEGORY.items():
        # 32 KiB: single-element tensors and the norm that one wrap leaves in the root
        assert ours.get(name, 0.0) == pytest.approx(
            record["peak"].get(theirs, 0), rel=0.01, abs=1 << 15
        )


@pytest.mark.parametrize("record", RECORDS, ids=[r["case"] for r in RECORDS])
def test_state_after_backward(record):
    """Sharded parameters, gradients, states and the batch, nothing else.

    The tracker after backward, of 8,192 tokens on 64 ranks: 2,007,632,016 B, four of them the loss:
    2 x 501,891,328 parameters and gradients, 1,003,783,820 states, 65,536 inputs.
    """
    peaks = ledger(record).peaks
    held = peaks["optimizer"].by_category()
    parameters = record["peak"]["Sharded Param"]
    assert held["sharded_parameters"] == parameters
    assert held["sharded_gradients"] == parameters
    assert peaks["optimizer"].total == pytest.approx(
        2 * parameters + record["peak"]["OptState"] + record["peak"]["Inputs"], rel=1e-9
    )


def test_saved_by_the_end_of_forward():
    """Activations after forward: layers, final norm and bf16 logits, which the loss then frees."""
    for record in RECORDS:
        terms = ledger(record).peaks["forward"].terms
        logits = 2 * record["length"] * 128256
        norm = record["length"] * ((2 if record["fused_norm"] else 5) * 2 * 4096 + 4)
        expected = terms["saved activations"] + norm + logits
        assert expected == pytest.approx(record["after_forward"]["Activation"], rel=1e-3)
