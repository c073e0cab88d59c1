"""Newer keys and other spellings of trainers' files: taken, or said not to be."""

import json

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.inputs.loader import load

AXOLOTL = """\
base_model: openai/gpt-oss-20b
sequence_len: 4096
micro_batch_size: 1
datasets: [{path: x, type: chat_template}]
adapter: lora
lora_r: 8
lora_target_linear: true
flash_attention: true
"""
DEEPSPEED = {
    "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True},
    "zero_optimization": {"stage": 1},
}  # fmt: skip
MEGATRON = """\
ARGS=(--nproc_per_node 8 --nnodes 2)
torchrun ${ARGS[@]} pretrain_gpt.py --num-layers 32 --hidden-size 4096 --num-attention-heads 32 \\
    --seq-length 4096 --max-position-embeddings 4096 --micro-batch-size 1 --vocab-size 32000 \\
    --recompute-granularity selective --recompute-modules core_attn mlp layernorm --bf16
"""
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 256, "intermediate_size": 512, "vocab_size": 1000,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_local_experts": 4,
    "max_position_embeddings": 4096, "num_experts_per_tok": 2, "num_key_value_heads": 4,
}  # fmt: skip


def read(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    done = CliRunner().invoke(group, ["import", str(path)])
    assert done.exit_code == 0, done.output
    return sim.import_job(str(path)).yaml, " ".join(done.output.split())


def test_the_implementation_of_attention_outdoes_its_older_key(tmp_path):
    kernel = "attn_implementation: kernels-community/vllm-flash-attn3\n"
    job, said = read(tmp_path, "a.yaml", AXOLOTL + kernel)
    assert "attention: flash3" in job
    assert "attn_implementation says it flash_attention" in said
    assert "attention: flash2" in read(tmp_path, "b.yaml", AXOLOTL)[0]


def test_adapters_of_bare_parameters_are_said(tmp_path):
    more = "lora_target_parameters: [mlp.experts.gate_up_proj]\n"
    assert (
        "adapters of bare parameters are not counted" in read(tmp_path, "a.yaml", AXOLOTL + more)[1]
    )


def test_deepspeed_cuts_tensors_and_sequences(tmp_path):
    cut = {"sequence_parallel_size": 4, "tensor_parallel": {"autotp_size": 2}}
    job, _ = read(tmp_path, "ds.json", json.dumps(DEEPSPEED | cut))
    for line in ("context_parallel: 4", "context_parallel_kind: ulysses", "tensor_parallel: 2"):
        assert line in job
    whole = {"sequence_parallel_size": 1, "tensor_parallel": {"autotp_size": 1}}
    job, said = read(tmp_path, "ds.json", json.dumps(DEEPSPEED | whole))
    assert "context_parallel" not in job
    assert "1: not split along it" in said
    compiled = {"compile": {"deepcompile": True}}
    _, said = read(tmp_path, "ds.json", json.dumps(DEEPSPEED | compiled))
    assert "DeepCompile's schedule is not modelled" in said


def test_an_array_of_one_line_and_modules_that_are_recomputed(tmp_path):
    job, said = read(tmp_path, "run.sh", MEGATRON)
    assert "for 16 GPUs on 2 nodes" in said
    assert "recompute of mlp, layernorm is not modelled" in said
    assert "micro_batch: 1" in job


def test_mixtures_that_a_tool_marks_as_leaves(tmp_path):
    """LLaMA-Factory, model_utils/moe.py; axolotl likewise: ZeRO-3 gathers all experts as one."""
    factory = (
        "model_name_or_path: {}\nstage: sft\nfinetuning_type: lora\ncutoff_len: 2048\n"
        "deepspeed: ds_z{}_config.json\n"
    )
    axolotl = AXOLOTL + "deepspeed: deepspeed_configs/zero3_bf16.json\n"
    leaf = "z3_leaf_experts: true"
    assert leaf in read(tmp_path, "a.yaml", factory.format("Qwen/Qwen3-30B-A3B", 3))[0]
    assert leaf not in read(tmp_path, "a.yaml", factory.format("Qwen/Qwen3-30B-A3B", 2))[0]
    assert leaf not in read(tmp_path, "a.yaml", factory.format("Qwen/Qwen3-32B", 3))[0]
    assert leaf in read(tmp_path, "b.yaml", axolotl)[0]
    (tmp_path / "mine").mkdir()  # a model's folder, beside the file
    (tmp_path / "mine" / "config.json").write_text(json.dumps(MIXTRAL))
    assert leaf in read(tmp_path, "a.yaml", factory.format("./mine", 3))[0]
    assert leaf not in read(tmp_path, "a.yaml", factory.format("./none", 3))[0]


def test_batches_of_like_lengths(tmp_path):
    grouped = "group_by_length: true"
    on = AXOLOTL + f"{grouped}\n"
    assert grouped in read(tmp_path, "a.yaml", on)[0]
    assert grouped not in read(tmp_path, "a.yaml", on + "sample_packing: true\n")[0]
    trl = "model_name_or_path: x\nper_device_train_batch_size: 2\nbf16: true\nmax_length: 512\n"
    sampled = trl + "train_sampling_strategy: group_by_length\n"
    assert grouped in read(tmp_path, "t.yaml", sampled)[0]
    assert grouped not in read(tmp_path, "t.yaml", trl + "group_by_length: false\n")[0]


TRL = """\
model_name_or_path: Qwen/Qwen2.5-7B
dataset_name: x
use_peft: true
max_length: 2048
per_device_train_batch_size: 1
"""
WIDE, PREPARED = "frozen_dtype: fp32", "prepare_kbit: true"
FOUR, NARROW = "adapter_dtype: bf16", "master: bf16"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", {WIDE}),
        ("dtype: float32\n", {WIDE}),
        ("dtype: auto\n", set()),
        ("dtype: bfloat16\n", set()),
        ("bf16: false\n", set()),  # all of it is fp32
        ("load_in_4bit: true\n", {PREPARED, FOUR, NARROW}),
        ("load_in_4bit: true\ndtype: bfloat16\n", {FOUR, NARROW}),
        ("load_in_4bit: true\nfsdp: full_shard\n", {WIDE, FOUR}),
        ("load_in_4bit: true\ndeepspeed: ds_z2_config.json\n", {FOUR}),
        ("deepspeed: ds_z3_config.json\n", set()),
    ],
)
def test_dtypes_in_which_trl_leaves_weights(tmp_path, more, said):
    """TRL 1.16, ModelConfig.dtype: float32; SFTTrainer: adapters of a 4-bit base to bf16."""
    job, _ = read(tmp_path, "t.yaml", TRL + more)
    assert {word for word in (WIDE, PREPARED, FOUR, NARROW) if word in job} == said


