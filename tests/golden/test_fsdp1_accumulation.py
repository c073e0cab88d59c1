"""Collectives of FSDP1 around a Llama with adapters, in order, while gradients accumulate."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sim.blocks.parameters import build_tree
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Precision, Workload
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE

FILE = Path(__file__).parents[1] / "data" / "fsdp1_accumulation.json"
ROWS = json.loads(FILE.read_text())["rows"]
MODEL = Model(
    name="llama", layers=3, hidden_size=32, heads=4, kv_heads=2, head_dim=8, ffn_size=64,
    vocab_size=96,
)  # fmt: skip


def planned(row):
    method = Method(kind="lora", rank=4, targets=("q", "v"))
    kind = row["checkpointing"]
    workload = Workload(
        name="recorded",
        model=MODEL,
        method=method,
        sequence_length=12,
        gradient_accumulation=2,
        precision=Precision(kind="bf16", master="bf16"),
        parallelism=Parallelism(
            strategy="fsdp1",
            wrap="peft",
            reduce_dtype="bf16",
            gradient_sync="last" if row["no_sync"] else "every",
        ),
        activation_checkpointing=Checkpointing(
            kind="none" if kind == "none" else "full", reentrant=kind == "reentrant"
        ),
    )
    return build_plan(workload, build_tree(MODEL, method), mesh_on(workload, 8), 1, False)


@pytest.mark.parametrize(
    "row",
    [r for r in ROWS if r["adapter_dtype"] == "bf16"],
    ids=lambda row: f"{row['checkpointing']}-{'no_sync' if row['no_sync'] else 'sync'}",
)
def test_collectives_equal_the_recording(row):
    plan = planned(row)
    found = [
        [op.collective, op.phase, op.unit, op.bytes_in, op.bytes_out, op.dtype,
         plan.groups[op.group].size]
        for op in plan.ops
        if op.kind == COLLECTIVE
    ]  # fmt: skip
    assert found == row["ops"]


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['checkpointing']}-{row['adapter_dtype']}"
)
def test_how_often_a_unit_is_gathered(row):
    """Twice a micro-step; thrice where a reentrant checkpoint around it frees it in between."""
    gathered = Counter(op[2] for op in row["ops"] if op[0] == "all_gather")
    times = 3 if row["checkpointing"] == "reentrant" else 2
    assert gathered["root"] == 2
    assert all(gathered[f"layers.{k}"] == 2 * times for k in range(3))
    reduced = Counter(op[2] for op in row["ops"] if op[0] == "reduce_scatter")
    # frozen units are not reduced, adapters once a step or once a micro-step
    assert len(reduced) == 12
    assert set(reduced.values()) == {1 if row["no_sync"] else 2}
    size = 4 if row["adapter_dtype"] == "fp32" else 2
    assert all(op[3] == 2 * size * 64 or op[3] == size * 64 for op in row["ops"]
               if op[0] == "reduce_scatter")  # fmt: skip
