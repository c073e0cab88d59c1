"""A tape of kernels: ops go on in forward order, their backward kernels come off in reverse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sim.blocks.kernels import Kernel
from sim.units import DTYPE_BYTES

#: bytes of an activation element by the precision of the linears; FP8 keeps activations in bf16
ELEMENT = {**DTYPE_BYTES, "fp8": DTYPE_BYTES["bf16"]}


@dataclass(slots=True)
class Tape:
    """Kernels of one block.

    Attributes
    ----------
    dtype : str
        Of the arithmetic outside FP8 linears.
    fused : bool
        A compiler merges neighbouring element-wise kernels.
    by_hand : bool
        RoPE and the gate have kernels of their own (Liger, flash-attn).
    """

    dtype: str
    fused: bool = False
    by_hand: bool = False
    forward: list[Kernel] = field(default_factory=list)
    _backward: list[tuple[Kernel, ...]] = field(default_factory=list)

    @property
    def one_kernel(self) -> bool:
        """Whether RoPE or a gate is a single kernel."""
        return self.fused or self.by_hand

    @property
    def element(self) -> float:
        """Size of an activation element. [B]"""
        return ELEMENT[self.dtype]

    def op(self, forward: Iterable[Kernel], backward: Iterable[Kernel] = ()) -> None:
        """Put one op on the tape: its forward kernels, and those autograd runs for it."""
        self.forward.extend(forward)
        self._backward.append(tuple(backward))

    def backward(self) -> tuple[Kernel, ...]:
        """Backward kernels in the order autograd runs them."""
        return tuple(k for group in reversed(self._backward) for k in group)

    def map(
        self,
        name: str,
        module: str,
        traffic: float,
        *,
        kind: str = "elementwise",
        access: str = "",
        saved: float = 0.0,
        count: int = 1,
        direction: str = "forward",
    ) -> Kernel:
        """An element-wise kernel (or a run of them) that moves `traffic` bytes."""
        how = access or ("fused" if self.fused else "stream")
        return Kernel(
            name=name,
            module=module,
            kind=kind,
            bytes=traffic,
            dtype=self.dtype,
            direction=direction,
            saved_bytes=saved,
            count=count,
            access=how,
        )

    def gemm(
        self,
        name: str,
        module: str,
        m: int,
        n: int,
        k: int,
        *,
        batch: int = 1,
        direction: str = "forward",
        dtype: str = "",
        saved: float = 0.0,
        out_bytes: float = 0.0,
    ) -> Kernel:
        """A matrix product, C (m x n) = A (m x k) B (k x n), `batch` times."""
        kind = dtype or self.dtype
        size = DTYPE_BYTES[kind]
        out = out_bytes or ELEMENT[kind]
        return Kernel(
            name=name,
            module=module,
            kind="gemm",
            flops=2.0 * m * n * k * batch,
            bytes=float(batch * (size * (m * k + k * n) + out * m * n)),
            shape=(m, n, k, batch),
            dtype=kind,
            direction=direction,
            saved_bytes=saved,
        )
