"""A training step as a strategy issues it: what runs, where, and what it waits for; no seconds.

A `Recorder` plays the CPU thread: strategies call it in the order the real code issues stream
operations. Streams are FIFO lanes; events and stream waits become dependencies; collectives on
one communicator are serialised in issue order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

SEGMENT, KERNEL, COLLECTIVE, HOST = range(4)


class PlanOp(NamedTuple):
    """One issued operation. `deps` are indices of earlier ops that must have ended, beside the
    previous op of its own stream and (collectives) of its own communicator.
    """

    kind: int
    stream: str  # compute, copy_in, all_gather, reduce_scatter, all_reduce, offload_in, offload_out, host
    name: str  # "all_gather", "copy_out", "forward", "backward", "recompute", "optimizer", "clip" ...
    phase: str  # forward | backward | clip | optimizer | loss | ...
    block: int  # 0 embedding, 1..L layers, L+1 head; -1 root or none
    module: str  # leaf module for per-module schedules; "" = whole block
    deps: tuple[int, ...]
    host_after: int  # op whose end the CPU has to see before issuing this one; -1 none
    micro_step: int
    # collectives
    collective: str = ""  # all_gather | reduce_scatter | all_reduce | broadcast | all_to_all
    group: str = ""  # "shard" | "replicate" | "world" | "hpz" | "subgroup:k" | "context"
    bytes_in: float = 0.0  # per rank [B]
    bytes_out: float = 0.0  # per rank [B]
    dtype: str = ""
    unit: str = ""  # FSDP unit or bucket, as recordings name it ("root", "layers.3")
    # plain kernels and copies
    bytes: float = 0.0  # HBM (or host link) traffic [B]


class MemoryEvent(NamedTuple):
    """Bytes allocated (>0) or freed (<0) by the CPU thread right before op `before` is issued."""

    before: int
    category: str
    bytes: float
    moment: str


@dataclass(slots=True)
class Plan:
    """A recorded step."""

    ops: list[PlanOp] = field(default_factory=list)
    memory: list[MemoryEvent] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)  # group name -> ranks in one such group
