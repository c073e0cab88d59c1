"""Kernels around a matrix product in 8 or from 4 bits."""

from __future__ import annotations

from sim.blocks.ops import Map
from sim.blocks.tape import Tape

#: Traffic per 4-bit GPTQ weight and use: shifts, masks, zeros and scales are some 20 kernels
#: over whole tensors. Fitted on the six QLoRA rows of Qwen-7B (one A100, 256 to 8192 tokens). [B]
GPTQ_BYTES = 10.5


def dequantise(t: Tape, name: str, weights: float) -> Map:
    """Weights back to the compute dtype, before every use."""
    label = f"{name}.dequantise"
    if t.setting.method.quantization == "gptq-int4":
        return Map(label, GPTQ_BYTES * weights, 20, "stream", "quantize")
    return Map(label, (0.5 + 4 / 64 + t.setting.element) * weights, 2, "cast", "quantize")


def _quantise(t: Tape, what: str, elements: float, layouts: int) -> list[Map]:
    """A bf16 tensor to FP8, row-major and (if two layouts) transposed as well.

    Delayed scaling (Transformer Engine) casts, transposes and takes the maximum in one kernel.
    Dynamic scaling (torchao) reads the tensor once for the maximum and once for the cast; a
    compiler fuses the cast with the transposition.
    """
    cast, amax = f"{what}.cast", f"{what}.amax"
    written = (2 + layouts) * elements
    if t.setting.recipe == "te-delayed":
        return [Map(cast, written, 1, "fused", "quantize"), Map(amax, 4096, 2, "", "quantize")]
    first = Map(amax, 2 * elements, 1, "", "quantize")
    if t.fused:
        return [first, Map(cast, written, 1, "", "quantize")]
    # eager: to fp32, scale, clamp, to fp8, and a copy for the other layout
    steps = (6 + 8 + 8 + 5 + 2 * (layouts - 1)) * elements
    return [first, Map(cast, steps, 3 + layouts, "", "quantize")]


def fp8_forward(t: Tape, name: str, x: float, w: float) -> list[Map]:
    """Casts before the product of `x` inputs with `w` weights."""
    rows = _quantise(t, f"{name}.input", x, 2)
    return rows if t.setting.fp8_gather else rows + _quantise(t, f"{name}.weight", w, 2)


def fp8_backward(t: Tape, name: str, y: float, x: float, w: float) -> list[Map]:
    """Casts before the two products of backward, of `y` gradients."""
    s = t.setting
    rows = _quantise(t, f"{name}.grad", y, 2)
    if s.recipe == "rowwise":
        # scales run along the contracted axis, which is another one in the weight's gradient
        rows += _quantise(t, f"{name}.input", x, 1)
    if s.recipe != "te-delayed" and not s.fp8_gather:
        rows += _quantise(t, f"{name}.weight", w, 1)
    return rows
