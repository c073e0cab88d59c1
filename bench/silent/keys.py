"""Keys of a workload and of a topology, under each strategy and beside other ways to train."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from sim import simulate
from sim.cost.attention import family
from sim.errors import InputError
from sim.inputs.base import Spec
from sim.inputs.loader import load
from sim.inputs.method import Method
from sim.inputs.workload import (
    Checkpointing,
    CheckpointSave,
    Data,
    Evaluation,
    Parallelism,
    Precision,
    Routing,
    Stack,
    Workload,
)

#: machine and job that keys are set on
MACHINE, ALONE, JOB = "dgx-h100", "h100-x1", "llama3-8b-lora"
#: specs whose keys are set, by where they are in a workload
SPECS: dict[str, type[Spec]] = {
    "parallelism.": Parallelism, "activation_checkpointing.": Checkpointing, "stack.": Stack,
    "data.": Data, "checkpoint.": CheckpointSave, "method.": Method, "precision.": Precision,
    "routing.": Routing, "evaluation.": Evaluation, "": Workload,
}  # fmt: skip
#: another value than the default, of keys that are no choice
OTHER: dict[str, Any] = {
    "replicate": 2, "shard": 2, "context_parallel": 2, "tensor_parallel": 2, "pipeline_parallel": 2,
    "virtual_stages": 2, "pipeline_first_stage_less_layers": 0, "expert_parallel": 2,
    "pipeline_last_stage_less_layers": 0, "forward_prefetch": 2, "backward_prefetch": 2,
    "reduce_scatter_max_input_buffers": 2, "stage3_max_live_parameters": 1e8,
    "stage3_max_reuse_distance": 1e8, "stage3_prefetch_bucket_size": 1e7,
    "stage3_param_persistence_threshold": 1e7, "reduce_bucket_size": 1e8,
    "allgather_bucket_size": 1e8, "sub_group_size": 1e8, "zero_hpz_partition_size": 2,
    "deepspeed_version": "0.14.0", "bucket_cap_mb": 200, "grad_bucket_size": 1e8,
    "every": 2, "fraction": 0.5, "cuda": "12.1", "nccl": "2.27", "torch": "2.8",
    "transformer_engine": "1.9", "bitsandbytes": "0.43", "transformers": "4.40",
    "omp_num_threads": 4, "message_time": "1 ms", "workers": 1, "bytes_per_token": 4096,
    "preprocess_tokens_per_s_per_worker": 100, "mean_length": 300, "prefetch": 4,
    "interval": "60 s", "memory_interval": "60 s", "peers": 1, "keep": 4, "rank": 64,
    "dropout": 0, "micro_batch": 1, "gradient_accumulation": 2, "sequence_length": 2048,
    "loss_chunks": 4, "train_metrics": 1, "imbalance": 2, "seed": 3, "tokens": 1e7, "steps": 50,
    "samples": 5000, "epochs": 2, "deadline": "1 h", "optimizer_rank": 64, "reference_passes": 2,
    "global_batch": 512, "targets": "attention", "layers": [20], "first": 4, "last": 4,
    "sequence_lengths": {"lengths": [200, 4000]}, "pipeline_layers": [17, 15],
}  # fmt: skip
#: ways to train beside a strategy with its defaults, by what is set for them
TRAINED: dict[str, tuple[str, ...]] = {
    "pipeline": ("parallelism={strategy: fsdp2, pipeline_parallel: 2}", "method=full"),
    "interleaved": (
        "parallelism={strategy: megatron, pipeline_parallel: 2, "
        "pipeline_schedule: interleaved-1f1b}", "method=full",
    ),
    "columns": ("parallelism={strategy: megatron, tensor_parallel: 2}", "method=full"),
    "tensor": ("parallelism={strategy: fsdp2, tensor_parallel: 2}", "method=full"),
    "ring": ("parallelism={strategy: fsdp2, context_parallel: 2}",),
    "ulysses": (
        "parallelism={strategy: fsdp2, context_parallel: 2, context_parallel_kind: ulysses}",
    ),
    "experts": (
        "parallelism={strategy: fsdp2, expert_parallel: 2}", "method=full", "model=mixtral-8x7b",
    ),
    "mixture": ("parallelism={strategy: zero3}", "model=mixtral-8x7b"),
    "full": ("parallelism={strategy: fsdp2}", "method=full"),
    "freeze": ("parallelism={strategy: fsdp2}", "method={freeze: {first: 8}}"),
    "qlora": ("parallelism={strategy: fsdp2}", "method=qlora"),
    "replicas": ("parallelism={strategy: fsdp2, replicate: 2, shard: 4}",),
    "hybrid": ("parallelism={strategy: fsdp1, replicate: 2, shard: 4}", "method=full"),
    "offload": ("parallelism={strategy: fsdp2, offload: all}", "method=full"),
    "host": ("parallelism={strategy: zero3, offload: all}", "method=full"),
    "disk": ("parallelism={strategy: zero3, offload: all, offload_device: nvme}", "method=full"),
    "fp8": ("parallelism={strategy: fsdp2}", "method=full", "precision=fp8"),
    "padded": ("parallelism={strategy: fsdp2}", "data={packing: false, mean_length: 300}"),
    "galore": ("parallelism={strategy: ddp}", "method=full", "optimizer=galore"),
    "reference": ("parallelism={strategy: fsdp2}", "reference=copy"),
    "adapters off": ("parallelism={strategy: fsdp2}", "reference=adapters-off"),
    "dpo": (
        "parallelism={strategy: zero3}", "method=full", "reference=copy", "reference_passes=2",
        "trainer=huggingface",
    ),
    "sharded": ("parallelism={strategy: zero2, offload: optimizer}", "method=full"),
    "flat": ("parallelism={strategy: fsdp1, wrap: peft}", "activation_checkpointing=full"),
    "te": (
        "parallelism={strategy: megatron, tensor_parallel: 2, tp_comm_overlap: true}",
        "method=full", "precision={kind: fp8, recipe: te-current}", "attention=te",
    ),
    "blockwise": (
        "parallelism={strategy: fsdp2}", "method=full",
        "precision={kind: fp8, recipe: te-blockwise}", "attention=cudnn", "stack.cuda=12.9",
    ),
    "muon": ("parallelism={strategy: ddp}", "method=full", "optimizer=muon"),
    "apollo": ("parallelism={strategy: ddp}", "method=full", "optimizer=apollo"),
    "paged": (
        "parallelism={strategy: ddp}", "method=qlora", "optimizer=adamw-8bit",
        "optimizer_paged=true",
    ),
    "checkpoints": (
        "parallelism={strategy: fsdp2}", "method=full",
        "checkpoint={interval: 60 s, mode: full, memory_interval: 20 s}",
        "reliability={gpu_mtbf: 100 h, spare_nodes: 1}", "nodes=2", "tokens=1e11",
    ),
    "spot": (
        "parallelism={strategy: fsdp2}", "tokens=1e10",
        "offer={price_per_gpu_hour: 2 USD, spot_price_per_gpu_hour: 1 USD, capacity: spot}",
    ),
    "loader": (
        "parallelism={strategy: fsdp2}",
        "data={workers: 1, preprocess_tokens_per_s_per_worker: 1000}",
    ),
    "of its time": ("parallelism={strategy: zero3}", "stack.torch=2.1", "stack.cuda=12.1"),
    "evaluated": ("parallelism={strategy: fsdp2}", "evaluation={every: 10, tokens: 1e6}"),
    "eager": (
        "parallelism={strategy: ddp}", "attention=eager", "loss=chunked",
        "optimizer_implementation=for-loop", "stack.torch=2.1",
    ),
    "unpacked": (
        "parallelism={strategy: fsdp2}", "data={packing: padding-free, mean_length: 300}",
        "activation_checkpointing={kind: selective-blocks, every: 2}",
    ),
    "hybrid layers": ("parallelism={strategy: fsdp2}", "method=full", "model=nemotron-h-8b"),
}  # fmt: skip
#: keys of a topology, with other values
OF_MACHINES: dict[str, tuple[Any, ...]] = {
    "nodes": (3,), "node.gpus": (4,), "node.virtual": (True,), "node.p2p_level": ("nvl", "sys"),
    "node.pcie.generation": (3,), "node.pcie.lanes": (8,), "node.pcie.gpus_per_switch": (1, 4),
    "node.pcie.nics_per_switch": (2, 4), "node.pcie.p2p": (False,), "node.cpu.sockets": (1,),
    "node.cpu.interconnect": ("20 GB/s",), "node.cpu.memory": ("1 TB",),
    "node.cpu.memory_bandwidth": ("100 GB/s",), "node.cpu.vendor": ("amd", "arm"),
    "node.cpu.cores": (32,), "node.cpu.cores_per_rank": (2,), "node.cpu.speed": (0.5,),
    "node.nics.count": (2, 4), "node.nics.rate": ("100 Gb/s",), "node.nics.gpudirect": (False,),
    "node.nics.kind": ("roce", "tcp", "slingshot"), "node.nics.socket_threads": (2,),
    "node.nvlink.generation": (3,), "node.nvlink.links_per_gpu": (6,),
    "node.nvlink.fabric": ("pairs", "mesh"), "node.nvlink.link_rate": ("10 GB/s",),
    "node.storage.read": ("1 GB/s",), "node.storage.write": ("1 GB/s",),
    "network.kind": ("fat-tree", "single-switch"), "network.oversubscription": (4,),
    "network.switch_latency": ("10 us",), "network.nodes_per_leaf": (1,),
    "network.placement": ("scattered",), "network.routing": ("static",),
    "network.tenants": (0.5,), "network.sharp": (True,), "reliability.failures": (False,),
    "reliability.gpu_mtbf": ("1000 h",), "reliability.node_mtbf": ("1000 h",),
    "reliability.detect": ("1 h",), "reliability.restart": ("1 h",),
    "reliability.repair": ("500 h",), "reliability.spare_nodes": (1,),
    "reliability.warm_restart": ("60 s",), "reliability.least_nodes": (1,),
    "reliability.pace_spread": (0.1,),
}  # fmt: skip


class Ended(NamedTuple):
    """What became of a key that was set."""

    strategy: str  # or another way to train, how many nodes a machine has, what a verb is asked
    key: str  # or option
    value: Any
    how: str  # refused, warned, moved, silent, or its own: the job has that value already


class Told(NamedTuple):
    """What is said of a job."""

    figures: str
    warnings: frozenset[str]
    paths: frozenset[str]  # of keys that they are about
    attention: str  # the kernel that is its choice on this machine
    assumptions: tuple[str, ...]
    inputs: str  # what tells them from others


@lru_cache(maxsize=16)
def _told(machine: str, sets: tuple[str, ...]) -> Told:
    found = simulate(machine, JOB, overrides=list(sets), scaling=False, fixes=False)
    told = json.loads(found.to_json())
    inputs = told.pop("inputs_hash")
    for name in ("provenance", "assumptions", "warnings"):
        told.pop(name)
    said = frozenset(f"{w.code} {w.path} {w.message}" for w in found.warnings)
    paths = frozenset(w.path.partition(".")[2] for w in found.warnings)
    topology, job, _ = load(machine, JOB, sets)
    model, dtype = job.model, job.precision.activations
    kernel = family(job.attention, topology.first_gpu, dtype, model.head_dim)
    return Told(json.dumps(told, sort_keys=True), said, paths, kernel, found.assumptions, inputs)


def outcome(machine: str, sets: tuple[str, ...], more: tuple[str, ...]) -> str:
    """How a job ends once more keys are set; see `Ended.how`.

    Parameters
    ----------
    machine : str
    sets, more : tuple of str
        As of ``--set``.
    """
    before = _told(machine, sets)
    try:
        after = _told.__wrapped__(machine, (*sets, *more))
    except InputError:
        return "refused"
    if after.inputs == before.inputs:
        return "its own"
    keys = {one.partition("=")[0] for one in more}
    if after.warnings - before.warnings or keys & after.paths:
        return "warned"
    if after.figures != before.figures:
        return "moved"
    chosen = keys == {"attention"} and before.attention == after.attention
    return "its own" if chosen or _assumed(before.assumptions, more) else "silent"


def _assumed(assumptions: tuple[str, ...], sets: tuple[str, ...]) -> bool:
    """Whether a job said that it takes these values where nobody says other."""
    told = []
    for key, _, value in (one.partition("=") for one in sets):
        plain = value.strip('"')
        told.append(f"workload.{key} = {plain}")
    return all(any(a == t or a.startswith(f"{t} (") for a in assumptions) for t in told)


def values() -> Iterator[tuple[str, Any]]:
    """Every key of a workload that is tried, with each other value it is given."""
    for prefix, spec in SPECS.items():
        kinds = get_type_hints(spec)
        for name, field in spec.model_fields.items():
            if name in OTHER:
                yield prefix + name, OTHER[name]
                continue
            for value in _choices(kinds[name]):
                if value != field.default and name != "strategy":
                    yield prefix + name, value


def _choices(kind: Any) -> Iterator[Any]:
    """Values of a type that is a choice: of `bool`, literals and unions with them."""
    if kind is bool:
        yield from (True, False)
    for part in get_args(kind):
        if isinstance(part, type) or get_args(part):
            yield from _choices(part)
        elif getattr(kind, "__origin__", None) is Literal:
            yield part


def ended(strategies: Mapping[str, Any] | list[str]) -> Iterator[Ended]:
    """What becomes of every key under some strategies, or of some ways to train."""
    for strategy in strategies:
        machine = ALONE if strategy == "single" else MACHINE
        sets = TRAINED.get(strategy) or (f"parallelism={{strategy: {strategy}}}",)
        if strategy == "megatron":  # which trains no adapters
            sets += ("method=full",)
        for key, value in values():
            how = outcome(machine, sets, (f"{key}={json.dumps(value)}",))
            yield Ended(strategy, key, value, how)


def of_machines() -> Iterator[Ended]:
    """What becomes of every key of a topology, on one node and on two."""
    for nodes in ("nodes=1", "nodes=2"):
        for key, others in OF_MACHINES.items():
            for value in others:
                how = outcome(MACHINE, (nodes,), (f"{key}={json.dumps(value)}",))
                yield Ended(nodes, key, value, how)
