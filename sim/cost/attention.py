"""Fused attention kernels: achieved rate by implementation, head size and sequence length."""

from __future__ import annotations

from collections.abc import Mapping

from sim.inputs.architecture import nvidia
from sim.inputs.gpu import Gpu
from sim.inputs.modelling import FLASH_SINCE
from sim.inputs.versions import sdpa_flash, sdpa_on_cudnn
from sim.records import dataclass

SDPA = "sdpa"  # PyTorch's own; "sdpa-2.11": as it is since that release
TE = "te"  # Transformer Engine's choice
CUDNN_HEAD = 128  # columns of a head up to which cuDNN has a backward
CUDNN_HEAD_ON_HOPPER = 256  # the same for Transformer Engine there
CUDNN_SINCE = 9.0  # compute capability from which Transformer Engine takes cuDNN first


def family(kind: str, gpu: Gpu, dtype: str, head_dim: int) -> str:
    """The family whose constants an implementation has on a GPU.

    PyTorch's `scaled_dot_product_attention` is FlashAttention 2, but where its release carries the
    first one or prefers cuDNN (``data/versions.toml``), and where it does not run. Transformer
    Engine takes cuDNN's from Hopper on, before it FlashAttention 2.

    Source: Transformer Engine 2.8, pytorch/attention/dot_product_attention/utils.py,
    ``get_attention_backend``, where both are installed, as in NVIDIA's containers; widths in
    common/fused_attn/fused_attn.cpp, ``nvte_get_fused_attn_backend``: 256 on Hopper alone.

    Notes
    -----
    Before Ampere and in FP32 it is the memory-efficient kernel, which no release changes. No table
    of such a GPU has it. In 16 bits it is as fast as FlashAttention 1, which PyTorch 2.0 runs on
    Turing (xformers' on an A100: 0.75 to 1.2 of that one's, 0.45 to 0.5 of the second's;
    sim/data/measured/attention_kernels.csv). In FP32 it has the second's share, assumed: of a peak
    that is a sixteenth, softmax leaves more.
    """
    if kind == TE:
        newer = gpu.compute_capability >= CUDNN_SINCE and nvidia(gpu)
        widest = CUDNN_HEAD_ON_HOPPER if gpu.compute_capability == CUDNN_SINCE else CUDNN_HEAD
        return "cudnn" if newer and head_dim <= widest else "flash2"
    name, _, since = kind.partition("-")
    if name != SDPA:
        return kind
    if dtype == "fp32":
        return "flash2"
    if gpu.compute_capability < FLASH_SINCE:
        return "flash1"
    preferred = gpu.compute_capability in sdpa_on_cudnn(since) and nvidia(gpu)
    return "cudnn" if preferred and head_dim <= CUDNN_HEAD else sdpa_flash(since)


@dataclass(frozen=True, slots=True)
class AttentionConstants:
    """Rate of one implementation, head size and direction on one GPU generation.

    Attributes
    ----------
    rate : float
        Share of the dense bf16 peak on long sequences, masked pairs not counted.
    knee : float
        Sequence length at which half of it is reached, causal. [1]
    knee_full : float
        The same without a mask. [1]
    """

    rate: float
    knee: float
    knee_full: float


AttentionTable = Mapping[tuple[str, str, int], AttentionConstants]


def lookup(
    table: AttentionTable, kind: str, direction: str, head_dim: int
) -> tuple[AttentionConstants, str]:
    """Constants of a family and head size, and what they fell back on ("" if nothing).

    Between tabulated head sizes the rate is that of the next larger one times the share of its
    padded width that is used: kernels pad 80 to 96 or 128.
    """
    note = ""
    dims = sorted(d for f, p, d in table if f == kind and p == direction)
    if not dims:
        note = f"attention {kind} {direction}: no data on this GPU, flash2 taken"
        kind = "flash2"
        dims = sorted(d for f, p, d in table if f == kind and p == direction)
    above = [d for d in dims if d >= head_dim]
    near = above[0] if above else dims[-1]
    found = table[kind, direction, near]
    if near != head_dim:
        note = note or f"attention {kind} {direction}: head size {head_dim} from {near}"
        padded = next((p for p in (32, 64, 96, 128, 160, 192, 224, 256) if p >= head_dim), head_dim)
        rate = found.rate * min(1.0, head_dim / padded)
        return AttentionConstants(rate, found.knee, found.knee_full), note
    return found, note


def attention_rate(
    c: AttentionConstants,
    peak_flops_per_s: float,
    queries: int,
    keys: int,
    window: int,
    causal: bool,
) -> float:
    """Achieved rate of a kernel over its unmasked FLOPs. [FLOP/s]

    Notes
    -----
    R(s) = peak rate s / (s + knee): the knee stands for prologue, epilogue and the half-masked
    blocks on the diagonal. A window makes every row as long as the window.

    Source: fitted on sim/data/measured/attention_kernels.csv by bench/fit/attention.py.
    """
    span = min(window, keys) if window else keys
    knee = c.knee if causal else c.knee_full
    short = queries / (
        queries + 32.0
    )  # a sliver of queries leaves most of a 64 or 128 row block empty
    return peak_flops_per_s * c.rate * span / (span + knee) * short
