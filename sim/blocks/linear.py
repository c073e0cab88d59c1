"""Linear layers as they run: plain, in 8 or 4 bits by recipe, LoRA beside a frozen base, QLoRA."""

from __future__ import annotations

from sim.blocks.adapters import Routed, adapter
from sim.blocks.dora import dora
from sim.blocks.kernels import Kernel
from sim.blocks.lowprec import int8_forward, quantise_backward, quantise_forward, unpacking
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map
from sim.blocks.tape import Tape
from sim.inputs.recipes import RECIPES
from sim.units import DTYPE_BYTES


def linear(
    t: Tape,
    name: str,
    x: int,
    n_in: int,
    n_out: int,
    place: Position = Position.BRANCH,
    *,
    targets: tuple[str, ...] = (),
    bias: bool = False,
    role: OpRole = OpRole.LINEAR,
    wide: bool = True,
    partial: bool = False,
) -> int:
    """A linear layer that is a module, and its adapter if the method has one; its output's tensor.

    Parameters
    ----------
    t : Tape
        Of the block.
    name : str
        The module's and the kernels'.
    x : int
        Input.
    n_in, n_out : int
        Columns.
    place : Position
        Where it stands.
    targets : tuple of str
        What methods call it that put an adapter on it; a fused matrix serves all of its targets.
    bias : bool
        The forward add is an epilogue; the backward sum a kernel of its own.
    role : OpRole
        FP8 recipes, 4-bit storage and adapters are for ``LINEAR`` alone.
    wide : bool
        It reads and makes what is fp32 where activations are upcast.
    partial : bool
        Tensor-parallel ranks all have the whole weight, and gradients of a part of what it made.
    """
    shapes = [("weight", (n_out, n_in)), ("bias", (n_out,))]
    t.register(name, role, place, shapes if bias else shapes[:1], partial=partial)
    by = Routed(1, t.setting.tokens, 1.0)
    out = matrix(t, name, x, n_in, n_out, by, bias=bias, role=role, wide=wide)
    if not adapted(t, targets):
        return out
    rank = t.setting.method.rank
    a = t.register(f"{name}.A", OpRole.ADAPTER, place, [("weight", (rank, n_in))], base=name)
    b = t.register(f"{name}.B", OpRole.ADAPTER, place, [("weight", (n_out, rank))], base=name)
    if t.setting.method.dora:
        t.register(f"{name}.M", OpRole.ADAPTER, place, [("weight", (n_out,))], base=name)
        return dora(t, name, x, out, n_in, n_out, by, wide)
    return adapter(t, name, x, out, n_in, n_out, a, b, by, wide)


def adapted(t: Tape, targets: tuple[str, ...]) -> bool:
    """Whether the method puts an adapter on a linear layer with one of these names."""
    method = t.setting.method
    return method.frozen and any(target in method.targets for target in targets)


def matrix(
    t: Tape,
    name: str,
    x: int,
    n_in: int,
    n_out: int,
    by: Routed,
    *,
    bias: bool = False,
    role: OpRole = OpRole.LINEAR,
    wide: bool = True,
    packs: bool = True,
    beside: float = 0.0,
) -> int:
    """The products of a weight (or of one per expert) in the module being played.

    `packs`: a method of 4 bits stores it so. `beside`: bytes alive while backward runs them.
    """
    s = t.setting
    e, wider, (groups, rows, copies) = s.product, s.element, by
    ins, outs, weights = groups * rows * n_in, groups * rows * n_out, groups * n_in * n_out
    low, frozen = role is OpRole.LINEAR, s.frozen
    recipe = RECIPES.get(s.recipe) if low else None
    quantised = low and packs and s.method.quantised
    backward: list[Map | Kernel] = []
    unpack = unpacking(s) if quantised else None
    int8 = quantised and s.method.quantization == "int8"
    if unpack and not int8:
        t.unseen(name, unpack.maps(name, weights, e), role=OpRole.DEQUANTISE)
    if recipe:
        t.unseen(name, quantise_forward(t, name, x, ins, weights), role=role)
        backward += quantise_backward(t, name, x, outs, ins, weights)

    casts = low and wide and wider != e and not int8
    if casts:  # autocast hands a product what it reads, the 4-bit layer its caller's dtype
        narrow, widen = (
            Map(f"{name}.cast", (wider + e) * ins, 1, "cast"),
            Map(f"{name}.cast", (wider + e) * outs, 1, "cast"),
        )
        t.unseen(name, [narrow, widen], role=role)
        backward += [widen, narrow]

    product, dgrad, wgrad = t.products(
        name, rows, n_in, n_out, groups, recipe.dtype if recipe else "", role=role
    )
    forward: list[Map | Kernel] = [product]
    during = 0.0
    if int8:
        forward, during = int8_forward(t, name, product, ins, outs)
    if bias and groups > 1:  # a grouped product has no epilogue
        forward.append(Map(f"{name}.bias", 2 * e * outs))
    backward.append(dgrad)
    saves: tuple[int, ...] = (t.kept.get(x, x),)
    gradient = extra = 0.0
    scratch = t.sizes[x] if x in t.kept else 0.0
    if frozen:
        saves = (x,) if low and (s.keeps_inputs or int8) else ()
        if unpack:
            whole = float(e * weights)
            scratch, extra = (0.0, whole) if unpack.keeps else (whole, 0.0)
        elif s.casts_frozen:
            extra = float(e * weights)
    else:
        backward.append(wgrad)
        if bias and not (recipe and recipe.sums_bias):
            backward.append(Map(f"{name}.bias", e * outs, kind="reduction"))
        gradient = float(e * (weights + (groups * n_out if bias else 0)))
        if recipe and recipe.library == "te":
            # Transformer Engine keeps a copy of its own, of the part where it gathers again
            kept = DTYPE_BYTES[recipe.dtype] + recipe.scale
            saves, extra = (), kept * t.sizes[t.kept.get(x, x)] / wider
    if recipe and s.copies_weights:  # by row and by column, both until backward has run
        extra += recipe.weight_bytes * weights
    size = (wider if low and wide else e) * s.tokens * n_out * copies
    out = t.op(
        name, (x,), size, saves, forward, backward,
        role=role, product=True, gradients=1 if frozen else 2, weight_gradient=gradient,
        flops=2.0 * s.tokens * copies * n_in * n_out, scratch=during if int8 else scratch,
        backward_scratch=scratch + beside, extra=extra,
        weight=unpack.weight if unpack else "before",
        dispatched=not (recipe and recipe.library == "te"),
    )  # fmt: skip
    if unpack and unpack.biased:
        t.unseen(name, [Map(f"{name}.bias", 2 * e * outs)], role=role)
    if unpack and not unpack.keeps:
        t.unseen(name, (), unpack.maps(name, weights, e), role=OpRole.DEQUANTISE)
    return out
