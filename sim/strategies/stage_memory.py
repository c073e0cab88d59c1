"""What the stages of a pipeline rank allocate: parameters, gradients, micro-batches in flight.

Unlike FSDP2's own loop, a stage keeps its parameters gathered and its gradients whole, in the
reduce dtype, from its first micro-batch to the reduction at the end; sharding saves states only.
Every stage but the first has a buffer for each micro-batch's input, every one but the last for each
gradient; they stay across steps. A stage's outputs live until their backward.

Source: torch 2.13, ``distributed/pipelining/stage.py``; recordings ``ppmem_*``.
"""

from __future__ import annotations

from typing import Protocol

from sim.blocks.modules import ModelTree
from sim.inputs.workload import Workload
from sim.strategies import terms as t
from sim.strategies.allocations import Allocations
from sim.strategies.fsdp_memory import FsdpMemory, UnitBytes
from sim.strategies.units import trainable_elements


class PipelineMemory(FsdpMemory):
    """Of all stages of a rank.

    Parameters
    ----------
    workload, tree, ranks, to
        As for `FsdpMemory`; units are torchtitan's.
    owned : float
        Elements that this rank updates. [1]
    """

    def __init__(
        self, workload: Workload, tree: ModelTree, ranks: int, to: Allocations, owned: float
    ) -> None:
        super().__init__(workload, tree, ranks, len(tree.layers), to)
        self.share = owned / trainable_elements(workload, ranks)[0] if owned else 0.0

    def unit(self, block: int) -> UnitBytes:
        """Of a block's unit."""
        if 0 < block < self.last:
            return self.layers[block - 1]
        outer = self.head if block else self.embedding
        return outer or self.first

    def begin(self, stages: dict[int, range], last: int) -> None:
        """What is there all the time; `last` is the pipeline's last stage."""
        to = self.to
        shards = sum(self.unit(block).shard for own in stages.values() for block in own)
        self.at_rest(shards, parameters_on_host=False, states_on_host=False, share=self.share)
        to.add(t.SCALES, self.share - 1.0, t.SCALE_BYTES)
        for stage in stages:
            to.add(t.MESSAGES, float((stage > 0) + (stage < last)), t.RECEIVED)
        to.moment = t.FORWARD

    def end(self) -> None:
        """The optimizer's step, and a checkpoint after it."""
        largest = max(unit.shard for unit in self.layers) * self.ranks
        self.ends(self.share, largest=largest)


class OfRank(Protocol):
    """What a rank holds, as its stages need to know it."""

    to: Allocations
    last: int  # the head's block

    def unit(self, block: int) -> UnitBytes:
        """Of a block's parameters."""


class StageMemory:
    """Of one stage: what its hooks call, block by block.

    Parameters
    ----------
    of : OfRank
        The rank's.
    first, last : bool
        Whether it holds the embedding, the head.
    """

    def __init__(self, of: OfRank, first: bool, last: bool) -> None:
        self.of, self.to = of, of.to
        self.first, self.last = first, last
        self.way = ""
        self.at = -1
        self.kept: set[int] = set()  # blocks whose gradients are there

    def gathered(self, block: int) -> None:
        """A unit's parameters are whole from now on."""
        self.to.add(t.UNSHARDED, self.of.unit(block).gathered)

    def dropped(self, block: int) -> None:
        """They are sharded again."""
        self.to.add(t.UNSHARDED, -self.of.unit(block).gathered)

    def start(self) -> None:
        """Nothing: the rank begins for all of its stages."""

    step = start

    def forward(self, sync: bool = False, accumulating: bool = False) -> None:
        """A micro-batch comes in; its input lies in the buffer it was received in."""
        self.way, self.at = "forward", -1
        self.to.moment = t.FORWARD

    def backward(self) -> None:
        """Its gradient does."""
        self.turn("backward")

    def turn(self, way: str) -> None:
        """Backward, or ``input`` or ``weight`` of it."""
        self.way, self.at = way, -1
        self.to.moment = t.BACKWARD

    def reach(self, block: int) -> None:
        """A block is about to run: the one before has."""
        before, self.at = self.at, block
        if before not in (-1, block):
            self._after(before)
        if before != block:
            self._run(block)

    def done(self) -> None:
        """The last block has run."""
        if self.at >= 0:
            self._after(self.at)
        if self.way == "forward":
            # the output lives until its backward; the input is a buffer's
            self.to.add(t.SAVED, float(not self.last) - float(not self.first), t.HIDDEN)
        elif self.way != "input":
            self.to.add(t.SAVED, float(not self.first) - float(not self.last), t.HIDDEN)
        self.way, self.at = "", -1

    def _run(self, block: int) -> None:
        to, layer = self.to, 0 < block < self.of.last
        if self.way == "forward":
            if layer:
                to.mark((t.SAVED, 1.0, t.HIDDEN), (t.SAVED, 1.0, t.LAYER_FORWARD, block))
            elif block:
                to.mark((t.LOGITS, 1.0, t.NORM), (t.LOGITS, 1.0, t.LOGIT_BYTES))
                to.mark((t.LOGITS, 1.0, t.LOSS_FORWARD))
            return
        gradient = (t.FULL_GRADIENTS, 0.0 if self.way == "input" else self.of.unit(block).gradient)
        if layer:
            to.mark(
                gradient, (t.SAVED, -1.0, t.GONE, block), (t.RECOMPUTED, 1.0, t.HIDDEN),
                (t.RECOMPUTED, 1.0, t.LAYER_BACKWARD, block),
            )  # fmt: skip
        elif block:
            to.mark(
                (t.LOGIT_GRADIENTS, 1.0, t.LOSS_BACKWARD), (t.LOGIT_GRADIENTS, -1.0, t.LOSS_SAVED)
            )
            to.mark(
                gradient, (t.LOGIT_GRADIENTS, 1.0, t.HEAD_BACKWARD), (t.LOGITS, -1.0, t.LOSS_SAVED)
            )
        else:
            to.mark(gradient)

    def _after(self, block: int) -> None:
        to, unit, layer = self.to, self.of.unit(block), 0 < block < self.of.last
        sign = {"forward": 1.0, "input": 0.0}.get(self.way, -1.0)
        if layer:
            to.add(t.SAVED, sign, t.RESIDENT, block)
        elif block:
            to.add(t.LOGITS, sign, t.LOSS_SAVED)
        if sign < 0 and block not in self.kept:
            self.kept.add(block)
            to.add(t.FULL_GRADIENTS, unit.accumulated)

    def reduced(self, block: int) -> None:
        """A unit's gradients went into a reduce-scatter."""
        to, unit = self.to, self.of.unit(block)
        to.put(t.SCATTERS, unit.reduce)
        to.mark()
        to.add(t.GRADIENTS, unit.reduced)
        to.add(t.FULL_GRADIENTS, -unit.accumulated)
        self.dropped(block)
        to.put(t.SCATTERS)
