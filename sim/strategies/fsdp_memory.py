"""What FSDP2 and FSDP1 allocate: units gathered, used, freed and reduced, as their hooks run.

`sim.strategies.fsdp2` and `fsdp1` call these methods beside the ops they issue. Order and sizes are
those of PyTorch's own tracker (`tests/data/mem.json`); layers of one kind are of one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sim.blocks.modules import Block, ModelTree, Module
from sim.inputs.strategy import strategy_of
from sim.inputs.trainer import reduces_each
from sim.inputs.workload import Workload
from sim.records import NamedTuple
from sim.strategies import terms as t
from sim.strategies.allocations import Allocations
from sim.strategies.fsdp1_checkpoints import keeps_inputs
from sim.strategies.fsdp1_layout import flat_dtype
from sim.strategies.fsdp2_layout import experts_apart, experts_shard, gathered_ahead
from sim.strategies.step_memory import StepMemory
from sim.strategies.units import Unit, fsdp2_unit, trainable
from sim.units import DTYPE_BYTES


class UnitBytes(NamedTuple):
    """Bytes of one unit on one rank."""

    gathered: float  # unsharded parameters, compute dtype
    shard: float  # its sharded parameters
    cast: float  # the shard in the compute dtype, while it is sent
    gradient: float  # unsharded gradients, compute dtype
    reduce: float  # input of the reduce-scatter
    reduced: float  # output of it: the sharded gradient
    kept: float  # left after forward by reshard_after_forward
    accumulated: float  # unsharded gradients kept between micro-batches without synchronisation


class Remembers(Protocol):
    """What FSDP2's hooks tell of a step."""

    def start(self) -> None:
        """A step begins."""

    def step(self) -> None:
        """The optimizer steps."""

    def forward(self, sync: bool, accumulating: bool) -> None:
        """A micro-batch begins."""

    def backward(self) -> None:
        """Its backward does."""

    def done(self) -> None:
        """It has ended."""

    def reach(self, block: int) -> None:
        """A block is about to run, in either direction."""


