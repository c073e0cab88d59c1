"""An optimizer within backward: gradients that do not pile up, steps where they appear."""

import pytest

from sim import InputError, simulate
from sim.blocks.parameters import tree_of
from sim.inputs.loader import load
from sim.inputs.shares import mesh_on
from sim.memory.report import memory
from sim.result.advice import changes
from sim.strategies import plan_of
from sim.study.memory_bounds import MemoryBounds
from tests.trainer_files import TORCHTUNE

GIB = 2.0**30
SETS = ("parallelism.clip_gradients=false",)
WITHIN = (*SETS, "optimizer_in_backward=true")
JOB = {
    "name": "job", "model": "llama-3.1-8b", "sequence_length": 1024, "steps": 10,
    "precision": {"bf16": {"master": "bf16"}}, "optimizer": "adamw-8bit",
    "activation_checkpointing": "full", "loss": "chunked",
}  # fmt: skip
FSDP2 = ("parallelism.strategy=fsdp2",)


def elements_of(job):
    tree = tree_of(job)
    blocks = (tree.embedding, *tree.layers, tree.head)
    return sum(p.numel for b in blocks for m in b.modules for p in m.parameters)


def ops_of(machine, sets):
    loaded = load(machine, JOB, [*sets])
    topology, job = loaded.topology, loaded.workload
    mesh = mesh_on(job, topology.world_size, topology.gpus_per_node)
    return plan_of(job, tree_of(job), mesh)


def test_on_one_gpu_gradients_of_no_more_than_a_matrix_live():
    after = simulate("a100-x1", JOB, overrides=[*SETS], scaling=False, fixes=False)
    within = simulate("a100-x1", JOB, overrides=[*WITHIN], scaling=False, fixes=False)
    gone = after.memory.peak_allocated_bytes - within.memory.peak_allocated_bytes
    gradients = 2 * 8.03e9 / GIB
    assert 0.85 * gradients < gone / GIB < gradients
    # the same bytes cross memory, and nothing waits: kernels of backward hide the calls
    assert within.step.time_s == pytest.approx(after.step.time_s, rel=0.03)
    assert within.step.optimizer_s == pytest.approx(after.step.optimizer_s, rel=0.05)


def test_all_that_is_stepped_is_stepped_once():
    plan = ops_of("a100-x1", WITHIN)
    steps = [op for op in plan.ops if op.name == "optimizer"]
    assert {op.phase for op in steps} == {"backward"}
    assert len(steps) == 34  # embedding, 32 layers, norm and head
    assert sum(op.bytes for op in steps) == pytest.approx(2 * plan.owned_numel)
    assert sum(dict(op.calls)["optimizer.alone"] for op in steps) == plan.owned_tensors


@pytest.mark.parametrize(("tied", "tables"), [(True, 3), (False, 1)])
def test_a_tied_table_waits_for_both_of_its_gradients(tied, tables):
    """Its head's lives until the embedding's and their sum are; of two each is stepped at once."""
    sets = [
        *WITHIN, "model=llama-3.2-1b", f"model.tied_embeddings={tied}".lower(),
        "sequence_length=128", "optimizer=sgd",
    ]  # fmt: skip
    loaded = load("a100-x1", JOB, sets)
    peak = memory(loaded.topology, loaded.workload).peak_allocated_bytes
    table = 2 * 128256 * 2048
    weights = 2 * elements_of(loaded.workload)
    assert (peak - weights) / table == pytest.approx(tables, abs=0.15)


