"""LoRA: a low-rank path beside a frozen linear layer."""

from __future__ import annotations

from sim.blocks.modules import OpRole
from sim.blocks.ops import Map
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.records import NamedTuple
from sim.units import DTYPE_BYTES


class Routed(NamedTuple):
    """How many weights of a shape run as one grouped product, and on how many rows each."""

    groups: int  # experts; 1 dense
    rows: int  # of each group's product
    copies: float  # of every token: the experts that it is sent to


class Move(NamedTuple):
    """An element-wise kernel of an adapter: bytes an element that it reads and writes."""

    name: str
    read: float
    write: float
    access: str = ""


class AdapterCode(NamedTuple):
    """What a LoRA layer's code runs around its two products, an input or output element. [B]

    Attributes
    ----------
    into, onto : tuple of Move
        Forward: from the layer's input to A, and from B to the layer's output.
    back_onto, back_into : tuple of Move
        Backward: from the output's gradient to B, and from A to the input's gradient.
    dtype : str
        Of both products.
    dropped : float
        Size of what A reads, if a kernel makes it; 0 where A reads the layer's input. [B]
    scales : bool
        B's output is scaled, not its weight.
    """

    into: tuple[Move, ...]
    onto: tuple[Move, ...]
    back_onto: tuple[Move, ...]
    back_into: tuple[Move, ...]
    dtype: str
    dropped: float
    scales: bool = True


def code(s: Setting, wide: bool = True) -> AdapterCode:
    """The code of a setting's adapters; `wide`: beside what is fp32 where activations are upcast.

    Notes
    -----
    PEFT's `Linear` casts its input to the adapter's dtype, drops out, multiplies, scales, adds to
    the base's output and casts that back. Its 4-bit and GPTQ layers cast nothing under autocast,
    which itself casts what enters a product; the 4-bit one copies the base's output first, the
    GPTQ one casts before it scales. A `fused` one (Unsloth, fms) scales the weight and adds both
    passes' products in place; its backward finds dropout's mask from what is zero.

    Source: PEFT 0.13.2, tuners/lora/{layer,bnb,gptq}.py, with torch's operations recorded by
    scripts/record_adapters.py; unsloth/kernels/utils.py, matmul_lora.
    """
    e, a = s.element if wide else s.product, DTYPE_BYTES[s.adapter_dtype]
    quantised = s.method.quantization
    plain, dropout = quantised == "none", s.method.dropout > 0
    if s.adapters == "fused":
        mask = (Move("dropout", e, e + 1),) if dropout else ()
        back = (Move("mask", e, 1), Move("dropout", e + 1, e)) if dropout else ()
        add = Move("add", 2 * e, e)
        return AdapterCode(
            mask, (add,), (), (*back, add), s.dtype, e if dropout else 0.0, scales=False
        )  # fmt: skip
    x: float = a if plain or not s.autocast else e  # of the input as it is dropped
    g: float = s.product if s.autocast else a  # of the products
    into = [*_cast(e, x)]
    back_into = [*_cast(x, e)]
    if dropout:
        into.append(Move("dropout", x, x + 1))
        back_into.insert(0, Move("dropout", x + 1, x))
    into += _cast(x, g)
    back_into = [*_cast(g, x), *back_into, Move("sum", 2 * e, e)]
    most = max(e, g)
    scale = Move("scale", g, g)
    if plain:  # the sum has the wider dtype
        onto = [scale, Move("add", e + g, most), *_cast(most, e)]
        back_onto = [*_cast(e, most), *_cast(most, e), scale]
    elif quantised in ("nf4", "int8"):
        added = g if s.autocast else e
        onto = [scale, *_cast(g, added), Move("add", e + added, e)]
        if quantised == "nf4":
            onto.insert(0, Move("copy", e, e))
        back_onto = [*_cast(e, g), scale]
    else:
        scale = Move("scale", e, e)
        onto = [*_cast(g, e), scale, Move("add", 2 * e, e)]
        back_onto = [scale, *_cast(e, g)]
    if s.compiled:  # a kernel a chain, which reads what it starts from and writes what it ends with
        into = [Move("dropout", e, g)] if dropout or e != g else []
        back_into = [Move("dropout", g + e, e)]
        onto, back_onto = [Move("add", e + g, e)], [Move("scale", e, g)]
    return AdapterCode(
        tuple(into), tuple(onto), tuple(back_onto), tuple(back_into),
        s.dtype if s.autocast else s.adapter_dtype, g if into else 0.0,
    )  # fmt: skip


