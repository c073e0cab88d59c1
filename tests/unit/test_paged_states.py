"""Optimizer states in managed memory: where they are, what they cost, how files say it."""

from dataclasses import replace

import numpy as np
import pytest

from sim import simulate
from sim.blocks.parameters import tree_of
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.fabric.links import pcie_rates
from sim.inputs.loader import load, load_workload
from sim.inputs.shares import mesh_on
from sim.interop.roundtrip import lost
from sim.memory.ledger import read
from sim.memory.report import memory
from sim.memory.states import optimizer_bytes
from sim.step.pressure import paging_s
from sim.step.step import quick
from sim.strategies import allocations_of

GIB = 2.0**30
JOB = {
    "name": "w", "model": "llama-3.2-3b", "sequence_length": 1024, "optimizer": "adamw",
    "precision": "bf16", "activation_checkpointing": "full", "steps": 10,
}  # fmt: skip


def of(paged, gpu="a100-sxm-80gb", *sets):
    sets = [f"node.gpu={gpu}", f"optimizer_paged={str(paged).lower()}", *sets]
    return load("a100-x1", JOB, sets)


def test_states_are_managed_memory_and_not_allocated():
    """Two moments in fp32 of 3.21 billion parameters; with room for them nothing is paged."""
    plain, paged = (memory(f.topology, f.workload) for f in (of(False), of(True)))
    states = 2 * 4 * 3_212_749_824
    assert paged.paged_bytes == pytest.approx(states, rel=1e-3)
    less = plain.by_moment["optimizer"] - paged.by_moment["optimizer"]
    assert less == pytest.approx(states, rel=1e-3)
    assert paged.host_terms == {"optimizer states": paged.paged_bytes}
    assert paged.evicted_bytes == 0.0
    assert (plain.paged_bytes, plain.host_terms) == (0.0, {})


@pytest.mark.parametrize(
    ("layout", "stages"),
    [("ddp", 1), ("fsdp1", 1), ("fsdp2", 1), ("fsdp2, wrap: torchtitan", 4), ("zero1", 1),
     ("zero2", 1), ("zero3", 1), ("megatron", 1), ("megatron", 2), ("megatron", 4)],
)  # fmt: skip
def test_a_rank_pages_its_own_states_alone(layout, stages):
    """What is paged is what the GPU does not hold; all GPUs together page each state once."""
    each = []
    for paged in ("false", "true"):
        sets = [f"parallelism={{strategy: {layout}, pipeline_parallel: {stages}}}"]
        sets += ["model.tied_embeddings=false", "gradient_accumulation=4"]
        sets += [f"optimizer_paged={paged}"]
        job = load("dgx-a100", JOB, sets).workload
        tree, mesh = tree_of(job), mesh_on(job, 8, 8)
        logs = [allocations_of(job, tree, mesh, rank) for rank in range(stages)]
        each.append([read(log, job, tree) for log in logs])
    on_host = [ledger.host["optimizer states"] for ledger in each[1]]
    held = np.array([[ledger.peaks["optimizer"].total for ledger in one] for one in each])
    saved = (held[0] - held[1]).tolist()
    assert on_host == pytest.approx(saved, rel=1e-9)
    whole = 2 * 4 * (3_212_749_824 + 128_256 * 3072) * (8 if layout == "ddp" else 1)
    assert sum(on_host) * 8 / stages == pytest.approx(whole, rel=2e-2)


def test_states_are_fp32_whatever_is_updated():
    """bitsandbytes' are; PyTorch's AdamW has them in the dtype of the parameter."""
    pure = "precision={bf16: {master: bf16}}"
    plain, paged = (of(one, "a100-sxm-80gb", pure).workload for one in (False, True))
    elements = 3_212_749_824
    assert optimizer_bytes(plain, 1) == pytest.approx(2 * 2 * elements, rel=1e-3)
    assert optimizer_bytes(paged, 1) == pytest.approx(2 * 4 * elements, rel=1e-3)


@pytest.mark.parametrize(
    ("sets", "wide"),
    [(["transformers=4.57"], True), (["transformers=4.51"], False), (["torch=2.8"], True),
     (["torch=2.7"], False)],
)  # fmt: skip
def test_an_embedding_keeps_fp32_states_beside_8_bit_ones(sets, wide):
    """Hugging Face's trainer asks bitsandbytes for them, since transformers 4.52.

    Llama 3.2 3B by hand: 3,213 M elements of two states of a byte and a scale of 4 B every 256; of
    them the embedding's 394 M, which is the head's too, are 4 B each: 6.5 GB or 8.9.
    """
    whole, table, narrow = 3_212_749_824, 128_256 * 3072, 1 + 4 / 256
    by_hand = 2 * (narrow * (whole - table) + (4 if wide else narrow) * table)
    more = ["optimizer=adamw-8bit", "trainer=huggingface", *(f"stack.{s}" for s in sets)]
    found = of(False, "a100-sxm-80gb", *more)
    assert optimizer_bytes(found.workload, 1) == pytest.approx(by_hand, rel=1e-3)
    paged = of(True, "a100-sxm-80gb", *more)
    assert memory(paged.topology, paged.workload).paged_bytes == pytest.approx(by_hand, rel=1e-3)
    for other in ("trainer=torchtune", "parallelism=zero2"):
        unasked = of(False, "a100-sxm-80gb", *more, other).workload
        assert optimizer_bytes(unasked, 1) == pytest.approx(2 * narrow * whole, rel=1e-3)


