"""Tensor-parallel modules that nobody wraps: nothing is sharded, and nothing is to be cast.

One group of tensor-parallel ranks with bf16 weights needs no `fully_shard`. Parameters stay as they
are, gradients add up where autograd leaves them. Those of which every rank has a part (norms' under
sequence parallelism) are summed by whoever reads them: once each for the norm of all gradients, and
three times each in AdamW, whose gradient stays partial from one operator to the next.

Source: torch 2.13, ``DTensor`` redistribution of partial gradients; recordings ``tp4_*`` in
``tests/data/mesh_recordings.json``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.blocks.modules import Module
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.strategies import terms as t
from sim.strategies.fsdp2 import UNSHARDED, Hooks
from sim.strategies.fsdp2_gradients import PRE_BACKWARD
from sim.strategies.fsdp_memory import FsdpMemory, UnitBytes
from sim.strategies.recorder import Recorder
from sim.strategies.tail import clip_and_step
from sim.strategies.units import Unit, dtypes
from sim.units import DTYPE_BYTES

READS_OF_ADAM = 3  # of a gradient: both moments, and the second factor of the squared one


def plain(workload: Workload, mesh: Mesh) -> bool:
    """Whether a job's modules are not wrapped."""
    types, p = dtypes(workload), workload.parallelism
    alone = mesh.size("fsdp") == mesh.dp_replicate == mesh.pp == 1
    return mesh.tp > 1 and alone and types.master == types.compute and p.offload == "none"


class Plain(Hooks):
    """The same forward and backward without any hook."""

    def pre_forward(self, unit: int) -> None:
        """Parameters are there."""

    def post_forward(self, unit: int) -> None:
        """They stay."""
        self.state[unit] = UNSHARDED

    def unshard(self, unit: int, phase: str) -> None:
        """Nothing."""

    def pre_backward(self, unit: int) -> None:
        """Nothing."""

    def post_backward(self, unit: int) -> None:
        """A later micro-step's gradients are added to the first one's."""
        self.done[unit] = True
        u, r = self.units[unit], self.recorder
        if self.gradients.has_grad[unit]:
            traffic = 3.0 * u.grad_numel * DTYPE_BYTES[self.types.compute]
            r.kernel("compute", "accumulate", PRE_BACKWARD, traffic, u.name, u.block)
        self.gradients.has_grad[unit] = True

    def finish(self, update_bytes: float) -> None:
        """Norm of the gradients and optimizer, each of which sums what ranks have parts of."""
        r, knobs = self.recorder, self.knobs
        width = DTYPE_BYTES[self.types.compute]
        owned = self.layout.units
        if knobs.clip_gradients:
            sum_partial(r, owned, "clip", self.types.compute)
        clip_and_step(
            r, knobs, width, width * r.plan.owned_tensors, self.types.compute, update_bytes,
            before_step=lambda: sum_partial(
                r, owned, "optimizer", self.types.compute, READS_OF_ADAM
            ),
        )  # fmt: skip


class PlainMemory(FsdpMemory):
    """Nothing is gathered, cast or sent; gradients are where autograd leaves them."""

    def _of(self, modules: Sequence[Module], ranks: int, keep: bool, largest: float) -> UnitBytes:
        whole = super()._of(modules, ranks, keep, largest)
        return whole._replace(gathered=0.0, cast=0.0, kept=0.0, reduce=0.0)

    def _reduce(self, unit: UnitBytes, final: bool = False) -> None:
        if self.accumulating:
            self.to.mark((t.GRADIENTS, unit.reduced))  # until it is added to what is there
        else:
            self.to.add(t.GRADIENTS, unit.reduced)


def sum_partial(
    r: Recorder, units: list[Unit], phase: str, dtype: str, times: int = 1
) -> None:  # fmt: skip
    """Gradients of which tensor-parallel ranks have parts, one by one and so often."""
    for u in units:
        for numel in u.partial:
            size = numel * DTYPE_BYTES[dtype]
            for _ in range(times):
                r.collective(
                    "compute", "all_reduce", phase, "tensor", size, size, dtype, u.name, u.block
                )
