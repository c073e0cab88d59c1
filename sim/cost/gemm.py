"""Time of matrix products: tiles in waves on the SMs, against the traffic they cause."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.records import NamedTuple, dataclass

F8 = npt.NDArray[np.float64]


class Tiling(NamedTuple):
    """Output tiles that a library has: (rows, columns), class of efficiency, step in depth."""

    shapes: F8
    classes: npt.NDArray[np.int64]
    depth: float
    aligned: bool  # full rate needs rows of whole 16 bytes


TENSOR_CORES = Tiling(
    np.array(
        [(256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (64, 256), (256, 64)],
        dtype=float,
    ),
    np.array([0, 0, 1, 2, 2, 3, 2, 2]),
    32.0,
    True,
)
#: fp32 products run on CUDA cores, whose kernels are narrower: cuBLAS's sgemm_32x32, sgemm_128x32
#: and, for as few columns as an adapter's rank, gemmSN
CUDA_CORES = Tiling(
    np.vstack(
        [
            TENSOR_CORES.shapes,
            np.array([(128, 32), (32, 128), (32, 32), (128, 16), (16, 128)], dtype=float),
        ]
    ),
    np.concatenate([TENSOR_CORES.classes, [3, 3, 3, 3, 3]]),
    8.0,
    False,
)
SPLITS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
MEMORY_SATURATION = 0.45  # share of the SMs that saturates HBM; see `rate_by_units`


@dataclass(frozen=True, slots=True)
class GemmConstants:
    """Constants of one GPU generation and dtype; each fitted on a whole table, never on a row.

    Attributes
    ----------
    tile : tuple of 4 floats
        Share of the SM's peak that a tile of class 0 to 3 reaches in its main loop.
    quantisation : float
        How much of a last, partly filled wave is lost (1: all of it; less where tiles drift apart).
    fill_s : float
        Prologue and epilogue of one wave. [s]
    launch_s : float
        Shortest kernel. [s]
    memory : float
        Share of the HBM bandwidth that operand streaming reaches.
    extra_s, extra_bytes : float
        What the measured call does beside the product (casts and scales of a serving stack):
        fixed and per input element; not part of a training product. [s], [B]
    burst, burst_s : float
        Clock gained by short kernels of a benchmark loop, and the kernel time at which half of it
        is left: rate x (1 + burst / (1 + t/burst_s)). Training runs too hot for it. [1], [s]
    tiling : Tiling
        Of the cores it runs on.
    """

    tile: tuple[float, float, float, float]
    quantisation: float
    fill_s: float
    launch_s: float
    memory: float
    extra_s: float = 0.0
    extra_bytes: float = 0.0
    burst: float = 0.0
    burst_s: float = 1.0
    tiling: Tiling = TENSOR_CORES


class GemmTimes(NamedTuple):
    """Stand-alone times of products and what limits them, (n,) float64 each."""

    seconds: F8
    compute_s: F8  # tiles' main loops and fills
    memory_s: F8  # traffic at achieved bandwidth
    tiles: F8  # thread blocks, one an SM
    split: F8


def gemm_times(
    shapes: npt.NDArray[np.float64],
    element_bytes: float,
    out_bytes: float,
    peak_flops_per_s: float,
    bytes_per_s: float,
    sms: int,
    c: GemmConstants,
    in_bursts: bool = False,
    across: npt.NDArray[np.bool_] | None = None,
) -> GemmTimes:
    """Stand-alone time of products on a GPU.

    Parameters
    ----------
    shapes : (n, 4) float64
        m, n, k, batch.
    element_bytes, out_bytes : float
        Size of an operand and of an output element. [B]
    peak_flops_per_s : float
        Dense peak of the dtype at the clock that holds. [FLOP/s]
    bytes_per_s : float
        HBM bandwidth, datasheet. [B/s]
    sms : int
        Streaming multiprocessors.
    c : GemmConstants
        Fitted constants.
    in_bursts : bool
        As a benchmark loop runs it, burst clocks and extra work included; else as training does.
    across : (n,) bool, optional
        Products whose operands lie along m and n in memory, not along k: of gradients of weights,
        whose depth is tokens.

    Returns
    -------
    GemmTimes

    Notes
    -----
    For every tile shape (a x b) and split s of k: T = batch ceil(m/a) ceil(n/b) s tiles run in
    w = T/SMs waves, w' = 1 if w <= 1 else w + q (ceil(w) - w), each of 2 a b ceil(k/s) FLOPs at
    the tile's rate plus a fill; a split adds the traffic of its partial sums. The library takes the
    fastest. Total: launch + (compute^4 + memory^4)^(1/4).

    Where what varies fastest in memory is no whole number of 16 bytes, k or n and of ``across`` m
    or n, kernels of tensor cores are slower: half the rate.

    Source: NVIDIA, "Matrix multiplication background", tile and wave quantisation, and that of
    alignment "only the fastest varying dimensions in memory" count; constants
    fitted on sim/data/measured/gemm_efficiency.csv by bench/fit/gemm.py.
    """
    m, n, k, batch = (shapes[:, i, None, None] for i in range(4))
    a, b = c.tiling.shapes[None, :, None, 0], c.tiling.shapes[None, :, None, 1]
    rate = np.array(c.tile)[c.tiling.classes][None, :, None] * peak_flops_per_s / sms
    s = SPLITS[None, None, :]
    tiles = batch * np.ceil(m / a) * np.ceil(n / b) * s
    depth = np.ceil(np.maximum(np.ceil(k / s), 1) / c.tiling.depth) * c.tiling.depth
    waves = effective_waves(tiles / sms, c.quantisation)
    compute = waves * (2 * a * b * depth / rate + c.fill_s)
    bandwidth = c.memory * bytes_per_s
    compute = compute + np.where(s > 1, 4 * batch * m * n * (s + 1) / bandwidth, 0.0)
    compute = np.where((s > 1) & (k / s < 256), np.inf, compute)
    flat = compute.reshape(len(shapes), -1)
    best = np.argmin(flat, axis=1)
    row = np.arange(len(shapes))
    compute_s = flat[row, best]
    memory_s = (element_bytes * batch * (m * k + k * n) + out_bytes * batch * m * n)[
        :, 0, 0
    ] / bandwidth
    if c.tiling.aligned:
        inner = shapes[:, 2] if across is None else np.where(across, shapes[:, 0], shapes[:, 2])
        odd = ((shapes[:, 1] * element_bytes) % 16 > 0) | ((inner * element_bytes) % 16 > 0)
        compute_s = np.where(odd, 2.0 * compute_s, compute_s)
    extra = np.zeros(len(shapes))
    if in_bursts:
        compute_s = compute_s / (1 + c.burst / (1 + compute_s / c.burst_s))
        extra = c.extra_s + c.extra_bytes * (batch * m * k)[:, 0, 0] / bandwidth
    total = c.launch_s + soft_max(compute_s, memory_s) + extra
    return GemmTimes(
        seconds=total,
        compute_s=compute_s,
        memory_s=memory_s,
        tiles=np.broadcast_to(tiles, compute.shape).reshape(len(shapes), -1)[row, best],
        split=np.broadcast_to(s, compute.shape).reshape(len(shapes), -1)[row, best],
    )


def effective_waves(waves: F8, quantisation: float) -> F8:
    """Waves a kernel takes, its last one partly lost: w' of `gemm_times`."""
    return np.where(waves <= 1, 1.0, waves + quantisation * (np.ceil(waves) - waves))


def soft_max(a: F8, b: F8) -> F8:
    """(a^4 + b^4)^(1/4): the larger of two limits, a little more where they are close."""
    return np.asarray((a**4 + b**4) ** 0.25)
