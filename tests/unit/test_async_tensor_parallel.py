"""Asynchronous tensor parallelism: products in pieces beside copies, what it needs, and files."""

from __future__ import annotations

from collections import Counter

import pytest

from sim.blocks.footprint import layer_footprint
from sim.blocks.unroll import exchanges, unroll
from sim.errors import InputError
from sim.inputs.checks import check
from sim.inputs.loader import load
from sim.interop.emit import texts_of
from sim.step.step import memory_of, step

TOKENS, HIDDEN, RANKS = 8192, 4096, 8
A = 2.0 * TOKENS * HIDDEN  # one activation of Llama-3-8B [B]
COPIED = "dtensor-async"


def job(*sets, machine="dgx-h100", style=COPIED):
    return load(
        machine, "llama3-8b-sft",
        [f"sequence_length={TOKENS}", "micro_batch=1", "gradient_accumulation=1", "compile=true",
         f"parallelism.tensor_parallel={RANKS}", f"parallelism.tensor_parallel_style={style}",
         *sets],
    )  # fmt: skip


def counted(workload, phase):
    found = exchanges(workload, "layer", phase).values()
    return Counter((x.collective, x.over) for each in found for x in each if x.collective)


def test_exchanges_become_copies():
    """All but the sums of gradients of several matrices that read one input."""
    w = job().workload
    assert counted(w, "forward") == {("all_gather", "tp copies"): 2, ("all_to_all", "tp copies"): 2}
    gathered = {("all_gather", "tp copies"): 2}
    assert counted(w, "backward") == gathered | {("reduce_scatter", "tp"): 2}
    fused = job("model.fused_qkv=true", "model.fused_gate_up=true").workload
    assert counted(fused, "backward") == gathered | {("all_to_all", "tp copies"): 2}
    for each in exchanges(w, "layer", "forward").values():
        for x in each:
            assert (x.sent, x.received) in {(A / 8, A), (A, A), (0.0, 0.0)}


def test_products_are_cut():
    """wq on 1,024 positions at a time, all 8,192 in all; gradients of weights in one piece."""
    cut, whole = unroll(job().workload), unroll(job(style="dtensor").workload)
    kernels = {k.name: k for k in (*cut.of("layer", "forward"), *cut.of("layer", "backward"))}
    for name in ("wq", "wk", "wv", "w1", "w3", "wo", "w2", "wo.dgrad", "w2.dgrad"):
        assert (kernels[name].launches, kernels[name].shape[0]) == (RANKS, TOKENS // RANKS), name
    for name in ("wq.dgrad", "w1.dgrad", "wo.wgrad", "wq.wgrad"):
        assert kernels[name].launches == 1, name
    assert {k.name: k.launches for k in cut.of("head", "forward")}["head"] == RANKS
    assert cut.flops("forward") == pytest.approx(whole.flops("forward"))
    assert cut.flops("backward") == pytest.approx(whole.flops("backward"))


def test_autograd_keeps_as_much():
    cut, whole = job().workload, job(style="dtensor").workload
    assert (
        layer_footprint(cut, "layer", "none").saved == layer_footprint(whole, "layer", "none").saved
    )


def test_exchanges_hide():
    """8B, t = 8, one sequence, 281 ms: 56 ms of exchanges hide, products take 24 ms longer."""
    cut, whole = job(), job(style="dtensor")
    fast, slow = (step(one.topology, one.workload).breakdown for one in (cut, whole))
    assert slow.time_s == pytest.approx(0.281, rel=0.02)
    assert fast.time_s == pytest.approx(0.230, rel=0.02)
    assert slow.exposed_s - fast.exposed_s == pytest.approx(0.056, rel=0.05)
    assert fast.kernels["gemm"] - slow.kernels["gemm"] == pytest.approx(0.024, rel=0.05)
    assert fast.collectives["all_gather"]["count"] == slow.collectives["all_gather"]["count"]
    assert any(label.startswith("tensor copies") for label in fast.exposed)
    shown = [
        memory_of(one.topology, one.workload).overheads["communicators"] for one in (cut, whole)
    ]
    assert shown[0] - shown[1] == 2 * A / RANKS


@pytest.mark.parametrize(
    ("machine", "sets", "path", "said"),
    [
        ("dgx-h100", ["compile=false"], "parallelism.tensor_parallel_style", "nothing is compiled"),
        ("dgx-h100", ["parallelism.strategy=megatron"], "parallelism.tensor_parallel_style",
         "is not compiled"),
        ("dgx-h100", ["parallelism.sequence_parallel=false"], "parallelism.sequence_parallel",
         "a stream split by positions"),
        ("dgx-h100", ["model=qwen3-30b-a3b", "parallelism.tensor_parallel=4"],
         "parallelism.tensor_parallel_style", "dense blocks"),
        ("dgx-h100", ["stack.torch=2.4"], "stack.torch", "2.5 or newer"),
        ("l40s-8", [], "parallelism.tensor_parallel_style", "has none"),
        ("dgx-h100", ["nodes=2", "model=llama-2-7b", "parallelism.tensor_parallel=16"],
         "parallelism.tensor_parallel_style", "16 of them are in no node"),
    ],
)  # fmt: skip
def test_what_it_needs(machine, sets, path, said):
    with pytest.raises(InputError) as info:
        job(*sets, machine=machine)
    found = [f for f in info.value.faults if f.path == path]
    assert any(said in f.message for f in found), info.value.faults


def test_narrow_streams_are_left_alone():
    found = job("model=gpt2", "parallelism.tensor_parallel=4", "sequence_length=1024")
    (said,) = [f for f in check(found.topology, found.workload) if f.code == "tensor-narrow"]
    assert said.message == "a compiler cuts nothing of 768 columns; it does from 1024 on"
    assert ("all_gather", "tp copies") not in counted(found.workload, "forward")


def test_torchtitan_writes_and_reads_it(tmp_path):
    one = job()
    (text,) = texts_of(one.topology, one.workload, "torchtitan").values()
    assert "enable_async_tensor_parallel = true" in text
    path = tmp_path / "titan.toml"
    path.write_text(text)
    read = load("dgx-h100", str(path), []).workload
    assert read.parallelism.tensor_parallel_style == "dtensor-async"
