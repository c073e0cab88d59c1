"""Optimizer states in managed memory: where they are, what they cost, how files say it."""

import pytest

from sim import simulate
from sim.errors import InputError
from sim.fabric.links import pcie_rates
from sim.inputs.loader import load, load_workload
from sim.interop.roundtrip import lost
from sim.memory.report import memory
from sim.step.step import quick

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


def test_what_finds_no_room_crosses_pcie_twice_a_step():
    gpu = "rtx-a6000-48gb"
    found = of(True, gpu)
    needed = memory(found.topology, found.workload)
    assert needed.fits
    away = needed.evicted_bytes
    assert away == pytest.approx(needed.needed_bytes + needed.paged_bytes - needed.capacity_bytes)
    assert 0.0 < away < needed.paged_bytes
    without = of(False, gpu)
    assert not memory(without.topology, without.workload).fits
    pcie = found.topology.groups[0].node.pcie
    lost_s = 2 * away / pcie_rates(pcie.generation, pcie.lanes).capacity
    # a step that does not fit is timed as if it just ran, its retries apart
    plain = quick(without.topology, without.workload)
    assert quick(found.topology, found.workload).time_s - (
        plain.time_s - plain.retries_s
    ) == pytest.approx(lost_s, rel=1e-6)


def test_paging_is_said():
    sets = ["node.gpu=rtx-a6000-48gb", "optimizer_paged=true"]
    [said] = [
        w for w in simulate("a100-x1", JOB, overrides=sets).warnings if w.code == "paged-states"
    ]
    assert "come and go each step" in said.text


@pytest.mark.parametrize(
    ("word", "ours", "paged"),
    [("paged_adamw_8bit", "adamw-8bit", True), ("paged_adamw_32bit", "adamw", True),
     ("paged_adamw", "adamw", True), ("adamw_bnb_8bit", "adamw-8bit", False)],
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
    [(["optimizer=adafactor"], "bitsandbytes pages the states of AdamW, not of adafactor"),
     (["parallelism={strategy: zero3, offload: optimizer}"], "on the host already")],
)  # fmt: skip
def test_faults(sets, said):
    with pytest.raises(InputError, match=said):
        of(True, "a100-sxm-80gb", *sets)
