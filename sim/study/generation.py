"""Generation for post-training: the time of a decoding step, the cache, and a batch of rollouts.

A decoding step reads every weight once and every sequence's keys and values; a batch of b sequences
runs the model's own forward kernels at b tokens, as one CUDA graph. Keys and values stream at the
rate of a fused kernel. Tensor-parallel GPUs sum twice a layer. Sequences come and go: an engine
holds as many as its cache and `max_sequences` let it, and the longest ones end alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import field

import numpy as np

from sim.blocks.layer import attention_of, layer_kinds
from sim.blocks.parameters import count_parameters
from sim.blocks.setting import FULL
from sim.blocks.unroll import Templates, unroll
from sim.cost.collectives import plan_collective
from sim.cost.kernel_cost import cost_model
from sim.cost.nccl.communicator import Nccl
from sim.fabric.fabric import Fabric, compile_fabric
from sim.inputs.gpu import Gpu
from sim.inputs.model import Model
from sim.inputs.post_training import Generation
from sim.inputs.topology import Topology
from sim.inputs.workload import Checkpointing, Precision, Stack, Workload
from sim.mesh.lengths import lognormal
from sim.records import dataclass
from sim.units import DTYPE_BYTES

_ELEMENT = DTYPE_BYTES["bf16"]  # of weights and cache
_CHUNK = 8192  # tokens of one prefill, whose activations the cache leaves room for; assumed
_LEAST = 8  # sequences that an engine must hold, or as many as it has to decode


@dataclass(slots=True)
class Engine:
    """One replica of a model that generates, on `tensor` GPUs of a node.

    Attributes
    ----------
    cache_tokens : float
        Tokens whose keys and values it has room for. [tokens]
    weights_bytes : float
        On each of its GPUs. [B]
    """

    topology: Topology
    workload: Workload
    asked: Generation
    tensor: int
    resident_bytes: float = 0.0  # of a GPU, that training keeps meanwhile
    weights_bytes: float = 0.0
    cache_bytes: float = 0.0  # of a GPU
    _steps: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Weights and the room that they and the rest leave."""
        model = self.workload.model
        self.weights_bytes = _ELEMENT * count_parameters(model, FULL).total / self.tensor
        widest = max(model.ffn_size, 4 * model.hidden_size) / self.tensor
        working = 2.0 * _ELEMENT * _CHUNK * widest + 4.0 * self.most * model.vocab_size
        room = self.asked.memory_share * self.gpu.memory
        self.cache_bytes = max(0.0, room - self.resident_bytes - self.weights_bytes - working)

    @property
    def most(self) -> int:
        """Sequences that it may decode at a time."""
        return self.asked.max_sequences

    @property
    def gpu(self) -> Gpu:
        """Its GPUs' kind."""
        return self.topology.first_gpu

    @property
    def fabric(self) -> Fabric:
        """The machine."""
        return compile_fabric(self.topology)

    @property
    def cache_tokens(self) -> float:
        """Tokens whose keys and values it has room for. [tokens]"""
        return self.cache_bytes / cache_bytes_per_token(self.workload.model, self.tensor)

    def holds(self, mean_context: float) -> int:
        """Sequences of a mean context that it decodes at a time; 0 where it cannot."""
        return int(min(self.most, self.cache_tokens // max(1.0, mean_context)))

    def forward_s(self, sequences: int, length: int) -> float:
        """Kernels of a forward of the layers and the head, attention to a cache apart. [s]"""
        work = generating(self.workload, self.tensor, sequences, length)
        return _forward_s(unroll(work), self.gpu, length > 1)

    def fixed_s(self, sequences: int) -> float:
        """What a decoding step of so many sequences takes before any context. [s]"""
        found = self._steps.get(sequences)
        if found is None:
            c = cost_model(self.gpu).constants
            found = self.forward_s(sequences, 1) + self._sums_s(sequences)
            found += c.floor_s * self.workload.model.layers + self.asked.step_overhead
            self._steps[sequences] = found
        return found

    def step_s(self, sequences: int, context: float) -> float:
        """One decoding step: `context` tokens are cached of all its sequences together. [s]

        Notes
        -----
        t = fixed(b) + layers x cached bytes / (share x HBM bandwidth), where fixed(b) is taken
        between powers of two and a sliding layer reads no more than its window.
        """
        model, rate = self.workload.model, cost_model(self.gpu).constants.bandwidth["fused"]
        low = 1 << (sequences.bit_length() - 1)
        share = sequences / low - 1.0
        fixed = (1.0 - share) * self.fixed_s(low)
        if share > 0.0:
            fixed += share * self.fixed_s(2 * low)
        seen = math.fsum(
            min(context, float(sequences * (kind.window or math.inf))) * left
            for kind, left in zip(layer_kinds(model), _cached(model, self.tensor), strict=True)
        )
        return fixed + seen / (rate * self.gpu.memory_bandwidth)

    def _sums_s(self, sequences: int) -> float:
        if self.tensor == 1:
            return 0.0
        size = _ELEMENT * sequences * self.workload.model.hidden_size
        nccl = Nccl.of(self.workload.stack)
        one = plan_collective(self.fabric, "all_reduce", range(self.tensor), size, nccl)
        return 2.0 * self.workload.model.layers * one.time_s


def generating(workload: Workload, tensor: int, sequences: int, length: int) -> Workload:
    """The job's model as an engine runs it: merged, compiled, bf16, no loss kept."""
    p = workload.parallelism.model_copy(
        update={
            "tensor_parallel": tensor, "tensor_parallel_style": "megatron",
            "sequence_parallel": False, "loss_parallel": True, "context_parallel": 1,
            "pipeline_parallel": 1, "expert_parallel": 1,
        }
    )  # fmt: skip
    return workload.model_copy(
        update={
            "method": FULL, "sequence_length": length, "micro_batch": sequences,
            "precision": Precision.model_construct(), "parallelism": p, "compile": True,
            "activation_checkpointing": Checkpointing.model_construct(),
            "experts": "grouped", "modelling": "torchtitan", "loss": "eager",
            "stack": Stack.model_construct(), "attention": "flash2", "train_metrics": 0,
        }
    )  # fmt: skip


def forward_s(workload: Workload, gpu: Gpu) -> float:
    """Kernels of the forward of one micro-step, the head's product with them, its loss not. [s]"""
    return _forward_s(unroll(workload), gpu, True)


def _forward_s(templates: Templates, gpu: Gpu, attends: bool) -> float:
    left = {"loss"} if attends else {"loss", "attention"}
    kinds = ("embedding", *templates.layer_kinds, "head")
    model = cost_model(gpu)
    each = {
        kind: math.fsum(
            model.cost(k).time_s for k in templates.of(kind, "forward") if k.kind not in left
        )
        for kind in dict.fromkeys(kinds)
    }
    return math.fsum(each[kind] for kind in kinds)


def cache_bytes_per_token(model: Model, tensor: int) -> float:
    """What a token leaves in the caches of all layers, on one of an engine's GPUs. [B]"""
    return math.fsum(_cached(model, tensor))


def _cached(model: Model, tensor: int) -> list[float]:
    """Of these each layer's: those without a window may have heads of their own. [B]"""
    left = attention_of(model).cached
    return [_ELEMENT * left(model, tensor, kind.window is not None) for kind in layer_kinds(model)]


def completions(mean: float, maximum: int, count: int, seed: int) -> list[int]:
    """Lengths of rollouts, in the order they are asked for. [tokens]

    Notes
    -----
    Log-normal with a mean, the longest of 50,000 where the engine cuts off
    (`sim.mesh.lengths.lognormal`).
    """
    spread = lognormal(mean, maximum, maximum)
    places = np.random.default_rng(seed).random(count)
    at = np.minimum(np.searchsorted(np.cumsum(spread.mass), places), spread.mass.size - 1)
    drawn: list[int] = np.clip(np.rint(spread.at[at]), 1, maximum).astype(int).tolist()
    return drawn


def rollout_s(engine: Engine, lengths: Sequence[int], prompt: int, held: int) -> float:
    """Time in which one engine decodes sequences, `held` at most at a time. [s]

    Parameters
    ----------
    engine : Engine
    lengths : sequence of int
        Of the completions, in the order in which they start. [tokens]
    prompt : int
        Cached of each from the start. [tokens]
    held : int
        At least 1.

    Notes
    -----
    Between two ends of a sequence all decode alike, so a run of n steps takes n times the step at
    its middle; time is linear in the context.
    """
    running: list[tuple[int, int]] = []  # steps since the start at which one ends, and its length
    now, context, time = 0, 0.0, 0.0
    for place, length in enumerate(lengths, 1):
        heapq.heappush(running, (now + length, length))
        context += prompt
        while running and (len(running) >= held or place == len(lengths)):
            many, steps = len(running), running[0][0] - now
            time += (
                steps * engine.step_s(many, context + many * (steps - 1) / 2.0) if steps else 0.0
            )
            now, ended = heapq.heappop(running)
            context += many * steps - prompt - ended
    return time


def prefill_s(engine: Engine, prompts: int, length: int) -> float:
    """Prompts, each once: completions of one share its cache. [s]"""
    return prompts * engine.forward_s(1, length)


def least(waiting: int) -> int:
    """Sequences that an engine with so many to decode must hold at a time."""
    return min(_LEAST, max(1, waiting))
