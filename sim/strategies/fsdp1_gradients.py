"""Gradients under FSDP1: flat, held over micro-steps, reduced, kept by their owners."""

from __future__ import annotations

from collections.abc import Sequence

from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.records import NamedTuple
from sim.strategies.recorder import Recorder
from sim.strategies.reduced import BACKWARD, across_replicas, in_master_dtype
from sim.strategies.traced import traced
from sim.strategies.units import SHARD, Unit, dtypes
from sim.units import DTYPE_BYTES


def _predivide_factor(ranks: int) -> int:
    """FSDP1 divides gradients before and after reducing, about evenly, against overflow."""
    factor = 1
    while ranks % factor == 0 and ranks / factor > factor:
        factor *= 2
    return factor


class _Reduced(NamedTuple):
    """What of a unit's gradient moves, again and again, on each rank. [B]"""

    flat: float  # in the dtype of computation
    into: float  # the reduction
    out: float


class FlatGradients:
    """What the post-backward hook does with a flat gradient, and what is to be waited for.

    Parameters
    ----------
    workload, mesh
        Of the job.
    units : sequence of Unit
        Whose gradients.
    ranks : int
        That share a unit, or all where none is sharded.
    """

    recorder: Recorder  # where it is written down

    def __init__(self, workload: Workload, mesh: Mesh, units: Sequence[Unit], ranks: int) -> None:
        knobs, self._units, self._types = workload.parallelism, units, dtypes(workload)
        self._sharded = knobs.sharding_strategy != "no-shard"
        self._alone = ranks <= 1
        replicas = mesh.dp_replicate if self._sharded else 1
        self._replicated = replicas > 1
        before = traced(_predivide_factor, ranks * replicas)
        self._predivides, self._postdivides = before > 1, ranks * replicas > before
        self._offload = knobs.offload != "none"
        width, wide = (DTYPE_BYTES[d] for d in (self._types.compute, self._types.reduce))
        self._flatten = "cat" if width == 2 else "flatten"
        self._moved = [
            _Reduced(u.grad_numel * width, u.grad_numel * wide, u.grad_numel * wide / ranks)
            for u in units
        ]
        self.held = [False] * len(units)  # unsharded, of an unsynchronised micro-step
        self._has_grad = [False] * len(units)

    def forget(self) -> None:
        """A step begins: there are no gradients."""
        self._has_grad = [False] * len(self._units)

    def flatten(self, unit: int) -> None:
        """Gradients of the views become one flat tensor (torch.split's backward)."""
        u, flat = self._units[unit], self._moved[unit].flat
        self.recorder.kernel("compute", self._flatten, BACKWARD, 2 * flat, u.name, u.block)

    def accumulate(self, unit: int) -> None:
        """Add to what is held of earlier micro-steps."""
        if self.held[unit]:
            u, flat = self._units[unit], self._moved[unit].flat
            self.recorder.kernel("compute", "accumulate", BACKWARD, 3 * flat, u.name, u.block)

    def hold(self, unit: int) -> None:
        """Keep a gradient whole until one is reduced."""
        self.held[unit] = True
        self.view(unit)

    def view(self, unit: int) -> None:
        """Each parameter's gradient becomes a view of the flat one (_use_unsharded_grad_views)."""
        self.recorder.call("fsdp1.grad_views")
        self.recorder.call_times("fsdp1.grad_view", self._units[unit].grad_tensors)

    def reduce(self, unit: int) -> None:
        """Cast, divide, reduce over the group, then over replicas; each owner keeps its part."""
        u, r, dtype = self._units[unit], self.recorder, self._types.reduce
        flat, into, out = self._moved[unit]
        self.held[unit] = False
        stream = "reduce_scatter"
        r.call("fsdp1.reduce")
        r.wait_stream(stream, "compute")
        if dtype != self._types.compute:
            r.kernel(stream, "cast", BACKWARD, flat + into, u.name, u.block)
        if self._predivides:
            r.kernel(stream, "predivide", BACKWARD, 2 * into, u.name, u.block)
        op, out = ("reduce_scatter", out) if self._sharded else ("all_reduce", into)
        if not self._alone:
            r.collective(stream, op, BACKWARD, SHARD, into, out, dtype, u.name, u.block)
        if self._replicated:
            stream = across_replicas(r, stream, u, out, dtype)
        self._store(u, unit, stream, out)

    def _store(self, u: Unit, unit: int, stream: str, size: float) -> None:
        """Second division, cast to the parameter's dtype, accumulation, offload."""
        r = self.recorder
        stored = in_master_dtype(r, stream, u, size, self._types, divide=self._postdivides)
        if self._has_grad[unit]:
            r.kernel(stream, "accumulate", BACKWARD, 3 * stored, u.name, u.block)
        self._has_grad[unit] = True
        if self._offload:
            r.kernel(stream, "d2h", BACKWARD, stored, u.name, u.block)

    def join(self) -> None:
        """Compute waits for the reductions, the CPU for what goes to the host."""
        r = self.recorder
        r.wait_stream("compute", "reduce_scatter")
        if self._replicated:
            r.wait_stream("compute", "all_reduce")
        if self._offload:
            r.host_sync(r.record("compute"))
