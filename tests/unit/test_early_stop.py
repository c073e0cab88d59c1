"""Where recompute ends, against what PyTorch's non-reentrant checkpoint ran (record_early_stop)."""

import json
from pathlib import Path

import pytest

from sim.blocks.unroll import unroll
from sim.inputs.method import Method
from sim.inputs.models import resolve_model
from sim.inputs.workload import Checkpointing, Workload

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "early_stop.json").read_text())
KINDS = {
    "trained": Method(),
    "frozen": Method(kind="lora", rank=4, targets=("q",)),
    "saves-after": Method(
        kind="qlora", rank=4, targets=("q",), quantization="gptq-int4", gptq_kernels="triton"
    ),
    "attribute": Method(kind="qlora", rank=4, targets=("q",), quantization="nf4"),
}
#: kernels of the feed-forward network, as the recording calls them
NAMES = {"w1": "mm", "w3": "mm", "w2": "mm", "gate.silu": "silu", "gate.mul": "mul"}


@pytest.mark.parametrize("kind", KINDS)
def test_recompute_ends_where_pytorch_ends_it(kind):
    job = Workload(
        name="t", model=resolve_model("mistral-7b"), method=KINDS[kind], sequence_length=1024,
        activation_checkpointing=Checkpointing(kind="full"),
    )  # fmt: skip
    run = [NAMES[k.name] for k in unroll(job).of("layer.sliding", "recompute") if k.name in NAMES]
    # silu of the gate comes before or after the up projection
    assert sorted(run) == sorted(RECORDED[kind])


def test_a_reentrant_checkpoint_runs_all_of_it():
    policy = Checkpointing(kind="full", reentrant=True)
    job = Workload(
        name="t", model=resolve_model("mistral-7b"), method=KINDS["attribute"],
        sequence_length=1024, activation_checkpointing=policy,
    )  # fmt: skip
    templates = unroll(job)
    assert templates.of("layer.sliding", "recompute") == templates.of("layer.sliding", "forward")
