"""Embedding, final norm, output projection and loss as kernels."""

from __future__ import annotations

from dataclasses import replace

from sim.blocks.layer import Shape, norm
from sim.blocks.linear import LinearStyle, linear
from sim.blocks.tape import Tape
from sim.inputs.workload import Workload

#: Above this vocabulary softmax reads its rows from HBM for the maximum, the sum and the output.
WIDE_ROW = 16384
CHUNKS = 8  # of the chunked and the fused-linear loss


def embedding(workload: Workload, shape: Shape) -> Tape:
    """Token (and position) look-up."""
    model = workload.model
    tape = Tape(_dtype(workload), workload.compile)
    e = tape.element
    n = float(shape.tokens * model.hidden_size)
    trained = workload.method.kind == "full"
    table = float(e * model.vocab_size * model.hidden_size)
    # backward: zero the table's gradient, sort the indices, add rows
    backward = [
        tape.map("embedding.zero", "embedding", table, kind="embedding", direction="backward"),
        tape.map(
            "embedding.sort",
            "embedding",
            64.0 * shape.tokens,
            kind="embedding",
            count=6,
            direction="backward",
        ),
        tape.map(
            "embedding.rows",
            "embedding",
            3 * e * n,
            kind="embedding",
            access="gather",
            direction="backward",
        ),
    ]
    tape.op(
        [
            tape.map(
                "embedding",
                "embedding",
                2 * e * n,
                kind="embedding",
                access="gather",
                saved=8.0 * shape.tokens,
            )
        ],
        backward if trained else [],
    )
    if model.positions == "learned":
        tape.op(
            [
                tape.map("positions", "positions", 2 * e * n, kind="embedding", access="gather"),
                tape.map("positions.add", "positions", 3 * e * n),
            ],
            [
                tape.map(
                    "positions",
                    "positions",
                    3 * e * n,
                    kind="embedding",
                    access="gather",
                    direction="backward",
                )
            ]
            if trained
            else [],
        )
    if model.embedding_norm:
        norm(tape, workload, "embedding_norm", shape.tokens, model.hidden_size, saves_output=False)
    return tape


def head(workload: Workload, style: LinearStyle, shape: Shape) -> Tape:
    """Final norm, projection to the vocabulary, cross-entropy, and metrics that take it again."""
    model = workload.model
    tape = Tape(_dtype(workload), workload.compile)
    d, v, tokens = model.hidden_size, model.vocab_size, shape.tokens
    norm(tape, workload, "norm", tokens, d)
    plain = LinearStyle("", False, style.frozen, "none", 0, frozenset(), False)
    if workload.loss == "fused-linear":
        _fused_linear(tape, plain, tokens, d, v)
        return tape
    linear(tape, plain, "head", tokens, d, v, bias=model.head_bias, low_precision=False)
    # trainers compile the layers; the loss is compiled only where `loss` says so
    loss = Tape(tape.dtype, fused=tape.fused and workload.loss != "eager")
    _cross_entropy(loss, workload.loss, tokens, v)
    tape.op(loss.forward, loss.backward())
    for _ in range(workload.train_metrics):
        measured = Tape(tape.dtype)
        _cross_entropy(measured, "eager", tokens, v)
        tape.op([replace(k, saved_bytes=0.0) for k in measured.forward])
    return tape


def _dtype(workload: Workload) -> str:
    return "bf16" if workload.precision.kind == "fp8" else workload.precision.kind


def _cross_entropy(tape: Tape, kind: str, tokens: int, vocab: int) -> None:
    e = tape.element
    n = float(tokens * vocab)
    back = "backward"
    if kind == "compiled":
        # two passes over the low-precision logits; the gradient is written once
        tape.op(
            [
                tape.map(
                    "loss",
                    "head",
                    2 * e * n,
                    kind="loss",
                    access="fused",
                    saved=e * n + 8.0 * tokens,
                )
            ],
            [tape.map("loss", "head", 2 * e * n, kind="loss", access="fused", direction=back)],
        )
        return
    cast = e + 4 if e < 4 else 0
    passes = 4 * (3 if vocab > WIDE_ROW else 1) + 4
    rows = 20 if vocab > WIDE_ROW else 12
    parts = CHUNKS if kind == "chunked" else 1
    forward = [
        tape.map("loss.cast", "head", cast * n, kind="loss", access="cast", count=parts),
        tape.map(
            "loss.log_softmax",
            "head",
            passes * n,
            kind="loss",
            access="reduce",
            count=parts,
            saved=4 * n,
        ),
        tape.map("loss.nll", "head", 16.0 * tokens, kind="loss", count=parts),
    ]
    backward = [
        tape.map("loss.nll", "head", 4 * n, kind="loss", count=2 * parts, direction=back),
        tape.map(
            "loss.log_softmax",
            "head",
            rows * n,
            kind="loss",
            access="reduce",
            count=parts,
            direction=back,
        ),
        tape.map(
            "loss.cast", "head", cast * n, kind="loss", access="cast", count=parts, direction=back
        ),
    ]
    if not cast:
        forward, backward = forward[1:], backward[:-1]
    if kind == "huggingface":
        # logits without the last position, made contiguous; backward pads the gradient with zeros
        forward.insert(-2, tape.map("loss.shift", "head", 8 * n, kind="loss"))
        pad = tape.map("loss.shift", "head", 12 * n, kind="loss", count=2, direction=back)
        backward.insert(2, pad)
    tape.op(forward, backward)


def _fused_linear(tape: Tape, style: LinearStyle, tokens: int, d: int, v: int) -> None:
    """Loss and both gradients chunk by chunk in forward (Liger's fused linear cross-entropy)."""
    e = tape.element
    rows = max(1, -(-tokens // CHUNKS))
    n = float(tokens * v)
    parts = -(-tokens // rows)
    forward = []
    for _ in range(parts):
        forward.append(tape.gemm("head", "head", rows, v, d))
        forward.append(tape.map("loss", "head", 4 * e * n / parts, kind="loss", access="fused"))
        forward.append(tape.gemm("head.dgrad", "head", rows, d, v, direction="dgrad"))
        if not style.frozen:
            forward.append(tape.gemm("head.wgrad", "head", v, d, rows, direction="wgrad"))
            forward.append(tape.map("head.accumulate", "head", 3.0 * e * v * d, kind="loss"))
    saved = float(e * tokens * d + e * v * d)
    forward.append(tape.map("loss.sum", "head", 4.0 * tokens, kind="loss", saved=saved))
    scale = 2.0 * e * (tokens * d + (0 if style.frozen else v * d))
    tape.op(
        forward, [tape.map("loss.scale", "head", scale, kind="loss", count=2, direction="backward")]
    )