def test_what_finds_no_room_crosses_pcie_twice_a_step():
    """All states, since an update touches them in the order in which they left."""
    gpu = "rtx-a6000-48gb"
    found = of(True, gpu)
    needed = memory(found.topology, found.workload)
    assert needed.fits
    away = needed.evicted_bytes
    assert away == needed.paged_bytes
    assert 0.0 < needed.capacity_bytes - needed.step_reserved_bytes < away
    without = of(False, gpu)
    assert not memory(without.topology, without.workload).fits
    pcie = found.topology.groups[0].node.pcie
    lost_s = 2 * away / pcie_rates(pcie.generation, pcie.lanes).capacity
    # a step that does not fit is timed as if it just ran, its retries apart
    plain = quick(without.topology, without.workload)
    assert quick(found.topology, found.workload).time_s - (
        plain.time_s - plain.retries_s
    ) == pytest.approx(lost_s, rel=1e-6)


@pytest.mark.parametrize(("strategy", "in_flight"), [("fsdp2", False), ("fsdp1", True)])
def test_the_allocator_takes_its_room_first(strategy, in_flight):
    """By hand: states stay where they fit beside all that the pools would take, retries apart."""
    sets = ["micro_batch=1", "gradient_accumulation=1", f"parallelism={strategy}"]
    sets += ["optimizer_paged=true"]
    found = load("dgx-a100", "llama3-8b-sft", sets)
    needed = memory(found.topology, found.workload)
    assert (needed.in_flight_bytes > 0.0) is in_flight
    whole = needed.step_reserved_bytes + needed.in_flight_bytes + needed.paged_bytes
    assert whole > needed.needed_bytes + needed.paged_bytes + 2e9  # pools, not what must live
    fits = replace(needed, capacity_bytes=whole + 1e6)
    tight = replace(needed, capacity_bytes=whole - 1e6)
    assert (fits.evicted_bytes, tight.evicted_bytes) == (0.0, needed.paged_bytes)
    assert not tight.verdict.retries
    assert replace(needed, capacity_bytes=whole - needed.paged_bytes - 1e6).verdict.retries


@pytest.mark.parametrize(("per_switch", "sharing"), [(0, 1), (1, 1), (2, 2), (4, 4)])
def test_gpus_that_page_at_once_share_their_uplink(per_switch, sharing):
    sets = ["optimizer_paged=true", "micro_batch=1", "sequence_length=512"]
    sets += [f"node.pcie.gpus_per_switch={per_switch}"]
    found = load("workstation-4x4090", "llama3-8b-sft", sets)
    needed = memory(found.topology, found.workload)
    pcie = found.topology.groups[0].node.pcie
    lost_s = 2 * needed.paged_bytes / pcie_rates(pcie.generation, pcie.lanes).capacity
    assert paging_s(found.topology, needed) == pytest.approx(sharing * lost_s)


def test_hosts_memory_is_shared_too():
    """Eight GPUs of one socket of 40 GB/s write to it at once, and read."""
    sets = ["optimizer_paged=true", "node.cpu={sockets: 1, memory_bandwidth: 40GB/s}"]
    found = load("dgx-a100", "llama3-8b-sft", [*sets, "node.gpu.memory=50GB"])
    needed = memory(found.topology, found.workload)
    assert needed.evicted_bytes > 0.0
    fabric = compile_fabric(found.topology)
    [memory_] = [i for i, name in enumerate(fabric.names) if name.endswith(" memory")]
    rate = fabric.capacity[memory_] / 8
    assert paging_s(found.topology, needed) == pytest.approx(2 * needed.paged_bytes / rate)


def test_paging_is_said():
    sets = ["node.gpu=rtx-a6000-48gb", "optimizer_paged=true"]
    [said] = [
        w for w in simulate("a100-x1", JOB, overrides=sets).warnings if w.code == "paged-states"
    ]
    assert "come and go each step" in said.text


@pytest.mark.parametrize(
    ("word", "ours", "paged"),
    [("paged_adamw_8bit", "adamw-8bit", True), ("paged_adamw_32bit", "adamw", True),
     ("paged_adamw", "adamw", True), ("adamw_bnb_8bit", "adamw-8bit", False),
     ("lion_32bit", "lion", False), ("paged_lion_8bit", "lion-8bit", True)],
)  # fmt: skip
def test_words_of_trainers(tmp_path, word, ours, paged):
    text = (
        "model_name_or_path: meta-llama/Llama-3.1-8B\nper_device_train_batch_size: 1\n"
        f"max_length: 2048\nbf16: true\noptim: {word}\n"
    )
    (tmp_path / "trl.yaml").write_text(text)
    job = load_workload(tmp_path / "trl.yaml")
    assert (job.optimizer, job.optimizer_paged) == (ours, paged)


def test_files_that_are_written_page_too():
    job = load("a100-x1", JOB, ["optimizer_paged=true", "parallelism=ddp"]).workload
    head = "model_name_or_path: meta-llama/Llama-3.2-3B\nmax_length: 1024\nbf16: true\noptim: "
    _, unsaid = lost({"trl.yaml": f"{head}adamw_torch_fused\n"}, job)
    assert "optimizer_paged" in {one.path for one in unsaid}
    _, unsaid = lost({"trl.yaml": f"{head}paged_adamw_32bit\n"}, job)
    assert "optimizer_paged" not in {one.path for one in unsaid}


@pytest.mark.parametrize(
    ("sets", "said"),
    [(["optimizer=adafactor"], "bitsandbytes pages the states of AdamW and Lion, not of adafactor"),
     (["optimizer=adamw-bf16"], "states of 32 or 8 bits, not those of adamw-bf16"),
     (["parallelism={strategy: zero3, offload: optimizer}"], "on the host already")],
)  # fmt: skip
def test_faults(sets, said):
    with pytest.raises(InputError, match=said):
        of(True, "a100-sxm-80gb", *sets)
