"""Blocks' inputs and gradients that outlive a block's backward, against PyTorch under gloo."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from sim.blocks.parameters import build_tree
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.models import resolve_model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Precision, Stack, Workload
from sim.memory.ledger import live_bytes
from sim.memory.report import walk
from sim.strategies import build_plan
from sim.strategies import terms as t
from sim.strategies.columns import columns_of

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "tests" / "data" / "reentrant_memory.json").read_text())
MEASURED = ROOT.parent / "shared" / "measured" / "fms_acceleration.csv"
CASES = [c for c in RECORDED["cases"] if c["checkpointing"] != "none"]
PILING = {"sharding": "fsdp1", "trained": "adapters apart", "checkpointing": "reentrant"}
TOKENS, HIDDEN = 64, 64
UNIT = 2 * TOKENS * HIDDEN


def job(case, torch=RECORDED["torch"]):
    sharding = {"strategy": "ddp"}
    if case["sharding"] != "none":
        place = {"around": "outside", "inside": "inside"}[case["place"]]
        wrap = "peft" if case["trained"] == "adapters apart" else "block+root"
        sharding = {"strategy": case["sharding"], "wrap": wrap, "checkpoint_wrapper": place}
    return Workload(
        name="recorded",
        model=Model(
            name="m", layers=case["layers"], hidden_size=HIDDEN, heads=2, kv_heads=2, head_dim=32,
            ffn_size=160, vocab_size=96, tied_embeddings=False,
        ),
        method=Method()
        if case["trained"] == "all"
        else Method(kind="lora", rank=4, targets=("q", "k", "v", "o", "gate", "up", "down")),
        sequence_length=TOKENS,
        micro_batch=1,
        parallelism=Parallelism(**sharding),
        activation_checkpointing=Checkpointing(
            kind="full", reentrant=case["checkpointing"] == "reentrant"
        ),
        stack=Stack(torch=torch),
    )  # fmt: skip


def live(case, **options):
    """Inputs and gradients of blocks that live as each block runs backward, the last one first."""
    workload = job(case, **options)
    tree = build_tree(workload.model, workload.method)
    plan = build_plan(workload, tree, mesh_on(workload, RECORDED["ranks"]))
    _, by_term = live_bytes(plan, workload, tree)
    columns = columns_of(plan.memory)
    layers = case["layers"]
    offsets = np.array(columns.offsets[1:])
    # an instant in which the block's saved tensors are about to go
    gone = columns.quantity == offsets[0] + t.RESIDENT
    freed = columns.instant[gone & (columns.coefficient < 0) & (columns.term == t.SAVED)]
    running = np.sort(freed) - 1
    assert len(running) == layers
    saved = np.arange(layers, 0, -1)  # the inputs of blocks still to come, and of this one
    arriving = 1  # the gradient that comes from above
    kept = by_term[t.KEPT, running] / UNIT
    return (saved + arriving + kept).tolist(), by_term[t.KEPT, -1]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_live_tensors_of_every_combination(case):
    counts, after = live(case)
    assert counts == case["live"]
    assert after == 0.0


def test_it_is_one_combination_that_piles_up():
    """Recorded: 2 L - 1 at the first block, against 2; every other combination falls to 2."""
    for case in CASES:
        piles = case["place"] == "around" and PILING.items() <= case.items()
        assert case["live"][-1] == (2 * case["layers"] - 1 if piles else 2)


def test_older_pytorch_has_no_such_hook():
    case = next(c for c in CASES if c["place"] == "around" and PILING.items() <= c.items())
    assert live(case, torch="2.0")[0][-1] == 2


def peak(row, place):
    """Predicted over measured peak of a published run of Mistral 7B, as Hugging Face trains it."""
    method, gptq = row["method"], "gptq" in row["precision"]
    four = "gptq-int4" if gptq else "nf4"
    workload = Workload(
        name=row["row_id"],
        model=resolve_model("mistral-7b"),
        method=Method(
            kind=method, rank=16, targets=("q", "k", "v", "o"),
            quantization=four if method == "qlora" else "none",
            gptq_kernels="triton" if gptq else None,
        ),
        sequence_length=int(row["seq_len"]),
        micro_batch=int(row["micro_batch_per_gpu"]),
        attention="flash2",
        precision=Precision(master="bf16" if method == "lora" else "fp32"),
        parallelism=Parallelism(
            strategy="fsdp1", wrap="peft", use_orig_params=False, checkpoint_wrapper=place
        ),
        activation_checkpointing=Checkpointing(kind="full", reentrant=True),
        stack=Stack(torch="2.4.1", bitsandbytes="0.43.3"),
    )  # fmt: skip
    tree = build_tree(workload.model, workload.method)
    ledger = walk(workload, tree, mesh_on(workload, int(row["n_gpus"])))
    return ledger.peaks[ledger.highest].total / (float(row["mem_gb"]) * 2**30)


def test_published_peaks_of_adapters_under_fsdp1():
    """14 runs on two A100s: 2.1 % off on average and at most 4 %; without the term 13.2 %."""
    if not MEASURED.exists():
        pytest.skip("published measurements are not part of the package")
    with MEASURED.open() as lines:
        rows = [r for r in csv.DictReader(lines) if r["n_gpus"] != "1" and r["method"] != "full-ft"]
    assert len(rows) == 14
    errors = [abs(peak(row, None) - 1) for row in rows]
    assert max(errors) < 0.04
    assert sum(errors) / len(errors) < 0.022
    before = [1 - peak(row, "inside") for row in rows]
    assert sum(before) / len(before) == pytest.approx(0.132, abs=0.003)
