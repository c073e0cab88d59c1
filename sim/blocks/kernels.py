"""One GPU kernel as the model sees it: shapes, FLOPs, bytes; no seconds."""

from __future__ import annotations

from sim.blocks.modules import OpRole
from sim.records import NamedTuple

#: kinds of kernel that only move bytes, the optimizer's apart
STREAMED = ("norm", "elementwise", "reduction", "embedding", "loss", "quantize", "copy")


class Kernel(NamedTuple):
    """One kernel launch (or `launches` equal ones in a row).

    Attributes
    ----------
    name : str
        What it computes, e.g. ``"wq"``, ``"rope.q"``.
    module : str
        The leaf module it belongs to (a name of `Block.forward_order`), by which schedules
        that fetch per module slice a block.
    kind : str
        ``gemm | attention | scan | norm | elementwise | reduction | embedding | loss | optimizer |
        copy | quantize``
    flops : float
        Floating-point operations. [1]
    bytes : float
        HBM bytes read and written. [B]
    shape : tuple of int
        gemm: (m, n, k, batch). attention: (batch, heads, kv_heads, s_q, s_k, head_dim, causal,
        window). scan: (thread blocks, steps that each goes one after another)
    dtype : str
        ``bf16 | fp16 | fp32 | tf32 | fp8``, of the arithmetic.
    direction : str
        ``forward | backward | dgrad | wgrad``
    launches : int
        How many; flops and bytes are of all of them together.
    access : str
        How an element-wise kernel reads: ``stream`` (contiguous, vectorised), ``cast``,
        ``strided`` (views), ``composite`` (a norm's chain of small kernels), ``fused`` (one
        compiled kernel), ``rows`` (a norm's row reductions), ``reduce`` (softmax), ``gather``,
        ``multi`` (tensor lists), ``copy``; of attention, its implementation.
    role : OpRole
        What it works for.
    waits : bool
        The host waits for its end before it launches what follows: ``.item()``, ``nonzero``, a
        copy of counts to the CPU.
    """

    name: str
    module: str
    kind: str
    flops: float = 0.0
    bytes: float = 0.0
    shape: tuple[int, ...] = ()
    dtype: str = "bf16"
    direction: str = "forward"
    launches: int = 1
    access: str = "stream"
    role: OpRole = OpRole.OTHER
    waits: bool = False
