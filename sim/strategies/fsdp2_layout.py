"""What `fully_shard` wraps: parameter groups, the compute inside them, and who prefetches whom."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sim.blocks.flops import checkpointed_layers
from sim.blocks.modules import ModelTree, Module
from sim.errors import InputError
from sim.inputs.workload import Parallelism, Workload
from sim.strategies.units import (
    SOURCE,
    Dtypes,
    Unit,
    fsdp2_unit,
    input_grads,
    trainable,
    tree_blocks,
)


@dataclass(slots=True)
class Piece:
    """A stretch of compute inside one unit: a block, or one module of it."""

    unit: int
    block: int
    module: str
    recompute: bool
    input_grad: bool  # the unit's input requires a gradient
    output_grad: bool
    backward: bool = True  # has kernels in backward


@dataclass(slots=True)
class Layout:
    """Units in module pre-order (root first), and the compute in forward order."""

    units: list[Unit]
    pieces: list[Piece]
    root: int  # unit of the root's own parameters, -1 if it has none
    prefetchable: list[int]  # units in forward order, without the root
    opens: dict[int, int] = field(default_factory=dict)  # unit -> its first piece
    closes: dict[int, int] = field(default_factory=dict)  # unit -> its last piece


def lay_out(workload: Workload, tree: ModelTree, shard: int, types: Dtypes) -> Layout:
    """Units and compute of a model under the workload's `wrap`."""
    wrap = workload.parallelism.wrap
    if wrap == "linear":
        if workload.parallelism.context_parallel > 1:
            message = 'context parallelism needs wrap "block+root" or "torchtitan"'
            raise InputError.single(SOURCE, message, "parallelism.wrap")
        return _wrap_linear(workload, tree, shard, types)
    return _wrap_blocks(workload, tree, shard, types, titan=wrap == "torchtitan")


def _wrap_blocks(
    workload: Workload, tree: ModelTree, shard: int, types: Dtypes, *, titan: bool
) -> Layout:
    """Each layer a unit; embedding, norm and head in the root or (torchtitan) their own units."""
    last = len(tree.layers) + 1
    embedding, head = tree.embedding.modules, tree.head.modules
    if not titan:
        outer = [fsdp2_unit("root", -1, embedding + head, shard, types)]
        first_unit = head_unit = 0
    elif tree.tied:
        outer = [fsdp2_unit("tok_embeddings, norm, lm_head", -1, embedding + head, shard, types)]
        first_unit = head_unit = 0
    else:
        outer = [fsdp2_unit("tok_embeddings", 0, embedding, shard, types)]
        first_unit, head_unit = 0, last
    units = list(outer)
    template: dict[str, Unit] = {}
    for number, block in enumerate(tree.layers, 1):
        unit = template.get(block.kind)
        if unit is None:
            unit = template[block.kind] = fsdp2_unit("", 0, block.modules, shard, types)
        units.append(unit._replace(name=block.name, block=number))
    if head_unit == last:
        units.append(fsdp2_unit("norm, lm_head", last, head, shard, types))
    recompute = checkpointed_layers(workload.activation_checkpointing, len(tree.layers))
    learns = trainable(tree.embedding)
    flows = learns or input_grads(workload)
    pieces = [Piece(first_unit, 0, "", False, False, flows, learns)]
    for number, block in enumerate(tree.layers, 1):
        out = flows or trainable(block)
        pieces.append(Piece(number, number, "", recompute[number - 1], flows, out))
        flows = out
    pieces.append(Piece(head_unit, last, "", False, flows, flows or trainable(tree.head)))
    root = -1 if titan else 0
    if titan:
        order = [p.unit for p in pieces[:-1]] if tree.tied else [p.unit for p in pieces]
    else:
        order = [p.unit for p in pieces[1:-1]]
    return _close(Layout(units, pieces, root, order))


