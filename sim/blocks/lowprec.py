"""Kernels around a matrix product in 8 or from 4 bits."""

from __future__ import annotations

from sim.blocks.kernels import Kernel
from sim.blocks.modules import Position
from sim.blocks.ops import Map
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.inputs.recipes import RECIPES
from sim.records import NamedTuple
from sim.units import DTYPE_BYTES


class Unpacking(NamedTuple):
    """How a library makes 4-bit weights whole for a product.

    Attributes
    ----------
    kernels : tuple of (str, float, float, int, str)
        What each does, bytes a weight that it moves beside the whole weight, whole weights that it
        writes, launches, way of access.
    keeps : bool
        Autograd keeps the whole weight for backward, which else unpacks it again.
    biased : bool
        Every layer adds a bias in a kernel of its own, of zeros where the model has none.
    weight : str
        When autograd is handed the weight (`sim.blocks.ops.Op`).
    """

    kernels: tuple[tuple[str, float, float, int, str], ...]
    keeps: bool = False
    biased: bool = False
    weight: str = ""

    def maps(self, name: str, weights: float, element: float) -> list[Map]:
        """Kernels of one use of so many weights."""
        return [
            Map(f"{name}.{what}", (extra + whole * element) * weights, n, access, "quantize")
            for what, extra, whole, n, access in self.kernels
        ]


GROUP = 128  # weights a scale and a zero, of GPTQ
#: AutoGPTQ 0.7.1, qlinear_cuda_old.py, from 128 rows on: torch's own operations on whole tensors.
#: Weights are shifted into int32 of their own, cast to int8, masked, less zeros, times scales;
#: zeros are shifted, cast, raised by one, masked. Operations that broadcast are not vectorised.
_CUDA_OLD = Unpacking(
    (
        ("shift", 0.5 + 4, 0.0, 1, "strided"),
        ("int8", 4 + 1, 0.0, 1, "cast"),
        ("mask", 1 + 1, 0.0, 1, ""),
        ("zero", 1 + 1, 0.0, 1, "strided"),
        ("dequantise", 1, 1.0, 1, "strided"),
        ("zeros", (0.5 + 4 + 5 + 2 + 2) / GROUP, 0.0, 4, ""),
    ),
    keeps=True,
    biased=True,
    weight="before",
)
#: AutoGPTQ's and GPTQModel's qlinear_tritonv2: one kernel, dequant_kernel_248, before each product.
#: Eight rows read each word of packed weights, from the L2. AutoGPTQ makes all its layers with a
#: bias (modeling/_utils.py, make_quant). QuantLinearFunction.forward multiplies, then saves what is
#: packed (triton_utils/dequant.py).
_TRITON = Unpacking(
    (("dequantise", 0.5 + 2.5 / GROUP, 1.0, 1, "gather"),), biased=True, weight="after"
)
#: bitsandbytes' dequantize_4bit: codes and an fp32 scale a block of 64. MatMul4Bit keeps the codes
#: as an attribute, which no hook of a checkpoint sees.
_BNB = ("dequantise", 0.5 + 4 / 64, 1.0, 1, "cast")
_BNB_SCALES = ("scales", (1 + 4 + 8) / 64, 0.0, 2, "")  # 8 bits each first, plus their mean


#: LLM.int8()'s weights before a product of backward: cast, and scaled in place
_INT8 = Unpacking((("dequantise", 1, 1.0, 1, "cast"), ("scale", 0.0, 2.0, 1, "")))


def unpacking(s: Setting) -> Unpacking:
    """How the method's library makes quantised weights whole."""
    method = s.method
    if method.quantization == "int8":
        return _INT8
    if method.quantization == "nf4":
        return Unpacking((_BNB_SCALES, _BNB) if method.double_quantization else (_BNB,))
    return _TRITON if s.unpacking == "triton" else _CUDA_OLD


def int8_forward(
    t: Tape, name: str, product: Kernel, ins: float, outs: float
) -> tuple[list[Map | Kernel], float]:
    """LLM.int8()'s product in place of one in 16 bits, and what it holds meanwhile. [B]

    The input is cast to fp16 and asked where it exceeds the threshold, whose answer the host waits
    for twice; what is 8-bit is multiplied to int32 and scaled back to fp16, and the few columns
    that exceed it are multiplied apart and added.

    Source: bitsandbytes 0.50.2, autograd/_functions.py, ``MatMul8bitLt``; backends/cuda/ops.py,
    ``int8_vectorwise_quant`` and ``int8_mm_dequant``; backends/default/ops.py,
    ``int8_mixed_scaled_mm``.
    """
    e, half = t.setting.element, DTYPE_BYTES["fp16"]
    other = t.setting.upcast or t.setting.dtype != "fp16"

    def row(what: str, size: float, launches: int = 1, waits: bool = False) -> Map:
        return Map(f"{name}.{what}", size, launches, "", "quantize", waits)

    m, n, k, batch = product.shape
    whole = batch * (DTYPE_BYTES["int8"] * (m * k + k * n) + DTYPE_BYTES["int32"] * m * n)
    forward: list[Map | Kernel] = [row("half", (e + half) * ins)] * other
    forward += [
        row("outliers", (half + half + half + 1 + 1) * ins, 3, True), row("columns", ins, 2, True),
        row("quantise", (half + 1) * ins), product._replace(dtype="int8", bytes=float(whole)),
        row("scale", (DTYPE_BYTES["int32"] + half) * outs),
    ]  # fmt: skip
    forward += [row("whole", (half + e) * outs)] * other
    forward.append(row("apart", 2 * e * outs, 4))
    return forward, DTYPE_BYTES["int32"] * outs + ins


