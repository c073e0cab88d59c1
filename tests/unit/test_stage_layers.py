"""Stages of layers that are said one by one, and Megatron-LM's words for them."""

import pytest

import sim
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.pipeline import blocks_of, stage_layers
from sim.interop.trainers.megatron_stages import spelt, written

#: as deep as DeepSeek-V3
DEEP = ["model={base: llama-3.2-1b, layers: 61, tied_embeddings: false}", "micro_batch=1",
        "global_batch=16", "activation_checkpointing=full", "fused_kernels=none"]  # fmt: skip


def job(knobs, *sets):
    both = f"parallelism={{strategy: megatron, {knobs}}}"
    return load("dgx-h100", "llama3-8b-sft", [*DEEP, both, *sets])


def test_said_layers_are_those_of_the_stages():
    """61 layers on 4 ranks: the first and the last have fewer, beside embedding and head."""
    found = job("pipeline_parallel: 4, pipeline_layers: [15, 16, 16, 14]").workload
    assert stage_layers(found) == (15, 16, 16, 14)
    assert [len(blocks) for blocks in blocks_of(found)] == [16, 16, 16, 15]


def test_the_longest_stage_sets_the_pace():
    def seconds(layers):
        knobs = f"pipeline_parallel: 4, pipeline_layers: {layers}"
        plan = {
            "overrides": [
                *DEEP,
                "model.vocab_size=1024",
                f"parallelism={{strategy: megatron, {knobs}}}",
            ]
        }
        return sim.simulate("dgx-h100", "llama3-8b-sft", scaling=False, fixes=False, **plan)

    even, uneven = seconds([15, 16, 16, 14]), seconds([13, 22, 13, 13])
    # of 8 micro-batches one goes through all 61 layers, seven more through the longest stage
    by_hand = (7 * 22 + 61) / (7 * 16 + 61)
    assert uneven.step.time_s / even.step.time_s == pytest.approx(by_hand, rel=0.04)
    assert uneven.memory.needed_bytes > even.memory.needed_bytes


def test_an_even_pipeline_is_the_same_said_layer_by_layer():
    plain, said = (
        sim.simulate(
            "dgx-h100", "llama3-8b-sft", scaling=False, fixes=False,
            overrides=["micro_batch=1", f"parallelism={{strategy: megatron, {knobs}}}"],
        )
        for knobs in ("pipeline_parallel: 4", "pipeline_parallel: 4, pipeline_layers: [8, 8, 8, 8]")
    )  # fmt: skip
    assert said.step.time_s == plain.step.time_s
    assert said.memory.needed_bytes == plain.memory.needed_bytes


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ("pipeline_parallel: 4", "or write pipeline_layers"),
        ("pipeline_parallel: 4, pipeline_layers: [15, 16, 16, 15]", "62 layers of 4 stages"),
        ("pipeline_parallel: 4, pipeline_layers: [30, 31]", "61 of 4 "),
        ("pipeline_parallel: 4, pipeline_layers: [15, 16, 16, -14]", "-14"),
        ("pipeline_parallel: 4, pipeline_layers: [61, 0, 0, 0]", "do not fill 4 stages"),
    ],
)
def test_layers_that_are_not_the_models_are_refused(knobs, said):
    with pytest.raises(InputError, match=said):
        job(knobs)


@pytest.mark.parametrize(
    ("layout", "whole"),
    [
        ("Et*3|(tt|)*2,tL", "Ettt|tt|tt|tL"),
        ("E|(t|)*3L", "E|t|t|t|L"),
        ("t|*2t", "t||t"),
        ("Et|(t", None),
        ("E|x", None),
        ("(((((t)*99)*99)*99)*99)", None),
    ],
)
def test_repetitions_of_a_layout_are_spelt_out(layout, whole):
    assert spelt(layout) == whole


def test_a_layout_is_written_as_it_is_read():
    assert written((0, 2, 1)) == "E|tt|tL"
    assert spelt(written((0, 2, 1))) == written((0, 2, 1))