def _wrap_linear(workload: Workload, tree: ModelTree, shard: int, types: Dtypes) -> Layout:
    """Each linear layer a unit; norms and embedding (and a tied head) in the root."""
    units = [Unit("root", -1, 0, 0.0, "", 0.0, 0, 0, 0)]
    rest: list[Module] = []
    pieces: list[Piece] = []
    order: list[int] = []
    recompute = checkpointed_layers(workload.activation_checkpointing, len(tree.layers))
    flows, required = False, input_grads(workload)
    last = len(tree.layers) + 1
    for number, block in enumerate(tree_blocks(tree)):
        inside = 0 < number < last
        own: dict[str, int] = {}
        for module in block.modules:
            weights = module.parameters
            if number and weights and len(weights[0].shape) == 2 and len(weights) <= 2:
                own[module.name] = len(units)
                name = f"{block.name}.{module.name}" if inside else "lm_head"
                units.append(fsdp2_unit(name, number, [module], shard, types))
            else:
                rest.append(module)
        by_name = {m.name: m for m in block.modules}
        for name in block.forward_order or tuple(by_name):
            grad = name in by_name and any(p.trainable for p in by_name[name].parameters)
            unit = own.get(name, 0)
            again = inside and recompute[number - 1]
            out = flows or grad or required
            pieces.append(Piece(unit, number, name, again, flows, out, flows or grad))
            flows = out
            if unit:
                order.append(unit)
    units[0] = fsdp2_unit("root", -1, rest, shard, types)
    return _close(Layout(units, pieces, 0, order))


def _close(layout: Layout) -> Layout:
    """Find where each unit but the root opens and closes."""
    for i, piece in enumerate(layout.pieces):
        if piece.unit != layout.root:
            layout.opens.setdefault(piece.unit, i)
            layout.closes[piece.unit] = i
    return layout


def part_of(layout: Layout, blocks: range) -> Layout:
    """The units and the compute of some blocks, of a layout that has a unit for each."""
    units = [i for i, unit in enumerate(layout.units) if unit.block in blocks]
    number = {unit: i for i, unit in enumerate(units)}
    kept = [(i, p) for i, p in enumerate(layout.pieces) if p.block in blocks]
    place = {i: at for at, (i, _) in enumerate(kept)}
    return Layout(
        units=[layout.units[i] for i in units],
        pieces=[replace(p, unit=number[p.unit]) for _, p in kept],
        root=-1,
        prefetchable=[number[u] for u in layout.prefetchable if u in number],
        opens={number[u]: place[i] for u, i in layout.opens.items() if u in number},
        closes={number[u]: place[i] for u, i in layout.closes.items() if u in number},
    )


def post_forward_ranks(knobs: Parallelism, shard: int) -> int:
    """Ranks of the smaller mesh that an integer `reshard_after_forward` names; 0 for none."""
    value = knobs.reshard_after_forward
    if isinstance(value, bool) or value in (1, shard):
        return 0
    if value < 1 or shard % value:
        message = f"{value} is not a factor of the {shard} ranks of a shard group"
        raise InputError.single(SOURCE, message, "parallelism.reshard_after_forward")
    return value


def prefetch_targets(
    knobs: Parallelism, layout: Layout
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Explicit prefetch lists by unit; a unit without one prefetches by post-forward order."""
    order = layout.prefetchable
    ahead, behind = knobs.forward_prefetch, knobs.backward_prefetch
    forward = {u: order[i + 1 : i + 1 + ahead] for i, u in enumerate(order)} if ahead else {}
    if behind == "pre":
        return forward, {}
    if behind == "post":
        message = '"post" is a mode of fsdp1; fsdp2 takes a depth, "pre" or "none"'
        raise InputError.single(SOURCE, message, "parallelism.backward_prefetch")
    if behind in ("none", 0):
        return forward, {u: [] for u in range(len(layout.units))}
    depth = int(behind)
    backward = {u: order[max(0, i - depth) : i][::-1] for i, u in enumerate(order) if i}
    return forward, backward
