"""Keys of trainers' files: what they change is taken, told, or known to be without effect."""

import json
import re

import pytest

import sim
from sim.data import table
from sim.inputs.loader import load
from tests.imported import mattering

AXOLOTL = """\
base_model: Qwen/Qwen2.5-7B
adapter: qlora
sequence_len: 2048
micro_batch_size: 2
bf16: true
datasets: [{path: mine, type: alpaca}]
"""
TRL = """\
model_name_or_path: Qwen/Qwen2.5-7B
max_length: 2048
per_device_train_batch_size: 2
bf16: true
"""
TRAINER = """\
model_name_or_path: Qwen/Qwen2.5-7B
per_device_train_batch_size: 2
bf16: true
num_train_epochs: 1
"""
FACTORY = """\
model_name_or_path: Qwen/Qwen2.5-7B
stage: sft
cutoff_len: 2048
per_device_train_batch_size: 2
bf16: true
"""
SWIFT = """\
model: Qwen/Qwen2.5-7B
train_type: lora
torch_dtype: bfloat16
max_length: 2048
per_device_train_batch_size: 2
"""
TUNE = """\
model: {_component_: torchtune.models.llama3_1.lora_llama3_1_8b, lora_rank: 8, quantize_base: true}
tokenizer: {max_seq_len: 2048}
batch_size: 2
dtype: bf16
fsdp: {cpu_offload: true}
"""


def at(workload, path):
    for key in path.split("."):
        workload = getattr(workload, key)
    return workload


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        (TRL, "loss", "tiled"),
        (TRAINER, "loss", "huggingface"),
        (TRL + "use_liger_kernel: true\n", "fused_kernels", "all"),
        (TRAINER + "use_liger_kernel: true\n", "loss", "fused-linear"),
        (
            TRAINER + "use_liger_kernel: true\n"
            "liger_kernel_config: {fused_linear_cross_entropy: false, cross_entropy: true}\n",
            "loss", "huggingface-fused",
        ),
        (
            TRAINER + "use_liger_kernel: true\nliger_kernel_config: {swiglu: false, rope: false}\n",
            "fused_kernels", "norm",
        ),
        (AXOLOTL + "ddp_bucket_cap_mb: 50\n", "parallelism.bucket_cap_mb", 50),
        (AXOLOTL + "batch_flattening: true\n", "data.packing", True),
        (
            AXOLOTL + "bnb_config_kwargs: {bnb_4bit_use_double_quant: false}\n",
            "method.double_quantization", False,
        ),
        (AXOLOTL, "method.double_quantization", True),
        (SWIFT + "packing: true\npacking_length: 4096\n", "sequence_length", 4096),
        (SWIFT + "packing_length: 4096\n", "sequence_length", 2048),
        (SWIFT + "tuner_backend: unsloth\n", "method.adapters", "fused"),
        (SWIFT + "target_regex: .*(q|v)_proj\n", "method.targets", ("q", "v")),
        (TUNE, "method.kind", "qlora"),
        (TUNE, "parallelism.offload", "all"),
        (FACTORY + "finetuning_type: freeze\nuse_unsloth: true\n", "method.adapters", "eager"),
        (FACTORY + "finetuning_type: lora\nuse_unsloth: true\n", "method.adapters", "fused"),
    ],
)  # fmt: skip
def test_what_a_key_says_is_taken(tmp_path, text, path, value):
    """Each was left aside, or taken as something else, without a word."""
    sets = [] if "max_length: 2048" in text else ["sequence_length=2048"]
    file = tmp_path / "job.yaml"
    file.write_text(text)
    assert at(load("dgx-h100", file, sets).workload, path) == value


@pytest.mark.parametrize(
    ("text", "theirs", "why"),
    [
        (TRL + "label_smoothing_factor: 0.1\n", "label_smoothing_factor", "whole logits"),
        (TRL + "packing: true\nattn_implementation: flash_attention_2\n", "packing", "mean_length"),
        (
            TRL + "accelerator_config: {split_batches: true}\n",
            "accelerator_config.split_batches", "cut over the ranks",
        ),
        (AXOLOTL + "lisa_n_layers: 4\n", "lisa_n_layers", "LISA"),
        (AXOLOTL + "layer_offloading: true\n", "layer_offloading", "on the host"),
        (AXOLOTL + "overrides_of_model_config: {num_hidden_layers: 4}\n",
         "overrides_of_model_config", "its shape"),
        (FACTORY + "finetuning_type: full\nuse_mca: true\n", "use_mca", "Megatron"),
        (FACTORY + "quantization_bit: 4\nquantization_method: hqq\n",
         "quantization_method", "hqq"),
        (SWIFT + "max_memory: {0: 20GB}\n", "max_memory", "over devices"),
        (SWIFT + "device_map: auto\n", "device_map: auto", "spreads layers"),
        (AXOLOTL + "device_map: balanced\n", "device_map: balanced", "spreads layers"),
    ],
)  # fmt: skip
def test_what_is_not_followed_is_told(tmp_path, text, theirs, why):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert [why in row["why"] for row in mattering(path) if row["theirs"] == theirs] == [True]


