"""Exchanges of tensor-parallel ranks beside products, as Transformer Engine's userbuffers run."""

from collections import Counter

import pytest

import sim
from sim.blocks.unroll import exchanges, unroll
from sim.errors import InputError
from sim.inputs.loader import load
from sim.step.step import memory_of, step
from tests.trainer_files import MEGATRON

TOKENS, HIDDEN, RANKS = 8192, 8192, 8
A = 2.0 * TOKENS * HIDDEN  # one activation in bf16 [B]
FP8 = "precision={fp8: {recipe: te-delayed}}"


def job(*sets, overlap=True, machine="dgx-h100"):
    made = {
        "model": {"base": "llama3-70b", "layers": 8}, "sequence_length": TOKENS, "micro_batch": 1,
        "gradient_accumulation": 4, "steps": 1,
        "parallelism": {"strategy": "megatron", "tensor_parallel": RANKS},
    }  # fmt: skip
    return load(machine, made, [f"parallelism.tp_comm_overlap={str(overlap).lower()}", *sets])


def moved(workload, phase):
    found = exchanges(workload, "layer", phase).values()
    return Counter(
        (x.collective, x.over, x.when.value, x.sent, x.dtype)
        for each in found
        for x in each
        if x.collective
    )


@pytest.mark.parametrize(("sets", "e", "dtype"), [([], 2, ""), ([FP8], 1, "fp8")])
def test_what_is_exchanged_and_beside_what(sets, e, dtype):
    """Two gathers and sums of a layer each way; what is gathered again is so in whole."""
    workload = job(*sets).workload
    part = e * TOKENS * HIDDEN / RANKS
    assert moved(workload, "forward") == {
        ("all_gather", "tp copies", "beside", part, dtype): 2,
        ("reduce_scatter", "tp buffers", "beside", 0.75 * A, ""): 2,
        ("reduce_scatter", "tp buffers", "after", 0.25 * A, ""): 2,
    }
    assert moved(workload, "backward") == {
        ("all_gather", "tp copies", "beside inputs", part, dtype): 2,
        ("all_gather", "tp buffers", "beside inputs", part, dtype): 2,
        ("reduce_scatter", "tp buffers", "beside weights", A, ""): 2,
    }
    whole = exchanges(workload, "head", "forward").values()  # Megatron-LM's own linear layer
    assert {x.over for each in whole for x in each} == {"tp"}
    plain = job(*sets, overlap=False).workload
    for phase in ("forward", "backward"):
        assert unroll(workload).of("layer", phase) == unroll(plain).of("layer", phase)


def test_three_products_of_one_input_wait_for_all_of_it_once():
    """Where the code is another's they start with the gather, and the last ends with it."""
    found = exchanges(job("modelling=torchtitan").workload, "layer", "forward")
    assert [x.when.value for x in found["wq"]] == ["along"]
    assert [(x.collective, x.over) for x in found["wv"]] == [("", "tp copies")]


def test_what_hides_by_hand():
    """Of 8 layers, 4 times two gathers and sums each way, a quarter of each sum forward is left.

    Beside them the embedding's sum and the head's gather, which are Megatron-LM's own.
    """
    fast, slow = (step(*job(overlap=one)[:2]).breakdown for one in (True, False))
    for what in ("all_gather forward", "all_gather backward", "reduce_scatter forward"):
        left, was = (found.exposed[f"tensor {what}"] for found in (fast, slow))
        assert left == pytest.approx(was * 4 / (4 + 64), rel=0.01), what
    last = fast.exposed["tensor buffers reduce_scatter forward"]
    assert last == pytest.approx(was / 4 * 64 / 68, rel=0.05)
    assert slow.time_s == pytest.approx(0.488, rel=0.02)
    assert fast.time_s == pytest.approx(0.416, rel=0.02)


def test_buffers_are_of_all_positions():
    found = [
        memory_of(*job(*sets, overlap=one)[:2]).overheads["communicators"]
        for sets in ([], [FP8])
        for one in (True, False)
    ]
    assert found[0] - found[1] == 10 * A
    assert found[2] - found[3] == 7 * A


@pytest.mark.parametrize(
    ("machine", "sets", "said"),
    [("dgx-h100", ["parallelism.sequence_parallel=false"], "asks for sequence_parallel"),
     ("dgx-h100", ["model=mixtral-8x7b"], "of dense blocks, not"),
     ("dgx-h100", ["parallelism.tensor_parallel_style=nanotron"], "not of style nanotron"),
     ("l40s-8", [], "has none"),
     ("dgx-h100", ["nodes=2", "model=llama-2-7b", "parallelism.tensor_parallel=16"],
      "16 of them are in no node"),
     ("dgx-h100", ["parallelism.strategy=fsdp2"], "it belongs to megatron")],
)  # fmt: skip
def test_what_it_needs(machine, sets, said):
    with pytest.raises(InputError) as info:
        job(*sets, machine=machine)
    found = [f for f in info.value.faults if f.path == "parallelism.tp_comm_overlap"]
    assert any(said in f.message for f in found), info.value.faults


def test_megatron_writes_and_reads_it(tmp_path):
    both = "parallelism={strategy: megatron, tensor_parallel: 8, tp_comm_overlap: true}"
    sim.export("dgx-h100", "llama3-8b-sft", emit=["megatron"], folder=tmp_path, overrides=[both])
    assert load("dgx-h100", tmp_path / "megatron.sh").workload.parallelism.tp_comm_overlap


@pytest.mark.parametrize(
    ("said", "told"),
    [("", []), ("--disable-tp-comm-bulk-dgrad", ["disable-tp-comm-bulk-dgrad"]),
     ("--tp-comm-overlap-cfg ub.yaml", ["tp-comm-overlap-cfg"])],
)  # fmt: skip
def test_a_schedule_of_ones_own_is_told_of(said, told, tmp_path):
    script = tmp_path / "mega.sh"
    script.write_text(f"{MEGATRON.rstrip()} {said}\n")
    found = sim.import_job(script).to_dict()
    assert [a["theirs"] for a in found["aside"] if a["matters"]] == told
    assert "parallelism.tp_comm_overlap" in {row["key"] for row in found["took"]}


def test_it_is_advised():
    found = sim.simulate(*job(overlap=False)[:2], scaling=False)
    advised = {"parallelism.tp_comm_overlap": True}
    assert advised in [fix.change for fix in found.bottleneck.fixes]
