"""Kernels -> seconds, HBM bytes, and how much slower each is on fewer SMs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from sim.blocks.kernels import Kernel
from sim.cost.attention import AttentionConstants, attention_rate, family, lookup
from sim.cost.constants import KernelConstants, load_constants
from sim.cost.elementwise import beyond_l2, stream_time
from sim.cost.gemm import MEMORY_SATURATION, effective_waves, gemm_times, soft_max
from sim.cost.power import ATTENTION_INTENSITY, board_power
from sim.cost.scan import SMALL, scan_compute_s
from sim.inputs.calibration import Calibration
from sim.inputs.gpu import Gpu
from sim.records import NamedTuple
from sim.units import DTYPE_BYTES

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]

#: dtype of what a product makes, where it is another than what it reads
_EITHER_WAY = ("bf16", "fp16", "tf32")  # of which tensor cores take operands along any side
_MADE = {"fp8": "bf16", "fp4": "bf16", "int8": "int32"}
CURVE_QUANTISATION = 0.18  # loss of a last, partly filled wave; see `rate_by_units`


class KernelCost(NamedTuple):
    """Cost of one kernel (all of its `launches` together)."""

    time_s: float  # alone on the GPU, without the host
    hbm_bytes: float
    compute_s: float  # part that scales with the SMs; 0 for memory-bound kernels
    memory_s: float  # part that HBM limits
    fixed_s: float  # launch and tail, neither
    blocks: float  # thread blocks that fill the SMs in waves; 0: many small ones


class KernelCosts(NamedTuple):
    """Costs of a sequence of kernels; arrays are (n,) in its order."""

    time_s: F8  # stand-alone duration [s]
    hbm_bytes: F8
    curve: I4  # row of `CostModel.curves()`


#: what is known of a kernel: its cost, and its row of each of `KernelCosts`' columns
_KnownCost = tuple[KernelCost, tuple[float, float, int]]


class CostModel:
    """Costs of kernels on one GPU; remembers every distinct kernel.

    Parameters
    ----------
    gpu : Gpu
        The GPU; `power_limit` is a what-if.
    constants : KernelConstants, optional
        Instead of the GPU's own, for fits and what-ifs.
    calibration : Calibration, optional
        What a user's measurements say about this GPU.
    """

    def __init__(
        self,
        gpu: Gpu,
        constants: KernelConstants | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.gpu = gpu
        known = calibration or Calibration.model_construct()
        self._rate = known.gemm_clock
        self._bandwidth = gpu.memory_bandwidth * known.hbm_bandwidth
        self.constants = constants or load_constants(gpu)
        self._l2_bytes = gpu.l2_cache / self.constants.l2_partitions
        self._power = board_power(gpu, self.constants.power)
        self._known: dict[Kernel, _KnownCost] = {}
        self._curves: list[F8] = []
        self._stacked: F8 = np.ones((0, gpu.sms + 1))
        self._curve_of: dict[tuple[float, ...], int] = {}
        self._side_rows: dict[tuple[int, int], int] = {}

    def fallbacks_of(self, kernels: Iterable[Kernel]) -> tuple[str, ...]:
        """What is costed with constants of something else where some kernels run.

        It follows from the kernels alone: a model is shared by all jobs on its GPU, and a job must
        not be told what another one borrows.
        """
        notes = (self._attention_constants(k)[1] for k in kernels if k.kind == "attention")
        return tuple(dict.fromkeys((*self.constants.fallbacks, *filter(None, notes))))

    def cost(self, kernel: Kernel) -> KernelCost:
        """Cost of one kernel."""
        return self._known_of([kernel])[0][0]

    def _known_of(self, kernels: Sequence[Kernel]) -> list[_KnownCost]:
        """Costs and rows of curves; what is not known is priced, all of it together."""
        known = self._known
        try:
            return [known[kernel] for kernel in kernels]
        except KeyError:
            self._price([kernel for kernel in dict.fromkeys(kernels) if kernel not in known])
        return [known[kernel] for kernel in kernels]

    def costs(self, kernels: Sequence[Kernel]) -> KernelCosts:
        """Costs of kernels in order.

        Parameters
        ----------
        kernels : sequence of Kernel
            Any length.

        Returns
        -------
        KernelCosts
            `curve` indexes `curves()`.
        """
        figures = chain.from_iterable([known[1] for known in self._known_of(kernels)])
        time_s, hbm_bytes, row = np.fromiter(figures, float, 3 * len(kernels)).reshape(-1, 3).T
        return KernelCosts(time_s, hbm_bytes, row.astype(np.int32))

    def curve_row(self, kernel: Kernel, own: int = 0) -> int:
        """Row of `curves` that a kernel has; `own` of the SMs that are not left are its own."""
        _, (_, _, row) = self._known_of([kernel])[0]
        if not own:
            return row
        found = self._side_rows.get((row, own))
        if found is None:
            found = self._side_rows[row, own] = len(self._curves)
            left = np.minimum(np.arange(self.gpu.sms + 1) + own, self.gpu.sms)
            self._curves.append(self._curves[row][left])
        return found

    def curves(self) -> F8:
        """Relative rates by SMs left, (n_curves, SMs + 1), 1 with all of them."""
        if not self._curves:
            return np.ones((0, self.gpu.sms + 1))
        if len(self._stacked) != len(self._curves):
            self._stacked = np.array(self._curves)
        return self._stacked

    def peak(self, dtype: str) -> float:
        """Dense peak of a dtype; one the GPU lacks runs as the next it has. [FLOP/s]"""
        g = self.gpu
        peaks = {
            "bf16": g.peak_bf16,
            "fp16": g.peak_fp16,
            "fp8": g.peak_fp8,
            "fp4": g.peak_fp4,
            "int8": g.peak_int8,
            "tf32": g.peak_tf32,
            "fp32": g.peak_fp32,
        }
        chain = {
            "bf16": ("bf16", "fp16"), "fp8": ("fp8", "bf16", "fp16"), "int8": ("int8", "fp16"),
            "fp4": ("fp4", "fp8", "bf16", "fp16"), "tf32": ("tf32", "fp32"),
        }  # fmt: skip
        for name in chain.get(dtype, (dtype,)):
            value = peaks[name]
            if value:
                return value
        return g.peak_fp32

    def clock(self, intensity: float) -> float:
        """Share of the quoted clock that a kernel of this tensor-core activity holds."""
        return self._power.clock(intensity)

    def _price(self, kernels: list[Kernel]) -> None:
        gemms: dict[str, list[int]] = {}
        for i, kernel in enumerate(kernels):
            if kernel.kind == "gemm":
                gemms.setdefault(kernel.dtype, []).append(i)
        products: dict[int, KernelCost] = {}
        for dtype, at in gemms.items():
            costs = self._gemms(dtype, [kernels[i] for i in at])
            products.update(zip(at, costs, strict=True))
        for i, kernel in enumerate(kernels):
            if kernel.kind == "attention":
                cost = self._attention(kernel)
            elif kernel.kind == "scan":
                cost = self._scan(kernel)
            else:
                cost = products[i] if kernel.kind == "gemm" else self._stream(kernel)
            self._known[kernel] = cost, (cost.time_s, cost.hbm_bytes, self._curve(cost))

    def _gemms(self, dtype: str, kernels: list[Kernel]) -> Iterator[KernelCost]:
        c = self.constants.gemm[dtype]
        clock = self.clock(1.0)
        shapes = np.array([k.shape for k in kernels], dtype=float)
        times = gemm_times(
            shapes,
            DTYPE_BYTES[dtype],
            DTYPE_BYTES[_MADE.get(dtype, dtype)],
            self.peak(dtype) * clock / self.constants.power.table_clock * self._rate,
            self._bandwidth,
            self.gpu.sms,
            c,
            # of 8 bits and less tensor cores take operands along the depth alone: transposed first
            across=np.array([k.direction == "wgrad" and dtype in _EITHER_WAY for k in kernels]),
        )
        for i, kernel in enumerate(kernels):
            yield KernelCost(
                time_s=float(times.seconds[i]) * kernel.launches,
                hbm_bytes=kernel.bytes,
                compute_s=float(times.compute_s[i]) * kernel.launches,
                memory_s=float(times.memory_s[i]) * kernel.launches,
                fixed_s=c.launch_s * kernel.launches,
                blocks=float(times.tiles[i]),
            )

    def _attention(self, kernel: Kernel) -> KernelCost:
        sequences, heads, _, queries, keys, _, causal, window = kernel.shape
        c, _ = self._attention_constants(kernel)
        clock = self.clock(ATTENTION_INTENSITY)
        rate = attention_rate(
            c, self.peak(kernel.dtype) * clock * self._rate, queries, keys, window, bool(causal)
        )
        blocks = sequences * heads * -(-queries // 128)
        compute = kernel.flops / rate
        # too few heads and rows leave SMs idle
        compute *= max(1.0, 0.75 * self.gpu.sms / blocks)
        memory = kernel.bytes / (self.constants.bandwidth["fused"] * self._bandwidth)
        floor = self.constants.floor_s
        return KernelCost(
            time_s=floor + max(compute, memory),
            hbm_bytes=kernel.bytes,
            compute_s=compute,
            memory_s=memory,
            fixed_s=floor,
            blocks=float(blocks),
        )

    def _scan(self, kernel: Kernel) -> KernelCost:
        blocks, steps = kernel.shape
        c, gemm = self.constants, self.constants.gemm[kernel.dtype]
        clock = self.clock(ATTENTION_INTENSITY) / c.power.table_clock
        peak = self.peak(kernel.dtype) * clock * self._rate
        compute = scan_compute_s(
            kernel.flops, blocks, steps, gemm.tile[SMALL] * peak, gemm.fill_s, self.gpu.sms
        )
        memory = kernel.bytes / (c.bandwidth["fused"] * self._bandwidth)
        return KernelCost(
            time_s=c.floor_s + float(soft_max(np.array(compute), np.array(memory))),
            hbm_bytes=kernel.bytes,
            compute_s=compute,
            memory_s=memory,
            fixed_s=c.floor_s,
            blocks=float(blocks),
        )

    def _attention_constants(self, kernel: Kernel) -> tuple[AttentionConstants, str]:
        """Those of its family and head size, and what they fell back on."""
        direction = "forward" if kernel.direction == "forward" else "backward"
        dim = kernel.shape[5]
        kind = family(kernel.access, self.gpu, kernel.dtype, dim)
        return lookup(self.constants.attention, kind, direction, dim)

    def _stream(self, kernel: Kernel) -> KernelCost:
        c = self.constants
        share = c.bandwidth[kernel.access]
        traffic = beyond_l2(kernel.bytes, kernel.launches, self._l2_bytes, c.l2_speed)
        time = stream_time(
            traffic, kernel.launches, share, self._bandwidth, c.floor_s, c.ramp_bytes
        )
        return KernelCost(
            time_s=time,
            hbm_bytes=traffic,
            compute_s=0.0,
            memory_s=time - c.floor_s * kernel.launches,
            fixed_s=c.floor_s * kernel.launches,
            blocks=0.0,
        )

    def _curve(self, cost: KernelCost) -> int:
        """Row of the curve of a kernel; curves of like kernels are shared.

        A curve follows from its rounded key alone, never from which kernel asked first: results
        must not depend on what a process has priced before.
        """
        sms = self.gpu.sms
        blocks = cost.blocks
        if blocks > 8 * sms:  # many waves: their number hardly matters any more
            blocks = sms * min(round(blocks / sms / 4) * 4.0, 64.0)
        compute, memory, fixed = (
            round(part / cost.time_s * 20) / 20
            for part in (cost.compute_s, cost.memory_s, cost.fixed_s)
        )
        key = (compute, memory, fixed, blocks if compute else 0.0)
        row = self._curve_of.get(key)
        if row is None:
            row = self._curve_of[key] = len(self._curves)
            self._curves.append(rate_by_units(*key, sms, self.constants.compute_loss))
        return row


def rate_by_units(
    compute: float, memory: float, fixed: float, blocks: float, sms: int, compute_loss: float
) -> F8:
    """Relative rate of a kernel when a collective leaves it fewer SMs.

    Parameters
    ----------
    compute, memory, fixed : float
        Compute, memory and fixed time of the kernel alone, as shares of its duration; compute and
        memory overlap. [1]
    blocks : float
        Thread blocks, run in waves on the SMs.
    sms : int
        All SMs.
    compute_loss : float
        Further loss of compute, a share of the SMs taken: what a collective's channels do to L2,
        the HBM queues and power.

    Returns
    -------
    (sms + 1,) float64
        1 at `sms`; entry 0 equals entry 1, since no collective takes every SM.

    Notes
    -----
    Compute time scales with the waves of the kernel's blocks on u SMs; the memory time not until
    fewer than MEMORY_SATURATION of the SMs are left, from where it scales with 1/u; launch and
    tail stay. Compute loses (1 + compute_loss (sms - u) / sms) more. Rate = t(all)/t(u).

    Source: waves' = ceil(tiles/(SMs - channels)): 132 tiles beside 24 channels take 1.7 times as
    long on an H100 (NVIDIA forum 337991), which gives CURVE_QUANTISATION; HBM saturates with less
    than half of the SMs.
    """
    u = np.maximum(np.arange(sms + 1, dtype=float), 1.0)
    slowed = memory * np.maximum(1.0, MEMORY_SATURATION * sms / u)
    waves = np.zeros_like(u)
    if compute > 0:
        full = float(effective_waves(np.array([blocks / sms]), CURVE_QUANTISATION)[0])
        waves = compute * effective_waves(blocks / u, CURVE_QUANTISATION) / full
    waves *= 1 + compute_loss * (sms - u) / sms
    time = fixed + soft_max(waves, slowed)
    return np.ones_like(u) if time[-1] == 0 else np.minimum(time[-1] / time, 1.0)


@lru_cache(maxsize=16)
def cost_model(gpu: Gpu, calibration: Calibration | None = None) -> CostModel:
    """The cost model of a GPU, shared so that equal kernels are priced once."""
    return CostModel(gpu, calibration=calibration)
