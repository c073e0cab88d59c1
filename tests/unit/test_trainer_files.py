"""Other tools' files as jobs: every key that is mapped, joined files, contradictions."""

import contextlib
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim.blocks.parameters import count_parameters
from sim.cli import group
from sim.errors import InputError
from sim.inputs.arguments import given
from sim.inputs.loader import load, load_workload
from sim.inputs.trainer import reduces_each

EXAMPLES = Path(__file__).parents[3] / "shared" / "users" / "examples"
FOLDERS = (
    "axolotl",
    "llamafactory",
    "accelerate",
    "deepspeed",
    "peft",
    "torchtitan",
    "slurm",
    "k8s",
)

AXOLOTL = """\
base_model: meta-llama/Llama-3.1-8B-Instruct
adapter: lora
load_in_8bit: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.1
lora_target_modules: [q_proj, v_proj]
datasets: [{path: mine, type: alpaca}]
sequence_len: 4_096
sample_packing: true
micro_batch_size: 2
gradient_accumulation_steps: 4
max_steps: 100
num_epochs: 3
optimizer: adamw_bnb_8bit
bf16: auto
gradient_checkpointing: true
attn_implementation: flash_attention_2
plugins: [axolotl.integrations.liger.LigerPlugin]
liger_rms_norm: true
liger_rope: true
liger_fused_linear_cross_entropy: true
dp_replicate_size: 2
dp_shard_size: 4
fsdp_version: 2
fsdp_config:
  offload_params: false
  state_dict_type: FULL_STATE_DICT
  auto_wrap_policy: TRANSFORMER_BASED_WRAP
  reshard_after_forward: false
  cpu_ram_efficient_loading: false
learning_rate: 1e-4
some_new_key: 7
"""
FACTORY = """\
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
quantization_bit: 4
dataset: one,two
cutoff_len: 2048
max_samples: 500
neat_packing: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
num_train_epochs: 2.0
bf16: true
flash_attn: fa2
enable_liger_kernel: true
use_reentrant_gc: false
"""
TRL = """\
model_name_or_path: meta-llama/Llama-3.2-3B
use_peft: true
lora_r: 16
lora_target_modules: all-linear
load_in_4bit: true
use_bnb_nested_quant: true
max_length: 1024
padding_free: true
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
optim: adamw_torch
bf16: true
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: true}
attn_implementation: flash_attention_2
fsdp: full_shard auto_wrap
fsdp_config: {backward_prefetch: backward_post, forward_prefetch: true}
dataloader_num_workers: 3
max_grad_norm: 0.0
save_strategy: "no"
torch_compile: true
"""
SWIFT = """\
{"model": "Qwen/Qwen2.5-7B-Instruct", "tuner_type": "lora", "lora_rank": 16,
 "torch_dtype": "bfloat16",
 "target_modules": ["all-linear"], "max_length": 4096, "attn_impl": "flash_attn", "packing": true,
 "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "deepspeed": "zero2",
 "sequence_parallel_size": 2, "gradient_checkpointing": true, "quant_bits": 4}
"""
AUTOMODEL = """\
recipe: TrainFinetuneRecipeForNextTokenPrediction
step_scheduler: {global_batch_size: 64, local_batch_size: 2, max_steps: 30, ckpt_every_steps: 10}
model: {_target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path: meta-llama/Llama-3.2-1B, torch_dtype: bf16}
peft: {_target_: nemo_automodel.components._peft.lora.PeftConfig, dim: 8, match_all_linear: true}
distributed: {_target_: FSDP2Manager, tp_size: 1, cp_size: 2, dp_replicate_size: 2,
              sequence_parallel: false}
packed_sequence: {packed_sequence_size: 2048}
optimizer: {_target_: torch.optim.Adam, lr: 1e-5}
"""
TITAN = """\
[job]
description = "mine"
[model]
name = "llama3"
flavor = "8B"
converters = ["float8"]
[optimizer]
name = "AdamW"
implementation = "foreach"
[training]
local_batch_size = 2
global_batch_size = 64
seq_len = 4096
steps = 50
enable_cpu_offload = true
mixed_precision_reduce = "bfloat16"
[parallelism]
data_parallel_replicate_degree = 2
data_parallel_shard_degree = -1
tensor_parallel_degree = 2
fsdp_reshard_after_forward = "never"
disable_loss_parallel = true
[checkpoint]
enable = true
async_mode = "async"
[activation_checkpoint]
mode = "selective"
selective_ac_option = "2"
[compile]
enable = true
components = ["model", "loss"]
[quantize.linear.float8]
recipe_name = "rowwise"
"""
ACCELERATE = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: bf16
num_machines: 2
num_processes: 16
fsdp_config:
  fsdp_version: 1
  fsdp_sharding_strategy: HYBRID_SHARD
  fsdp_backward_prefetch: BACKWARD_POST
  fsdp_forward_prefetch: true
  fsdp_offload_params: false
  fsdp_use_orig_params: true
  fsdp_limit_all_gathers: false
  fsdp_state_dict_type: SHARDED_STATE_DICT
  fsdp_activation_checkpointing: true
  fsdp_cpu_ram_efficient_loading: false