@pytest.mark.parametrize("adapter", ["lora\nload_in_4bit: true", "qlora"])
def test_axolotl_casts_back_what_peft_prepared(tmp_path, adapter):
    """axolotl 0.19, ModelLoader._configure_embedding_dtypes."""
    job, _ = read(tmp_path, "a.yaml", AXOLOTL.replace("lora\n", f"{adapter}\n", 1))
    assert "qlora" in job
    assert not [word for word in (WIDE, PREPARED) if word in job]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("freeze_parameters_ratio: 0.5", True),
        ("freeze_parameters: [model.layers.0]", True),
        ("freeze_llm: true", True),
        ("freeze_parameters_ratio: 0.0\nfreeze_parameters: []\nfreeze_llm: false", False),
        ("freeze_vit: true\nfreeze_aligner: true", False),  # towers are left out anyway
    ],
)
def test_swifts_frozen_parts_are_told(tmp_path, written, told):
    """They were said to change nothing, though half a model frozen halves its states."""
    path = tmp_path / "swift.yaml"
    path.write_text(
        "model: Qwen/Qwen3-8B\ntrain_type: full\nmax_length: 2048\ntorch_dtype: bfloat16\n"
        f"per_device_train_batch_size: 1\n{written}\n"
    )
    found = load("dgx-h100", path).notes.warnings
    assert any("frozen" in w.text for w in found) is told


TITAN = """\
[model]
name = "llama3"
flavor = "8B"
[training]
local_batch_size = 1
seq_len = 4096
[parallelism]
"""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ds.json", json.dumps({**DEEPSPEED, "zero_optimization": {"stage": "auto"}}),
         '"auto" is no stage, and no trainer fills it in; it is 0, 1, 2 or 3'),
        ("titan.toml", TITAN + "tensor_parallel_degree = -1\n", "-1 is no degree: 1 or more"),
        ("titan.toml", TITAN + "context_parallel_degree = 0\n", "0 is no degree: 1 or more"),
    ],
)  # fmt: skip
def test_what_its_trainer_refuses_is_no_default(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    ended = CliRunner().invoke(group, ["import", str(tmp_path / name)])
    assert said in str(ended.exception)
