"""Activation offload: inputs of checkpointed layers wait for backward in host memory.

As torchtune's `OffloadActivations` with streams: a copy to the host on a stream of its own beside
the layer that made it needful, back again one layer ahead of the recompute. Forward goes on only
while no more than one input is on its way, so GPU memory holds two.
"""

from __future__ import annotations

from sim.blocks.flops import checkpointed_layers
from sim.blocks.footprint import checkpoint_policy, layer_footprint
from sim.blocks.modules import ModelTree
from sim.inputs.workload import Workload
from sim.strategies.recorder import Event, Recorder


def copies_of(workload: Workload, tree: ModelTree) -> ActivationCopies | None:
    """Copies of one rank's inputs, if the workload asks for them."""
    asked = workload.activation_checkpointing.offload
    return ActivationCopies(workload, tree) if asked else None


class ActivationCopies:
    """Issues the copies of one rank.

    Parameters
    ----------
    workload : Workload
        Shapes and `activation_checkpointing`.
    tree : ModelTree
        Its layers.
    """

    def __init__(self, workload: Workload, tree: ModelTree) -> None:
        policy = checkpoint_policy(workload)
        marks = checkpointed_layers(workload.activation_checkpointing, len(tree.layers))
        self.sizes = {
            number: layer_footprint(workload, block.kind, policy).hidden
            for number, (block, mark) in enumerate(zip(tree.layers, marks, strict=True), start=1)
            if mark
        }
        self.out: dict[int, Event] = {}
        self.back: dict[int, Event] = {}
        self._at = (-1, True)

    def enter(self, r: Recorder, block: int, forward: bool) -> None:
        """Before any part of a block: its copies in this direction, once a block."""
        if (block, forward) != self._at:
            self._at = (block, forward)
            (self._forward if forward else self._backward)(r, block)

    def _forward(self, r: Recorder, block: int) -> None:
        """Before a block's forward: send its input to the host."""
        if block not in self.sizes:
            return
        before = self.out.get(block - 1, ())
        r.wait_stream("offload_out", "compute")
        copy = r.kernel("offload_out", "d2h", "forward", self.sizes[block], block=block)
        self.out[block] = (copy,)
        r.wait("compute", before)

    def _backward(self, r: Recorder, block: int) -> None:
        """Before a block's recompute: wait for its input and fetch the next one's."""
        if block in self.sizes:
            if block not in self.back:
                self._fetch(r, block)
            r.wait("compute", self.back.pop(block))
        if block - 1 in self.sizes:
            self._fetch(r, block - 1)

    def _fetch(self, r: Recorder, block: int) -> None:
        r.wait_stream("offload_in", "compute")
        r.wait("offload_in", self.out.pop(block, ()))
        copy = r.kernel("offload_in", "h2d", "backward", self.sizes[block], block=block)
        self.back[block] = (copy,)
