"""States and temporaries of AdamW, to the byte of PyTorch's own step."""

import json
from pathlib import Path

import pytest

from sim.blocks.optimizer import OPTIMIZERS

RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "optimizer_memory.json").read_text(encoding="utf-8")
)["cases"]
SIZE = {"bfloat16": 2, "float32": 4}


@pytest.mark.parametrize(
    "case", RECORDED, ids=[f"{c['dtype']} {c['implementation']}" for c in RECORDED]
)
def test_adamw(case):
    adamw, size, how = OPTIMIZERS["adamw"], SIZE[case["dtype"]], case["implementation"]
    elements, tensors = case["elements"], case["tensors"]
    counters = 4 * tensors if how == "fused" else 0  # the others count on the host
    assert adamw.state_bytes(how, size, elements, tensors, 0) == case["state_bytes"] + counters
    assert adamw.scratch_bytes(how, size, elements, case["largest"]) == case["scratch_bytes"]
