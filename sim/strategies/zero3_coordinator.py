"""DeepSpeed's coordinator of partitioned parameters, played on a `Recorder`.

At every module hook it gathers what is missing, waits for it, and then gathers ahead along the
recorded trace, as far as the prefetch bucket and the limit on live parameters let it. A parameter
that the look-ahead passes over because it is there already counts as needed again at that later
step, and is not released before. Rules, read in DeepSpeed 0.19.8
(``partitioned_param_coordinator.py``, ``stage3.py``) and recorded from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from sim.strategies.activation_copies import ActivationCopies
from sim.strategies.exchanges import Player, whole
from sim.strategies.recorder import Event, Recorder
from sim.strategies.replicated_memory import ReplicatedMemory
from sim.strategies.zero3_gradients import STAGED, GradientBucket, Issued
from sim.strategies.zero3_quantized import quantized_gather
from sim.strategies.zero3_settings import Settings
from sim.strategies.zero3_trace import (
    BACKWARD,
    FETCH,
    GRADIENT,
    PHASES,
    RECOMPUTE,
    SEGMENT,
    ModuleTrace,
)
from sim.units import DTYPE_BYTES

NOT_AVAILABLE, IN_FLIGHT, AVAILABLE = range(3)
NVME_BUFFERS = 5  # shards in host memory at a time (offload_param.buffer_count)


@dataclass(slots=True)
class _Handle:
    """An all-gather that was issued; the first wait completes it for all its parameters."""

    op: int  # the last op of it
    size: float  # gathered [B]
    parameters: list[int]
    complete: bool = False


class Coordinator:
    """Fetches, prefetches and releases, one micro-batch at a time."""

    def __init__(
        self, trace: ModuleTrace, settings: Settings, recorder: Recorder,
        memory: ReplicatedMemory | None = None, copies: ActivationCopies | None = None,
        play: Player = whole,
    ) -> None:  # fmt: skip
        self.trace, self.settings, self.recorder, self.play = trace, settings, recorder, play
        self.memory, self.copies = memory, copies
        n = len(trace.numel)
        self.persistent = [size <= settings.persistence for size in trace.numel]
        self.status = [AVAILABLE if p else NOT_AVAILABLE for p in self.persistent]
        self.secondary = [not t for t in trace.trainable] if settings.hpz > 1 else [False] * n
        self.active: list[set[int]] = [set() for _ in range(n)]
        self.shard = [-(-size // settings.world) for size in trace.numel]
        self.size = DTYPE_BYTES[settings.dtype]
        self.live = self.persistent_numel = sum(
            size for size, keep in zip(trace.numel, self.persistent, strict=True) if keep
        )
        self.peak_live = self.live
        self.issued: list[Issued] = []
        self._staged: dict[int, int] = {}  # parameter read from NVMe -> its read
        self._waited = self._copied = -1  # latest all-gather and copy that copy_in knows of
        self._compute_knows = (-1, -1)
        self._segment: Event = ()
        self._fetches: deque[int] = deque()
        self.gradients = GradientBucket(trace, settings, recorder, self.shard, self.issued)

    def forget_persistent(self) -> None:
        """Before the first step nothing is gathered."""
        self.status = [NOT_AVAILABLE] * len(self.status)
        self.secondary = [self.settings.hpz > 1] * len(self.status)  # cut at initialisation
        self.live = self.peak_live = 0

    def micro_batch(self, tracing: bool = False) -> None:
        """Forward and backward. `tracing`: the very first, without prefetch."""
        t, r = self.trace, self.recorder
        self.complete = not tracing
        self.step = self.counted = self._next = 0
        self.latest = [-1] * len(t.numel)
        self.in_flight: dict[int, _Handle] = {}
        self.running: dict[int, set[int]] = {}
        memory = self.memory
        if memory:
            memory.forward()
        modules, blocks, names = t.unit_modules, t.unit_blocks, t.unit_names
        one_by_one = self.settings.one_by_one
        for what, unit, direction in t.calls:
            if what == FETCH:
                self.fetch(unit, direction)
            elif what == SEGMENT:
                phase = PHASES[direction]
                when = "forward" if phase == "forward" else "backward"
                if memory:
                    memory.reach(blocks[unit], when == "forward")
                if self.copies:
                    self.copies.enter(r, blocks[unit], when == "forward")
                r.call_times("zero3.module", t.unit_calls[unit] if one_by_one else 1)
                self.play(r, phase, when, blocks[unit], modules[unit], names[unit])
                self._segment = r.record("compute")
            elif what == GRADIENT:
                self.gradients.add(t.unit_gradients[unit], self._segment)
            else:
                self.release(unit, direction)
        self.gradients.flush()
        r.host_sync(r.record("reduce_scatter"))
        self._release_leftovers()
        if memory:
            memory.done()
        self.gradients.first = False

    # ------------------------------------------------------------------ fetch and release

    def fetch(self, unit: int, direction: int) -> None:
        """Before a module's forward or backward."""
        parameters = self.trace.unit_parameters[unit]
        status, latest = self.status, self.latest
        if direction == BACKWARD and unit not in self.running:
            self.running[unit] = set()
        if parameters:
            missing = [p for p in parameters if status[p] == NOT_AVAILABLE]
            if missing:
                self._gather(missing, unit, direction, "on_demand")
            owner = -1
            if direction == RECOMPUTE and self.running and self.settings.attribute_frozen:
                owner = next(reversed(self.running))
            for p in parameters:
                self.active[p].add(unit)
                if owner >= 0 and not self.trace.trainable[p]:
                    self.running[owner].add(p)
                    self.active[p].add(owner)
                if p in self.in_flight:
                    self._wait(self.in_flight.pop(p))
            if self._compute_knows != (self._waited, self._copied):
                self._compute_knows = (self._waited, self._copied)
                self.recorder.wait("compute", tuple(i for i in self._compute_knows if i >= 0))
        if self.complete:
            # its own parameters leave the queue, unless an earlier look-ahead took them
            step = self.step
            for p in parameters:
                if latest[p] < step:
                    q, latest_step = self.trace.queue[self._next]
                    latest[q] = latest_step
                    self._next += 1
            self._prefetch(unit, direction)
        self.step += 1

    def _prefetch(self, unit: int, direction: int) -> None:
        queue, status, latest, numel = self.trace.queue, self.status, self.latest, self.trace.numel
        s = self.settings
        room = min(s.max_live - self.counted, s.prefetch_bucket)
        at, end, size = self._next, len(queue), 0
        ahead: dict[int, None] = {}
        on_nvme = s.offload_parameters and s.nvme and s.prefetch_bucket > 0
        while at < end and size < room:
            p, step = queue[at]
            if on_nvme and status[p] == NOT_AVAILABLE and p not in self._staged:
                break
            at += 1
            if latest[p] < step:
                latest[p] = step
            if status[p] == NOT_AVAILABLE and p not in ahead:
                ahead[p] = None
                size += numel[p]
        self._next = at
        if ahead:
            self._gather(ahead, unit, direction, "prefetch")
        if on_nvme:
            self._read_ahead()

    def _read_ahead(self) -> None:
        """Read coming shards from NVMe, up to twice the elements of the gathers in flight."""
        numel, queue = self.trace.numel, self.trace.queue
        limit = 2 * sum(numel[p] for p in self.in_flight)
        considered = 0
        for at in range(self._next, len(queue)):
            p = queue[at][0]
            if considered > limit or len(self._staged) >= NVME_BUFFERS:
                return
            if self.status[p] == NOT_AVAILABLE and p not in self._staged:
                self._read(p)
            considered += numel[p]

    def _read(self, p: int) -> None:
        traffic = 1.0 * self.shard[p] * self.size
        self._staged[p] = self.recorder.kernel("nvme", "nvme_read", "forward", traffic)

    def release(self, unit: int, direction: int) -> None:
        """After a module's forward or backward."""
        t = self.trace
        for p in t.unit_parameters[unit]:
            self.active[p].discard(unit)
            if self._may_go(p):
                self._free(p)
        if direction == BACKWARD:
            for p in self.running.pop(unit, ()):
                self.active[p].discard(unit)
                if not self.persistent[p]:
                    self._free(p)

    def _may_go(self, p: int) -> bool:
        if not self.complete:
            return True
        if self.persistent[p] or self.latest[p] > self.step:
            return False
        uses, travelled = self.trace.uses[p], self.trace.travelled
        again = bisect_left(uses, self.step)
        if again == len(uses):
            return True
        distance = travelled[uses[again]] - travelled[self.step]
        return distance >= self.settings.max_reuse

    def _free(self, p: int) -> None:
        if self.status[p] != AVAILABLE or self.active[p]:
            return
        r, s = self.recorder, self.settings
        if s.hpz > 1 and not self.secondary[p]:
            # the secondary shard is cut from the gathered parameter, and the CPU waits for it
            self.secondary[p] = True
            traffic = 2.0 * self.size * self.trace.numel[p] / s.hpz
            r.host_sync((r.kernel("compute", "secondary_shard", "forward", traffic),))
        self.status[p] = NOT_AVAILABLE
        self._staged.pop(p, None)
        size = self.trace.numel[p]
        self.counted -= size
        self.live -= size

    def _release_leftovers(self) -> None:
        """Modules whose input needs no gradient have no hook after their backward."""
        while self.running:
            unit, attributed = self.running.popitem()
            for p in {*self.trace.unit_parameters[unit], *attributed}:
                self.active[p].discard(unit)
                if not self.persistent[p]:
                    self._free(p)

    # ------------------------------------------------------------------ all-gathers

    def _gather(self, parameters: Iterable[int], unit: int, direction: int, trigger: str) -> None:
        wanted = sorted(parameters)
        numel = self.trace.numel
        for p in wanted:
            self.status[p] = IN_FLIGHT
            self.counted += numel[p]
            self.live += numel[p]
        self.peak_live = max(self.peak_live, self.live)
        if self.settings.hpz > 1:
            near = [p for p in wanted if self.secondary[p]]
            if near:
                self._all_gather(near, unit, direction, trigger)
                wanted = [p for p in wanted if not self.secondary[p]]
        if wanted:
            self._all_gather(wanted, unit, direction, trigger)

    def _all_gather(self, group: list[int], unit: int, direction: int, trigger: str) -> None:
        r, s = self.recorder, self.settings
        shard = sum(self.shard[p] for p in group)
        ranks, name = s.world, "shard"
        if self.secondary[group[0]]:
            ranks, name = s.hpz, "hpz"
            shard *= s.world // s.hpz
        part = 1.0 * shard * self.size
        if s.offload_parameters:
            self._load(group, part)
        if not s.overlap_comm:
            r.wait("all_gather", self._segment)  # issued on the compute stream
        if len(group) > 1 or s.quantized_weights:
            self._copy(2.0 * part, "copy_in")
        if self._copied >= 0:
            r.wait("all_gather", (self._copied,))
        phase = PHASES[direction]
        t = self.trace
        block = t.unit_blocks[unit]
        label = t.parameter_names[group[0]]
        if s.quantized_weights:
            op = quantized_gather(r, phase, name, [shard], ranks, label)
        else:
            op = r.collective(
                "all_gather", "all_gather", phase, name, part, part * ranks, s.dtype, label, block
            )
        self.issued.append(Issued(op, t.unit_names[unit], trigger, tuple(group)))
        handle = _Handle(op, part * ranks, group)
        for p in group:
            self.in_flight[p] = handle

    def _load(self, group: list[int], part: float) -> None:
        """Shards live in host memory: copied in before the gather, blocking the CPU."""
        r = self.recorder
        if self.settings.nvme:
            for p in group:
                if p not in self._staged:
                    self._read(p)
            r.wait("offload_in", tuple(self._staged[p] for p in group))
        if not self.settings.pinned:
            r.host("stage", "forward", STAGED * part)
        loaded = r.kernel("offload_in", "h2d", "forward", part)
        r.host_sync((loaded,))
        r.wait("all_gather", (loaded,))

    def _copy(self, traffic: float, name: str) -> None:
        r = self.recorder
        if self._waited >= 0:
            r.wait("copy_in", (self._waited,))
        self._copied = r.kernel("copy_in", name, "forward", traffic)

    def _wait(self, handle: _Handle) -> None:
        """The CPU lets no more than a few fetches pile up, then the all-gather stream unpacks."""
        if len(self._fetches) > 2:
            self.recorder.host_sync((self._fetches.popleft(),))
        if not handle.complete:
            handle.complete = True
            self._waited = max(self._waited, handle.op)
            for p in handle.parameters:
                self.status[p] = AVAILABLE
            if len(handle.parameters) > 1 or self.settings.quantized_weights:
                self._copy(2.0 * handle.size, "copy_out")
                handle.op = self._copied
        self._fetches.append(handle.op)

    def end_step(self) -> None:
        """Trainable parameters have new values: their secondary shards are void."""
        if self.settings.hpz > 1:
            self.secondary = [not t for t in self.trace.trainable]
        self.gradients.first = True

    def gather_persistent(self) -> None:
        """After the optimizer step: an all-gather for each parameter kept, frozen or not."""
        r, s, t = self.recorder, self.settings, self.trace
        r.wait_stream("all_gather", "compute")
        for p in t.all_held:
            if self.persistent[p]:
                part = 1.0 * self.shard[p] * self.size
                r.collective(
                    "all_gather", "all_gather", "optimizer", "shard", part, part * s.world,
                    s.dtype, t.parameter_names[p],
                )  # fmt: skip
        r.wait_stream("compute", "all_gather")