def _cast(have: float, want: float) -> tuple[Move, ...]:
    return (Move("cast", have, want, "cast"),) if have != want else ()


def adapter(
    t: Tape, name: str, x: int, base: int, n_in: int, n_out: int, a: str, b: str, by: Routed,
    wide: bool = True,
) -> int:  # fmt: skip
    """B(A(dropout(x))) scaled and added to the frozen base's output; modules `a` and `b`."""
    s, how = t.setting, code(t.setting, wide)
    role, copies = OpRole.ADAPTER, by.copies
    high = product_of_two(t, drop(t, name, x, n_in, a, by, how), n_in, n_out, a, b, by, how)
    if how.scales:
        size = DTYPE_BYTES[how.dtype] * s.tokens * n_out * copies
        high = t.op(f"{name}.scale", (high,), size, module=b, role=role)
    return t.op(
        f"{name}.merge", (base, high), t.size(n_out) * copies, (),
        maps(name, how.onto, n_out, by), maps(name, how.back_onto, n_out, by),
        module=b, role=role, passes=True,
    )  # fmt: skip


def maps(name: str, moves: tuple[Move, ...], width: int, by: Routed) -> list[Map]:
    """Kernels of an adapter over all its rows, of so many columns."""
    n = float(by.groups * by.rows) * width
    return [Map(f"{name}.{m.name}", (m.read + m.write) * n, 1, m.access) for m in moves]


def drop(t: Tape, name: str, x: int, n_in: int, a: str, by: Routed, how: AdapterCode) -> int:
    """What A reads: the layer's input, cast and dropped out; module `a`."""
    s = t.setting
    into, back_into = maps(name, how.into, n_in, by), maps(name, how.back_into, n_in, by)
    if not how.dropped:
        t.unseen(f"{name}.dropout", into, back_into, module=a, role=OpRole.ADAPTER)
        return x
    masked = s.method.dropout > 0 and not s.compiled
    columns = float(s.tokens * n_in) * by.copies
    return t.op(
        f"{name}.dropout", (x,), how.dropped * columns, (), into, back_into,
        module=a, role=OpRole.ADAPTER, extra=columns if masked else 0.0,
    )  # fmt: skip


def product_of_two(
    t: Tape, x: int, n_in: int, n_out: int, a: str, b: str, by: Routed, how: AdapterCode,
    scratch: float = 0.0,
) -> int:  # fmt: skip
    """B(A(x)), beside so many bytes that are there meanwhile; modules `a` and `b`."""
    s, r = t.setting, t.setting.method.rank
    groups, rows, copies = by

    def product(what: str, n_from: int, n_to: int, read: int) -> int:
        forward, *backward = t.products(
            what, rows, n_from, n_to, groups, how.dtype, module=what, role=OpRole.ADAPTER
        )
        return t.op(
            what, (read,), DTYPE_BYTES[how.dtype] * s.tokens * n_to * copies, (read,), [forward],
            backward, module=what, role=OpRole.ADAPTER, product=True, gradients=2,
            weight_gradient=DTYPE_BYTES[s.adapter_dtype] * groups * n_from * n_to,
            flops=2.0 * s.tokens * copies * n_from * n_to, scratch=scratch,
        )  # fmt: skip

    return product(b, r, n_out, product(a, n_in, r, x))
