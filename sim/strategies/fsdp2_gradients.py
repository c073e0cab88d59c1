"""Gradients under FSDP2: summed over micro-steps, reduced over the group, kept by their owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.inputs.workload import Parallelism
from sim.mesh import Mesh
from sim.strategies.recorder import Event, Recorder
from sim.strategies.reduced import across_replicas, in_master_dtype
from sim.strategies.tail import step_within
from sim.strategies.units import Dtypes, Unit
from sim.units import DTYPE_BYTES

PRE_BACKWARD = "backward"


class GradientReducer:
    """What `foreach_reduce` does for a rank, and what it leaves to be waited for.

    Parameters
    ----------
    knobs, mesh, types
        Of the job.
    units : sequence of Unit
        Whose gradients.
    ranks : mapping of str to int
        That share a unit, by its group.
    recorder : Recorder
        Where it is written down.
    within : bool
        Hooks step parameters as soon as their gradients are there.
    """

    def __init__(
        self, knobs: Parallelism, mesh: Mesh, types: Dtypes, units: Sequence[Unit],
        ranks: Mapping[str, int], recorder: Recorder, within: bool = False,
    ) -> None:  # fmt: skip
        self._within = within
        self._knobs, self._mesh, self._types = knobs, mesh, types
        self._units, self._ranks, self._recorder = units, ranks, recorder
        self._apart = ".reduce_scatter" * knobs.separate_reduce_scatter_group
        n = len(units)
        self.all_reduce = True
        self.accumulated = [False] * n  # holds an unsharded gradient
        self.has_grad = [False] * n  # sharded gradient exists from an earlier micro-step
        self._partial = [False] * n  # HSDP: holds a reduced, not yet all-reduced gradient
        self._offloaded: list[list[Event]] = [[] for _ in range(n)]
        self._scatters: list[Event] = []  # reduce-scatters whose input is retained
        self._reduced: dict[str, Event] = {}  # last post-reduce event by stream

    @property
    def under_way(self) -> bool:
        """Whether anything is to be waited for."""
        return bool(self._scatters or self._reduced or any(self._offloaded))

    def forget(self) -> None:
        """A step begins: there are no gradients."""
        self.has_grad = [False] * len(self._units)

    def accumulate(self, unit: int, keep: bool) -> None:
        """Add new gradients to earlier ones of the reduce dtype; `keep` the first ones so."""
        u, r = self._units[unit], self._recorder
        width, wide = DTYPE_BYTES[self._types.compute], DTYPE_BYTES[self._types.reduce]
        if not u.grad_numel:
            return
        if self.accumulated[unit]:
            traffic = u.grad_numel * (width + 2 * wide)
            r.kernel("compute", "accumulate", PRE_BACKWARD, traffic, u.name, u.block)
        elif keep:
            self.accumulated[unit] = True
            if wide != width:
                traffic = u.grad_numel * (width + wide)
                r.kernel("compute", "upcast", PRE_BACKWARD, traffic, u.name, u.block)

    def reduce(self, unit: int) -> None:
        """Sum what tensor-parallel ranks have parts of, copy in, reduce-scatter."""
        r, knobs, grads = self._recorder, self._knobs, self._units[unit].grad_numel > 0
        width, wide = DTYPE_BYTES[self._types.compute], DTYPE_BYTES[self._types.reduce]
        if grads:
            self._sum_partial(unit, wide if self.accumulated[unit] else width)
        while len(self._scatters) >= knobs.reduce_scatter_max_input_buffers:
            r.wait("compute", self._scatters.pop(0))
        if grads:
            self._reduce(unit, width if not self.accumulated[unit] else wide)
            self.accumulated[unit] = False

    def _sum_partial(self, unit: int, grad_bytes: float) -> None:
        """Gradients that each tensor-parallel rank has a part of are summed, one by one."""
        if self._mesh.tp == 1:
            return
        u, r = self._units[unit], self._recorder
        dtype = self._types.reduce if self.accumulated[unit] else self._types.compute
        for numel in u.partial:
            size = numel * grad_bytes
            r.collective(
                "compute", "all_reduce", PRE_BACKWARD, "tensor", size, size, dtype, u.name, u.block
            )

    def _reduce(self, unit: int, grad_bytes: float) -> None:
        u, r, types = self._units[unit], self._recorder, self._types
        wide = DTYPE_BYTES[types.reduce]
        r.call("fsdp2.reduce")
        bytes_in = u.grad_numel * wide
        ranks = self._ranks[u.over]
        bytes_out = bytes_in / ranks
        r.kernel(
            "compute", "reduce_scatter_copy_in", PRE_BACKWARD, u.grad_numel * (grad_bytes + wide),
            u.name, u.block,
        )  # fmt: skip
        stream = "reduce_scatter"
        r.wait_stream(stream, "compute")
        scaled = types.reduce == "fp16"  # NCCL's own average could overflow
        if scaled:
            r.kernel(stream, "predivide", PRE_BACKWARD, 2 * bytes_in, u.name, u.block)
        if ranks > 1:
            r.collective(
                stream, "reduce_scatter", PRE_BACKWARD, u.over, bytes_in, bytes_out,
                types.reduce, u.name, u.block, comm=u.over + self._apart,
            )  # fmt: skip
        else:
            r.kernel(stream, "copy", PRE_BACKWARD, 2 * bytes_in, u.name, u.block)
        scattered = r.record(stream)
        if self._mesh.dp_replicate > 1:
            if not self.all_reduce:
                if self._partial[unit]:
                    r.kernel(stream, "accumulate", PRE_BACKWARD, 3 * bytes_out, u.name, u.block)
                self._partial[unit] = True
                self._reduced[stream] = r.record(stream)
                self._scatters.append(scattered)
                return
            if self._partial[unit]:
                r.kernel(stream, "accumulate", PRE_BACKWARD, 3 * bytes_out, u.name, u.block)
                self._partial[unit] = False
            stream = across_replicas(r, stream, u, bytes_out, types.reduce)
        stored = in_master_dtype(r, stream, u, bytes_out, types, divide=scaled)
        self._store(unit, stream, stored)
        self._reduced[stream] = r.record(stream)
        self._scatters.append(scattered)

    def _store(self, unit: int, stream: str, stored: float) -> None:
        """Send so many bytes of a reduced gradient to the host, or add them to an earlier one."""
        u, r = self._units[unit], self._recorder
        if self._knobs.offload != "none":
            r.kernel(stream, "d2h", PRE_BACKWARD, stored, u.name, u.block)
            if self.has_grad[unit] or not self._knobs.pin_memory:
                r.host_sync(r.record(stream))
            if self.has_grad[unit]:
                r.host("accumulate", PRE_BACKWARD, 3 * stored)
            elif self._knobs.pin_memory:
                self._offloaded[unit].append(r.record(stream))
        elif self._within:
            step_within(r, stream, u.name, u.block, stored, u.grad_tensors)
        elif self.has_grad[unit]:
            r.kernel(stream, "accumulate", PRE_BACKWARD, 3 * stored, u.name, u.block)
        self.has_grad[unit] = True

    def join(self, unit: int) -> None:
        """Compute waits for what was reduced, the CPU for what of a unit went to the host."""
        for event in self._reduced.values():
            self._recorder.wait("compute", event)
        self._reduced.clear()
        for event in self._offloaded[unit]:
            self._recorder.host_sync(event)
        self._offloaded[unit].clear()

    def drop_inputs(self) -> None:
        """Compute waits for reduce-scatters whose input is retained until then."""
        for event in self._scatters:
            self._recorder.wait("compute", event)
        self._scatters.clear()
