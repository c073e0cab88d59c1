"""What either FSDP does with a gradient that its group has reduced."""

from __future__ import annotations

from sim.strategies.recorder import Recorder
from sim.strategies.units import Dtypes, Unit
from sim.units import DTYPE_BYTES

BACKWARD = "backward"


def across_replicas(r: Recorder, stream: str, u: Unit, size: float, dtype: str) -> str:
    """All-reduce `size` bytes of a shard over replicas, after `stream`; the stream it is on."""
    r.wait_stream("all_reduce", stream)
    r.collective(
        "all_reduce", "all_reduce", BACKWARD, "replicate", size, size, dtype, u.name, u.block
    )
    return "all_reduce"


def in_master_dtype(
    r: Recorder, stream: str, u: Unit, size: float, types: Dtypes, *, divide: bool
) -> float:
    """Divide a reduced gradient of `size` bytes if asked, and cast it to its parameter's dtype.

    Returns
    -------
    float
        What is stored of it. [B]
    """
    if divide:
        r.kernel(stream, "postdivide", BACKWARD, 2 * size, u.name, u.block)
    if types.reduce == types.master:
        return size
    stored = size / DTYPE_BYTES[types.reduce] * DTYPE_BYTES[types.master]
    r.kernel(stream, "cast", BACKWARD, size + stored, u.name, u.block)
    return stored
