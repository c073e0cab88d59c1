"""The CPU thread of a training script, written down op by op as a `Plan`.

Strategies call a `Recorder` in the order in which the real code issues stream operations. It
returns op indices, and turns events and stream waits into dependencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from sim.inputs.trainer import NOBODY, Trainer
from sim.mesh import Groups, Pairs
from sim.strategies.allocations import Allocations
from sim.strategies.copied import Copy
from sim.strategies.plan import COLLECTIVE, HOST, KERNEL, SEGMENT, Calls, Plan, PlanOp

Event = tuple[int, ...]
"""The ops it stands for: the last of its stream, and what that stream waited for since."""


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
        self, stream: str, name: str, phase: str, traffic: float, unit: str = "", block: int = -1
    ) -> int:
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
