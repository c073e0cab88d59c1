"""Final norm, projection to the vocabulary, cross-entropy; and metrics that take it again."""

from __future__ import annotations

from sim.blocks.adapters import Routed
from sim.blocks.kernels import Kernel
from sim.blocks.linear import matrix
from sim.blocks.modules import OpRole, Position
from sim.blocks.norm import norm
from sim.blocks.ops import Map, softcap
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.blocks.tensor import chunk_sums, enter, gather_logits, loss_sums, whole_stream
from sim.records import NamedTuple

#: Above this vocabulary softmax reads its rows from HBM for the maximum, the sum and the output.
WIDE_ROW = 16384
CHUNKS = 8  # of the kernels of a fused linear loss
TILE = (4096, 32768)  # tokens and columns whose logits live at once in a tiled loss


def head(t: Tape, x: int) -> int:
    """From the last hidden state to the loss."""
    with t.training("norm"):
        hidden = norm(t, "norm", x, t.setting.model.hidden_size)
    with t.training("head"):
        return _loss(t, hidden)


def _loss(t: Tape, hidden: int) -> int:
    s, model = t.setting, t.setting.model
    d, v = model.hidden_size, s.split(model.vocab_size)
    if s.loss == "chunked":
        return _chunked(t, whole_stream(t, hidden), d, v)
    multiplied = () if s.loss in ("fused-linear", "tiled") else ("head",)
    hidden = enter(t, hidden, "head", products=multiplied)
    if s.loss == "tiled":
        return _tiled(t, hidden, d, v)
    if s.loss == "fused-linear":
        return _fused_linear(t, hidden, d, v)
    _register(t)
    once = Routed(1, s.tokens, 1.0)
    logits = matrix(t, "head", hidden, d, v, once, bias=model.head_bias, role=OpRole.HEAD)
    logits = gather_logits(t, logits, model.vocab_size)
    if capped(s):
        of = s.product * s.tokens * s.loss_columns
        t.unseen("softcap", *softcap("softcap", of, False), role=OpRole.HEAD)
    # trainers compile the layers; the loss is compiled only where `loss` says so
    t.fused = t.fused and s.loss != "eager"
    forward, backward = _cross_entropy(t, s.loss)
    t.unseen("loss", forward, backward, role=OpRole.HEAD, exchanges=loss_sums(t))
    t.fused = False
    _metrics(t)
    return logits


def capped(s: Setting) -> bool:
    """Whether logits are capped by operations of their own, whose tanh autograd keeps.

    Kernels that take the loss from the logits cap them too, and compilers fuse what surrounds it.
    """
    apart = s.loss in ("eager", "huggingface", "huggingface-fused")
    return "logits" in s.model.softcaps and apart


def _metrics(t: Tape) -> None:
    for _ in range(t.setting.metrics):
        t.unseen("metric", _cross_entropy(t, "eager")[0], role=OpRole.HEAD)


def _register(t: Tape) -> None:
    """A tied head multiplies by the embedding's table and has no parameters of its own."""
    model = t.setting.model
    rows = t.setting.split(model.vocab_size)
    own = [("weight", (rows, model.hidden_size)), ("bias", (rows,))]
    keep = 0 if model.tied_embeddings else 2 if model.head_bias else 1
    t.register("head", OpRole.HEAD, Position.BRANCH, own[:keep])


def _cross_entropy(t: Tape, kind: str) -> tuple[list[Map], list[Map]]:
    s = t.setting
    e, tokens, vocab = s.product, s.tokens, s.loss_columns
    n = float(tokens * vocab)
    if kind == "compiled":
        # two passes over the low-precision logits; the gradient is written once
        row = [Map("loss", 2 * e * n, 1, "fused", "loss")]
        return row, row
    if kind == "fused":
        # one kernel reads the logits, one puts the gradient in their place (Unsloth, flash-attn)
        return (
            [Map("loss", e * n + 8 * tokens, 1, "fused", "loss")],
            [Map("loss", 2 * e * n, 1, "fused", "loss")],
        )
    cast = e + 4 if e < 4 else 0
    passes, rows = (4 * 3 + 4, 20) if vocab > WIDE_ROW else (4 + 4, 12)
    casts = [Map("loss.cast", cast * n, 1, "cast", "loss")] if cast else []
    forward = [
        *casts,
        Map("loss.log_softmax", passes * n, 1, "reduce", "loss"),
        Map("loss.nll", 16.0 * tokens, kind="loss"),
    ]
    backward = [
        Map("loss.nll", 4 * n, 2, kind="loss"),
        Map("loss.log_softmax", rows * n, 1, "reduce", "loss"),
        *casts,
    ]
    if kind == "huggingface-fused":  # one pass each way, the gradient written over what was read
        forward = [*casts, Map("loss", 4 * n, 1, "fused", "loss")]
        backward = [Map("loss", 8 * n, 1, "fused", "loss"), *casts]
    if s.shifts_logits and kind == s.loss:
        # logits without the last position, made contiguous; backward pads the gradient with zeros
        forward.insert(len(casts), Map("loss.shift", 8 * n, kind="loss"))
        backward.insert(len(backward) - len(casts), Map("loss.shift", 12 * n, 2, kind="loss"))
    return forward, backward


