"""Memory walk of FSDP2 and FSDP1: units gathered, used, freed and reduced in the CPU's order.

The order of allocations is that of `sim.strategies.fsdp2`, from the same recordings; what a layer
keeps comes from `sim.blocks.activations`. Layers of one kind cost the same, so a walk is a few
additions a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.blocks.activations import (
    checkpoint_policy,
    head_footprint,
    layer_footprint,
)
from sim.blocks.autograd import Footprint
from sim.blocks.modules import Block, ModelTree, Module
from sim.inputs.shares import batch_on
from sim.inputs.workload import Workload
from sim.memory.ledger import Ledger
from sim.memory.states import optimizer_bytes, optimizer_temporaries, scale_bytes
from sim.mesh import Mesh
from sim.strategies.units import Unit, checkpointed, dtypes, fsdp2_unit
from sim.units import DTYPE_BYTES

HIDDEN = "recomputed activations and their gradients"
WAITING = "gradients waiting for their unit"
LAST = "last reduce-scatter's input"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of one unit on one rank."""

    gathered: float  # unsharded parameters, compute dtype
    shard: float  # its sharded parameters
    cast: float  # the shard in the compute dtype, while it is sent
    gradient: float  # unsharded gradients, compute dtype
    reduce: float  # input of the reduce-scatter
    reduced: float  # output of it: the sharded gradient
    kept: float  # left after forward by reshard_after_forward
    accumulated: float  # unsharded gradients kept between micro-batches without synchronisation


def walk_fsdp(workload: Workload, tree: ModelTree, mesh: Mesh) -> Ledger:
    """Walk one optimizer step in its steady state (optimizer states exist).

    Parameters
    ----------
    workload : Workload
        Strategy ``fsdp2`` or ``fsdp1``.
    tree : ModelTree
        The model's parameters.
    mesh : Mesh
        How the ranks are grouped.

    Returns
    -------
    Ledger
        Live bytes at the end and the peak of every moment.
    """
    return _Walk(workload, tree, mesh).run()


def _largest_share(block: Block) -> float:
    """Share of a block's parameters in its largest module."""
    sizes = [sum(p.numel for p in m.parameters) for m in block.modules]
    return max(sizes) / sum(sizes)


