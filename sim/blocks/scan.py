"""What mixers in attention's place have in common: a short convolution, a scan by chunks, a gate.

A scan runs over the tokens by chunks: products within each, and a state that is handed from chunk
to chunk. ``fused``: the kernels of flash-linear-attention, mamba-ssm and causal-conv1d; ``torch``:
what transformers runs where those are not installed.
"""

from __future__ import annotations

from sim.blocks.kernels import Kernel
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map
from sim.blocks.tape import Tape

#: columns of a value that one thread block of a sequential kernel takes
#: Source: fla 0.6, ops/common/chunk_delta_h.py, BV of its configs
BLOCK_COLUMNS = 64
WIDE = 4.0  # of an fp32 number, which PyTorch's scans compute with [B]


def chunks(t: Tape) -> tuple[int, int]:
    """Chunks of one sequence, and of all sequences of the micro-batch."""
    each = -(-t.setting.length // t.setting.model.mixer_chunk)
    return each, each * t.setting.sequences


def kernel(
    t: Tape, name: str, flops: float, traffic: float, blocks: int, steps: int = 1,
    direction: str = "forward",
) -> Kernel:  # fmt: skip
    """A kernel of so many thread blocks, each of which goes so many steps one after another."""
    return Kernel(
        name, t.module, "scan", flops, traffic, (blocks, steps), t.setting.dtype, direction,
        access="fused", role=OpRole.MIXER,
    )  # fmt: skip


def convolution(t: Tape, x: int, columns: int, *, activated: bool = True) -> int:
    """A causal convolution of each column by itself, and SiLU; its output's tensor.

    The kernel keeps its input and makes SiLU's again in backward; PyTorch's keeps SiLU's input.

    Source: causal-conv1d, ``causal_conv1d_bwd_kernel``; transformers 5.24, ``causal_conv1d_fn``.
    """
    s, m = t.setting, t.setting.model
    wide = m.mixer_conv
    shapes: list[tuple[str, tuple[int, ...]]] = [("weight", (columns, 1, wide))]
    shapes += [("bias", (columns,))] * m.mixer_conv_bias
    t.register("conv1d", OpRole.OTHER, Position.INNER, shapes)
    gradient = s.element * columns * (wide + m.mixer_conv_bias) * (not s.frozen)
    size = t.size(columns)
    if s.mixer_kernels == "fused":
        return t.op(
            "conv1d", (x,), size, (x,), [Map("conv1d", 2 * size, 1, "fused")],
            [Map("conv1d", 3 * size, 1, "fused")], weight_gradient=gradient,
        )  # fmt: skip
    filled = size + s.element * s.sequences * (wide - 1) * columns  # before the first token
    out = t.op(
        "conv1d", (x,), filled, (x,), [Map("conv1d", 2 * size, 1, "strided")],
        [Map("conv1d.dx", 2 * size, 1, "strided"), Map("conv1d.dw", 2 * size, 1, "strided")],
        weight_gradient=gradient,
    )  # fmt: skip
    if not activated:
        return out
    silu = [Map("conv1d.silu", 2 * size, 1, "strided")]
    return t.op("conv1d.silu", (out,), size, (out,), silu, [Map("conv1d.silu", 3 * size, 1)])


def norm_of_gated(t: Tape, x: int, gate: int, groups: int, width: int) -> int:
    """RMSNorm of groups of columns of what SiLU of a gate (a part of `gate`) is multiplied with.

    Its output is made again in backward, by the kernel that makes its gradients.

    Source: mamba-ssm, ops/triton/layernorm_gated.py, ``norm_before_gate=False``.
    """
    s, trained = t.setting, not t.setting.frozen
    t.register("mixer_norm", OpRole.NORM, Position.INNER, [("weight", (width,))])
    size = t.size(width)
    return t.op(
        "mixer_norm", (x,), size, (x, gate), [Map("mixer_norm", 3 * size, 1, "fused", "norm")],
        [Map("mixer_norm.dx", 6 * size, 1, "fused", "norm")], role=OpRole.NORM,
        weight_gradient=s.element * width * trained, extra=4.0 * s.tokens * groups,
    )  # fmt: skip


def gated_norm(t: Tape, x: int, gate: int, rows: int, width: int, weight: int) -> int:
    """RMSNorm of `rows` parts of `width` columns a token, beside SiLU of a gate.

    Source: fla 0.6, modules/norm, ``FusedRMSNormGated``; transformers 5.24, ``RMSNormGated``.
    """
    s = t.setting
    t.register("mixer_norm", OpRole.NORM, Position.INNER, [("weight", (weight,))])
    e, trained = s.element, not s.frozen
    n = float(s.tokens * rows * width)
    size, gradient = e * n, e * weight * trained
    if s.mixer_kernels == "fused":
        sums = [Map("mixer_norm.dw", 4.0 * weight, 1, "fused", "norm")] * trained
        return t.op(
            "mixer_norm", (x, gate), size, (x, gate),
            [Map("mixer_norm", 3 * size, 1, "fused", "norm")],
            [Map("mixer_norm.dx", 5 * size, 1, "fused", "norm"), *sums], role=OpRole.NORM,
            weight_gradient=gradient, extra=4.0 * s.tokens * rows,
        )  # fmt: skip
    wide = 4.0 * n
    x = t.op(
        "mixer_norm.cast", (x,), wide, (), [Map("mixer_norm.cast", size + wide, 1, "cast", "norm")],
        [Map("mixer_norm.cast", size + wide, 1, "cast", "norm")], role=OpRole.NORM,
    )  # fmt: skip
    x = t.op(
        "mixer_norm.scale", (x,), size, (x,),
        [Map("mixer_norm.scale", 5 * wide + size, 6, "composite", "norm")],
        [Map("mixer_norm.scale", 14 * wide + size, 9, "composite", "norm")], role=OpRole.NORM,
        extra=4.0 * s.tokens * rows,
    )  # fmt: skip
    sums = [Map("mixer_norm.dw", 2 * size, 1, "composite", "norm")] * trained
    x = t.op(
        "mixer_norm", (x,), size, (x,) if trained else (),
        [Map("mixer_norm", 2 * size, 1, "", "norm")],
        [Map("mixer_norm.dx", 3 * size, 1, "composite", "norm"), *sums], role=OpRole.NORM,
        weight_gradient=gradient,
    )  # fmt: skip
    cast = [Map("mixer_gate.cast", size + wide, 1, "cast")]
    opened = t.op("mixer_gate.cast", (gate,), wide, (), cast, cast)
    opened = t.op(
        "mixer_gate.silu", (opened,), wide, (opened,), [Map("mixer_gate.silu", 2 * wide)],
        [Map("mixer_gate.silu", 3 * wide)],
    )  # fmt: skip
    return t.op(
        "mixer_gate", (x, opened), size, (x, opened), [Map("mixer_gate", 2 * size + 3 * wide, 2)],
        [Map("mixer_gate", 4 * size + 6 * wide, 4)],
    )  # fmt: skip


def widened(
    t: Tape, name: str, reads: tuple[int, ...], size: float, traffic: float, launches: int = 1,
    saves: tuple[int, ...] = (), *, own: bool = False, extra: float = 0.0,
    weight_gradient: float = 0.0,
) -> int:  # fmt: skip
    """Element-wise kernels of PyTorch's scans; those of backward read a gradient more."""
    back = [Map(name, traffic + size, launches)] if reads else []
    return t.op(
        name, reads, size, saves, [Map(name, traffic, launches)], back, role=OpRole.MIXER, own=own,
        extra=extra, weight_gradient=weight_gradient,
    )  # fmt: skip


def within_chunks(
    t: Tape, name: str, reads: tuple[int, ...], size: float, shape: tuple[int, int, int],
    every: int, saves: tuple[int, ...] | None = None, *, own: bool = False,
) -> int:  # fmt: skip
    """A product of every chunk and head, in fp32; a triangle is solved in the time of one."""
    rows, columns, depth = shape
    batch = every * t.setting.model.mixer_heads

    def gemm(way: str, m: int, n: int, k: int, direction: str) -> Kernel:
        return t.gemm(f"{name}{way}", m, n, k, direction, batch, "fp32", role=OpRole.MIXER)

    back = [
        gemm(".left", rows, depth, columns, "dgrad"),
        gemm(".right", depth, columns, rows, "dgrad"),
    ]
    return t.op(
        name, reads, size, reads if saves is None else saves,
        [gemm("", rows, columns, depth, "forward")], back, role=OpRole.MIXER, own=own,
    )  # fmt: skip


def model_flops(kernels: list[Map | Kernel]) -> float:
    """Products of a scan's forward. [1]"""
    return sum(k.flops for k in kernels if isinstance(k, Kernel))