def _chunked(t: Tape, hidden: int, d: int, v: int) -> int:
    """Head, loss and the backward of both, chunk by chunk in forward (torchtitan's default loss).

    Gradients of the weight add up in fp32, as FSDP2 has them without synchronisation.
    """
    s = t.setting
    e, tokens, role = s.product, s.tokens, OpRole.HEAD
    _register(t)
    rows = max(1, -(-tokens // s.loss_chunks))
    parts = -(-tokens // rows)
    forward, backward = (
        [row._replace(bytes=row.bytes / parts) for row in way] for way in _cross_entropy(t, "eager")
    )
    product, dgrad, wgrad = t.products("head", rows, d, v, role=role)
    chunk: list[Map | Kernel] = [product, *forward, *backward, dgrad]
    if not s.frozen:
        chunk.append(wgrad)
        chunk.append(Map("head.accumulate", (e + 8.0) * v * d, kind="loss"))
    made = t.op(
        "loss", (hidden,), 4.0, (hidden,), chunk * parts, (),
        role=role, flops=2.0 * tokens * d * v, gradients=1 if s.frozen else 2,
        exchanges=chunk_sums(t, t.size(s.model.vocab_size), parts),
    )  # fmt: skip
    _metrics(t)
    return made


def _fused_linear(t: Tape, hidden: int, d: int, v: int) -> int:
    """Loss and both gradients chunk by chunk in forward (Liger's fused linear cross-entropy)."""
    s = t.setting
    e, tokens, role = s.product, s.tokens, OpRole.HEAD
    _register(t)
    rows = max(1, -(-tokens // CHUNKS))
    parts = -(-tokens // rows)
    gradients = 1 if s.frozen else 2
    product, dgrad, wgrad = t.products("head", rows, d, v, role=role)
    chunk: list[Map | Kernel] = [
        product,
        Map("loss", 4 * e * float(tokens * v) / parts, 1, "fused", "loss"),
        dgrad,
    ]
    if not s.frozen:
        chunk.append(wgrad)
        chunk.append(Map("head.accumulate", 3.0 * e * v * d, kind="loss"))
    scale = 2.0 * e * (tokens * d + (0 if s.frozen else v * d))
    return t.op(
        "loss", (hidden,), 4.0, (),
        [*chunk * parts, Map("loss.sum", 4.0 * tokens, kind="loss")],
        [Map("loss.scale", scale, 2, kind="loss")],
        role=role, flops=2.0 * tokens * d * v, gradients=gradients,
    )  # fmt: skip


def _tiled(t: Tape, hidden: int, d: int, v: int) -> int:
    """Loss tile by tile, each tile's logits made again in backward (TRL's chunked log-probs).

    Tiles are taken as equally large. Products of the gradients add to what is there in fp32. A
    wider weight is cast once, as strategies cast those of linears, not tile by tile.

    Source: TRL 1.16, kernels/chunked_logprob.py and `add_fused_lm_head` of trainer/utils.py, of
    PyTorch 2.8 and newer, whose products add bf16 to fp32.
    """
    s = t.setting
    e, tokens, role = s.product, s.tokens, OpRole.HEAD
    _register(t)
    parts, across = -(-tokens // TILE[0]), -(-v // TILE[1])
    rows, columns = -(-tokens // parts), -(-v // across)
    product, dgrad, wgrad = t.products("head", rows, d, columns, role=role)
    logits, summed = e * float(rows * columns), 8.0 - e
    forward: list[Map | Kernel] = [product, Map("loss", logits, 1, "fused", "loss")]
    backward: list[Map | Kernel] = [
        product,
        Map("loss", 2 * logits, 1, "fused", "loss"),
        dgrad._replace(bytes=dgrad.bytes + summed * rows * d),
    ]
    sums = float(tokens * d)
    if not s.frozen:
        backward.append(wgrad._replace(bytes=wgrad.bytes + summed * columns * d))
        sums += v * d
    return t.op(
        "loss", (hidden,), 4.0, (hidden,),
        [Map("loss.rows", 2 * t.sizes[hidden], kind="loss"), *forward * (parts * across)],
        [Map("loss.sums", (8.0 + e) * sums, 4, kind="loss"), *backward * (parts * across),
         Map("loss.rows", 6 * t.sizes[hidden], 4, kind="loss")],
        role=role, flops=2.0 * tokens * d * v, gradients=1 if s.frozen else 2,
    )  # fmt: skip


class LossMemory(NamedTuple):
    """Bytes of a loss beside the final norm's: see `sim.blocks.footprint.HeadFootprint`."""

    saved: float  # until its backward
    forward: float  # most while it is computed
    backward: float  # most in its backward
    gradient: float  # of the logits, and what stays beside it
    logits: float  # of them, before the loss begins
    held: float = 0.0  # logits that the model's output keeps alive until backward has ended


def loss_memory(s: Setting) -> LossMemory:
    """Bytes that a loss keeps of the logits, and of what a softcap before it made.

    Equation: c tanh(x / c) keeps tanh's, as large as the logits, until its backward.
    """
    found = _loss_memory(s)
    if not capped(s):
        return found
    more = s.product * s.tokens * s.loss_columns
    return found._replace(
        saved=found.saved + more, forward=found.forward + more, backward=found.backward + more
    )


def _loss_memory(s: Setting) -> LossMemory:
    """Bytes that a loss keeps of the logits as it reads them.

    Notes
    -----
    Per token, V the vocabulary: eager keeps the fp32 log-softmax (4 V); its backward holds that,
    the gradient of the loss and its own result (12 V). A compiled loss keeps to the compute dtype
    (logits and their gradient). A chunked one runs head, loss and backward chunk by chunk: logits,
    their gradient and two fp32 copies of one chunk live, beside the gradient of the hidden states.
    torchtune makes the logits of all chunks first: compiled, its loss keeps those (2 V) and makes
    their gradient by the chunk, eager it keeps the log-softmax of all (4 V).
    A fused linear loss keeps hidden gradients and one chunk of logits. A tiled one keeps its rows
    alone; while it runs there are a tile and, in forward, the norm's output that they were taken
    of, in backward the gradients in fp32 and as they are handed on. Hugging Face's causal
    models compute it eagerly on a shifted copy of fp32 logits (12 V in either direction); from 4.46
    on the logits of the output, in the compute dtype, are there as well (14 V in forward), from
    4.49 on the copy is not (10 V). Loops that keep the model's output keep its logits through
    backward: 4 V fp32, or 2 V; the Hugging Face Trainer does not. With a fused kernel in place of
    its cross-entropy alone (fms) the gradient is written over what it read (10 V with the copy,
    within 1 % of Mistral 7B's peaks). A fused one (Liger, Unsloth, flash-attn) keeps logits in the
    compute dtype, where its backward puts their gradient.

    Source: fsdp/mem recordings (eager); torchtitan's default loss (chunked); torchtune 0.6.1
    CEWithChunkedOutputLoss, recipes' ``del logits``; transformers 4.31
    LlamaForCausalLM.forward, 4.48 and 4.49 loss/loss_utils.py (huggingface);
    Liger-Kernel fused_linear_cross_entropy for the chunk rule; TRL 1.16 (tiled, as `_tiled`).
    """
    e, tokens, d, v = s.product, s.tokens, s.model.hidden_size, s.loss_columns
    logits, wide = e * tokens * v, 4.0 * tokens * v
    upcast = wide if e != 4 else 0.0
    if s.loss in ("huggingface", "huggingface-fused"):
        # kept beside: nothing of an older one, whose output is the fp32 copy, nor of fp32 itself
        low = logits if upcast and not s.fp32_output else 0.0
        held = (wide if s.fp32_output else logits) if s.keeps_output else 0.0
        copy = wide if s.shifts_logits else 0.0
        forward, backward = low + wide + copy, 3 * wide
        if s.loss == "huggingface-fused":
            backward = wide + (copy or (logits if upcast else 0.0))
        else:
            forward += wide
        return LossMemory(wide + held, forward, backward + held, logits + held, logits, held)
    if s.loss == "eager":
        return LossMemory(wide, logits + upcast + wide, 3 * wide, logits, logits)
    if s.loss == "compiled":
        return LossMemory(logits, logits, 2 * logits, logits, logits)
    if s.loss == "fused":  # the gradient takes the logits' place
        return LossMemory(logits, logits, logits, logits, logits)
    if s.loss == "chunked" and s.keeps_chunks:
        if s.compiled:  # which saves its rows' sums alone
            return LossMemory(logits, logits, logits + logits / s.loss_chunks, logits, logits)
        part = (logits + 2 * wide) / s.loss_chunks
        return LossMemory(wide, logits + wide + wide / s.loss_chunks, wide + part, wide, logits)
    if s.loss == "chunked":
        chunk, hidden = (2 * logits + 2 * wide) / s.loss_chunks, e * tokens * d
        return LossMemory(hidden, hidden + chunk, hidden + chunk, 0.0, 0.0)
    if s.loss == "tiled":
        tile = e * min(tokens, TILE[0]) * min(v, TILE[1])
        handed = e if e < 4 else 0.0  # a copy in the dtype of what it is the gradient of
        weight = 0.0 if s.frozen else (4.0 + handed * (not s.autocast)) * v * d
        backward = (4.0 + handed) * tokens * d + weight
        return LossMemory(0.0, e * tokens * d + tile, backward + tile, 0.0, 0.0)
    chunks = 1 << max(0, -(-v // d) - 1).bit_length()
    gradients = e * tokens * d + (0.0 if s.frozen else e * v * d)
    part = -(-tokens // chunks) * v * (e + 4.0)
    return LossMemory(gradients, gradients + part, gradients + part, 0.0, 0.0)
