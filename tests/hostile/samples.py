"""A good file of every kind that is read, for tests to damage."""

from __future__ import annotations

import json

TOPOLOGY = """\
name: box
nodes: 1
node:
  gpu: h100-sxm-80gb
  gpus: 4
  nvlink: {generation: 4, links_per_gpu: 18, fabric: nvswitch}
  pcie: {generation: 5}
  cpu: {memory: 1 TB, cores: 64}
  nics: {count: 4, rate: 400 Gb/s}
network: {kind: rail-optimized, oversubscription: 1.0}
offer: {price_per_gpu_hour: 2 USD}
"""


GRAPH = """\
name: pair
graph:
  vertices:
    - {id: g0, kind: gpu, gpu: h100-sxm-80gb, node: 0}
    - {id: g1, kind: gpu, gpu: h100-sxm-80gb, node: 0}
    - {id: c, kind: cpu, node: 0}
    - {id: p, kind: pcie-switch, node: 0}
  edges:
    - {source: p, target: c, kind: pcie, bandwidth: 26 GB/s}
    - {source: g0, target: p, kind: pcie, bandwidth: 26 GB/s}
    - {source: g1, target: p, kind: pcie, bandwidth: 26 GB/s}
"""


WORKLOAD = """\
name: job
model:
  {name: tiny, layers: 2, hidden_size: 256, heads: 4, kv_heads: 2, ffn_size: 512, vocab_size: 999}
method: {lora: {rank: 8, targets: [q, v]}}
sequence_length: 512
micro_batch: 1
gradient_accumulation: 2
tokens: 1e6
precision: bf16
parallelism: {strategy: fsdp2}
activation_checkpointing: none
data: {packing: false, mean_length: 100}
stack: {torch: "2.6"}
"""


CONFIG = json.dumps(
    {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 512, "vocab_size": 1000, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "rope_theta": 10000.0,
    },
    indent=1,
)  # fmt: skip


#: of layers that are each a mixer, an FFN or attention, by letters
HYBRID = json.dumps(
    {
        "model_type": "nemotron_h", "hidden_size": 256, "hybrid_override_pattern": "M-*-",
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "mamba_num_heads": 8,
        "mamba_head_dim": 64, "ssm_state_size": 64, "n_groups": 2, "intermediate_size": 512,
        "vocab_size": 1000, "max_position_embeddings": 2048, "chunk_size": 128,
    },
    indent=1,
)  # fmt: skip
#: of short convolutions beside attention, by a list
LISTED = json.dumps(
    {
        "model_type": "lfm2", "hidden_size": 256, "layer_types": ["conv", "full_attention"],
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "block_ff_dim": 512, "vocab_size": 1000,
    },
    indent=1,
)  # fmt: skip


SWEEP = """\
name: grid
topology: h100-x1
workload: job.yaml
set: {tokens: 1e6}
axes: {micro_batch: [1, 2]}
where: ["gpus <= 8"]
require: [fits]
pareto: [cost_usd, wall_clock_s]
"""


JOBS = """\
name: week
jobs:
  - {name: a, workload: job.yaml, nodes: 1, arrival: 1 h, deadline: 8 h, count: 2, every: 24 h}
"""


STUDY = """\
title: Does it fit?
cases: [{name: small, topology: h100-x1, workload: job.yaml}]
claims:
  - {id: fits, claim: It fits., lines: [{label: peak, case: small, metric: memory_gib, high: 79}]}
"""


RUNS = "- {topology: h100-x1, workload: job.yaml, step_time_s: 0.1}\n"


CALIBRATION = "gemm_clock: 0.9\nhost_launch: 1.2\nfitted_on: [a log]\n"


PRICES = (
    "provider,instance,gpu,gpus_per_node,usd_per_gpu_hour,spot_usd_per_gpu_hour,region,residency,"
    "as_of,source,country\nmine,box,h100-sxm-80gb,8,2.0,1.0,eu-north,EU,2026-01-02,invoice,SE\n"
)


SKYPILOT = (
    "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,SpotPrice,Region\n"
    "p5.48xlarge,H100,8,192,2048,98.32,20.0,us-east-1\n"
)


NCCL = """\
# Collective test starting: all_reduce_perf
#  Rank  0 Group  0 Pid 9 on host0 device 0 [0x07] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid 9 on host0 device 1 [0x0f] NVIDIA H100 80GB HBM3
#       size         count      type   redop    root     time   algbw   busbw #wrong
     1048576        262144     float     sum      -1    20.00   52.43   52.43      0
  1073741824     268435456     float     sum      -1  4300.00  249.71  249.71      0
"""


KINETO = json.dumps(
    {
        "schemaVersion": 1,
        "traceEvents": [
            {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#1", "ts": 0, "dur": 9000},
            {"ph": "X", "cat": "kernel", "name": "sm90_gemm", "ts": 10, "dur": 50,
             "args": {"stream": 7, "device": 0}},
        ],
    }, indent=1,
)  # fmt: skip


CLUSTER_TRACE = """\
job_id,submit_time,gpu_num,duration,priority,deadline
a,2026-01-05 09:00:00,1,3600,1,10800
b,2026-01-05 09:10:00,1,7200,0,
c,2026-01-05 11:30:00,1,600,2,36000
"""


NVBANDWIDTH = """\
nvbandwidth Version: v0.6
Running host_to_device_memcpy_ce.
memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)
           0         1
 0     55.10     55.30

SUM host_to_device_memcpy_ce 110.40
"""


ACCELERATE = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: bf16
num_machines: 2
num_processes: 16
fsdp_config: {fsdp_version: 2, fsdp_reshard_after_forward: true, fsdp_offload_params: false}
"""


TORCHTITAN = """\
[model]
name = "llama3"
flavor = "8B"
[training]
local_batch_size = 2
seq_len = 8192
steps = 100
[parallelism]
data_parallel_shard_degree = -1
tensor_parallel_degree = 2
"""


TORCHTUNE = """\
model: {_component_: torchtune.models.llama3_1.lora_llama3_1_8b, lora_rank: 8}
tokenizer: {max_seq_len: 2048}
batch_size: 2
dtype: bf16
"""


MEGATRON = """\
torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 32 --hidden-size 4096 --seq-length 2048
  --num-attention-heads 32 --vocab-size 32000 --micro-batch-size 1 --bf16
"""


RESULT = json.dumps(
    {"schema": "scaling-sim/result/1", "step": {"time_s": 2.0, "parts": [1, 2]}, "fits": True},
    indent=1,
)


#: calls of a trainer in Python, with what `X` is put in the place of its first line
SCRIPT = """\
X = 2
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B")
SFTTrainer(model, args=SFTConfig(per_device_train_batch_size=X, max_length=512)).train()
"""


#: the bar of a trainer's log
LOG = " 50%|#####     | 50/100 [01:40<01:40,  2.00s/it]\n"
