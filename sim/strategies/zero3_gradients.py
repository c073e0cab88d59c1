"""Gradients under ZeRO-3: put into a bucket as they become ready, reduced, kept by their owners."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from sim.records import NamedTuple
from sim.strategies.recorder import Event, Recorder
from sim.strategies.zero3_quantized import quantized_reduce
from sim.strategies.zero3_settings import Settings
from sim.strategies.zero3_trace import ModuleTrace
from sim.units import DTYPE_BYTES

#: passes over host memory, by one thread, of a byte copied between the GPU and pageable memory:
#: read and written by way of a pinned buffer of CUDA; of a new tensor, whose pages Linux zeroes too
STAGED, STAGED_ANEW = 2.0, 3.0


class Issued(NamedTuple):
    """A collective and why it was issued, as recordings name it."""

    op: int  # index into the plan
    module: str  # whose hook issued it
    trigger: str  # prefetch | on_demand | ipg_bucket
    parameters: tuple[int, ...]


class GradientBucket:
    """The bucket of a rank.

    Parameters
    ----------
    trace, settings, recorder
        As the coordinator has them.
    shard : sequence of int
        Elements of each parameter that a rank owns.
    issued : list of Issued
        Where its collectives are noted.
    """

    def __init__(
        self, trace: ModuleTrace, settings: Settings, recorder: Recorder, shard: Sequence[int],
        issued: list[Issued],
    ) -> None:  # fmt: skip
        self._trace, self._settings, self._recorder = trace, settings, recorder
        self._shard, self._issued = shard, issued
        self._size = DTYPE_BYTES[settings.dtype]
        self._reductions: deque[int] = deque()
        self.parameters: list[int] = []
        self.elements = 0
        self.boundary = True  # of gradient accumulation
        self.first = True  # micro-batch of the step

    def add(self, parameters: tuple[int, ...], ready: Event) -> None:
        """Gradients of one module are ready with an event."""
        r, s, numel = self._recorder, self._settings, self._trace.numel
        for p in parameters:
            size = numel[p]
            if self.elements and self.elements + size > s.reduce_bucket:
                self.flush()
            r.wait("reduce_scatter", ready)
            if self.elements + size <= s.reduce_bucket:
                r.kernel("reduce_scatter", "bucket_copy", "backward", 2.0 * self._size * size)
            self.parameters.append(p)
            self.elements += size

    def flush(self) -> None:
        """Reduce the bucket."""
        if not self.parameters:
            return
        r, s, t = self._recorder, self._settings, self._trace
        bucket = sorted(self.parameters)
        elements = self.elements
        self.parameters, self.elements = [], 0
        if len(self._reductions) > 2:
            r.host_sync((self._reductions.popleft(),))
        wide = DTYPE_BYTES[s.reduce_dtype]
        cast = 0.0 if s.reduce_dtype == s.dtype else float((self._size + wide) * elements)
        shard = sum(self._shard[p] for p in bucket)
        label = t.parameter_names[bucket[0]]
        part = shard * wide
        if s.overlap_comm is False:
            r.wait_stream("reduce_scatter", "compute")
        if not s.reduce_scatter and elements <= s.reduce_bucket:
            total = float(elements * wide)
            r.kernel("reduce_scatter", "average", "backward", 2.0 * total + cast)
            op = r.collective(
                "reduce_scatter", "all_reduce", "backward", "shard", total, total,
                s.reduce_dtype, label,
            )  # fmt: skip
        elif s.quantized_gradients and s.world > s.gpus_per_node:
            shapes = [(t.numel[p], t.widest[p]) for p in bucket]
            op = quantized_reduce(r, shapes, s.world, s.gpus_per_node, s.reduce_dtype, label)
        else:
            padded = 1.0 * part * s.world
            copies = 1 if len(bucket) == 1 and t.numel[bucket[0]] % s.world == 0 else 2
            r.kernel("reduce_scatter", "interleave", "backward", 2.0 * copies * padded + cast)
            op = r.collective(
                "reduce_scatter", "reduce_scatter", "backward", "shard", padded, 1.0 * part,
                s.reduce_dtype, label,
            )  # fmt: skip
        self._issued.append(Issued(op, "ipg_bucket", "ipg_bucket", tuple(bucket)))
        self._keep(shard, wide)
        self._reductions.append(r.record("reduce_scatter")[-1])
        if s.overlap_comm is False:
            r.wait_stream("compute", "reduce_scatter")

    def _keep(self, shard: int, wide: float) -> None:
        """Store the reduced partition, or add it to the earlier micro-batches'."""
        r, s = self._recorder, self._settings
        if not s.offload_optimizer:
            traffic = (1.0 * wide + self._size + (0 if self.first else self._size)) * shard
            r.kernel("reduce_scatter", "keep_gradient", "backward", traffic)
            return
        half = 1.0 * self._size * shard
        moves = [("offload_out", "d2h", half), ("offload_in", "h2d", half)]
        if not self.first:
            moves.reverse()
        leaving = half if s.host_casts_gradients else 4.0 * shard
        if self.boundary:
            moves.append(("offload_out", "d2h", leaving))
            if s.nvme:
                moves.append(("nvme", "nvme_write", 4.0 * shard))
        moved = -1
        for stream, name, traffic in moves:
            r.wait_stream(stream, "reduce_scatter")
            moved = r.kernel(stream, name, "backward", traffic)
            r.wait("reduce_scatter", (moved,))
            if not s.pinned and name in ("d2h", "h2d"):
                r.host_sync((moved,))
                r.host("stage", "backward", STAGED * traffic)
        if self.boundary and s.blocking_gradients:
            r.host_sync((moved,))
            if s.host_casts_gradients:  # into a new tensor, then to fp32
                r.host("stage", "backward", STAGED_ANEW * half)
                r.host("cast", "backward", half + 4.0 * shard)
        r.kernel("reduce_scatter", "keep_gradient", "backward", half)

    def sub_groups(self) -> list[int]:
        """Trainable elements of a rank, cut into groups that the optimizer updates one by one."""
        shards = [self._shard[p] for p in self._trace.all_held if self._trace.trainable[p]]
        if self._settings.sub_group >= sum(shards):
            return [sum(shards)] if shards else []
        groups, size = [], 0
        for n in shards:
            size += n
            if size >= self._settings.sub_group:
                groups.append(size)
                size = 0
        return [*groups, size] if size else groups