def _quantise(t: Tape, what: str, elements: float, copies: int, weight: bool = False) -> list[Map]:
    """A bf16 tensor to what a recipe multiplies, by row and (if two copies) by column as well.

    Delayed scaling (Transformer Engine) casts, transposes and takes the next maximum in one kernel.
    Scaling by this step's maximum reads the tensor once for that and once for the cast; scales of
    blocks need no pass of their own. A compiler fuses torchao's casts with the transposition.
    """
    cast, amax = f"{what}.cast", f"{what}.amax"
    recipe = RECIPES[t.setting.recipe]
    scale = recipe.weight_scale if weight else recipe.scale
    made = DTYPE_BYTES[recipe.dtype] + scale  # of an element, by one copy
    written = (2 + copies * made) * elements
    if recipe.delayed:
        return [Map(cast, written, 1, "fused", "quantize"), Map(amax, 4096, 2, "", "quantize")]
    te = recipe.library == "te"
    if not te and not t.fused:
        # eager: to fp32, scale, clamp, to fp8, and a copy for the other layout
        steps = (6 + 8 + 8 + 5 + 2 * (copies - 1)) * elements
        return [
            Map(amax, 2 * elements, 1, "", "quantize"),
            Map(cast, steps, 3 + copies, "", "quantize"),
        ]
    # Transformer Engine's maximum becomes a scale in a kernel of its own
    rows = [Map(amax, 2 * elements, 2 if te else 1, "", "quantize")] if recipe.amax else []
    if recipe.apart and not weight and copies > 1:
        written += 2 * elements
    launches = copies if recipe.apart and not weight else 1
    rows.append(Map(cast, written, launches, "fused" if te else "", "quantize"))
    if recipe.swizzled:
        moved = 2 * copies * scale * elements
        rows.append(Map(f"{what}.swizzle", moved, copies, "", "quantize"))
    return rows


def quantise_forward(t: Tape, name: str, x: int, ins: float, w: float) -> list[Map]:
    """Casts before the product of `ins` inputs, tensor `x`, with `w` weights."""
    s, recipe = t.setting, RECIPES[t.setting.recipe]
    if s.keeps_fp8:
        part = t.kept.get(x, x)
        each = 4 if recipe.turned and part == x else 3
        once = [_pass(f"{name}.input.cast", each, t.sizes[part] / s.element)]
        return [] if t.by_norm(part) else once
    rows = _quantise(t, f"{name}.input", ins, recipe.copies)
    if s.fp8_gather or s.keeps_weights:
        return rows
    return rows + _quantise(t, f"{name}.weight", w, recipe.copies, weight=True)


def quantise_backward(t: Tape, name: str, x: int, y: float, ins: float, w: float) -> list[Map]:
    """Casts before the two products of backward, of `y` gradients."""
    recipe = RECIPES[t.setting.recipe]
    if t.setting.keeps_fp8:
        return _kept_backward(t, name, x, y, ins)
    rows = _quantise(t, f"{name}.grad", y, 1 + recipe.turned)
    if recipe.again:
        rows += _quantise(t, f"{name}.input", ins, 1)
    if recipe.library == "ao" and not t.setting.fp8_gather:
        rows += _quantise(t, f"{name}.weight", w, 1, weight=True)
    return rows


def _kept_backward(t: Tape, name: str, x: int, y: float, ins: float) -> list[Map]:
    """Megatron's: what is gathered or came from a norm has no transpose yet, where one is read."""
    s, part = t.setting, t.kept.get(x, x)
    turns = RECIPES[s.recipe].turned
    if reads_part(t):
        rows = [_pass(f"{name}.grad.cast", 3, y / s.tensor)]
        rows += [_pass(f"{name}.grad.turn", 2, y)] * turns
    else:
        rows = [_pass(f"{name}.grad.cast", 3 + turns, y)]
    turned = turns and (part != x or t.by_norm(part))
    return [*rows, _pass(f"{name}.input.turn", 2, ins)] if turned else rows


def reads_part(t: Tape) -> bool:
    """Whether the gradient of what the last module made is gathered, in FP8."""
    s = t.setting
    return s.keeps_fp8 and s.splits_stream and t.modules[-1].place is Position.OUTPUT


def _pass(name: str, each: float, elements: float) -> Map:
    """A kernel of so many bytes an element."""
    return Map(name, each * elements, 1, "fused", "quantize")
