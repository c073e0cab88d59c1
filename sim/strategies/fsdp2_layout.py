"""What `fully_shard` wraps: parameter groups, the compute inside them, and who prefetches whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace

from sim.blocks.flops import checkpointed_layers
from sim.blocks.modules import ModelTree, Module
from sim.errors import InputError
from sim.inputs.workload import Parallelism, Workload
from sim.records import dataclass
from sim.strategies.units import (
    EXPERT_SHARD,
    SOURCE,
    Dtypes,
    Unit,
    fsdp2_unit,
    input_grads,
    trainable,
    tree_blocks,
)


@dataclass(slots=True)
class Fsdp2Piece:
    """A stretch of compute inside one unit: a block, or one module of it."""

    unit: int
    block: int
    module: str
    recompute: bool
    input_grad: bool  # the unit's input requires a gradient
    output_grad: bool
    backward: bool = True  # has kernels in backward
    done: bool = False  # which forward has run already


@dataclass(slots=True)
class Fsdp2Layout:
    """Units in module pre-order (root first), and the compute in forward order."""

    units: list[Unit]
    pieces: list[Fsdp2Piece]
    root: int  # unit of the root's own parameters, -1 if it has none
    prefetchable: list[int]  # units in forward order, without the root
    opens: dict[int, int] = field(default_factory=dict)  # unit -> its first piece
    closes: dict[int, int] = field(default_factory=dict)  # unit -> its last piece
    experts: dict[int, int] = field(default_factory=dict)  # unit -> that of its block's experts

    def groups(self, unit: int) -> tuple[int, ...]:
        """The parameter groups of a unit's `fully_shard` call: itself, and its experts'."""
        return (unit, self.experts[unit]) if unit in self.experts else (unit,)


def lay_out(workload: Workload, tree: ModelTree, shard: int, types: Dtypes) -> Fsdp2Layout:
    """Units and compute of a model under the workload's `wrap`."""
    wrap = workload.parallelism.wrap
    if wrap == "linear":
        if workload.parallelism.context_parallel > 1:
            message = 'context parallelism needs wrap "block+root" or "torchtitan"'
            raise InputError.single(SOURCE, message, "parallelism.wrap")
        return _wrap_linear(workload, tree, shard, types)
    return _wrap_blocks(workload, tree, shard, types, titan=wrap == "torchtitan")


def gathers_for_chunks(workload: Workload) -> bool:
    """Whether a loss in chunks has norm and head gathered apart: three times a micro-step.

    For the norm's forward, for all chunks forward and backward, and for the norm's backward;
    gradients of the head are reduced after the last chunk. Recorded of torchtitan's loss.
    """
    p = workload.parallelism
    dropped = p.reshard_after_forward is not False and p.pipeline_parallel == 1
    return workload.loss == "chunked" and dropped


def _turns(whole: Unit, head: Sequence[Module], shard: int, types: Dtypes) -> list[Unit]:
    """One group of parameters in two turns: gathered whole, with its own gradients in each."""
    turns = []
    for modules in ([m for m in head if m.name == "norm"], [m for m in head if m.name != "norm"]):
        own = fsdp2_unit(whole.name, whole.block, modules, shard, types)
        turns.append(
            whole._replace(
                grad_numel=own.grad_numel, grad_tensors=own.grad_tensors, partial=own.partial,
                tensors=own.tensors,
            )
        )  # fmt: skip
    return turns


def experts_shard(knobs: Parallelism, shard: int) -> int:
    """Ranks that an expert's weights are sharded over, where others' are over `shard`."""
    return shard * knobs.tensor_parallel // knobs.expert_parallel


def experts_apart(modules: Sequence[Module]) -> tuple[list[Module], list[Module]]:
    """A block's modules, and those of them whose parameters are this rank's experts."""
    return [m for m in modules if not m.expert], [m for m in modules if m.expert]