@pytest.mark.parametrize(
    "text",
    [
        TRL + "label_smoothing_factor: 0.0\npacking: true\npacking_strategy: wrapped\n"
        "attn_implementation: flash_attention_2\n",
        TRL + "packing: true\n",  # SDPA computes whole rows
        AXOLOTL + "lisa_n_layers: 0\nlayer_offloading: false\nlora_rank_pattern: {}\n",
    ],
)
def test_what_is_off_is_not_told(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert mattering(path) == []


def test_keys_that_nobody_knows_are_told_in_every_verb(tmp_path):
    """`import` alone listed them: of `sequnce_len`, no other verb said a word."""
    path = tmp_path / "job.yaml"
    path.write_text(AXOLOTL + "fancy: 3\nuse_wandb: true\nmirco_batch_size: 8\n")
    warnings = load("dgx-h100", path).notes.warnings
    (told,) = [w.message for w in warnings if w.code == "not-read"]
    assert told.startswith("job.yaml: fancy (line 7), mirco_batch_size (line 9): no keys")
    path.write_text(AXOLOTL + "use_wandb: true\n")
    assert not [w for w in load("dgx-h100", path).notes.warnings if w.code == "not-read"]


def test_no_key_both_matters_and_does_not():
    for name, of in table("trainer_keys").items():
        both = {key for key in of["matters"] if re.fullmatch("|".join(of["idle"]), key)}
        assert not both, (name, both)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"bias": "all"}, ["bias"]), ({"bias": "none"}, []), ({"lora_bias": True}, ["lora_bias"]),
        ({"velora_config": {"num_groups": 4}}, ["velora_config"]),
        ({"use_rslora": True, "lora_alpha": 64, "inference_mode": True}, []),
    ],
)  # fmt: skip
def test_keys_of_an_adapter(tmp_path, more, told):
    path = tmp_path / "adapter_config.json"
    path.write_text(
        json.dumps({"peft_type": "LORA", "r": 16, "target_modules": ["q_proj"], **more})
    )
    assert [row["theirs"] for row in mattering(path)] == told


def test_an_adapter_that_peft_refuses():
    """Its kernels pass the last projection of a Mamba mixer by (tuners_utils.py, 0.21.2)."""

    def refused(model, targets):
        sets = [f"model={model}", f"method.lora.targets=[{targets}]"]
        notes = load("dgx-h100", "llama3-8b-lora", sets).notes
        return [w.hint for w in notes.warnings if w.code == "peft-mamba"]

    for model in ("falcon-h1-7b", "nemotron-h-8b"):
        assert refused(model, "q, out_proj") == ["write targets: [q]"]
        assert refused(model, "q, in_proj") == []
    assert refused("bamba-9b", "q, out_proj") == []


@pytest.mark.parametrize(
    ("backend", "compiled", "told"),
    [("INDUCTOR", True, []), ("EAGER", False, ["dynamo_config.dynamo_backend"]), ("NO", False, [])],
)
def test_a_compiler_of_accelerate(tmp_path, backend, compiled, told):
    """Any backend was taken as TorchInductor's kernels."""
    path = tmp_path / "acc.yaml"
    path.write_text(
        "distributed_type: MULTI_GPU\nnum_processes: 8\n"
        f"dynamo_config: {{dynamo_backend: {backend}}}\n"
    )
    assert [row["theirs"] for row in mattering(path)] == told
    assert ("compile: true" in sim.import_job(path).yaml) == compiled
    path = tmp_path / "run.sh"
    path.write_text(
        f"accelerate launch --num_processes 8 --dynamo_backend {backend.lower()} train.py "
        "--model_name_or_path gpt2 --max_length 512\n"
    )
    assert [f"dynamo_config.{row['theirs']}" for row in mattering(path)] == told
    assert ("compile: true" in sim.import_job(path).yaml) == compiled


def test_a_deepspeed_file_that_turns_both_off_is_of_32_bits(tmp_path):
    """It was bf16, ours; DeepSpeed casts to nothing."""
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"stage": 3}, "bf16": {"enabled": false}}')
    sets = ["model=qwen2.5-7b", "sequence_length=2048", "micro_batch=1", "gradient_accumulation=1"]
    assert load("dgx-h100", path, sets).workload.precision.kind == "fp32"
    path.write_text('{"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}}')
    assert load("dgx-h100", path, sets).workload.precision.kind == "bf16"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (TRAINER + "use_cpu: true\nno_cuda: false\n", "use_cpu"),
        (TRAINER + "no_cuda: true\n", "no_cuda"),
        (TRAINER + "use_mps_device: true\nuse_cpu: false\n", "use_mps_device"),
        ("distributed_type: MULTI_GPU\nnum_processes: 8\nuse_cpu: true\n", "use_cpu"),
    ],
)
def test_another_device_is_told_however_it_is_called(tmp_path, text, key):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert [row["theirs"] for row in mattering(path)] == [key]
