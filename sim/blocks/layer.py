"""One decoder layer as kernels, for eager PyTorch or a compiler.

Byte counts are per element of the tensor named, reads plus writes; `e` is the activation's size.
Checked against kernel timings by ``bench/fit/elementwise.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.blocks.attention import attention
from sim.blocks.kernels import Kernel
from sim.blocks.linear import LinearStyle, linear
from sim.blocks.tape import Tape
from sim.inputs.model import Model
from sim.inputs.versions import version
from sim.inputs.workload import Workload

GATED = ("swiglu", "geglu")


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one rank's micro-batch."""

    tokens: int  # on this rank, of all its sequences
    sequences: int
    length: int  # of this rank's share of a sequence
    keys: int  # sequence length the queries attend to


def fused_rms_norm(workload: Workload) -> bool:
    """Whether RMSNorm is one CUDA kernel: by hand, compiled, or PyTorch 2.9 and newer."""
    new = version(workload.stack.torch) >= (2, 9)
    return workload.compile or workload.fused_kernels != "none" or new


def norm(
    tape: Tape, workload: Workload, name: str, tokens: int, width: int, *, saves_output: bool = True
) -> None:
    """RMSNorm or LayerNorm; the linear after it saves the output."""
    e, model = tape.element, workload.model
    n = float(tokens * width)
    trained = workload.method.kind == "full"
    out = float(e * n) if saves_output else 0.0
    statistics = 4.0 * tokens * (2 if model.norm == "layernorm" else 1)
    one_kernel = model.norm == "layernorm" or fused_rms_norm(workload)

    def rows(label: str, traffic: float, saved: float = 0.0, direction: str = "forward") -> None:
        kernels.append(
            tape.map(
                label, name, traffic, kind="norm", access="fused" if tape.fused else "rows",
                saved=saved, direction=direction,
            )
        )  # fmt: skip

    kernels: list[Kernel] = []
    if one_kernel:
        rows(name, 2 * e * n, saved=out + statistics)
        forward, kernels = kernels, []
        rows(f"{name}.dx", 3 * e * n, direction="backward")
        if trained:
            rows(f"{name}.dw", 2 * e * n, direction="backward")
        tape.op(forward, kernels)
        return
    # composite RMSNorm: cast up, square, mean, rsqrt, scale, cast down, weight
    forward = [
        tape.map(
            f"{name}.cast",
            name,
            2 * (4 + e) * n,
            kind="norm",
            access="composite",
            count=2,
            saved=4 * n,
        ),
        tape.map(f"{name}.square", name, 8 * n, kind="norm", access="composite"),
        tape.map(f"{name}.mean", name, 4 * n, kind="norm", access="composite"),
        tape.map(f"{name}.rsqrt", name, 16.0 * tokens, kind="norm", count=2, saved=statistics),
        tape.map(f"{name}.scale", name, 8 * n, kind="norm", access="composite"),
        tape.map(f"{name}.weight", name, 2 * e * n, kind="norm", saved=e * n + out),
    ]
    back = "backward"
    backward = [
        tape.map(f"{name}.weight", name, 2 * e * n, kind="norm", access="composite", direction=back)
    ]
    if trained:
        backward.append(
            tape.map(
                f"{name}.dw",
                name,
                4 * e * n,
                kind="norm",
                access="composite",
                count=2,
                direction=back,
            )
        )
    backward += [
        tape.map(
            f"{name}.cast",
            name,
            2 * (4 + e) * n,
            kind="norm",
            access="composite",
            count=2,
            direction=back,
        ),
        tape.map(
            f"{name}.scale",
            name,
            (8 + 12 + 4) * n,
            kind="norm",
            access="composite",
            count=3,
            direction=back,
        ),
        tape.map(
            f"{name}.rsqrt",
            name,
            48.0 * tokens,
            kind="norm",
            access="composite",
            count=4,
            direction=back,
        ),
        tape.map(
            f"{name}.square",
            name,
            (4 + 8 + 8 + 12) * n,
            kind="norm",
            access="composite",
            count=4,
            direction=back,
        ),
        tape.map(f"{name}.sum", name, 12 * n, kind="norm", access="composite", direction=back),
    ]
    tape.op(forward, backward)


def residual(tape: Tape, name: str, module: str, tokens: int, width: int) -> None:
    """Residual sum; backward adds both branches' gradients. Compiled, the next norm does both."""
    n = float(tokens * width)
    e = tape.element
    traffic = (2 if tape.fused else 3) * e * n
    tape.op(
        [tape.map(name, module, traffic, saved=e * n)],
        [tape.map(name, module, traffic, direction="backward")],
    )


def activation(
    tape: Tape, kind: str, module: str, tokens: int, width: int, saved_gate: bool = True
) -> None:
    """GELU, or silu(gate) x up."""
    e = tape.element
    n = float(tokens * width)
    if kind not in GATED:
        tape.op(
            [tape.map("gelu", module, 2 * e * n, saved=e * n)],
            [tape.map("gelu", module, 3 * e * n, direction="backward")],
        )
        return
    gates = 2 * e * n if saved_gate else 0.0
    if tape.one_kernel:
        tape.op(
            [tape.map("gate", module, 3 * e * n, access="fused", saved=gates)],
            [tape.map("gate", module, 5 * e * n, access="fused", direction="backward")],
        )
        return
    tape.op(
        [
            tape.map("gate.silu", module, 2 * e * n, saved=gates + e * n),
            tape.map("gate.mul", module, 3 * e * n),
        ],
        [
            tape.map("gate.mul", module, 6 * e * n, count=2, direction="backward"),
            tape.map("gate.silu", module, 3 * e * n, direction="backward"),
        ],
    )