"""
ZERO = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,
    "train_batch_size": "auto",
    "bf16": {"enabled": True},
    "gradient_clipping": 0,
    "communication_data_type": "fp32",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": False,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "nvme"},
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": 1e7,
        "param_persistence_threshold": 1e4,
        "stage3_max_live_parameters": 2e9,
        "max_reuse_distance": 3e9,
        "sub_group_size": 0,
        "zero_hpz_partition_size": 8,
        "zero_quantized_weights": True,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}
ADAPTER = {
    "peft_type": "LORA", "r": 24, "lora_dropout": 0.2, "bias": "none",
    "target_modules": r"model\.layers\.\d+\.self_attn\.(q|k|v)_proj",
    "base_model_name_or_path": "mistralai/Mistral-7B-v0.3",
}  # fmt: skip
SCRIPT = """\
#!/bin/bash
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
GPUS=8
srun torchrun --nnodes $SLURM_NNODES --nproc_per_node=$GPUS sft.py \\
  --model_name_or_path meta-llama/Llama-3.1-8B --max_length 2048 \\
  --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --bf16 \\
  --gradient_checkpointing true --max_steps 40 --fsdp "full_shard auto_wrap"
"""
POD = """\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: tune}
spec:
  pytorchReplicaSpecs:
    Master: {replicas: 1, template: {spec: {containers: [{resources: {limits: {nvidia.com/gpu: 8}},
      command: [torchrun, --nproc_per_node=8, train.py, --model_name_or_path, Qwen/Qwen2.5-7B,
                --per_device_train_batch_size, "2", --max_length=4096, --bf16]}]}}}
    Worker: {replicas: 3}
"""
MEGATRON = """\
#!/bin/bash
GPUS_PER_NODE=8
DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes 2
)
MODEL_ARGS=(
    --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32
    --group-query-attention --num-query-groups 8 --seq-length 4096 --vocab-size 128256
    --max-position-embeddings 8192 --swiglu --disable-bias-linear --normalization RMSNorm
    --position-embedding-type rope --untie-embeddings-and-output-weights
)
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py ${MODEL_ARGS[@]} --micro-batch-size 1 \\
    --global-batch-size 128 --train-iters 500 --bf16 --use-distributed-optimizer \\
    --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --sequence-parallel \\
    --num-layers-per-virtual-pipeline-stage 4 --overlap-grad-reduce --tp-comm-overlap \\
    --recompute-granularity full --recompute-method uniform --recompute-num-layers 1
"""
TORCHTUNE = """\
model:
  _component_: torchtune.models.llama3_1.lora_llama3_1_8b
  lora_attn_modules: [q_proj, v_proj, output_proj]
  apply_lora_to_mlp: True
  lora_rank: 64
  lora_alpha: 128
  lora_dropout: 0.1