class _Walk:
    def __init__(self, workload: Workload, tree: ModelTree, mesh: Mesh) -> None:
        self.workload, self.tree = workload, tree
        p = workload.parallelism
        self.ranks = mesh.size("fsdp")
        self.types = dtypes(workload)
        self.compute = DTYPE_BYTES[self.types.compute]
        self.flat = p.strategy == "fsdp1"
        self.no_shard = self.flat and p.sharding_strategy == "no-shard"
        reshard = p.reshard_after_forward
        if self.flat:
            reshard = p.sharding_strategy == "full-shard"
        self.reshard = reshard
        # one flat parameter spans frozen and trained weights, unless adapters are wrapped apart
        self.mixed = self.flat and p.use_orig_params and p.wrap != "peft"
        self.titan = p.wrap == "torchtitan" and not self.flat
        named = {"pre": 1, "post": 0, "none": 0}
        depth = p.backward_prefetch
        self.depth = named[depth] if isinstance(depth, str) else depth
        self.ahead = 0.0  # FSDP1: unit gathered ahead in backward
        self.offload = self.offload_optimizer = p.offload != "none"  # FSDP has all or nothing
        self.ledger = Ledger()
        kinds = {block.kind: block for block in tree.layers}
        self.layer_sizes = {
            kind: self.sizes(self.unit([(block.modules, True)]), largest=_largest_share(block))
            for kind, block in kinds.items()
        }
        self.kinds = [block.kind for block in tree.layers]
        embedding, head = [(tree.embedding.modules, False)], [(tree.head.modules, False)]
        if tree.tied:
            self.titan = False  # a tied table belongs to one unit
        if self.titan:
            self.root = None
            self.embedding: Sizes | None = self.sizes(self.unit(embedding))
            self.head: Sizes | None = self.sizes(self.unit(head), keep=True)
        else:
            self.root = self.sizes(self.unit(embedding + head), keep=True)
            self.embedding = self.head = None
        trained = any(q.trainable for m in tree.head.modules for q in m.parameters)
        head_numel = sum(q.numel for m in tree.head.modules for q in m.parameters if q.trainable)
        if tree.tied and trained:
            head_numel += tree.embedding.modules[0].parameters[0].numel
        self.head_gradient = self.compute * head_numel
        self.embedding_trained = any(
            q.trainable for m in tree.embedding.modules for q in m.parameters
        )
        policy = checkpoint_policy(workload)
        marks = checkpointed(workload.activation_checkpointing, len(self.kinds))
        pairs = list(zip(self.kinds, (policy if m else "none" for m in marks), strict=True))
        distinct = {pair: layer_footprint(workload, *pair) for pair in set(pairs)}
        self.footprints: list[Footprint] = [distinct[pair] for pair in pairs]
        self.offloaded_activations = workload.activation_checkpointing.offload
        self.loss = head_footprint(workload)

    def unit(self, groups: list[tuple[tuple[Module, ...], bool]]) -> Unit:
        pairs = [(module, inside) for modules, inside in groups for module in modules]
        types = self.types
        method = self.workload.method
        if self.mixed and not types.quantised and method.frozen_dtype == "as-compute":
            # a flat parameter has one dtype, so frozen weights are stored in the adapters'
            types = types._replace(frozen=types.master)
        return fsdp2_unit("", 0, pairs, 1 if self.flat else self.ranks, types)

    def sizes(self, unit: Unit, keep: bool = False, largest: float = 1.0) -> Sizes:
        p = self.workload.parallelism
        grad_numel = unit.grad_numel
        if self.mixed and grad_numel:
            grad_numel = unit.numel  # the flat gradient spans frozen parameters too
        gradient = self.compute * grad_numel
        wire = DTYPE_BYTES[self.types.reduce]
        reduce = wire * grad_numel
        if self.flat and wire == self.compute:
            reduce = 0.0  # the flat gradient itself is sent
        kept = 0.0
        if not self.reshard or keep:
            kept = unit.gather_bytes
        elif isinstance(self.reshard, int) and not isinstance(self.reshard, bool):
            kept = unit.gather_bytes / self.reshard
        master = DTYPE_BYTES[self.types.master]
        part = 1.0
        if p.wrap == "linear" and not keep:
            part = largest  # one linear at a time is gathered and reduced
        return Sizes(
            gathered=part * unit.gather_bytes,
            shard=unit.master_bytes / self.ranks,
            cast=unit.gather_bytes / self.ranks if self.types.casts else 0.0,
            gradient=part * gradient,
            reduce=part * reduce,
            reduced=master * grad_numel / self.ranks,
            kept=kept,
            accumulated=max(wire, self.compute) * grad_numel,
        )

    def run(self) -> Ledger:
        ledger, workload = self.ledger, self.workload
        units = [self.layer_sizes[k] for k in self.kinds]
        outer = [u for u in (self.root, self.embedding, self.head) if u is not None]
        shards = sum(u.shard for u in units) + sum(u.shard for u in outer)
        ledger.put("sharded parameters", 0.0 if self.offload else shards)
        ledger.put("quantisation scales", scale_bytes(workload, self.tree))
        ledger.mark()
        if not self.offload_optimizer:
            ledger.put("optimizer states", optimizer_bytes(workload, self.ranks))
        tokens = batch_on(workload).local_tokens
        ledger.put("inputs", 8.0 * tokens)
        ledger.put("logits and loss", self.loss.held)  # the last step's, until forward returns
        steps = min(workload.gradient_accumulation, 2)
        for micro in range(steps):
            last = micro == steps - 1
            sync = last or workload.parallelism.gradient_sync == "every"
            self.forward()
            self.backward(sync=sync, accumulating=micro > 0)
        self.step(units + outer)
        return ledger

    # forward -------------------------------------------------------------------------------

    def forward(self) -> None:
        ledger = self.ledger
        ledger.moment = "forward"
        held = 0.0  # all-gather buffer of the previous unit
        unsharded, gathers, saved = (
            "unsharded parameters",
            "all-gather buffers",
            "saved activations",
        )
        hidden = self.loss.hidden
        first = self.root or self.embedding
        if first is not None:
            ledger.add(unsharded, first.gathered)
            held = 0.0 if self.flat else first.gathered
            ledger.put(gathers, held)
            ledger.mark_terms({saved: hidden})
            if self.embedding is not None:
                ledger.add(unsharded, first.kept - first.gathered)
        self._layers(range(len(self.kinds)), self._forward_layer)
        if self.head is not None:
            ledger.add(unsharded, self.head.gathered)
            ledger.mark_terms({saved: hidden, gathers: self.head.gathered})
            ledger.put(gathers, self.head.gathered)
        ledger.mark_terms({"logits and loss": self.loss.norm + self.loss.logits})
        ledger.put(gathers, 0.0)
        ledger.mark_terms({"logits and loss": self.loss.forward_peak})

    def _layers(self, order: range, walk: Callable[[int], None]) -> None:
        """Walk layers in order.

        Layers alike change what is live by equal amounts, so that among many of them the highest
        points are at either end: those between are added up at once.
        """
        edge = 3 + max(self.depth, self.workload.parallelism.forward_prefetch)
        first = 0
        while first < len(order):
            alike = (self.kinds[order[first]], self.footprints[order[first]])
            end = first + 1
            while end < len(order) and (
                self.kinds[order[end]] == alike[0] and self.footprints[order[end]] is alike[1]
            ):
                end += 1
            between = end - first - 2 * edge - 1
            if between < 1:
                between = 0
            for at in range(first, end):
                if between and first + edge + 1 <= at < end - edge:
                    continue
                before = dict(self.ledger.live) if between and at == first + edge else None
                walk(order[at])
                if before is not None:
                    self.ledger.repeat(before, between)
            first = end

    def _forward_layer(self, index: int) -> None:
        ledger, hidden = self.ledger, self.loss.hidden
        unsharded, gathers, saved = (
            "unsharded parameters",
            "all-gather buffers",
            "saved activations",
        )
        unit, footprint = self.layer_sizes[self.kinds[index]], self.footprints[index]
        ledger.add(unsharded, unit.gathered)
        work = hidden + self._leaving(footprint) + footprint.forward_peak
        if self.flat:
            # the rate limiter lets the next unit be gathered while this one runs
            ahead = unit.gathered if self.reshard else 0.0
            ledger.mark_terms({saved: work, unsharded: ahead})
        else:
            ledger.mark_terms({saved: hidden, gathers: unit.gathered})
            # explicit prefetch issues further all-gathers before this unit runs
            prefetch = self.workload.parallelism.forward_prefetch
            ledger.put(gathers, unit.gathered * (1 + prefetch))
            ledger.mark_terms({saved: work})
        ledger.add(unsharded, unit.kept - unit.gathered)
        ledger.add(saved, self._resident(footprint))

    def _resident(self, footprint: Footprint) -> float:
        """Saved bytes that stay on the GPU; with offload only what the copies are made from."""
        if not self.offloaded_activations:
            return footprint.saved
        return max(0.0, footprint.saved - footprint.hidden)

    def _leaving(self, footprint: Footprint) -> float:
        """The last layer's input, still on its way to the host while this one runs."""
        return footprint.hidden if self.offloaded_activations else 0.0

    # backward ------------------------------------------------------------------------------

    def backward(self, *, sync: bool, accumulating: bool) -> None:
        ledger, loss = self.ledger, self.loss
        ledger.moment = "backward"
        ledger.put("logits and loss", 0.0)
        unsharded, _gathers, saved = (
            "unsharded parameters",
            "all-gather buffers",
            "saved activations",
        )
        ledger.mark_terms(
            {
                "logits and loss": loss.saved,
                "gradients of logits": loss.backward_peak - loss.saved,
            }
        )
        prefetch = self._gathers_in_backward()
        last = self.layer_sizes[self.kinds[-1]]
        ahead = last.gathered if prefetch and self.depth else 0.0
        self._hold(ahead)
        ledger.add(WAITING, self.head_gradient)
        ledger.mark_terms(
            {"logits and loss": loss.norm, "gradients of logits": loss.weight_peak - loss.norm}
        )
        ledger.put(HIDDEN, loss.hidden)
        ledger.put("logits and loss", loss.held)
        if self.head is not None:
            ledger.add(WAITING, -self.head_gradient)
            ledger.add(unsharded, -self.head.gathered)
            self._reduce(self.head, sync, accumulating)
        self._layers(
            range(len(self.kinds) - 1, -1, -1),
            lambda index: self._backward_layer(index, prefetch, sync, accumulating),
        )
        if self.embedding is not None:
            if prefetch and self.workload.parallelism.unshard_embedding_in_backward:
                ledger.add(unsharded, self.embedding.gathered)
                ledger.mark()
                self._hold(0.0)
                ledger.mark_terms({"unsharded gradients": self.embedding.gradient})
                ledger.add(unsharded, -self.embedding.gathered)
            ledger.put(HIDDEN, 0.0)
            self._reduce(self.embedding, sync, accumulating, final=True)
        elif self.root is not None:
            if self.embedding_trained:
                ledger.put(WAITING, self.root.gradient)
                ledger.mark()
            ledger.put(HIDDEN, 0.0)
            ledger.put(WAITING, 0.0)
            self._reduce(self.root, sync, accumulating, final=True)
        ledger.put(unsharded, 0.0)
        ledger.put("reduce-scatter buffers", 0.0)
        ledger.put(saved, 0.0)
        ledger.mark()

    def _gathers_in_backward(self) -> bool:
        return bool(self.reshard)

    def _hold(self, size: float) -> None:
        """Bytes of the unit gathered ahead: a buffer in FSDP2, the parameters in FSDP1."""
        if self.flat:
            self.ledger.add("unsharded parameters", size - self.ahead)
            self.ahead = size
        else:
            self.ledger.put("all-gather buffers", size)

    def _backward_layer(self, index: int, prefetch: bool, sync: bool, accumulating: bool) -> None:
        ledger = self.ledger
        unsharded, saved = "unsharded parameters", "saved activations"
        unit, footprint = self.layer_sizes[self.kinds[index]], self.footprints[index]
        if prefetch:
            ledger.add(unsharded, unit.gathered - unit.kept)
            if not self.flat:
                ledger.mark()
            below = 0.0
            cast = 0.0
            if index:
                lower = self.layer_sizes[self.kinds[index - 1]]
                below, cast = lower.gathered * min(self.depth, index), lower.cast
            elif (
                self.embedding is not None
                and self.workload.parallelism.unshard_embedding_in_backward
            ):
                below, cast = self.embedding.gathered, self.embedding.cast
            self._hold(below)
            ledger.mark_terms({HIDDEN: cast})
        resident = self._resident(footprint)
        gone = footprint.saved - footprint.backward_saved
        fetched = (footprint.saved - resident) * (
            2 if index else 1
        )  # this layer's and the next one's
        ledger.mark_terms({saved: -gone + fetched, HIDDEN: footprint.backward_working})
        ledger.add(saved, -resident)
        if prefetch or self.workload.parallelism.reshard_after_backward:
            ledger.add(unsharded, -(unit.gathered if prefetch else unit.kept))
        self._reduce(unit, sync, accumulating)

    def _reduce(self, unit: Sizes, sync: bool, accumulating: bool, final: bool = False) -> None:
        """Post-backward of a unit: its gradients go into a reduce-scatter, or pile up unsharded."""
        ledger, p = self.ledger, self.workload.parallelism
        if not unit.gradient:
            return
        gradients, buffers = "unsharded gradients", "reduce-scatter buffers"
        if not sync:
            if not accumulating:
                ledger.add(gradients, unit.accumulated)
            ledger.mark_terms({gradients: unit.gradient if accumulating else 0.0})
            return
        if accumulating and self.workload.parallelism.gradient_sync == "last":
            ledger.add(gradients, -unit.accumulated)
            ledger.mark_terms({gradients: unit.accumulated, buffers: unit.reduce})
        if final:
            if unit is self.root:
                ledger.add("unsharded parameters", -unit.kept)
            ledger.put(buffers, 0.0)
            ledger.mark_terms({gradients: unit.gradient, LAST: unit.reduce})
        else:
            ledger.mark_terms({gradients: unit.gradient})
            ledger.put(buffers, unit.reduce * p.reduce_scatter_max_input_buffers)
            # autograd still holds the head's gradients when the output is allocated (recorded)
            output = unit.reduced if unit is self.head else 0.0
            ledger.mark_terms({gradients: unit.gradient, HIDDEN: output})
        carried = accumulating and self.workload.parallelism.gradient_sync == "every"
        if self.offload or carried:
            ledger.mark_terms({"sharded gradients": unit.reduced})
        else:
            ledger.add("sharded gradients", unit.reduced)
        if final:
            ledger.put(buffers, 0.0)

    # optimizer and checkpoint --------------------------------------------------------------

    def step(self, units: list[Sizes]) -> None:
        ledger, workload = self.ledger, self.workload
        ledger.moment = "optimizer"
        ledger.put("inputs", 0.0)
        scratch = 0.0
        if not self.offload_optimizer:
            scratch = optimizer_temporaries(workload, self.ranks)
        ledger.mark_terms({"optimizer temporaries": scratch})
        ledger.put("sharded gradients", 0.0)
        ledger.moment = "save"
        staging = 0.0
        if workload.checkpoint.mode == "full":
            # full tensors are gathered one by one in the master dtype, then go to the host
            staging = max(u.shard for u in units) * self.ranks
            if not workload.checkpoint.offload_to_cpu:
                # clones of all stay on the GPU, beside the unit (and the root) being gathered
                staging += sum(u.shard for u in units) * self.ranks
                if self.root is not None and units[0] is not self.root:
                    staging += self.root.shard * self.ranks
        ledger.mark_terms({"checkpoint staging": staging})