def feed_forward(tape: Tape, workload: Workload, style: LinearStyle, tokens: int) -> None:
    """The dense FFN."""
    model = workload.model
    d, f = model.hidden_size, model.ffn_size
    bias = model.bias or bool(getattr(model, "mlp_bias", False))
    if model.ffn not in GATED:
        linear(tape, style, "w1", tokens, d, f, bias=bias)
        activation(tape, model.ffn, "w1", tokens, f)
    elif model.fused_gate_up:
        linear(tape, style, "w13", tokens, d, 2 * f, bias=bias)
        activation(tape, model.ffn, "w13", tokens, f)
    else:
        linear(tape, style, "w1", tokens, d, f, bias=bias)
        linear(tape, style, "w3", tokens, d, f, bias=bias, saves_input=False)
        # two linears read one input, so autograd adds two gradients
        tape.op(
            [],
            [tape.map("ffn.sum", "w1", 3 * tape.element * float(tokens * d), direction="backward")],
        )
        activation(tape, model.ffn, "w3", tokens, f)
    linear(tape, style, "w2", tokens, f, d, bias=bias)


def experts(tape: Tape, workload: Workload, style: LinearStyle, tokens: int) -> None:
    """Mixture of experts: router, permutation, grouped products over equally loaded experts."""
    model, e = workload.model, tape.element
    d, f, top = model.hidden_size, model.expert_ffn_size or model.ffn_size, model.experts_per_token
    plain = LinearStyle("", False, style.frozen, "none", 0, frozenset(), False)
    linear(tape, plain, "router", tokens, d, model.experts, saves_input=True)
    choose = 4.0 * tokens * model.experts
    tape.op(
        [tape.map("router.choose", "router", 6 * choose, count=8, saved=choose)],
        [tape.map("router.choose", "router", 4 * choose, count=4, direction="backward")],
    )
    routed = tokens * top
    n = float(routed * d)
    tape.op(
        [tape.map("permute", "experts", 2 * e * n, access="gather", count=2)],
        [
            tape.map(
                "permute",
                "experts",
                2 * e * n + e * tokens * d,
                access="gather",
                count=2,
                direction="backward",
            )
        ],
    )
    rows = max(1, -(-routed // model.experts))

    def grouped(name: str, n_in: int, n_out: int, saves_input: bool = True) -> None:
        linear(
            tape, style, name, rows, n_in, n_out,
            groups=model.experts, module="experts", saves_input=saves_input,
        )  # fmt: skip

    grouped("w1", d, f)
    if model.ffn in GATED:
        grouped("w3", d, f, saves_input=False)
    activation(tape, model.ffn, "experts", routed, f)
    grouped("w2", f, d)
    tape.op(
        [
            tape.map(
                "unpermute", "experts", (2 * e + 2 * e) * n, access="gather", count=3, saved=e * n
            )
        ],
        [
            tape.map(
                "unpermute",
                "experts",
                (3 * e + 2 * e) * n,
                access="gather",
                count=3,
                direction="backward",
            )
        ],
    )
    if model.shared_experts:
        wide = model.shared_experts * f
        for name in ("w1", "w3") if model.ffn in GATED else ("w1",):
            linear(tape, style, name, tokens, d, wide, module="shared_experts", saves_input=False)
        activation(tape, model.ffn, "shared_experts", tokens, wide)
        linear(tape, style, "w2", tokens, wide, d, module="shared_experts")
        residual(tape, "shared_experts.add", "shared_experts", tokens, d)


def decoder_layer(workload: Workload, kind: str, style: LinearStyle, shape: Shape) -> Tape:
    """Kernels of one layer of template `kind`."""
    model: Model = workload.model
    tape = Tape(
        "bf16" if workload.precision.kind == "fp8" else workload.precision.kind,
        fused=workload.compile,
        by_hand=workload.fused_kernels == "all",
    )
    d, tokens = model.hidden_size, shape.tokens
    four = model.norms_per_layer == 4
    norm(tape, workload, "attention_norm", tokens, d)
    attention(
        tape, workload, style, shape, window=model.sliding_window if ".sliding" in kind else None
    )
    if four:
        norm(tape, workload, "post_attention_norm", tokens, d, saves_output=False)
    if not model.parallel_block:
        last = "post_attention_norm" if four else "wo"
        residual(tape, "attention.add", last, tokens, d)
    if model.norms_per_layer >= 2:
        norm(tape, workload, "ffn_norm", tokens, d)
    mixture = bool(model.experts) and ".dense" not in kind
    if mixture:
        experts(tape, workload, style, tokens)
    else:
        feed_forward(tape, workload, style, tokens)
    last = ("shared_experts" if model.shared_experts else "experts") if mixture else "w2"
    if four:
        norm(tape, workload, "post_ffn_norm", tokens, d, saves_output=False)
        last = "post_ffn_norm"
    residual(tape, "ffn.add", last, tokens, d)
    if model.parallel_block:
        residual(tape, "attention.add", last, tokens, d)
    return tape