def test_fsdp2_steps_shards_on_the_stream_that_reduced_them():
    after, within = (ops_of("dgx-h100", [*sets, *FSDP2, "nodes=1"]) for sets in (SETS, WITHIN))
    steps = [op for op in within.ops if op.name == "optimizer"]
    assert {op.stream for op in steps} == {"reduce_scatter"}
    assert sum(op.bytes for op in steps) == pytest.approx(2 * within.owned_numel)
    assert [op.stream for op in after.ops if op.name == "optimizer"] == ["compute"]
    sizes = {}
    for sets in (SETS, WITHIN):
        loaded = load("dgx-h100", JOB, [*sets, *FSDP2, "nodes=1"])
        found = memory(loaded.topology, loaded.workload)
        sizes[sets] = found.peak_allocated_bytes
        least = MemoryBounds().needed(loaded.topology, loaded.workload)
        assert 0.0 < least <= found.needed_bytes
    assert sizes[WITHIN] < sizes[SETS]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["gradient_accumulation=2"], "write gradient_accumulation: 1"),
        (["parallelism.clip_gradients=true"], "write parallelism.clip_gradients: false"),
        (["parallelism.strategy=zero2"], "write single or fsdp2"),
        ([*FSDP2, "parallelism.offload=all"], "steps on the host"),
        ([*FSDP2, "parallelism.tensor_parallel=2"], "not modelled under tensor or pipeline"),
        (["precision=fp16"], "loss scaling looks for overflows in all gradients"),
    ],
)
def test_what_cannot_be_is_said(sets, said):
    with pytest.raises(InputError) as caught:
        load("dgx-h100", JOB, ["nodes=1", *FSDP2, *WITHIN, *sets])
    text = str(caught.value)
    assert "optimizer_in_backward" in text
    assert said in text


def test_each_reason_against_it_is_said():
    with pytest.raises(InputError) as caught:
        load("dgx-h100", JOB, [*FSDP2, "optimizer_in_backward=true", "gradient_accumulation=2"])
    said = [fault.message for fault in caught.value.faults]
    assert len(said) == 2
    assert "gradient_accumulation: 1" in said[0]
    assert "clip_gradients: false" in said[1]


def test_what_is_so_already_is_not_advised():
    found = {}
    for sets in ((), SETS):
        loaded = load("a100-x1", JOB, ["node.gpu=rtx-4090-24gb", "trainer=torchtune", *sets])
        [change] = [c for c in changes(loaded.topology, loaded.workload, "smaller")
                    if "optimizer_in_backward" in c.settings]  # fmt: skip
        found[sets] = set(change.settings)
    assert found[()] - found[SETS] == {"parallelism.clip_gradients"}


def test_a_knob_that_says_nothing_of_groups_leaves_one_gpu_alone():
    assert load("a100-x1", JOB, [*SETS]).workload.parallelism.strategy == "single"
    spread = load("dgx-h100", JOB, [*SETS, "nodes=1"]).workload.parallelism
    assert (spread.strategy, spread.clip_gradients) == ("fsdp2", False)


@pytest.mark.parametrize(("more", "clips"), [("", False), ("clip_grad_norm: 1.0\n", True)])
def test_torchtune_clips_where_its_file_says_so(tmp_path, more, clips):
    path = tmp_path / "tune.yaml"
    path.write_text(TORCHTUNE + more)
    job = load("dgx-h100", path, ["nodes=1"]).workload
    assert job.parallelism.clip_gradients is clips


def test_torchtunes_key_is_read(tmp_path):
    full = TORCHTUNE.replace("lora_llama3_1_8b", "llama3_1_8b")
    path = tmp_path / "tune.yaml"
    path.write_text(full.replace("gradient_accumulation_steps: 8", "optimizer_in_bwd: True"))
    job = load("a100-x1", path).workload
    assert job.optimizer_in_backward
    assert (job.parallelism.strategy, job.parallelism.clip_gradients) == ("single", False)


@pytest.mark.parametrize(("trainer", "advised"), [("torchtune", True), ("huggingface", False)])
def test_it_is_advised_where_a_loop_can(trainer, advised):
    sets = ["node.gpu=rtx-4090-24gb", f"trainer={trainer}"]
    loaded = load("a100-x1", JOB, sets)
    found = [c for c in changes(loaded.topology, loaded.workload, "smaller")
             if "optimizer_in_backward" in c.settings]  # fmt: skip
    assert [c.changes_training for c in found] == [True] * advised  # it clipped before
