"""States and temporaries of AdamW and Muon, to the byte of PyTorch's own steps."""

import json
from pathlib import Path

import pytest

from sim.blocks.muon import Trained
from sim.blocks.optimizer import OPTIMIZERS

RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "optimizer_memory.json").read_text(encoding="utf-8")
)
SIZE = {"bfloat16": 2, "float32": 4}


@pytest.mark.parametrize(
    "case", RECORDED["cases"], ids=lambda c: f"{c['dtype']} {c['implementation']}"
)
def test_adamw(case):
    adamw, size, how = OPTIMIZERS["adamw"], SIZE[case["dtype"]], case["implementation"]
    elements, tensors = case["elements"], case["tensors"]
    counters = 4 * tensors if how == "fused" else 0  # the others count on the host
    assert adamw.state_bytes(how, size, elements, tensors, 0) == case["state_bytes"] + counters
    assert adamw.scratch_bytes(how, size, elements, case["largest"]) == case["scratch_bytes"]


@pytest.mark.parametrize("case", RECORDED["muon"], ids=lambda c: f"{c['dtype']} {c['shape']}")
def test_muon(case):
    m, n = sorted(case["shape"])
    size, found = SIZE[case["dtype"]], Trained((((m, n), 1),), 0, 0, 0, 0, 0)
    assert OPTIMIZERS["muon"].state_bytes("fused", size, m * n, 0, 0) == case["state_bytes"]
    assert found.scratch_bytes(size) == case["scratch_bytes"]
