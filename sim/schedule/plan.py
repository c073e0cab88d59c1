"""A training step as a strategy issues it: what runs, where, and what it waits for; no seconds.

A `Recorder` plays the CPU thread: strategies call it in the order in which the real code issues
stream operations. It returns op indices, and turns events and stream waits into dependencies.

What a lowering must impose, and nothing else:

1. **Host order.** `Plan.ops` is in the order in which the CPU issues. An op cannot start before the
   CPU has reached it. If ``host_after >= 0`` the CPU first waits for the end of that op (a blocking
   synchronise); as the CPU is in order, every later op is issued after that too. An op of kind HOST
   runs on the CPU itself: it starts when the CPU reaches it and its `deps` have ended, and the CPU
   goes on after its end.
2. **Streams.** Ops of one `stream` (all but "host") run in list order, one at a time.
3. **Dependencies.** An op starts after the end of every op in `deps`. Indices are of earlier ops.
   Those that stream order or an earlier wait of the same stream already implies are left out.
4. **Communicators.** Collectives with the same `comm` run one at a time, in list order, whatever
   their streams: NCCL serialises a communicator. ``Plan.groups`` gives ranks per group;
   ``comm == group`` unless the strategy made a second communicator over the same ranks.

Kinds: SEGMENT is the kernels of one block (or of one leaf module of it) in one direction; `name` is
"forward", "recompute" (the second forward of activation checkpointing), "backward" or
"optimizer". The head's segments include the loss. KERNEL is one memory-bound kernel or copy of
`bytes` traffic: HBM read plus write, or, on the offload streams and with names "h2d"/"d2h", bytes
over the host link. COLLECTIVE carries bytes per rank as c10d sees them: all-gather in = shard, out
= all shards; reduce-scatter the reverse; all-reduce in = out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

SEGMENT, KERNEL, COLLECTIVE, HOST = range(4)

Event = tuple[int, ...]
"""The ops it stands for: the last of its stream, and what that stream waited for since."""


class PlanOp(NamedTuple):
    """One issued operation.

    `deps` are indices of earlier ops that must have ended, beside the previous op of its own
    stream and (collectives) of its own communicator.
    """

    kind: int
    stream: str  # compute, copy_in, all_gather, reduce_scatter, all_reduce, offload_*, host
    name: str  # "all_gather", "copy_out", "forward", "backward", "recompute", "optimizer" ...
    phase: str  # forward | backward | clip | optimizer | loss | ...
    block: int  # 0 embedding, 1..L layers, L+1 head; -1 root or none
    module: str  # leaf module for per-module schedules; "" = whole block
    deps: tuple[int, ...]
    host_after: int  # op whose end the CPU has to see before issuing this one; -1 none
    micro_step: int  # from 0
    # collectives
    collective: str = ""  # all_gather | reduce_scatter | all_reduce | broadcast | all_to_all
    group: str = ""  # "shard" | "replicate" | "world" | "hpz" | "subgroup:k" | "context"
    bytes_in: float = 0.0  # per rank [B]
    bytes_out: float = 0.0  # per rank [B]
    dtype: str = ""
    unit: str = ""  # FSDP unit or bucket, as recordings name it ("root", "layers.3")
    # plain kernels and copies
    bytes: float = 0.0  # HBM (or host link) traffic [B]
    comm: str = ""  # communicator (collectives): same name = serialised in list order


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
    owned_numel: float = 0.0  # trainable elements that rank 0 updates in the optimizer step
    owned_tensors: int = 0  # trainable tensors it updates
    optimizer_on_host: bool = False  # CPU offload: the step is a HOST op


class Recorder:
    """The CPU thread of a training script, writing down what it issues.

    Parameters
    ----------
    groups : dict of str to int
        Ranks in one group of each kind that collectives will use.
    """

    def __init__(self, groups: dict[str, int]) -> None:
        self.plan = Plan(groups=groups)
        self.ops = self.plan.ops
        self.micro_step = 0
        self._tail: dict[str, int] = {}
        self._pending: dict[str, list[int]] = {}
        self._seen: dict[str, dict[str, int]] = {}
        self._host_after = -1

    def issue(
        self, kind: int, stream: str, name: str, phase: str, block: int = -1, module: str = "",
        collective: str = "", group: str = "", bytes_in: float = 0.0, bytes_out: float = 0.0,
        dtype: str = "", unit: str = "", traffic: float = 0.0, comm: str = "",
    ) -> int:  # fmt: skip
        """Issue one op on `stream`; what the stream was told to wait for becomes its deps."""
        ops = self.ops
        index = len(ops)
        pending = self._pending.get(stream)
        deps = self._take(stream, pending) if pending else ()
        ops.append(_new_op(PlanOp, (
            kind, stream, name, phase, block, module, deps, self._host_after, self.micro_step,
            collective, group, bytes_in, bytes_out, dtype, unit, traffic, comm,
        )))  # fmt: skip
        self._host_after = -1
        self._tail[stream] = index
        return index

    def _take(self, stream: str, pending: list[int]) -> tuple[int, ...]:
        """The latest op per other stream among those waited for, unless waited for before."""
        seen = self._seen.setdefault(stream, {})
        ops = self.ops
        deps = []
        for op in sorted(pending, reverse=True):
            other = ops[op][1]
            if other != stream and seen.get(other, -1) < op:
                seen[other] = op
                deps.append(op)
        pending.clear()
        return tuple(deps)

    def segment(self, name: str, phase: str, block: int, module: str = "", unit: str = "") -> int:
        """Compute kernels of a block (or of one module of it) on the compute stream."""
        return self.issue(SEGMENT, "compute", name, phase, block, module, unit=unit)

    def kernel(
        self, stream: str, name: str, phase: str, traffic: float, unit: str = "", block: int = -1,
    ) -> int:  # fmt: skip
        """One memory-bound kernel or copy. `traffic` in bytes. [B]"""
        return self.issue(KERNEL, stream, name, phase, block, unit=unit, traffic=traffic)

    def collective(
        self, stream: str, collective: str, phase: str, group: str, bytes_in: float,
        bytes_out: float, dtype: str, unit: str = "", block: int = -1, module: str = "",
        comm: str = "",
    ) -> int:  # fmt: skip
        """One collective, bytes per rank. [B]"""
        return self.issue(
            COLLECTIVE, stream, collective, phase, block, module, collective, group,
            bytes_in, bytes_out, dtype, unit, 0.0, comm or group,
        )  # fmt: skip

    def host(self, name: str, phase: str, traffic: float = 0.0) -> int:
        """Work of the CPU itself, after everything given to `wait("host", ...)`."""
        return self.issue(HOST, "host", name, phase, traffic=traffic)

    def record(self, stream: str) -> Event:
        """An event at the present end of a stream."""
        pending = self._pending.get(stream)
        tail = self._tail.get(stream)
        if not pending:
            return () if tail is None else (tail,)
        return tuple(pending) if tail is None else (tail, *pending)

    def wait(self, stream: str, event: Event) -> None:
        """Make later ops of `stream` wait for an event. The CPU goes on at once."""
        if event:
            self._pending.setdefault(stream, []).extend(event)

    def wait_stream(self, stream: str, on: str) -> None:
        """Make later ops of `stream` wait for everything issued to stream `on` so far."""
        self.wait(stream, self.record(on))

    def host_sync(self, event: Event) -> None:
        """Block the CPU until an event has happened."""
        if not event:
            return
        if len(event) == 1 and self._host_after in (-1, event[0]):
            self._host_after = event[0]
        else:
            self.wait("host", event)
            self.host("synchronize", "host")

    def memory(self, category: str, size: float, moment: str) -> None:
        """Note bytes allocated (>0) or freed (<0) before the next op. [B]"""
        self.plan.memory.append(MemoryEvent(len(self.ops), category, size, moment))


_new_op = tuple.__new__
