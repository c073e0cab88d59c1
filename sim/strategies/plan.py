"""A training step as a strategy issues it: what runs, where, and what it waits for; no seconds.

A `Recorder` plays the CPU thread: strategies call it in the order in which the real code issues
stream operations. It returns op indices, and turns events and stream waits into dependencies.

What a lowering must impose, and nothing else:

1. **Host order.** `Plan.ops` is in the order in which the CPU issues. An op cannot start before the
   CPU has reached it. If ``host_after >= 0`` the CPU first waits for the end of that op (a blocking
   synchronise); as the CPU is in order, every later op is issued after that too. An op of kind HOST
   runs on the CPU itself: it starts when the CPU reaches it and its `deps` have ended, and the CPU
   goes on after its end. Before it issues an op the CPU makes the `calls` of it.
2. **Streams.** Ops of one `stream` (all but "host") run in list order, one at a time.
3. **Dependencies.** An op starts after the end of every op in `deps`. Indices are of earlier ops.
   Those that stream order or an earlier wait of the same stream already implies are left out.
4. **Stages.** A collective of ranks of several pipeline stages, such as a message (a group of
   `Pairs`), is in the plan of each, with the same `comm` and `unit`.
5. **Communicators.** Collectives with the same `comm` run one at a time, in list order, whatever
   their streams: NCCL serialises a communicator. ``Plan.groups`` says which ranks;
   ``comm == group`` unless the strategy made a second communicator over the same ranks.

Kinds: SEGMENT is the kernels of one block (or of one leaf module of it) in one direction; `name` is
"forward", "recompute" (the second forward of activation checkpointing), "backward" or
"optimizer". The head's segments include the loss. KERNEL is one memory-bound kernel or copy of
`bytes` traffic: HBM read plus write, or, on the offload streams and with names "h2d"/"d2h", bytes
over the host link. COLLECTIVE carries bytes per rank as c10d sees them: all-gather in = shard, out
= all shards; reduce-scatter the reverse; all-reduce in = out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from sim.inputs.trainer import NOBODY, Trainer
from sim.mesh import Groups, Pairs
from sim.strategies.allocations import Allocations
from sim.strategies.copied import Copy, written_out

SEGMENT, KERNEL, COLLECTIVE, HOST = range(4)
OWNED = ("optimizer", "clip")  # segments over what a rank owns, once a step, not over tokens

Calls = tuple[tuple[str, float], ...]

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
    module: str  # leaf module, or several (`together`), of per-module schedules; "" = whole block
    deps: tuple[int, ...]
    host_after: int  # op whose end the CPU has to see before issuing this one; -1 none
    micro_step: int  # from 0
    # collectives
    collective: str = ""  # all_gather | reduce_scatter | all_reduce | broadcast | all_to_all
    group: str = ""  # "shard" | "replicate" | "world" | "hpz" | "subgroup:k" | "context" ...
    bytes_in: float = 0.0  # per rank [B]
    bytes_out: float = 0.0  # per rank [B]
    dtype: str = ""
    unit: str = ""  # FSDP unit or bucket, as recordings name it ("root", "layers.3")
    # plain kernels and copies
    bytes: float = 0.0  # HBM (or host link) traffic [B]
    comm: str = ""  # communicator (collectives): same name = serialised in list order
    # what the CPU does right before it issues the op: calls of `sim.cost.host`, and how often
    calls: Calls = ()


@dataclass(slots=True)
class Plan:
    """A recorded step of one rank; of every rank of its pipeline stage."""

    issued: Sequence[PlanOp]  # what `ops` are, but that copies are the op they are copies of
    memory: Allocations
    groups: dict[str, Groups | Pairs] = field(default_factory=dict)  # by the name that ops give
    owned_numel: float = 0.0  # trainable elements that rank 0 updates in the optimizer step
    owned_tensors: int = 0  # trainable tensors it updates
    owned_experts: int = 0  # those of them that are experts spread over ranks
    optimizer_on_host: bool = False  # CPU offload: the step is a HOST op
    stage: int = 0  # whose plan it is, of `stages`: ranks of a pipeline stage run the same
    stages: int = 1
    # what pricing and lowering work out once a plan: plans are shared by jobs that differ in costs
    derived: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    copies: list[Copy] = field(default_factory=list, repr=False, compare=False)  # in order
    like: Like | None = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> Plan:
        """The plan to ask for what is of structure alone: of plans alike the first, or itself."""
        return self.like.first if self.like else self

    @property
    def ops(self) -> Sequence[PlanOp]:
        """Operations in issue order, each with what is its own."""
        if not self.copies:
            return self.issued
        if "ops" not in self.derived:
            self.derived["ops"] = written_out(self.issued, self.copies)
        found: list[PlanOp] = self.derived["ops"]
        return found


class Like(NamedTuple):
    """What a plan has in common with others of its structure, and what is its own.

    Attributes
    ----------
    first : Plan
        Of which all ask what is of structure alone: its ops are `ops`.
    ops : sequence of PlanOp
        Of all of them, with places in `values` for numbers.
    derived : dict
        What readers work out once for all.
    values : sequence
        Numbers of this one.
    """

    first: Plan
    ops: Sequence[PlanOp]
    derived: dict[Hashable, Any]
    values: Sequence[Any]


def together(modules: Iterable[str]) -> str:
    """Several leaf modules as the `module` of one segment."""
    return " ".join(modules)


def runs(module: str, name: str) -> bool:
    """Whether a segment of `module` runs the leaf module `name`."""
    return not module or name in modules_of(module)


@lru_cache(maxsize=1024)
def modules_of(module: str) -> frozenset[str]:
    """The leaf modules of a segment's `module`, unless it is of all."""
    return frozenset(module.split(" "))


