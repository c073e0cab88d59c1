"""What Megatron's data parallelism allocates: parameters, a buffer of gradients, parts of states.

A stage keeps the input of each micro-batch in flight as its first block saved it; what it sends is
freed once sent (``deallocate_pipeline_outputs``). FP8 products read copies of the weights and their
transposes, which stay, or the weights themselves are FP8 (``--fp8-param-gather``). Gradients that
no product adds to the buffer itself live in the compute dtype until the end of their backward.

Source: Megatron-LM, core/distributed/param_and_grad_buffer.py, core/pipeline_parallel/schedules.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.blocks.modules import ModelTree
from sim.inputs.recipes import RECIPES
from sim.inputs.workload import Workload
from sim.strategies import terms as t
from sim.strategies.allocations import Allocations
from sim.strategies.fsdp_memory import UnitBytes
from sim.strategies.stage_memory import StageMemory
from sim.strategies.step_memory import StepMemory
from sim.strategies.units import trainable_elements
from sim.units import DTYPE_BYTES


class MegatronMemory(StepMemory):
    """Of a rank.

    Parameters
    ----------
    workload, tree, to
        As for `StepMemory`.
    numel : mapping of int to int
        Trainable elements of each block that the rank holds. [1]
    owned : float
        Elements whose states it has. [1]
    low : int
        Of its elements, those that FP8 products read. [1]
    """

    def __init__(
        self, workload: Workload, tree: ModelTree, to: Allocations, numel: Mapping[int, int],
        owned: float, low: int,
    ) -> None:  # fmt: skip
        super().__init__(workload, tree, 1, to)
        self.last = len(tree.layers) + 1
        self.numel, self.owned, self.low = numel, owned, low
        self.share = owned / trainable_elements(workload, 1)[0]
        self.wide = DTYPE_BYTES[self.types.reduce]
        fused = self.knobs.gradient_accumulation_fusion
        self.gradient = 0.0 if fused else self.compute

    def unit(self, block: int) -> UnitBytes:
        """Of a block: its gradients, until they are in the buffer."""
        size = self.gradient * self.numel[block]
        return UnitBytes(0.0, 0.0, 0.0, size, 0.0, 0.0, 0.0, size)

    def begin(self) -> None:
        """What is there all the time."""
        to, total = self.to, sum(self.numel.values())
        master = 4.0 * self.owned if self.types.compute != "fp32" else 0.0
        fp8 = DTYPE_BYTES["fp8"] * self.low
        stored = self.compute * total - (self.types.fp8_gather * (self.compute * self.low - fp8))
        copies = 0.0  # a transpose of what is stored, or what products read by row and by column
        if self.low:
            recipe = RECIPES[self.workload.precision.recipe]
            copies = recipe.weight_bytes * self.low - self.types.fp8_gather * fp8
        self.at_rest(
            stored, parameters_on_host=False, states_on_host=False, master=master,
            share=self.share,
        )  # fmt: skip
        to.put(t.UNSHARDED, copies)
        to.put(t.FULL_GRADIENTS, self.wide * total)
        to.moment = t.FORWARD

    def end(self) -> None:
        """The optimizer's step, and a checkpoint after it."""
        self.ends(self.share)


class MegatronStageMemory(StageMemory):
    """Of one stage, or of the model."""

    def done(self) -> None:
        """The last block has run; gradients of the pass are in the buffer."""
        if self.at >= 0:
            self._after(self.at)
        if self.way == "backward":
            for block in self.kept:
                self.to.add(t.FULL_GRADIENTS, -self.of.unit(block).accumulated)
            self.kept.clear()
        self.way, self.at = "", -1
