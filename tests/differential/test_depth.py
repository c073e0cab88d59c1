"""A step of eight blocks, the rest counted again, against the step with every block simulated."""

import os
from unittest.mock import patch

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.inputs.loader import load
from sim.step import measures
from sim.step.depth import rhythm_of
from sim.step.measures import AskedOf, simulated
from tests.unit.test_blocks_repeat import figures

# Thousands of ops in plain Python take minutes; tests/unit/test_blocks_repeat.py has jobs for it.
pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="played by machine code alone"
)

ASKED = AskedOf("compiled", True, True)
SHARDED = {
    "fsdp2": {
        "reshard_after_forward": (True, True, False), "wrap": ("block+root", "torchtitan"),
        "forward_prefetch": (0, 0, 1, 2), "backward_prefetch": ("pre", "none", 2),
        "tensor_parallel": (1, 1, 1, 2),
    },
    "fsdp1": {
        "sharding_strategy": ("full-shard", "shard-grad-op", "no-shard"),
        "limit_all_gathers": (True, False), "forward_prefetch": (0, 1),
        "backward_prefetch": ("pre", "none", "post"),
    },
    "single": {},
    "zero3": {
        "stage3_prefetch_bucket_size": (50_000_000, 8_000_000, 200_000_000),
        "reduce_bucket_size": (500_000_000, 16_000_000, 100_000_000),
        "stage3_max_live_parameters": (1_000_000_000, 300_000_000),
        "stage3_max_reuse_distance": (1_000_000_000, 200_000_000),
    },
}  # fmt: skip


@st.composite
def jobs(draw):
    """Hosts that fall behind, keep up or get ahead; nothing that a job is about left as it is."""
    strategy = draw(st.sampled_from(("fsdp2", "fsdp2", "fsdp1", "zero3", "single")))
    knobs = {key: draw(st.sampled_from(values)) for key, values in SHARDED[strategy].items()}
    one = ("h100-x1", "a100-x1")
    machines = one if strategy == "single" else ("dgx-h100", "dgx-a100", "l40s-8", "pcie4-a100-8")
    machine = draw(st.sampled_from(machines))
    job = {
        "name": "t", "steps": 10, "parallelism": {"strategy": strategy} | knobs,
        "model": draw(st.sampled_from((
            "llama-3.2-1b", "llama-3.2-3b", "mistral-7b", "gpt2-xl", "qwen3-30b-a3b",
        ))),
        "sequence_length": draw(st.sampled_from((128, 256, 512, 1024, 2048, 4096))),
        "micro_batch": draw(st.sampled_from((1, 1, 2, 4))),
        "gradient_accumulation": draw(st.sampled_from((1, 1, 2, 3, 8))),
        "activation_checkpointing": draw(st.sampled_from(("none", "full"))),
        "compile": draw(st.booleans()), "attention": draw(st.sampled_from(("sdpa", "flash2"))),
        "method": draw(st.sampled_from(("full", "full", "lora"))),
        "optimizer": draw(st.sampled_from(("adamw", "adafactor", "sgd"))),
    }  # fmt: skip
    layers = None
    if strategy == "zero3":  # bound by what it gathers, or it gathers ever further ahead
        job |= {"sequence_length": 128, "micro_batch": 1}
        layers = draw(st.sampled_from((101, 130, 230)))
    if strategy not in ("fsdp1", "zero3") and draw(st.sampled_from((False, False, False, True))):
        job["parallelism"]["clip_gradients"] = False
        job |= {"optimizer_in_backward": True, "gradient_accumulation": 1}
    return machine, job, [f"model.layers={layers}"] if layers else []


def same_as_in_full(machine, job, sets=()):
    """Whether the job is one of a few blocks; then it is as with all."""
    loaded = load(machine, job, sets)
    pair = loaded.topology, loaded.workload
    if rhythm_of(*pair) is None:
        return False
    ran = []
    run = measures.run_together
    with patch.object(
        measures, "run_together",
        lambda parts, *a: run([ran.append(p.workload.model.layers) or p for p in parts], *a),
    ):  # fmt: skip
        [few] = simulated([pair], ASKED, None)
    if ran[-1] == loaded.workload.model.layers:
        return False
    with patch.object(measures, "rhythm_of", lambda *_job: None):
        [full] = simulated([pair], ASKED, None)
    mine, theirs = (figures(each.whole.breakdown) for each in (few, full))
    assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-9 * full.whole.breakdown.time_s)
    return True


@given(jobs())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_what_is_left_out_is_as_if_simulated(drawn):
    try:
        repeated = same_as_in_full(*drawn)
    except InputError:
        repeated = False
    assume(repeated)


@pytest.mark.parametrize(
    "job",
    [
        # the host loses to the GPU in forward, and would be late for a gather, then for a block
        {"model": "llama-3.2-3b", "compile": True, "sequence_length": 1024, "micro_batch": 1},
        # experts whose gathers and kernels meet otherwise with more blocks
        {
            "model": "qwen3-30b-a3b", "compile": True, "sequence_length": 1024, "micro_batch": 2,
            "parallelism": {"strategy": "fsdp2", "forward_prefetch": 2, "backward_prefetch": 2},
        },
        # blocks gathered ahead that take longer than those they are gathered beside
        {
            "model": "mistral-7b", "sequence_length": 128, "micro_batch": 4,
            "parallelism": {"strategy": "fsdp2", "forward_prefetch": 1},
        },
    ],
)  # fmt: skip
def test_what_few_blocks_do_not_show_is_simulated_in_full(job):
    """By 3.7e-3 a step carried on from four and eight blocks was too short."""
    job = {"name": "t", "steps": 10, "parallelism": {"strategy": "fsdp2"}} | job
    loaded = load("dgx-h100", job)
    assert rhythm_of(loaded.topology, loaded.workload)  # it is asked
    assert not same_as_in_full("dgx-h100", job)