class FsdpMemory(StepMemory):
    """Under ``fsdp2`` or ``fsdp1``, of which `recorded` layers are recorded."""

    def __init__(
        self, workload: Workload, tree: ModelTree, ranks: int, recorded: int, to: Allocations
    ) -> None:
        super().__init__(workload, tree, ranks, to)
        p = self.knobs
        self.last = recorded + 1  # the head's number
        self.flat = strategy_of(workload).fsdp_version == 1
        self.reduces_each = reduces_each(workload)
        self.reshard = p.sharding_strategy == "full-shard" if self.flat else p.reshard_after_forward
        self.root_leaves = p.root_reshard_after_forward is True and not self.flat
        # one flat parameter spans frozen and trained weights, unless adapters are wrapped apart
        self.mixed = self.flat and p.use_orig_params and p.wrap != "peft"
        depth = p.backward_prefetch
        self.depth = {"pre": 1, "post": 0, "none": 0}[depth] if isinstance(depth, str) else depth
        self.ahead = 0.0  # FSDP1: unit gathered ahead in backward
        self.piles_up = keeps_inputs(workload)
        self.offload = p.offload != "none"
        self.sync, self.accumulating = True, False
        kinds = {block.kind: block for block in tree.layers}
        sizes = {
            kind: self._sizes(block.modules, largest=_largest_share(block))
            for kind, block in kinds.items()
        }
        self.layers = [sizes[block.kind] for block in tree.layers]
        embedding, head = tree.embedding.modules, tree.head.modules
        self.root = self.embedding = self.head = None
        if p.wrap == "torchtitan" and not self.flat and not tree.tied:
            self.first = self.embedding = self._sizes(embedding)
            self.head = self._sizes(head, keep=True)
        else:
            self.first = self.root = self._sizes(embedding + head, keep=True)
            if self.root_leaves:
                self.first = self.root = self.root._replace(kept=0.0)
        trained = [q.numel for m in tree.head.modules for q in m.parameters if q.trainable]
        if tree.tied and trained:
            trained.append(tree.embedding.modules[0].parameters[0].numel)
        self.head_gradient = self.compute * sum(trained)

    def _sizes(
        self, modules: tuple[Module, ...], keep: bool = False, largest: float = 1.0
    ) -> UnitBytes:
        own, experts = experts_apart(modules)
        if experts:
            ranks = experts_shard(self.knobs, self.ranks)
            both = self._sizes(tuple(own)), self._of(experts, ranks, keep, largest)
            return UnitBytes(*map(sum, zip(*both, strict=True)))
        return self._of(own, self.ranks, keep, largest)

    def _of(self, modules: Sequence[Module], ranks: int, keep: bool, largest: float) -> UnitBytes:
        unit = self._unit(modules, ranks)
        grad_numel = unit.grad_numel
        if self.mixed and grad_numel:
            grad_numel = unit.numel  # the flat gradient spans frozen parameters too
        wire = DTYPE_BYTES[self.types.reduce]
        # a flat gradient is sent as it is
        reduce = 0.0 if self.flat and wire == self.compute else wire * grad_numel
        kept = 0.0
        if not self.reshard or keep:
            kept = unit.gather_bytes
        elif not isinstance(self.reshard, bool):
            kept = unit.gather_bytes / self.reshard
        # wrapped by linear layers, one of them at a time is gathered and reduced
        part = largest if self.knobs.wrap == "linear" and not keep else 1.0
        # a whole flat parameter is used as it is stored (NO_SHARD; FSDP1 takes it for one rank too)
        as_stored = self.flat and self.ranks == 1 and not unit.cast[1]
        gathered = 0.0 if as_stored else part * unit.gather_bytes
        return UnitBytes(
            gathered=gathered,
            shard=unit.master_bytes / ranks,
            cast=unit.cast[1] / ranks,
            gradient=part * (self.compute * grad_numel),
            reduce=part * reduce,
            reduced=DTYPE_BYTES[self.types.master] * grad_numel / ranks,
            kept=0.0 if as_stored else kept,
            accumulated=max(wire, self.compute) * grad_numel,
        )

    def _unit(self, modules: Sequence[Module], ranks: int) -> Unit:
        types = self.types
        if self.mixed and any(p.trainable for m in modules for p in m.parameters):
            types = types._replace(frozen=flat_dtype(types, learns=True))
        return fsdp2_unit("", 0, modules, 1 if self.flat else ranks, types)

    # forward

    def start(self) -> None:
        """A step begins; before the first, what is there all the time."""
        shards = sum(u.shard for u in self.layers) + sum(u.shard for u in self._outer())
        self.at_rest(shards, parameters_on_host=self.offload, states_on_host=self.offload)
        self.to.put(t.LOGITS, 1.0, t.HELD)  # the last step's, until forward returns

    @property
    def left_gathered(self) -> float:
        """Parameters that a forward leaves gathered for the backward to come. [B]"""
        return sum(unit.kept for unit in (*self.layers, *self._outer()))

    def _outer(self) -> list[UnitBytes]:
        return [u for u in (self.root, self.embedding, self.head) if u is not None]

    def forward(self, sync: bool, accumulating: bool) -> None:
        """A micro-batch: the embedding's unit is gathered."""
        to, first = self.to, self.first
        self.sync, self.accumulating = sync, accumulating
        to.moment, self.block = t.FORWARD, 0
        to.add(t.UNSHARDED, first.gathered)
        to.put(t.GATHERS, 0.0 if self.flat else first.gathered)
        to.mark((t.SAVED, 1.0, t.HIDDEN))
        if self.embedding:
            to.add(t.UNSHARDED, first.kept - first.gathered)

    def reach(self, block: int) -> None:
        """A block is about to run, in either direction: the one before it has."""
        before, self.block = self.block, block
        if block == before:
            return
        forward = self.to.moment == t.FORWARD
        if 0 < before < self.last:
            (self._post_forward if forward else self._post_backward)(before)
        if 0 < block < self.last:
            (self._pre_forward if forward else self._pre_backward)(block)
        elif forward and block:
            self._loss()

    def _pre_forward(self, layer: int) -> None:
        """A layer is gathered and runs."""
        to, unit = self.to, self.layers[layer - 1]
        to.add(t.UNSHARDED, unit.gathered)
        work = ((t.SAVED, 1.0, t.HIDDEN), (t.SAVED, 1.0, t.LAYER_FORWARD, layer))
        if self.flat:
            # the rate limiter lets the next unit be gathered while this one runs
            to.mark(*work, (t.UNSHARDED, unit.gathered if self.reshard else 0.0))
        else:
            to.mark((t.SAVED, 1.0, t.HIDDEN), (t.GATHERS, unit.gathered))
            # explicit prefetch issues further all-gathers before this unit runs
            to.put(t.GATHERS, unit.gathered * (1 + gathered_ahead(self.knobs)))
            to.mark(*work)

    def _post_forward(self, layer: int) -> None:
        """It has run: resharded, its saved tensors stay."""
        unit = self.layers[layer - 1]
        self.to.add(t.UNSHARDED, unit.kept - unit.gathered)
        self.to.add(t.SAVED, 1.0, t.RESIDENT, layer)

    def _loss(self) -> None:
        """Final norm, head and loss."""
        to, head = self.to, self.head
        if head:
            to.add(t.UNSHARDED, head.gathered)
            to.mark((t.SAVED, 1.0, t.HIDDEN), (t.GATHERS, head.gathered))
            to.put(t.GATHERS, head.gathered)
        to.mark((t.LOGITS, 1.0, t.NORM), (t.LOGITS, 1.0, t.LOGIT_BYTES))
        to.put(t.GATHERS)
        to.mark((t.LOGITS, 1.0, t.LOSS_FORWARD))

    # backward

    def backward(self) -> None:
        """The loss's and the head's."""
        to = self.to
        to.moment = t.BACKWARD
        to.put(t.LOGITS)
        if self.root and self.root_leaves:  # gathered again, before anything else
            to.mark((t.LOGITS, 1.0, t.LOSS_SAVED), (t.GATHERS, self.root.gathered))
        self.loss_backward()
        self._hold(self.layers[-1].gathered if self.reshard and self.depth else 0.0)
        to.add(t.WAITING, self.head_gradient)
        to.mark(
            (t.LOGITS, 1.0, t.NORM),
            (t.LOGIT_GRADIENTS, 1.0, t.HEAD_BACKWARD),
            (t.LOGIT_GRADIENTS, -1.0, t.NORM),
        )
        to.put(t.RECOMPUTED, 1.0, t.HIDDEN)
        to.put(t.LOGITS, 1.0, t.HELD)
        if self.head:
            to.add(t.WAITING, -self.head_gradient)
            to.add(t.UNSHARDED, -self.head.gathered)
            self._reduce(self.head)

    def _hold(self, size: float) -> None:
        """Bytes of the unit gathered ahead: a buffer in FSDP2, the parameters in FSDP1."""
        if self.flat:
            self.to.add(t.UNSHARDED, size - self.ahead)
            self.ahead = size
        else:
            self.to.put(t.GATHERS, size)

    def _pre_backward(self, layer: int) -> None:
        """A layer is gathered again, and what comes next in backward with it."""
        to, unit = self.to, self.layers[layer - 1]
        if not self.reshard:
            return
        to.add(t.UNSHARDED, unit.gathered - unit.kept)
        if not self.flat:
            to.mark()
        below = cast = 0.0
        if layer > 1:
            lower = self.layers[layer - 2]
            below, cast = lower.gathered * min(self.depth, layer - 1), lower.cast
        elif self.embedding and self.knobs.unshard_embedding_in_backward:
            below, cast = self.embedding.gathered, self.embedding.cast
        self._hold(below)
        to.mark((t.RECOMPUTED, cast))

    def _post_backward(self, layer: int) -> None:
        """It has run, after a second forward if it is recomputed: resharded, gradients reduced."""
        to, unit = self.to, self.layers[layer - 1]
        to.mark(
            (t.SAVED, -1.0, t.GONE, layer),
            (t.SAVED, 2.0 if layer > 1 else 1.0, t.FETCHED, layer),  # its input, and the next one's
            (t.RECOMPUTED, 1.0, t.LAYER_BACKWARD, layer),
        )
        to.add(t.SAVED, -1.0, t.RESIDENT, layer)
        if self.piles_up:
            # its input, and the gradient of the block's above, which was on its way till now
            above = layer + 1 < self.last and to.layers[layer].recomputed
            to.add(t.KEPT, float(to.layers[layer - 1].recomputed + above), t.HIDDEN)
        if self.reshard or self.knobs.reshard_after_backward:
            to.add(t.UNSHARDED, -(unit.gathered if self.reshard else unit.kept))
        self._reduce(unit)

    def done(self) -> None:
        """End of the backward graph: the embedding's unit."""
        to = self.to
        if self.embedding:
            if self.reshard and self.knobs.unshard_embedding_in_backward:
                to.add(t.UNSHARDED, self.embedding.gathered)
                to.mark()
                self._hold(0.0)
                to.mark((t.FULL_GRADIENTS, self.embedding.gradient))
                to.add(t.UNSHARDED, -self.embedding.gathered)
            to.put(t.RECOMPUTED)
            self._reduce(self.embedding, final=True)
        elif self.root:
            if trainable(self.tree.embedding):
                to.put(t.WAITING, self.root.gradient)
                to.mark()
            to.put(t.RECOMPUTED)
            to.put(t.WAITING)
            self._reduce(self.root, final=True)
        to.put(t.UNSHARDED)
        to.put(t.SCATTERS)
        to.put(t.KEPT)
        to.mark()

    def _reduce(self, unit: UnitBytes, final: bool = False) -> None:
        """Post-backward of a unit: its gradients go into a reduce-scatter, or pile up unsharded."""
        to, p = self.to, self.knobs
        if not unit.gradient:
            return
        gradient = (t.FULL_GRADIENTS, unit.gradient)
        if not self.sync:
            if not self.accumulating:
                to.add(t.FULL_GRADIENTS, unit.accumulated)
            to.mark(*([gradient] if self.accumulating else []))
            return
        if self.accumulating and not self.reduces_each:
            to.add(t.FULL_GRADIENTS, -unit.accumulated)
            to.mark((t.FULL_GRADIENTS, unit.accumulated), (t.SCATTERS, unit.reduce))
        if final:
            if unit is self.root:
                to.add(t.UNSHARDED, -unit.gathered)
            to.put(t.SCATTERS)
            to.mark(gradient, (t.LAST_SCATTER, unit.reduce))
        else:
            to.mark(gradient)
            to.put(t.SCATTERS, unit.reduce * p.reduce_scatter_max_input_buffers)
            # autograd still holds the head's gradients when the output is allocated (recorded)
            output = unit.reduced if unit is self.head else 0.0
            to.mark(gradient, (t.RECOMPUTED, output))
        passing = self.offload or self.workload.optimizer_in_backward
        if passing or (self.accumulating and self.reduces_each):
            to.mark((t.GRADIENTS, unit.reduced))
        else:
            to.add(t.GRADIENTS, unit.reduced)
        if final:
            to.put(t.SCATTERS)

    # optimizer and checkpoint

    def step(self) -> None:
        """The optimizer's step, and a checkpoint after it."""
        # full tensors are gathered one by one in the master dtype, then go to the host;
        # or clones of all stay on the GPU, beside the unit (and the root) being gathered
        units = self.layers + self._outer()
        largest = max(u.shard for u in units) * self.ranks
        clones = sum(u.shard for u in units) * self.ranks
        if self.root:
            clones += self.root.shard * self.ranks
        self.ends(0.0 if self.offload else 1.0, 0.0, largest, clones)


def _largest_share(block: Block) -> float:
    """Share of a block's parameters in its largest module."""
    sizes = [sum(p.numel for p in m.parameters) for m in block.modules]
    return max(sizes) / sum(sizes)