SCRIPT = """\
torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 61 --hidden-size 2048 --swiglu \\
    --num-attention-heads 32 --seq-length 4096 --max-position-embeddings 4096 --bf16 \\
    --micro-batch-size 1 --global-batch-size 32 --vocab-size 128256 \\
    --untie-embeddings-and-output-weights --pipeline-model-parallel-size 4 {options}
"""


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ("--decoder-first-pipeline-num-layers 15 --decoder-last-pipeline-num-layers 14",
         (15, 16, 16, 14)),
        ("--decoder-last-pipeline-num-layers 13", (16, 16, 16, 13)),
        # two stages a rank: 16 layers of the first, 15 of ranks between, 15 of the last cannot be
        ("--decoder-first-pipeline-num-layers 14 --decoder-last-pipeline-num-layers 15"
         " --num-virtual-stages-per-pipeline-rank 1", (14, 16, 16, 15)),
        ("--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split"
         " --num-layers 62", (15, 16, 16, 15)),
        ("--pipeline-model-parallel-layout 'Et*15|t*16|t*16|t*14L'", (15, 16, 16, 14)),
        # stage v p + r is rank r's v-th
        ("--pipeline-model-parallel-layout 'Et*7|(t*8|)*6,t*6L'", (7, 8, 8, 8, 8, 8, 8, 6)),
    ],
)  # fmt: skip
def test_megatrons_words_for_stages_are_read(options, layers, tmp_path):
    path = tmp_path / "pretrain.sh"
    text = SCRIPT.format(options=options)
    path.write_text(text.replace("--num-layers 61 ", "") if "--num-layers" in options else text)
    assert stage_layers(load("dgx-h100", str(path), []).workload) == layers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--decoder-first-pipeline-num-layers 15", "61 layers are not 4 ranks of .15, 15, 15, 15."),
        ("--pipeline-model-parallel-layout 'Et*15|t*46L|'", "3 stages are not the same number"),
        ("--pipeline-model-parallel-layout 'Et*15|x'", "is no layout such as"),
    ],
)
def test_stages_that_megatron_would_refuse_are_refused(options, said, tmp_path):
    path = tmp_path / "pretrain.sh"
    path.write_text(SCRIPT.format(options=options))
    with pytest.raises(InputError, match=said):
        sim.import_job(str(path))


@pytest.mark.parametrize(
    "knobs",
    [
        "pipeline_parallel: 4, pipeline_layers: [15, 16, 16, 14]",
        "pipeline_parallel: 2, pipeline_schedule: interleaved-1f1b, virtual_stages: 2,"
        " pipeline_layers: [15, 16, 16, 14]",
    ],
)
def test_stages_are_written_so_that_they_are_read_again(knobs, tmp_path):
    sets = [*DEEP, f"parallelism={{strategy: megatron, {knobs}}}"]
    sim.export("dgx-h100", "llama3-8b-sft", emit=["megatron"], folder=tmp_path, overrides=sets)
    found = load("dgx-h100", str(tmp_path / "megatron.sh"), []).workload
    assert stage_layers(found) == (15, 16, 16, 14)


def test_ends_that_stand_for_a_layer_are_written_so(tmp_path):
    ends = "pipeline_first_stage_less_layers: 1, pipeline_last_stage_less_layers: 1"
    sets = ["model={base: llama-3.2-1b, layers: 62, tied_embeddings: false}", *DEEP[1:],
            f"parallelism={{strategy: megatron, pipeline_parallel: 4, {ends}}}"]  # fmt: skip
    sim.export("dgx-h100", "llama3-8b-sft", emit=["megatron"], folder=tmp_path, overrides=sets)
    script = tmp_path / "megatron.sh"
    assert "--account-for-embedding-in-pipeline-split" in script.read_text()
    assert stage_layers(load("dgx-h100", str(script), []).workload) == (15, 16, 16, 15)