class StreamState:
    """A stream being recorded: its last op, what its next op waits for, what it has waited for."""

    __slots__ = ("pending", "seen", "tail")

    def __init__(self) -> None:
        self.tail = -1
        self.pending: list[int] = []
        self.seen: dict[str, int] = {}  # latest op of each other stream


@lru_cache(maxsize=256)
def _once(names: tuple[str, ...]) -> Calls:
    return tuple([(name, 1.0) for name in names])


class Recorder:
    """The CPU thread of a training script, writing down what it issues.

    Parameters
    ----------
    groups : dict of str to Groups or Pairs
        The groups that collectives will name.
    trainer : Trainer, optional
        Whose loop calls the strategy; left out, nobody's.
    """

    #: nobody reads the ops
    quiet = False

    def __init__(
        self, groups: Mapping[str, Groups | Pairs], trainer: Trainer | None = None
    ) -> None:
        self.ops: list[PlanOp] = []
        self.memory = Allocations(self.ops)
        self.plan = Plan(self.ops, self.memory, dict(groups))
        self.micro_step = 0
        self._trainer = trainer or NOBODY
        self.lanes: dict[str, StreamState] = {}
        self.host_after = -1
        self.calls: Calls = ()  # before the next op

    def lane(self, stream: str) -> StreamState:
        """A stream's, of which there may be nothing yet."""
        lane = self.lanes.get(stream)
        if lane is None:
            lane = self.lanes[stream] = StreamState()
        return lane

    def _take(self, lane: StreamState, stream: str) -> tuple[int, ...]:
        """The latest op per other stream among those waited for, unless waited for before."""
        pending, seen, ops = lane.pending, lane.seen, self.ops
        if len(pending) == 1:
            op = pending.pop()
            other = ops[op][1]
            if other == stream or seen.get(other, -1) >= op:
                return ()
            seen[other] = op
            return (op,)
        deps = []
        pending.sort(reverse=True)
        for op in pending:
            other = ops[op][1]
            if other != stream and seen.get(other, -1) < op:
                seen[other] = op
                deps.append(op)
        pending.clear()
        return tuple(deps)

    def issue(
        self, kind: int, stream: str, name: str, phase: str, block: int = -1, module: str = "",
        collective: str = "", group: str = "", bytes_in: float = 0.0, bytes_out: float = 0.0,
        dtype: str = "", unit: str = "", traffic: float = 0.0, comm: str = "",
    ) -> int:  # fmt: skip
        """Issue one op on `stream`; what the stream was told to wait for becomes its deps."""
        ops = self.ops
        lane = self.lanes.get(stream) or self.lane(stream)
        deps = self._take(lane, stream) if lane.pending else ()
        index = lane.tail = len(ops)
        ops.append(_new_op(PlanOp, (
            kind, stream, name, phase, block, module, deps, self.host_after, self.micro_step,
            collective, group, bytes_in, bytes_out, dtype, unit, traffic, comm, self.calls,
        )))  # fmt: skip
        self.host_after = -1
        self.calls = ()
        return index

    def again(self, copy: Copy) -> None:
        """A stretch of ops once more."""
        if copy.size:
            self.ops += self.ops[copy.source : copy.source + copy.size]
            self.plan.copies.append(copy)

    def segment(self, name: str, phase: str, block: int, module: str = "", unit: str = "") -> int:
        """Compute kernels of a block (or of one module of it) on the compute stream."""
        return self.issue(SEGMENT, "compute", name, phase, block, module, unit=unit)

    def kernel(
        self, stream: str, name: str, phase: str, traffic: float, unit: str = "", block: int = -1,
    ) -> int:  # fmt: skip
        """One memory-bound kernel or copy. `traffic` in bytes. [B]"""
        ops = self.ops
        lane = self.lanes.get(stream) or self.lane(stream)
        deps = self._take(lane, stream) if lane.pending else ()
        index = lane.tail = len(ops)
        ops.append(_new_op(PlanOp, (
            KERNEL, stream, name, phase, block, "", deps, self.host_after, self.micro_step,
            "", "", 0.0, 0.0, "", unit, traffic, "", self.calls,
        )))  # fmt: skip
        self.host_after = -1
        self.calls = ()
        return index

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

    def call(self, *names: str) -> None:
        """Python that the CPU runs before it issues the next op: names of calls."""
        self.calls += _once(names)

    def call_times(self, name: str, times: float) -> None:
        """As `call`, so many times."""
        if times:
            self.calls += ((name, times),)

    def start(self, micro_step: int) -> None:
        """A micro-step begins: the trainer has read the loss of the one before, and has a batch."""
        if micro_step:
            self.read_loss()
            self.await_batch()
        self.micro_step = micro_step
        if self._trainer.works:
            self.call("trainer.micro_step")

    def read_loss(self) -> None:
        """After a micro-step's backward."""
        if self._trainer.waits_for_loss:
            self.host_sync(self.record("compute"))

    def await_batch(self) -> None:
        """Before a micro-step that is not the first: its batch is copied, in the GPU's order."""
        if self._trainer.waits_for_batch:
            self.host_sync(self.record("compute"))

    def await_message(self, event: Event) -> None:
        """A message of a pipeline is to come: the trainer may look at it first."""
        if self._trainer.waits_for_messages:
            self.host_sync(event)

    def scale_gradients(self, size: float) -> None:
        """Before clipping: the trainer normalises a summed loss; `size` of the gradients. [B]"""
        if not self._trainer.scales_gradients:
            return
        if self.plan.optimizer_on_host:
            self.host("scale", "clip", 2 * size)
        else:
            self.kernel("compute", "scale", "clip", 2 * size)

    def end(self) -> None:
        """The optimizer has been stepped: the trainer logs, and readies the next step."""
        trainer = self._trainer
        if trainer.works:
            if trainer.waits_for_step:
                self.host_sync(self.record("compute"))
            self.call("trainer.step")
        if self.calls:
            self.host("calls", "trainer")
        self.micro_step = 0

    def record(self, stream: str) -> Event:
        """An event at the present end of a stream."""
        lane = self.lanes.get(stream)
        if lane is None:
            return ()
        if lane.pending:
            return tuple(lane.pending) if lane.tail < 0 else (lane.tail, *lane.pending)
        return () if lane.tail < 0 else (lane.tail,)

    def wait(self, stream: str, event: Event) -> None:
        """Make later ops of `stream` wait for an event. The CPU goes on at once."""
        if event:
            (self.lanes.get(stream) or self.lane(stream)).pending += event

    def wait_stream(self, stream: str, on: str) -> None:
        """Make later ops of `stream` wait for everything issued to stream `on` so far."""
        other = self.lanes.get(on)
        if other is not None:
            pending = (self.lanes.get(stream) or self.lane(stream)).pending
            if other.tail >= 0:
                pending.append(other.tail)
            if other.pending:
                pending += other.pending

    def host_sync(self, event: Event) -> None:
        """Block the CPU until an event has happened."""
        if not event:
            return
        if self.calls:  # made while it still was to happen
            self.host("calls", "host")
        if len(event) == 1 and self.host_after in (-1, event[0]):
            self.host_after = event[0]
        else:
            self.wait("host", event)
            self.host("synchronize", "host")


class Quiet(Recorder):
    """Writes down what is allocated and no ops: for those who ask for memory alone."""

    def issue(self, *_: object, **__: object) -> int:
        """Nothing; the CPU has got one further."""
        self._issued = op = self._issued + 1
        return op

    kernel = issue
    quiet = True
    _issued = -1

    def again(self, copy: Copy) -> None:
        """Nothing."""

    def call(self, *names: str) -> None:
        """Nothing."""

    def call_times(self, name: str, times: float) -> None:
        """Nothing."""

    def record(self, stream: str) -> Event:
        """Some event."""
        return (self._issued,)

    def wait(self, stream: str, event: Event) -> None:
        """Nothing."""

    def wait_stream(self, stream: str, on: str) -> None:
        """Nothing."""

    def host_sync(self, event: Event) -> None:
        """Nothing."""


_new_op = tuple.__new__
