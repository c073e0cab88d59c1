"""DoRA: LoRA whose weight's rows are scaled to lengths that are trained."""

from __future__ import annotations

from sim.blocks.adapters import Move, Routed, code, drop, maps, product_of_two
from sim.blocks.kernels import Kernel
from sim.blocks.lowprec import unpacking
from sim.blocks.modules import OpRole
from sim.blocks.ops import Map
from sim.blocks.tape import Tape
from sim.units import DTYPE_BYTES


def dora(
    t: Tape, name: str, x: int, base: int, n_in: int, n_out: int, by: Routed, wide: bool = True
) -> int:
    """(m / |W + BA|) (Wx + BAx) beside a frozen W; modules ``name.A``, ``name.B`` and ``name.M``.

    Parameters
    ----------
    t : Tape
        Of the block.
    name : str
        The base's.
    x, base : int
        Its input and output.
    n_in, n_out : int
        Columns.
    by : Routed
        Of one weight.
    wide : bool
        It stands beside what is fp32 where activations are upcast.

    Returns
    -------
    int
        The sum of both, as the layer hands it on.

    Notes
    -----
    Each forward makes BA whole, by an identity matrix that goes through both adapters, and the
    weight in the dtype of the adapters' input (fp32, where PEFT's adapters are), adds them and
    takes the length of every row, which no gradient reaches. With dropout the base is multiplied
    once more, on what is dropped out, by a weight that autograd keeps.

    Source: PEFT 0.21.2, tuners/lora/dora.py, ``DoraLinearLayer.forward``, recorded by
    scripts/record_dora.py.
    """
    s, how, method = t.setting, code(t.setting, wide), t.setting.method
    a, b, m = (f"{name}.{part}" for part in "ABM")
    e, own = s.element if wide else s.product, DTYPE_BYTES[s.adapter_dtype]
    read = own if method.quantization == "none" or not s.autocast else e  # of the input
    g = DTYPE_BYTES[how.dtype]  # of products
    dropped = method.dropout > 0
    most = max(own, read, g, e)  # of the sums
    weight, columns = float(n_in * n_out), float(s.tokens * n_out) * by.copies
    stored = DTYPE_BYTES["fp32"] if s.casts_frozen else s.product
    copied = method.quantised or stored != read  # the base's weight in the input's dtype
    held = read * weight * (1 + copied)  # BA and that copy, until forward returns

    source = drop(t, name, x, n_in, a, by, how)
    t.op(
        f"{name}.lengths", (), read * n_out, (), _lengths(t, name, n_in, n_out, read, stored),
        module=m, role=OpRole.ADAPTER, scratch=held + 2 * read * weight, extra=read * n_out,
    )  # fmt: skip
    high = product_of_two(t, source, n_in, n_out, a, b, by, how, held)
    again = base
    if dropped:
        casts = [Map(f"{name}.cast", (read + g) * weight, 1, "cast")] * (read != g)
        narrow = [Map(f"{name}.cast", (read + g) * s.tokens * n_in, 1, "cast")] * (read != g)
        joined = Map(f"{name}.sum", 3.0 * read * s.tokens * n_in)
        one, two, _ = t.products(f"{name}.again", by.rows, n_in, n_out, 1, how.dtype, module=m)
        again = t.op(
            f"{name}.again", (source,), g * columns, (), [*casts, *narrow, one],
            [two, *narrow, joined], module=m, role=OpRole.ADAPTER, product=True, gradients=1,
            scratch=held, extra=g * weight if copied or read != g else 0.0,
        )  # fmt: skip
    onto, back = _merge(e, most, g, g if dropped else e, shared=not dropped)
    return t.op(
        f"{name}.merge", tuple(dict.fromkeys((base, again, high))), t.size(n_out) * by.copies,
        (again, high), maps(name, onto, n_out, by), maps(name, back, n_out, by),
        module=m, role=OpRole.ADAPTER, weight_gradient=float(own * n_out),
        scratch=held + 3 * most * columns, extra=2.0 * most * n_out,
        backward_scratch=((3 + (e != most)) * most - g) * columns,
    )  # fmt: skip


def _lengths(
    t: Tape, name: str, n_in: int, n_out: int, read: float, stored: float
) -> list[Map | Kernel]:
    """Kernels from both adapters and the weight to the length of every row of their sum."""
    s, r = t.setting, t.setting.method.rank
    how, role = code(s), OpRole.ADAPTER
    g, own = DTYPE_BYTES[how.dtype], DTYPE_BYTES[s.adapter_dtype]
    square, weight = float(n_in * n_in), float(n_in * n_out)

    def cast(have: float, want: float, elements: float) -> list[Map]:
        return [Map(f"{name}.cast", (have + want) * elements, 1, "cast")] * (have != want)

    a, b = f"{name}.A", f"{name}.B"
    whole = unpacking(s).maps(name, weight, s.product) if s.method.quantised else []
    return [
        Map(f"{name}.eye", own * square),
        *cast(own, g, square),
        t.gemm(f"{a}.eye", n_in, r, n_in, "forward", 1, how.dtype, f"{name}.M", role),
        t.gemm(f"{b}.eye", n_in, n_out, r, "forward", 1, how.dtype, f"{name}.M", role),
        *cast(g, read, weight),
        *whole,
        *cast(stored, read, weight),
        Map(f"{name}.scale", 2 * read * weight),
        Map(f"{name}.add", 3 * read * weight),
        Map(f"{name}.norm", read * weight, kind="reduction"),
        Map(f"{name}.lengths", 8 * read * n_out, 2),
    ]


def _merge(
    e: float, most: float, g: float, made: float, shared: bool
) -> tuple[tuple[Move, ...], tuple[Move, ...]]:
    """Sums of an output element, forward and backward. [B]

    Parameters
    ----------
    e, most : float
        Of the layer's output, and of what is summed.
    g, made : float
        Of the adapters' product, and of the base's.
    shared : bool
        That is the layer's own, which then has two gradients.
    """

    def cast(have: float, want: float) -> tuple[Move, ...]:
        return (Move("cast", have, want, "cast"),) * (have != want)

    def branch(size: float) -> tuple[Move, ...]:  # to what is scaled, and to its scale
        scaled = Move("scale", most, most), Move("scale", most + size, most)
        return (*scaled, Move("sum", most, 0), *cast(most, size))

    forward = (
        Move("scale", made, most), Move("scale", g, most), Move("scale", most, most),
        Move("add", 2 * most, most), Move("add", e + most, most), *cast(most, e),
    )  # fmt: skip
    joined = (Move("sum", 2 * e, e),) * shared
    ends = (*cast(e, most), *cast(most, e), Move("scale", most, most))
    return forward, (*ends, *branch(g), *branch(made), *joined)
