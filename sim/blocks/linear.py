"""Linear layers as they run: plain, FP8 by recipe, LoRA beside a frozen base, QLoRA."""

from __future__ import annotations

from dataclasses import dataclass

from sim.blocks.kernels import Kernel
from sim.blocks.tape import Tape
from sim.inputs.workload import Workload

#: Element-wise traffic of an adapter per input and per output element and pass (dropout with its
#: mask, casts to and from the adapter's dtype, scaling, the add). [B]
#: Source: LoRA rows of sim/data/measured (A100), all sources together.
ADAPTER_BYTES = 13.0
#: Traffic per 4-bit GPTQ weight and use: shifts, masks, zeros and scales are some 20 kernels
#: over whole tensors. Fitted on the six QLoRA rows of Qwen-7B (one A100, 256 to 8192 tokens). [B]
GPTQ_BYTES = 10.5


@dataclass(frozen=True, slots=True)
class LinearStyle:
    """How a workload runs its linear layers."""

    fp8: str  # "" or a recipe
    fp8_gather: bool
    frozen: bool
    quantization: str
    rank: int
    adapted: frozenset[str]
    dropout: bool

    @classmethod
    def of(cls, workload: Workload, adapted: frozenset[str]) -> LinearStyle:
        """The style of a workload; `adapted` names the modules with adapters."""
        p, method = workload.precision, workload.method
        return cls(
            fp8=p.recipe if p.kind == "fp8" else "",
            fp8_gather=p.all_gather == "fp8",
            frozen=method.kind != "full",
            quantization=method.quantization if method.kind == "qlora" else "none",
            rank=method.rank,
            adapted=adapted,
            dropout=method.dropout > 0,
        )


def linear(
    tape: Tape,
    style: LinearStyle,
    name: str,
    tokens: int,
    n_in: int,
    n_out: int,
    *,
    bias: bool = False,
    groups: int = 1,
    module: str = "",
    low_precision: bool = True,
    saves_input: bool = True,
) -> None:
    """Put one linear layer on the tape.

    Parameters
    ----------
    tape : Tape
        Tape of the block.
    style : LinearStyle
        Plain, FP8, LoRA or QLoRA.
    name : str
        Kernel name; with `module` left out also the leaf module.
    tokens, n_in, n_out : int
        Rows per group and the weight's shape.
    bias : bool
        The forward add is an epilogue; the backward sum a kernel of its own.
    groups : int
        Experts that run as one grouped product.
    module : str
        Leaf module.
    low_precision : bool
        Whether an FP8 recipe applies (the head's does not).
    saves_input : bool
        False where another linear has saved the same input.
    """
    module = module or name
    e = tape.element
    x, y, w = groups * tokens * n_in, groups * tokens * n_out, groups * n_in * n_out
    fp8 = style.fp8 if low_precision else ""
    dtype = "fp8" if fp8 else tape.dtype
    saved = float(e * x) if saves_input and not style.frozen else 0.0
    forward: list[Kernel] = []
    backward: list[Kernel] = []
    if style.quantization != "none":
        forward.append(_dequantise(tape, style, name, module, w, "forward"))
        backward.append(_dequantise(tape, style, name, module, w, "backward"))
    if fp8:
        forward += _fp8_forward(tape, style, name, module, x, w)
        backward += _fp8_backward(tape, style, name, module, y, x, w)
        saved = saved / e
    gemm = tape.gemm
    out = e
    forward.append(
        gemm(
            name, module, tokens, n_out, n_in, batch=groups, dtype=dtype, saved=saved, out_bytes=out
        )
    )
    backward.append(
        gemm(
            f"{name}.dgrad", module, tokens, n_in, n_out,
            batch=groups, direction="dgrad", dtype=dtype, out_bytes=out,
        )
    )  # fmt: skip
    if not style.frozen:
        backward.append(
            gemm(
                f"{name}.wgrad", module, n_out, n_in, tokens,
                batch=groups, direction="wgrad", dtype=dtype, out_bytes=out,
            )
        )  # fmt: skip
        if bias and fp8 != "te-delayed":  # Transformer Engine sums it while it casts the gradient
            backward.append(
                tape.map(f"{name}.bias", module, e * y, kind="reduction", direction="backward")
            )
    tape.op(forward, backward)
    if name in style.adapted:
        _adapter(tape, style, name, module, tokens, n_in, n_out, groups)


