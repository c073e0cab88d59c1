"""PyTorch's own attention, asked for groups of heads where FlashAttention cannot run."""

import pytest

import sim
from sim.blocks.footprint import layer_footprint
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.rows import with_kernels
from sim.step.step import memory_of

ASKS = ["stack.transformers=4.55", "attention=sdpa"]


def job(gpu, *sets):
    machine = ["nodes=1", f"node={{gpu: {gpu}, gpus: 8}}"]
    return load("dgx-h100", "llama3-8b-lora", [*machine, "sequence_length=2048", *ASKS, *sets])


@pytest.mark.parametrize(
    ("gpu", "sets", "taken"),
    [
        ("t4-pcie-16gb", ["precision=fp16"], "eager"),
        ("v100-sxm-32gb", ["precision=fp16"], "eager"),
        ("h100-sxm-80gb", ["precision=fp32"], "eager"),
        ("h100-sxm-80gb", [], "sdpa"),
        ("mi300x-192gb", [], "sdpa"),
        # nothing is asked: keys and values are repeated, and the memory-efficient kernel takes them
        ("t4-pcie-16gb", ["precision=fp16", "stack.transformers=4.53"], "sdpa"),
        ("h100-sxm-80gb", ["precision=fp32", "stack.transformers=4.53"], "sdpa"),
        # a key and a value for every query
        ("t4-pcie-16gb", ["precision=fp16", "model=llama-2-7b"], "sdpa"),
    ],
)
def test_what_is_taken_and_said(gpu, sets, taken):
    found = job(gpu, *sets)
    assert with_kernels(found.topology, found.workload).attention == taken
    assert found.workload.attention == "sdpa"  # as it is written
    told = [w.message for w in found.notes.warnings if w.code == "sdpa-groups"]
    assert len(told) == (taken == "eager")
    assert all("2048 x 2048 scores" in text for text in told)


def test_step_and_memory_are_those_of_eager():
    answers = [
        sim.simulate(
            "dgx-h100", "llama3-8b-lora", scaling=False, fixes=False,
            overrides=["nodes=1", "node={gpu: t4-pcie-16gb, gpus: 8}", "precision=fp16",
                       "sequence_length=2048", *ASKS, f"attention={kind}"],
        )
        for kind in ("sdpa", "eager")
    ]  # fmt: skip
    asked, eager = answers
    assert asked.step.time_s == eager.step.time_s
    assert asked.memory.needed_bytes == eager.memory.needed_bytes
    assert asked.throughput.hfu == eager.throughput.hfu


def test_scores_in_memory_by_hand():
    """A layer keeps fp32 softmax and its fp16 cast of 2 x 32 heads x 2048^2, and repeated k, v.

    A fused kernel keeps k and v of 8 heads, its output and 4 bytes a row and head in their place.
    """
    found = job("t4-pcie-16gb", "precision=fp16", "micro_batch=2", "activation_checkpointing=none")
    rows, heads, dim, times = 2 * 2048, 32, 128, 4
    scores = 6 * 2 * heads * 2048**2
    pairs, output = 2 * (2 * rows * 8 * dim), 2 * rows * heads * dim
    kernels = with_kernels(found.topology, found.workload)
    saved = [layer_footprint(w, "layer").saved for w in (kernels, found.workload)]
    assert saved[0] - saved[1] == scores + (times - 1) * pairs - output - 4 * rows * heads
    many = [memory_of(found.topology, w).needed_bytes for w in (found.workload, kernels)]
    assert many[0] == many[1]


def test_one_old_gpu_of_many_decides(tmp_path):
    node = "{{gpu: {}, gpus: 8, nvlink: none, nics: {{count: 1, rate: 100 Gb/s}}}}"
    rows = [f"  - {{nodes: 1, node: {node.format(g)}}}" for g in ("h100-sxm-80gb", "v100-sxm-32gb")]
    path = tmp_path / "machine.yaml"
    path.write_text("node_groups:\n" + "\n".join(rows) + "\n", encoding="utf-8")
    found = load(str(path), "llama3-8b-lora", ["precision=fp16", *ASKS])
    assert with_kernels(found.topology, found.workload).attention == "eager"
    [told] = [w.message for w in found.notes.warnings if w.code == "sdpa-groups"]
    assert "does not run on v100-sxm-32gb" in told


def test_a_ring_has_no_kernel_then():
    sets = ["precision=fp32", "parallelism.context_parallel=2"]
    with pytest.raises(InputError, match="sdpa asked for groups has none: FlashAttention has no"):
        job("h100-sxm-80gb", *sets)
    gathered = job("h100-sxm-80gb", *sets, "parallelism.context_parallel_kind=all-gather")
    assert with_kernels(gathered.topology, gathered.workload).attention == "eager"