def _wrap_blocks(
    workload: Workload, tree: ModelTree, shard: int, types: Dtypes, *, titan: bool
) -> Fsdp2Layout:
    """Each layer a unit; embedding, norm and head in the root or (torchtitan) their own units."""
    last = len(tree.layers) + 1
    embedding, head = tree.embedding.modules, tree.head.modules
    if not titan:
        units = [fsdp2_unit("root", -1, embedding + head, shard, types)]
    elif tree.tied:
        units = [fsdp2_unit("tok_embeddings, norm, lm_head", -1, embedding + head, shard, types)]
    else:
        units = [fsdp2_unit("tok_embeddings", 0, embedding, shard, types)]
    template: dict[str, list[Unit]] = {}
    of_block, experts = [0], {}
    for number, block in enumerate(tree.layers, 1):
        if block.kind not in template:
            own, held = experts_apart(block.modules)
            found = template[block.kind] = [fsdp2_unit("", 0, own, shard, types)]
            if held:
                ranks = experts_shard(workload.parallelism, shard)
                found.append(fsdp2_unit("", 0, held, ranks, types, EXPERT_SHARD))
        of_block.append(len(units))
        units += [u._replace(name=block.name, block=number) for u in template[block.kind]]
        if len(template[block.kind]) > 1:
            experts[of_block[-1]] = len(units) - 1
    of_block.append(0)
    chunked = titan and not tree.tied and gathers_for_chunks(workload)
    if titan and not tree.tied:
        of_block[-1] = len(units)
        whole = fsdp2_unit("norm, lm_head", last, head, shard, types)
        units += _turns(whole, head, shard, types) if chunked else [whole]
    recompute = checkpointed_layers(workload.activation_checkpointing, len(tree.layers))
    learns = trainable(tree.embedding)
    flows = learns or input_grads(workload)
    pieces = [Fsdp2Piece(0, 0, "", False, False, flows, learns)]
    for number, block in enumerate(tree.layers, 1):
        out = flows or trainable(block)
        pieces.append(Fsdp2Piece(of_block[number], number, "", recompute[number - 1], flows, out))
        flows = out
    learns = flows or trainable(tree.head)
    for turn, module in enumerate(("norm", "head") if chunked else ("",)):
        pieces.append(
            Fsdp2Piece(of_block[last] + turn, last, module, False, flows, learns, done=turn > 0)
        )
    root = -1 if titan else 0
    if titan:
        order = [p.unit for p in pieces[:-1]] if tree.tied else [p.unit for p in pieces]
    else:
        order = [p.unit for p in pieces[1:-1]]
    return _close(Fsdp2Layout(units, pieces, root, order, experts=experts))


def _wrap_linear(workload: Workload, tree: ModelTree, shard: int, types: Dtypes) -> Fsdp2Layout:
    """Each linear layer a unit; norms and embedding (and a tied head) in the root."""
    units = [Unit("root", -1, 0, 0.0, "", 0.0, 0, 0, 0)]
    rest: list[Module] = []
    pieces: list[Fsdp2Piece] = []
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
            pieces.append(Fsdp2Piece(unit, number, name, again, flows, out, flows or grad))
            flows = out
            if unit:
                order.append(unit)
    units[0] = fsdp2_unit("root", -1, rest, shard, types)
    return _close(Fsdp2Layout(units, pieces, 0, order))


def _close(layout: Fsdp2Layout) -> Fsdp2Layout:
    """Find where each unit but the root opens and closes."""
    for i, piece in enumerate(layout.pieces):
        if piece.unit != layout.root:
            layout.opens.setdefault(piece.unit, i)
            layout.closes[piece.unit] = i
    return layout


def part_of(layout: Fsdp2Layout, blocks: range) -> Fsdp2Layout:
    """The units and the compute of some blocks, of a layout that has a unit for each."""
    units = [i for i, unit in enumerate(layout.units) if unit.block in blocks]
    number = {unit: i for i, unit in enumerate(units)}
    kept = [(i, p) for i, p in enumerate(layout.pieces) if p.block in blocks]
    place = {i: at for at, (i, _) in enumerate(kept)}
    return Fsdp2Layout(
        units=[layout.units[i] for i in units],
        pieces=[replace(p, unit=number[p.unit]) for _, p in kept],
        root=-1,
        prefetchable=[number[u] for u in layout.prefetchable if u in number],
        opens={number[u]: place[i] for u, i in layout.opens.items() if u in number},
        closes={number[u]: place[i] for u, i in layout.closes.items() if u in number},
        experts={number[u]: number[e] for u, e in layout.experts.items() if u in number},
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


def gathered_ahead(knobs: Parallelism) -> int:
    """Units that forward gathers ahead by name: with experts on other ranks one unless asked."""
    return max(knobs.forward_prefetch, int(knobs.expert_parallel > 1))


def prefetch_targets(
    knobs: Parallelism, layout: Fsdp2Layout
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Explicit prefetch lists by unit; a unit without one prefetches by post-forward order."""
    order = layout.prefetchable
    ahead, behind = gathered_ahead(knobs), knobs.backward_prefetch
    # a host that waits for token counts issues nothing meanwhile: torchtitan names what comes next
    if knobs.expert_parallel > 1 and behind == "pre":
        behind = 1
    groups = layout.groups
    forward = {}
    if ahead:
        forward = {
            u: [g for v in order[i + 1 : i + 1 + ahead] for g in groups(v)]
            for i, u in enumerate(order)
        }
    if behind == "pre":
        return forward, {}
    if behind == "post":
        message = '"post" is a mode of fsdp1; fsdp2 takes a depth, "pre" or "none"'
        raise InputError.single(SOURCE, message, "parallelism.backward_prefetch")
    if behind in ("none", 0):
        return forward, {u: [] for u in range(len(layout.units))}
    depth = int(behind)
    backward = {
        u: [g for v in order[max(0, i - depth) : i][::-1] for g in reversed(groups(v))]
        for i, u in enumerate(order) if i
    }  # fmt: skip
    return forward, backward