def _adapter(
    tape: Tape,
    style: LinearStyle,
    name: str,
    module: str,
    tokens: int,
    n_in: int,
    n_out: int,
    groups: int,
) -> None:
    """Low-rank path B(A(dropout(x))) beside the frozen base, added to its output."""
    r, e = style.rank, tape.element
    x, y = groups * tokens * n_in, groups * tokens * n_out
    a, b = (f"{name}.A", f"{name}.B") if groups == 1 else (f"{module}.A", f"{module}.B")
    into = ADAPTER_BYTES if style.dropout else ADAPTER_BYTES - 2 * e - 1

    def maps(label: str, where: str, traffic: float, direction: str, saved: float = 0.0) -> Kernel:
        launches = 1 if tape.fused else 3
        scale = 0.5 if tape.fused else 1.0
        return tape.map(
            label, where, scale * traffic, count=launches, direction=direction, saved=saved
        )

    tape.op(
        [
            maps(
                f"{name}.dropout",
                a,
                into * x,
                "forward",
                saved=float(x * (e + 1 if style.dropout else e)),
            )
        ],
        [maps(f"{name}.dropout", a, into * x, "backward")],
    )
    gemm = tape.gemm
    tape.op(
        [gemm(a, a, tokens, r, n_in, batch=groups)],
        [
            gemm(f"{a}.dgrad", a, tokens, n_in, r, batch=groups, direction="dgrad"),
            gemm(f"{a}.wgrad", a, r, n_in, tokens, batch=groups, direction="wgrad"),
        ],
    )
    tape.op(
        [gemm(b, b, tokens, n_out, r, batch=groups, saved=float(e * groups * tokens * r))],
        [
            gemm(f"{b}.dgrad", b, tokens, r, n_out, batch=groups, direction="dgrad"),
            gemm(f"{b}.wgrad", b, n_out, r, tokens, batch=groups, direction="wgrad"),
        ],
    )
    tape.op(
        [maps(f"{name}.merge", b, ADAPTER_BYTES * y, "forward")],
        [maps(f"{name}.merge", b, ADAPTER_BYTES * y, "backward")],
    )


def _dequantise(
    tape: Tape, style: LinearStyle, name: str, module: str, weights: float, direction: str
) -> Kernel:
    """Weights back to the compute dtype, before every use."""
    if style.quantization == "gptq-int4":
        traffic, launches, access = GPTQ_BYTES, 20, "stream"
    else:
        traffic, launches, access = 0.5 + 4 / 64 + tape.element, 2, "cast"
    return tape.map(
        f"{name}.dequantise", module, traffic * weights,
        kind="quantize", access=access, direction=direction, count=launches,
    )  # fmt: skip


def _quantise(
    tape: Tape,
    style: LinearStyle,
    what: str,
    module: str,
    elements: float,
    direction: str,
    both: bool,
) -> list[Kernel]:
    """Kernels that turn a bf16 tensor into FP8, row-major and (if `both`) transposed as well.

    Delayed scaling (Transformer Engine) casts, transposes and takes the maximum in one kernel.
    Dynamic scaling (torchao) reads the tensor once for the maximum and once for the cast; a
    compiler fuses the cast with the transposition.
    """
    outputs = 2 if both else 1
    if style.fp8 == "te-delayed":
        return [
            tape.map(
                f"{what}.cast",
                module,
                (2 + outputs) * elements,
                kind="quantize",
                access="fused",
                direction=direction,
            ),
            tape.map(f"{what}.amax", module, 4096, kind="quantize", count=2, direction=direction),
        ]
    amax = tape.map(f"{what}.amax", module, 2 * elements, kind="quantize", direction=direction)
    if tape.fused:
        cast = tape.map(
            f"{what}.cast", module, (2 + outputs) * elements, kind="quantize", direction=direction
        )
        return [amax, cast]
    # eager: to fp32, scale, clamp, to fp8, and a copy for the other layout
    steps = tape.map(
        f"{what}.cast", module, (6 + 8 + 8 + 5 + 2 * (outputs - 1)) * elements,
        kind="quantize", count=4 + outputs - 1, direction=direction,
    )  # fmt: skip
    return [amax, steps]


def _fp8_forward(
    tape: Tape, style: LinearStyle, name: str, module: str, x: float, w: float
) -> list[Kernel]:
    kernels = _quantise(tape, style, f"{name}.input", module, x, "forward", both=True)
    if not style.fp8_gather:
        kernels += _quantise(tape, style, f"{name}.weight", module, w, "forward", both=True)
    return kernels


def _fp8_backward(
    tape: Tape, style: LinearStyle, name: str, module: str, y: float, x: float, w: float
) -> list[Kernel]:
    kernels = _quantise(tape, style, f"{name}.grad", module, y, "backward", both=True)
    if style.fp8 == "rowwise":
        # scales run along the contracted axis, which is another one in the weight's gradient
        kernels += _quantise(tape, style, f"{name}.input", module, x, "backward", both=False)
    if style.fp8 != "te-delayed" and not style.fp8_gather:
        kernels += _quantise(tape, style, f"{name}.weight", module, w, "backward", both=False)
    return kernels