tokenizer: {_component_: torchtune.models.llama3.llama3_tokenizer, max_seq_len: 4096}
dataset: {_component_: torchtune.datasets.alpaca_cleaned_dataset, packed: True}
batch_size: 2
epochs: 2
max_steps_per_epoch: 50
gradient_accumulation_steps: 8
optimizer: {_component_: torch.optim.AdamW, fused: True, lr: 3e-4}
loss: {_component_: torchtune.modules.loss.LinearCrossEntropyLoss}
dtype: bf16
compile: True
enable_activation_checkpointing: True
enable_activation_offloading: True
optimizer_in_bwd: True
"""

FILES = {
    "megatron": ("mega.sh", MEGATRON), "torchtune": ("tune.yaml", TORCHTUNE),
    "axolotl": ("a.yml", AXOLOTL), "llamafactory": ("lf.yaml", FACTORY), "trl": ("trl.yaml", TRL),
    "swift": ("args.json", SWIFT), "automodel": ("recipe.yaml", AUTOMODEL),
    "torchtitan": ("titan.toml", TITAN), "accelerate": ("acc.yaml", ACCELERATE),
    "deepspeed": ("ds.json", json.dumps(ZERO, indent="\t")),
    "peft": ("adapter_config.json", json.dumps(ADAPTER)),
    "sbatch": ("job.sbatch", SCRIPT), "kubernetes": ("pod.yaml", POD),
}  # fmt: skip
WANTED = {
    "megatron": {
        "model.layers": 32, "model.kv_heads": 8, "model.head_dim": 128, "model.ffn": "swiglu",
        "model.ffn_size": 14336, "model.norm": "rmsnorm", "model.bias": False,
        "model.positions": "rope", "model.tied_embeddings": False, "model.vocab_size": 128256,
        "sequence_length": 4096, "micro_batch": 1, "global_batch": 128, "steps": 500,
        "precision.kind": "bf16", "parallelism.strategy": "megatron",
        "parallelism.tensor_parallel": 2, "parallelism.pipeline_parallel": 2,
        "parallelism.pipeline_schedule": "interleaved-1f1b", "parallelism.virtual_stages": 4,
        "parallelism.pipeline_first_stage_less_layers": 0,
        "parallelism.use_distributed_optimizer": True, "parallelism.overlap_grad_reduce": True,
        "parallelism.overlap_param_gather": False, "parallelism.sequence_parallel": True,
        "activation_checkpointing.kind": "full",
    },
    "torchtune": {
        "model.name": "llama-3.1-8b", "method.kind": "lora", "method.rank": 64,
        "method.dropout": 0.1, "method.targets": ("q", "v", "o", "gate", "up", "down"),
        "sequence_length": 4096, "data.packing": True, "micro_batch": 2, "steps": 100,
        "gradient_accumulation": 8, "optimizer": "adamw-bf16", "precision.master": "bf16",
        "optimizer_implementation": "fused", "loss": "fused-linear", "compile": True,
        "activation_checkpointing.offload": True, "parallelism.strategy": "fsdp2",
        "trainer": "torchtune",
    },
    "axolotl": {
        "model.name": "llama-3.1-8b", "method.kind": "lora", "method.rank": 32,
        "method.dropout": 0.1, "method.targets": ("q", "v"), "sequence_length": 4096,
        "micro_batch": 2, "gradient_accumulation": 4, "steps": 100, "optimizer": "adamw-8bit",
        "precision.kind": "bf16", "activation_checkpointing.kind": "full",
        "activation_checkpointing.reentrant": True, "attention": "flash2",
        "fused_kernels": "norm+rope", "loss": "fused-linear", "parallelism.replicate": 2,
        "parallelism.shard": 4, "parallelism.strategy": "fsdp2", "checkpoint.mode": "full",
        "parallelism.reshard_after_forward": False, "trainer": "huggingface",
        "parallelism.cpu_ram_efficient_loading": False, "data.packing": True, "name": "a",
    },
    "llamafactory": {
        "model.name": "qwen3-4b", "method.kind": "qlora", "method.rank": 8,
        "method.quantization": "nf4", "sequence_length": 2048, "samples": 1000, "epochs": 2.0,
        "data.packing": True, "micro_batch": 1, "gradient_accumulation": 8,
        "precision.kind": "bf16", "attention": "flash2", "fused_kernels": "all",
        "loss": "fused-linear", "parallelism.strategy": "ddp", "optimizer": "adamw",
        "activation_checkpointing.kind": "full", "activation_checkpointing.reentrant": False,
    },
    "trl": {
        "model.name": "llama-3.2-3b", "method.kind": "qlora", "method.rank": 16,
        "method.double_quantization": True, "sequence_length": 1024,
        "data.packing": True, "micro_batch": 4, "gradient_accumulation": 2,
        "optimizer_implementation": "foreach", "activation_checkpointing.reentrant": True,
        "parallelism.strategy": "fsdp1", "parallelism.backward_prefetch": "post",
        "parallelism.forward_prefetch": 1, "parallelism.wrap": "peft", "data.workers": 3,
        "parallelism.clip_gradients": False, "checkpoint.interval": None, "compile": True,
    },
    "swift": {
        "model.name": "qwen2.5-7b", "method.kind": "qlora", "method.rank": 16,
        "sequence_length": 4096, "data.packing": True, "attention": "flash2", "micro_batch": 2,
        "gradient_accumulation": 8, "parallelism.strategy": "zero2",
        "parallelism.context_parallel": 2, "parallelism.context_parallel_kind": "ulysses",
        "activation_checkpointing.kind": "full", "precision.kind": "bf16",
    },
    "automodel": {
        "model.name": "llama-3.2-1b", "method.rank": 8, "global_batch": 64, "micro_batch": 2,
        "steps": 30, "sequence_length": 2048, "data.packing": True,
        "parallelism.context_parallel": 2, "parallelism.replicate": 2,
        "parallelism.strategy": "fsdp2",
    },
    "torchtitan": {
        "model.name": "llama-3.1-8b", "precision.kind": "fp8", "precision.recipe": "rowwise",
        "optimizer_implementation": "foreach", "micro_batch": 2, "global_batch": 64,
        "sequence_length": 4096, "steps": 50, "parallelism.offload": "all",
        "parallelism.reduce_dtype": "bf16", "parallelism.replicate": 2,
        "parallelism.tensor_parallel": 2, "parallelism.reshard_after_forward": False,
        "parallelism.loss_parallel": False, "checkpoint.asynchronous": True,
        "activation_checkpointing.kind": "selective-blocks", "activation_checkpointing.every": 2,
        "compile": True, "loss": "compiled", "trainer": "torchtitan",
    },
    "accelerate": {
        "parallelism.strategy": "fsdp1", "parallelism.replicate": 2,
        "parallelism.backward_prefetch": "post", "parallelism.forward_prefetch": 1,
        "parallelism.limit_all_gathers": False, "checkpoint.mode": "sharded",
        "activation_checkpointing.kind": "full", "precision.kind": "bf16",
        "parallelism.cpu_ram_efficient_loading": False, "trainer": "accelerate",
    },
    "deepspeed": {
        "parallelism.strategy": "zero3", "micro_batch": 2, "gradient_accumulation": 4,
        "precision.kind": "bf16", "parallelism.clip_gradients": False,
        "parallelism.communication_data_type": "fp32", "parallelism.overlap_comm": False,
        "parallelism.offload": "all", "parallelism.offload_device": "nvme",
        "parallelism.reduce_bucket_size": "auto", "parallelism.sub_group_size": 1,
        "parallelism.stage3_prefetch_bucket_size": 1e7,
        "parallelism.stage3_param_persistence_threshold": 1e4,
        "parallelism.stage3_max_live_parameters": 2e9,
        "parallelism.stage3_max_reuse_distance": 3e9, "parallelism.zero_hpz_partition_size": 8,
        "parallelism.zero_quantized_weights": True, "checkpoint.mode": "full",
    },
    "peft": {
        "method.kind": "lora", "method.rank": 24, "method.dropout": 0.2,
        "method.targets": ("q", "k", "v"), "model.name": "mistral-7b-v0.3",
    },
    "sbatch": {
        "model.name": "llama-3.1-8b", "sequence_length": 2048, "micro_batch": 4,
        "gradient_accumulation": 2, "precision.kind": "bf16", "steps": 40,
        "activation_checkpointing.kind": "full", "parallelism.strategy": "fsdp1",
    },
    "kubernetes": {
        "model.name": "qwen2.5-7b", "micro_batch": 2, "sequence_length": 4096,
        "precision.kind": "bf16",
    },
}  # fmt: skip
#: what files that say nothing of them leave open
OPEN = {
    "accelerate": ["model=llama-3.1-8b", "sequence_length=2048"],
    "deepspeed": ["model=llama-3.1-8b", "sequence_length=2048"],
    "peft": ["sequence_length=2048"],
}


@pytest.fixture
def files(tmp_path):
    for name, text in FILES.values():
        (tmp_path / name).write_text(text)
    return tmp_path


def value(spec, path):
    for key in path.split("."):
        spec = getattr(spec, key)
    return spec


@pytest.mark.parametrize("tool", WANTED)
def test_every_key_is_taken(tool, files):
    job = load_workload(files / FILES[tool][0], OPEN.get(tool, ()))
    assert {path: value(job, path) for path in WANTED[tool]} == WANTED[tool]


@pytest.mark.parametrize("tool", WANTED)
def test_the_written_workload_is_the_same_job(tool, files):
    found = sim.import_job(files / FILES[tool][0])
    (files / "job.yaml").write_text(found.yaml)
    sets = [*OPEN.get(tool, ()), "name=x"]
    direct = load_workload(files / FILES[tool][0], sets)
    again = load_workload(files / "job.yaml", sets)
    assert again.model_copy(update={"model": direct.model}) == direct
    assert again.model.name == direct.model.name


@pytest.mark.parametrize(("tool", "gpus", "nodes"), [
    ("accelerate", 16, 2), ("sbatch", 16, 2), ("kubernetes", 32, 4), ("axolotl", None, None),
    ("megatron", 16, 2),
])  # fmt: skip
def test_gpus_of_a_launch(tool, gpus, nodes, files):
    found = sim.import_job(files / FILES[tool][0])
    assert (found.gpus, found.nodes) == (gpus, nodes)


def test_a_job_for_other_gpus_says_so(files):
    notes = load("dgx-h100", files / "job.sbatch").notes
    world = next(w for w in notes.warnings if w.code == "world")
    assert "for 16 GPUs; dgx-h100 has 8" in world.message
    assert world.hint == "add --set nodes=2"
    codes = {w.code for w in load("dgx-h100", files / "job.sbatch", ["nodes=2"]).notes.warnings}
    assert "world" not in codes


def test_what_cannot_be_followed_is_a_warning(files):
    notes = load("dgx-h100", files / "a.yml").notes
    said = [w.message for w in notes.warnings if w.code == "not-followed"]
    assert any("a.yml:3: load_in_8bit: 8-bit weights are not modelled" in m for m in said)
    found = sim.import_job(files / "a.yml")
    assert [a["theirs"] for a in found.aside if a["why"].startswith("no key")] == ["some_new_key"]


def test_megatron_is_not_read_as_plain_replicas(files):
    """Its arguments were those of an unknown script: 16 replicas without tensor parallelism."""
    job = sim.import_job(files / "mega.sh")
    assert job.titles == ("a launch script",)
    assert [a["theirs"] for a in job.aside if a["matters"]] == ["tp-comm-overlap"]
    found = load("dgx-h100", files / "mega.sh", ["nodes=2"])
    assert count_parameters(found.workload.model).total == 8_030_261_248  # Llama 3 8B, as released
    plain = MEGATRON.replace(" --swiglu", "").replace(" --ffn-hidden-size 14336", "")
    (files / "plain.sh").write_text(plain)
    assert load_workload(files / "plain.sh").model.ffn_size == 4 * 4096


@pytest.mark.parametrize(
    ("said", "kind", "rotation"),
    [("", "ring", "all-to-all"), ("p2p", "ring", "all-to-all"), ("all_gather", "all-gather", None),
     ("a2a", "ulysses", None), ("a2a+p2p", "ring", "all-to-all")],
)  # fmt: skip
def test_megatron_exchanges_keys_and_values_as_told(said, kind, rotation, tmp_path):
    script = tmp_path / "mega.sh"
    script.write_text(
        f"{MEGATRON.rstrip()} --context-parallel-size 2 {said and '--cp-comm-type ' + said}\n"
    )
    found = load_workload(script).parallelism
    assert (found.context_parallel, found.context_parallel_kind) == (2, kind)
    assert rotation in (None, found.context_parallel_rotation)
    aside = [a["theirs"] for a in sim.import_job(script).aside if a["matters"]]
    assert ("cp-comm-type" in aside) is ("+" in said)


@pytest.mark.parametrize(
    ("builder", "model"),
    [("qwen2_5.qwen2_5_7b_instruct", "qwen2.5-7b"), ("gemma2.gemma2_9b", "gemma-2-9b"),
     ("phi3.phi3_mini", "phi-3-mini"), ("llama2.llama2_70b", "llama-2-70b")],
)  # fmt: skip
def test_models_of_torchtune(files, builder, model):
    text = TORCHTUNE.replace("llama3_1.lora_llama3_1_8b", builder)
    (files / "t.yaml").write_text(text)
    job = load_workload(files / "t.yaml")
    assert (job.model.name, job.method.kind) == (model, "full")


@pytest.mark.parametrize(
    ("component", "dtype", "ours", "told"),
    [("torch.optim.AdamW", "bf16", "adamw-bf16", ""), ("torch.optim.AdamW", "fp32", "adamw", ""),
     ("torchao.optim.AdamW8bit", "bf16", "adamw-8bit", ""),
     ("bitsandbytes.optim.Adam8bit", "bf16", "adamw-8bit", ""),
     ("bitsandbytes.optim.PagedAdamW8bit", "bf16", "adamw-8bit", "paging is not modelled"),
     ("bitsandbytes.optim.PagedAdam8bit", "bf16", "adamw-8bit", "paging is not modelled"),
     ("bitsandbytes.optim.PagedAdamW", "bf16", "adamw-bf16", "paging is not modelled"),
     ("bitsandbytes.optim.Lion8bit", "fp32", "adamw", "Lion8bit is not modelled: taken as AdamW"),
     ("torch.optim.SGD", "bf16", "sgd", "")],
)  # fmt: skip
def test_optimizers_of_torchtune_by_their_class(component, dtype, ours, told, files):
    text = TORCHTUNE.replace("torch.optim.AdamW", component)
    (files / "t.yaml").write_text(text.replace("dtype: bf16", f"dtype: {dtype}"))
    found = sim.import_job(files / "t.yaml").to_dict()
    (row,) = [t for t in found["took"] if t["key"] == "optimizer"]
    assert (row["theirs"], row["ours"]) == ("optimizer._component_", ours)
    assert load_workload(files / "t.yaml").optimizer == ours
    asides = [a for a in found["aside"] if a["theirs"] == "optimizer._component_"]
    assert [a["why"].endswith(told) for a in asides] == ([True] if told else [])
    assert "model.apply_lora_to_mlp" not in {a["theirs"] for a in found["aside"]}  # it was used


def test_arguments_that_a_megatron_script_lacks_are_assumed(files):
    """What is reported as taken stands in the script, under the name that it has there."""
    script = files / "short.sh"
    text = (
        "torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py --num-layers 32"
        " --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --num-experts 8"
        " --seq-length 4096 --vocab-size 128256 --max-position-embeddings 8192"
        " --use-rotary-position-embeddings --micro-batch-size 1 --global-batch-size 128"
        " --pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2\n"
    )
    script.write_text(text)
    found = sim.import_job(script).to_dict()
    theirs = {t["key"]: t["theirs"] for t in found["took"]}
    assert all(f"--{name} " in text for name in {*theirs.values()} - {"pretrain script"})
    assert theirs["model.positions"] == "use-rotary-position-embeddings"
    assert theirs["model.expert_ffn_size"] == "ffn-hidden-size"
    assert theirs["parallelism.virtual_stages"] == "num-virtual-stages-per-pipeline-rank"
    assumed = {s["key"]: s["ours"] for s in found["assumed"]}
    assert assumed | {
        "model.ffn": "gelu", "model.norm": "layernorm", "model.bias": "true",
        "model.tied_embeddings": "true", "experts": "eager", "precision.kind": "fp32",
    } == assumed  # fmt: skip


def test_a_component_of_ones_own_is_named(files):
    (files / "t.yaml").write_text(TORCHTUNE.replace("llama3_1.lora_llama3_1_8b", "my.net"))
    with pytest.raises(InputError, match=r't.yaml:2.*"net" is no model known here'):
        load_workload(files / "t.yaml")


def test_files_of_one_job_are_joined(files):
    """The order does not matter; what one leaves open, another says."""
    (files / "ds_auto.json").write_text(json.dumps({
        "train_micro_batch_size_per_gpu": "auto", "zero_optimization": {"stage": 2},
        "bf16": {"enabled": "auto"},
    }))  # fmt: skip
    parts = (files / "ds_auto.json", files / "lf.yaml")
    job = load_workload(parts)
    assert (job.parallelism.strategy, job.micro_batch) == ("zero2", 1)
    assert load_workload(parts[::-1], ["name=x"]) == load_workload(parts, ["name=x"])


def test_a_file_that_another_names_is_read(files):
    (files / "lf.yaml").write_text(FACTORY + "deepspeed: ds.json\n")
    with pytest.raises(InputError, match=r"gradient_accumulation.*make them agree"):
        load_workload(files / "lf.yaml")
    (files / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    assert load_workload(files / "lf.yaml").parallelism.strategy == "zero3"
    (files / "lf.yaml").write_text(FACTORY + "deepspeed: conf/ds_z3_offload_config.json\n")
    knobs = load_workload(files / "lf.yaml").parallelism
    assert (knobs.strategy, knobs.offload) == ("zero3", "all")
    (files / "lf.yaml").write_text(FACTORY + "deepspeed: conf/mine.json\n")
    with pytest.raises(InputError, match=r'lf\.yaml:19:.*"conf/mine\.json" is not here'):
        load_workload(files / "lf.yaml")


def test_contradictions_name_both_places(files):
    (files / "acc.yaml").write_text(ACCELERATE.replace("bf16", "fp16"))
    with pytest.raises(InputError) as caught:
        load_workload((files / "lf.yaml", files / "acc.yaml"))
    text = str(caught.value)
    assert "mixed_precision makes precision.kind fp16" in text
    assert "lf.yaml:15:7 makes it bf16; make them agree" in text


def test_stage_2_keeps_its_parameters_on_the_gpu(tmp_path):
    """DeepSpeed offloads parameters in stage 3 alone; that was an internal error."""
    zero = {"stage": 2, "offload_param": {"device": "cpu"}}
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"train_micro_batch_size_per_gpu": 2, "zero_optimization": zero}))
    found = sim.import_job(file)
    assert "offload" not in found.yaml
    assert ("zero_optimization.offload_param", "stage 3 alone has it") in [
        (row["theirs"], row["why"]) for row in found.aside
    ]


def test_global_batch_and_world_are_reconciled(files):
    both = {**ZERO, "train_batch_size": 128}
    (files / "ds.json").write_text(json.dumps(both))
    sets = OPEN["deepspeed"]
    with pytest.raises(InputError, match="4 x 16 sequences are not 128; write 8"):
        load("dgx-h100", files / "ds.json", sets)
    assert load("dgx-h100", files / "ds.json", [*sets, "nodes=2"]).workload.global_batch == 128
    del both["gradient_accumulation_steps"]
    (files / "ds.json").write_text(json.dumps(both))
    assert load("dgx-h100", files / "ds.json", sets).workload.gradient_accumulation == 8


def test_what_is_missing_says_how_to_add_it(files):
    with pytest.raises(InputError) as caught:
        load("dgx-h100", files / "acc.yaml")
    text = str(caught.value)
    assert "model: is missing in an accelerate file; add --set model=..., or name the file" in text


@pytest.mark.parametrize(
    ("text", "epochs"),
    [(AXOLOTL.replace("max_steps: 100\n", ""), 3.0),
     (AXOLOTL.replace("max_steps: 100\nnum_epochs: 3\n", ""), 1.0),
     ("model_name_or_path: Qwen/Qwen3-4B\nmax_length: 2048\nbf16: true\n"
      "per_device_train_batch_size: 4\n", 3.0),
     (TORCHTUNE.replace("max_steps_per_epoch: 50", "max_steps_per_epoch: null"), 2.0)],
    ids=["written", "axolotl's default", "transformers' default", "torchtune's recipe"],
)  # fmt: skip
def test_epochs_of_a_file_repeat_the_samples_that_a_user_adds(text, epochs, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    found = sim.simulate("dgx-h100", path, samples=9000, scaling=False, fixes=False)
    assert found.job.tokens == 9000 * epochs * found.workload.sequence_length


def test_files_in_the_other_order_are_read_as_meant(files):
    assert load(files / "trl.yaml", "dgx-h100") == load("dgx-h100", files / "trl.yaml")
    swapped = load("llama3-8b-sft", "dgx-h100")
    assert (swapped.topology.name, swapped.workload.name) == ("dgx-h100", "llama3-8b-sft")


@pytest.mark.parametrize(("name", "text", "message"), [
    ("config.py", "x = 1\n", "is Python, which is not run here"),
    ("a.yml", AXOLOTL.replace("micro_batch_size: 2", "micro_batch_size: two"),
     r'a\.yml:11:\d+  micro_batch_size: "two" is no number'),
    ("a.yml", AXOLOTL.replace("bf16: auto", "bf16: maybe"), '"maybe" is not true or false'),
    ("a.toml", "[training\n", "not TOML"),
    ("a.json", '{"a":\t1,}', r"a\.json:1:\d+  not JSON"),
    ("acc.yaml", ACCELERATE.replace(": FSDP\n", ": XLA\n"), "XLA is not modelled; FSDP"),
])  # fmt: skip
def test_faults_stand_at_their_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        sim.import_job(tmp_path / name)


def test_import_writes_and_never_overwrites(files):
    run = lambda *args: CliRunner().invoke(group, ["import", str(files / "a.yml"), *args])  # noqa: E731
    target = files / "new" / "job.yaml"
    done = run("-o", str(target))
    assert done.exit_code == 0, done.output
    assert "changes the run, and is not followed" in done.stdout
    assert target.read_text().startswith("# a, read by scaling-sim from an axolotl file\n")
    again = run("-o", str(target))
    assert isinstance(again.exception, InputError)
    assert run("-o", str(target), "--force").exit_code == 0


def test_without_a_file_only_the_workload_goes_to_standard_output(files, tmp_path):
    done = CliRunner().invoke(group, ["import", str(files / "a.yml")])
    assert "changes the run, and is not followed" in done.stderr
    path = tmp_path / "job.yaml"
    path.write_text(done.stdout)
    written = sim.import_job(files / "a.yml").yaml
    assert path.read_text().rstrip() == written.rstrip()
    assert load_workload(path).name == "a"


@pytest.mark.parametrize(
    ("script", "model", "strategy"),
    [
        ("NPROC_PER_NODE=8 \\\nswift sft \\\n  --model Qwen/Qwen2.5-32B --train_type lora \\\n"
         "  --max_length 2048 --deepspeed zero3\n", "qwen2.5-32b", "zero3"),
        ("trl sft --model_name_or_path Qwen/Qwen2.5-7B --max_length 4096\n", "qwen2.5-7b", "ddp"),
        ("accelerate launch --num_processes 8 -m axolotl.cli.train a.yml\n", "llama-3.1-8b",
         "fsdp2"),
        ("axolotl train a.yml\n", "llama-3.1-8b", "fsdp2"),
        ("FORCE_TORCHRUN=1 llamafactory-cli train l.yaml\n", "qwen3-4b", "ddp"),
    ],
)  # fmt: skip
def test_scripts_need_no_first_line(tmp_path, script, model, strategy):
    (tmp_path / "a.yml").write_text(
        "base_model: meta-llama/Llama-3.1-8B\nsequence_len: 4096\nmicro_batch_size: 1\n"
        "datasets: []\nfsdp_version: 2\nfsdp_config: {reshard_after_forward: true}\n"
    )
    (tmp_path / "l.yaml").write_text(
        "model_name_or_path: Qwen/Qwen3-4B\nstage: sft\nfinetuning_type: full\ntemplate: qwen3\n"
        "cutoff_len: 2048\n"
    )
    path = tmp_path / "job.sh"
    path.write_text(script)
    found = load("dgx-h100", path).workload
    assert (found.model.name, found.parallelism.strategy) == (model, strategy)


def test_our_own_file_is_not_imported(tmp_path):
    (tmp_path / "w.yaml").write_text("model: llama-3-8b\nsequence_length: 512\n")
    with pytest.raises(InputError, match="a file of scaling-sim's own"):
        sim.import_job(tmp_path / "w.yaml")
    (tmp_path / "topology.conf").write_text("SwitchName=s0 Nodes=n[1-4]\n")
    with pytest.raises(InputError, match="is no file of a trainer or launcher known here"):
        sim.import_job(tmp_path / "topology.conf")
    assert load_workload(tmp_path / "w.yaml").name == "w"


WORDS = [
    "auto", "null", "[]", "{}", "-1", "1e999", "9" * 20, "true", "'no'", "$X", "nan", "[1, [2]]",
    "{a: {b: c}}", '""', "0", "1.5", "\u2603", "- x", "${A}${A}",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_files_are_read_or_refused(seed, tmp_path):
    """Values exchanged, lines lost, doubled and garbled: a job or faults, never anything else."""
    draw = random.Random(seed)
    for _ in range(60):
        name, text = draw.choice(list(FILES.values()))
        lines = text.splitlines()
        for _ in range(draw.randint(1, 4)):
            at, kind = draw.randrange(len(lines)), draw.random()
            if kind < 0.6:
                key, equals, _ = lines[at].partition(": " if ": " in lines[at] else "=")
                lines[at] = key + equals + draw.choice(WORDS)
            elif kind < 0.7 and len(lines) > 1:
                lines.pop(at)
            elif kind < 0.8:
                lines.insert(at, draw.choice(lines))
            else:
                cut = draw.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + draw.choice("{}[]:,\"'#-\\$\t \x00") + lines[at][cut:]
        (tmp_path / name).write_text("\n".join(lines))
        with contextlib.suppress(InputError):
            load("dgx-h100", tmp_path / name, ["nodes=2"])


def test_variables_of_a_script_do_not_grow_without_end(tmp_path):
    many = "".join(f"V{i + 1}={f'$V{i}' * 300}\n" for i in range(9))
    (tmp_path / "job.sh").write_text(f"V0=x\n{many}torchrun --nnodes=$V9 x.py --bf16\n")
    assert sim.import_job(tmp_path / "job.sh").nodes is None


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_example_is_read(folder):
    """Real files of each tool: read, with nothing of a known tool called unknown."""
    if not EXAMPLES.is_dir():
        pytest.skip("the collection of users' files is not here")
    for path in sorted((EXAMPLES / folder).iterdir()):
        if path.name == "topology.conf":
            continue
        faults = []
        found = given("workload", path, faults).translation
        assert not faults
        assert found is not None, path
        assert [a.theirs for a in found.aside if a.why.startswith("no key")] == []


@pytest.mark.parametrize("text", [
    "model: {_component_: torchtune.models.llama3_1.llama3_1_8b}\nbatch_size: 2\ndtype: fp17\n",
    "distributed_type: MULTI_GPU\nnum_processes: 8\nmixed_precision: fp17\n",
    "per_device_train_batch_size: 2\noutput_dir: x\ntorch_dtype: fp17\n",
])  # fmt: skip
def test_a_dtype_that_is_none_is_no_default(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    sets = ["model=llama-3.1-8b", "sequence_length=2048"]
    with pytest.raises(InputError, match='"fp17" is no dtype; bf16, fp16, fp32, fp8 are'):
        load("dgx-h100", path, sets)


@pytest.mark.parametrize(
    ("more", "machine", "sets", "strategy"),
    [("", "dgx-a100", [], "fsdp2"), ("", "a100-x1", [], "single"),
     ("", "a100-x1", ["parallelism.strategy=fsdp2"], "fsdp2"),
     ("", "a100-x1", ["parallelism.strategy=single"], "single"),
     ("fsdp_cpu_offload: True\n", "a100-x1", [], "fsdp2")],
)  # fmt: skip
def test_what_a_tool_does_on_several_gpus_is_not_done_on_one(
    tmp_path, more, machine, sets, strategy
):
    """torchtune has recipes of one device, which wrap nothing."""
    (tmp_path / "tune.yaml").write_text(TORCHTUNE + more)
    found = load(machine, tmp_path / "tune.yaml", sets)
    assert found.workload.parallelism.strategy == strategy
    alone = any(w.code == "shards-alone" for w in found.notes.warnings)
    assert alone is (machine == "a100-x1" and strategy == "fsdp2" and not more)


@pytest.mark.parametrize(
    ("layers", "wrap", "told"),
    [("[tok_embeddings, output]", "torchtitan", False), ("[output]", "block+root", True),
     ("[]", "block+root", False)],
)  # fmt: skip
def test_layers_that_torchtune_shards_apart(tmp_path, layers, wrap, told):
    path = tmp_path / "tune.yaml"
    path.write_text(f"{TORCHTUNE}custom_sharded_layers: {layers}\n")
    assert load("dgx-a100", path).workload.parallelism.wrap == wrap
    aside = [one.theirs for one in given("workload", path, []).translation.aside if one.matters]
    assert ("custom_sharded_layers" in aside) is told


def test_what_torchtune_leaves_out_is_assumed_not_taken(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("model: {_component_: torchtune.models.llama3_1.llama3_1_8b}\nbatch_size: 2\n")
    job = given("workload", path, []).translation
    assert ("precision.kind", "fp32") in {(one.key, one.value) for one in job.supposed}


@pytest.mark.parametrize(
    ("more", "strategy", "each"),
    [("", "ddp", False), ("fsdp_config: {offload_params: false}\n", "fsdp1", False),
     ("fsdp_version: 2\nfsdp_config: {offload_params: false}\n", "fsdp2", True),
     ("deepspeed: zero3.json\n", "zero3", True)],
)  # fmt: skip
@pytest.mark.parametrize("said", [False, True])
def test_sync_each_batch_is_taken_where_gradients_would_wait(tmp_path, more, strategy, each, said):
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    path = tmp_path / "job.yaml"
    head = AXOLOTL[: AXOLOTL.index("plugins:")]
    key = "accelerator_config: {gradient_accumulation_kwargs: {sync_each_batch: true}}\n"
    path.write_text(head + more + key * said)
    work = load("dgx-a100", path, ["nodes=1"]).workload
    assert work.parallelism.strategy == strategy
    assert reduces_each(work) is (each or said)
