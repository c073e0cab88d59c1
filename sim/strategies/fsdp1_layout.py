"""FSDP1's flat parameters, and the pieces of compute that enter and leave them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from sim.blocks.flops import checkpointed_layers
from sim.blocks.modules import ModelTree, Module
from sim.errors import InputError
from sim.inputs.workload import Workload
from sim.strategies.units import (
    QUANTISED_BYTES,
    SOURCE,
    Dtypes,
    Unit,
    input_grads,
    is_matrix,
    trainable,
    tree_blocks,
)
from sim.units import DTYPE_BYTES

ROOT = 0  # the outermost unit

#: flat parameters start each parameter at a multiple of so many bytes (use_orig_params)
_ALIGNMENT = 16.0


@dataclass(slots=True)
class Fsdp1Piece:
    """A stretch of compute: a block, or one module of it, with the units it enters and leaves."""

    unit: int
    block: int
    module: str
    recompute: bool
    output_grad: bool
    backward: bool = True  # has kernels in backward
    enter: tuple[int, ...] = ()  # outer first
    leave: tuple[int, ...] = ()  # inner first


@dataclass(slots=True)
class Fsdp1Layout:
    """Units, and the pieces in forward order."""

    units: list[Unit]
    pieces: list[Fsdp1Piece]
    input_grad: list[bool]  # by unit
    output_grad: list[bool]
    first: dict[int, int]  # block -> its first piece
    last: dict[int, int]


def flat_numel(numels: list[int], aligned: int, ranks: int) -> int:
    """Elements of a flat parameter with its padding.

    Parameters
    ----------
    numels : list of int
        Elements of its parameters, in order.
    aligned : int
        Elements to a multiple of which each parameter's start is padded; 0 for no gaps.
    ranks : int
        Ranks among which it is divided equally.
    """
    total = 0
    for numel in numels:
        if aligned:
            total = ceil(total / aligned) * aligned
        total += numel
    return ceil(total / ranks) * ranks


def flat_dtype(types: Dtypes, learns: bool) -> str:
    """Dtype in which a flat parameter is stored: one for all of it, whoever is frozen in it.

    `learns`: some of its parameters are trained. Others stay as they were loaded, the root's
    embedding and head among them.

    Source: PyTorch, fsdp/_flat_param.py, ``_validate_tensors_to_flatten`` (one dtype);
    accelerate, accelerator.py, ``prepare_model``, which makes each ``module._flat_param`` fp32 that
    ``requires_grad``.
    """
    return types.master if learns else types.frozen


def _unit(
    name: str, block: int, modules: list[Module], shard: int, types: Dtypes,
    orig_params: bool,
) -> Unit:  # fmt: skip
    """One flat parameter."""
    parameters = [(m, p) for m in modules for p in m.parameters]
    width = DTYPE_BYTES[types.compute]
    aligned = int(_ALIGNMENT / width) if orig_params else 0
    numel = flat_numel([p.numel for _, p in parameters], aligned, shard)
    with_grad = [p for _, p in parameters if p.trainable]
    packed = sum(
        p.numel for m, p in parameters if types.quantised and not p.trainable and is_matrix(m, p)
    )
    plain = numel - packed
    stored = DTYPE_BYTES[flat_dtype(types, bool(with_grad))]
    return Unit(
        name=name,
        block=block,
        numel=numel,
        gather_bytes=plain * width + packed * QUANTISED_BYTES,
        gather_dtype=types.compute,
        master_bytes=plain * stored + packed * QUANTISED_BYTES,
        # `_uses_param_mixed_precision`: only if the policy's dtype is another one
        cast=(plain * stored, plain * width) if stored != width else (0.0, 0.0),
        grad_numel=numel if with_grad else 0,
        tensors=len(parameters),
        grad_tensors=len(with_grad) if orig_params else min(1, len(with_grad)),
    )


def lay_out(workload: Workload, tree: ModelTree, shard: int, types: Dtypes) -> Fsdp1Layout:
    """Units and pieces of a model, `shard` ranks to a unit; faults where FSDP1 refuses them."""
    knobs = workload.parallelism
    if knobs.wrap not in ("block+root", "peft"):
        message = f'fsdp1 wraps "block+root" or "peft", not "{knobs.wrap}"'
        raise InputError.single(SOURCE, message, "parallelism.wrap")
    peft = knobs.wrap == "peft"
    recompute = checkpointed_layers(workload.activation_checkpointing, len(tree.layers))
    outer = [*tree.embedding.modules, *tree.head.modules]
    orig = knobs.use_orig_params
    units = [_unit("root", -1, outer, shard, types, orig)]
    template: dict[str, list[Unit]] = {}
    pieces: list[Fsdp1Piece] = []
    input_grad, output_grad = [False], [False]
    flows = False
    final = len(tree.layers) + 1
    for number, block in enumerate(tree_blocks(tree)):
        if not 0 < number < final:
            learns = flows or trainable(block)
            flows = learns or input_grads(workload)
            pieces.append(Fsdp1Piece(ROOT, number, "", False, flows, learns))
            continue
        adapters = [m for m in block.modules if all(p.trainable for p in m.parameters)]
        apart = [m for m in adapters if peft and m.parameters]
        if block.kind not in template:
            rest = [m for m in block.modules if m not in apart]
            made = [_unit(block.name, number, rest, shard, types, orig)]
            made += [_unit(m.name, number, [m], shard, types, orig) for m in apart]
            template[block.kind] = made
        own = template[block.kind]
        base = len(units)
        units.append(own[0]._replace(name=block.name, block=number))
        input_grad.append(flows)
        output_grad.append(flows or trainable(block))
        names = {m.name: base + 1 + i for i, m in enumerate(apart)}
        for unit, module in zip(own[1:], apart, strict=True):
            units.append(unit._replace(name=f"{block.name}.{module.name}", block=number))
            input_grad.append(flows)
            output_grad.append(True)
        again = recompute[number - 1]
        if not apart:
            flows = flows or trainable(block)
            pieces.append(Fsdp1Piece(base, number, "", again, flows, True, (base,), (base,)))
            continue
        order = block.forward_order
        adapted = {m.name for m in block.modules if any(p.trainable for p in m.parameters)}
        for i, name in enumerate(order):
            inner = names.get(name)
            if inner is not None:
                input_grad[inner] = flows
            flows = flows or name in adapted
            enter = ((base,) if i == 0 else ()) + (() if inner is None else (inner,))
            leave = (() if inner is None else (inner,)) + ((base,) if i == len(order) - 1 else ())
            unit_of = base if inner is None else inner
            pieces.append(Fsdp1Piece(unit_of, number, name, again, flows, flows, enter, leave))
    output_grad[ROOT] = flows
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, piece in enumerate(pieces):
        first.setdefault(piece.block, i)
        last[piece.block] = i
    return Fsdp1Layout(units, pieces, input_grad, output_grad, first, last)
