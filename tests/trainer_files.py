"""Files of other tools, the jobs that they are, and what they leave open."""

import json

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
        "parallelism.use_distributed_optimizer": True, "parallelism.overlap_grad_reduce": True,
        "parallelism.overlap_param_gather": False, "parallelism.sequence_parallel": True,
        "parallelism.tp_comm_overlap": True,
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


def write_files(folder):
    """All of them, in a folder."""
    for name, text in FILES.values():
        (folder / name).write_text(text)
    return folder
