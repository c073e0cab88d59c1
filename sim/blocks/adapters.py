"""LoRA: a low-rank path beside a frozen linear layer."""

from __future__ import annotations

from typing import NamedTuple

from sim.blocks.kernels import Kernel
from sim.blocks.modules import OpRole
from sim.blocks.ops import Map
from sim.blocks.tape import Tape

#: Element-wise traffic of an adapter per input and per output element and pass (dropout with its
#: mask, casts to and from the adapter's dtype, scaling, the add). [B]
#: Source: LoRA rows of sim/data/measured (A100), all sources together.
ADAPTER_BYTES = 13.0


class Routed(NamedTuple):
    """How many weights of a shape run as one grouped product, and on how many rows each."""

    groups: int  # experts; 1 dense
    rows: int  # of each group's product
    copies: float  # of every token: the experts that it is sent to


def adapter(
    t: Tape, name: str, x: int, base: int, n_in: int, n_out: int, a: str, b: str, by: Routed
) -> int:
    """B(A(dropout(x))) scaled and added to the frozen base's output; modules `a` and `b`."""
    s = t.setting
    e, r, (groups, rows, copies) = s.element, s.method.rank, by
    elements = groups * rows
    scale, launches = (0.5, 1) if t.fused else (1.0, 3)
    dropout = s.method.dropout > 0
    into = ADAPTER_BYTES if dropout else ADAPTER_BYTES - 2 * e - 1
    ends = [Map(f"{name}.dropout", scale * into * elements * n_in, launches)]
    merge = [Map(f"{name}.merge", scale * ADAPTER_BYTES * elements * n_out, launches)]
    dropped, role = x, OpRole.ADAPTER
    if dropout:
        mask = float(s.tokens * n_in) * copies
        size = t.size(n_in) * copies
        dropped = t.op(
            f"{name}.dropout", (x,), size, (), ends, ends, module=a, role=role, extra=mask
        )
    else:
        t.unseen(f"{name}.dropout", ends, ends, module=a, role=role)

    def product(what: str, n_from: int, n_to: int, read: int) -> int:
        def gemm(label: str, m: int, n: int, k: int, way: str = "forward") -> Kernel:
            return t.gemm(label, m, n, k, way, batch=groups, module=what, role=role)

        return t.op(
            what, (read,), t.size(n_to) * copies, (read,),
            [gemm(what, rows, n_to, n_from)],
            [gemm(f"{what}.dgrad", rows, n_from, n_to, "dgrad"),
             gemm(f"{what}.wgrad", n_to, n_from, rows, "wgrad")],
            module=what, role=role, product=True, gradients=2,
            weight_gradient=float(e * groups * n_from * n_to),
            flops=2.0 * s.tokens * copies * n_from * n_to,
        )  # fmt: skip

    high = product(b, r, n_out, product(a, n_in, r, dropped))
    scaled = t.op(f"{name}.scale", (high,), t.size(n_out) * copies, module=b, role=role)
    return t.op(
        f"{name}.merge", (base, scaled), t.size(n_out) * copies, (), merge, merge,
        module=b, role=role, passes=True,
    )  # fmt: skip
