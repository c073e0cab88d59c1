"""What autograd keeps of a decoder layer and of the head, by stack and method.

The layer is written down once, as the operations of the reference Llama in the order they run; the
miniature autograd of `sim.blocks.autograd` derives saved tensors and working sets. Checked tensor
by tensor against PyTorch's own records (tests/unit/test_activations.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sim.blocks.autograd import Footprint, Tape
from sim.blocks.layer import fused_rms_norm
from sim.blocks.tape import ELEMENT
from sim.blocks.tree import GATED, adapted, head_dims
from sim.inputs.shares import batch_on
from sim.inputs.versions import version
from sim.inputs.workload import Workload

#: chunks of torchtune's and torchtitan's chunked loss
LOSS_CHUNKS = 8
#: attention kernels that read key and value heads without repeating them
NATIVE_GROUPS = ("flash2", "flash3", "cudnn")


def keeps_inputs(workload: Workload) -> bool:
    """Whether 4-bit linears keep their inputs, though only weights of theirs could need them.

    Source: bitsandbytes/autograd/_functions.py, MatMul4Bit: ``ctx.tensors = (A, B)`` up to 0.43.1,
    ``(None, B)`` in 0.44.1.
    """
    if workload.method.quantization != "nf4":
        return False
    return version(workload.stack.bitsandbytes) < (0, 44)


@dataclass(frozen=True, slots=True)
class HeadFootprint:
    """Memory from the final norm to the loss, in bytes above the saved layers.

    Attributes
    ----------
    norm : float
        Saved by the final norm and for the head's weight gradient.
    logits : float
        Logits in the compute dtype.
    forward_peak : float
        Most that lives while the loss is computed, `norm` included.
    saved : float
        Kept until the loss's backward, `norm` included.
    backward_peak : float
        Most that lives in the loss's backward, `saved` included.
    weight_peak : float
        At the head's weight gradient (which comes on top): gradients of logits and hidden, `norm`.
    hidden : float
        Gradient that the layers receive.
    held : float
        Logits that the model's output keeps alive until backward has ended.
    """

    norm: float
    logits: float
    forward_peak: float
    saved: float
    backward_peak: float
    weight_peak: float
    hidden: float
    held: float = 0.0


@lru_cache(maxsize=256)
def layer_footprint(workload: Workload, kind: str, checkpoint: str = "none") -> Footprint:
    """Footprint of one layer of a kind under a checkpoint policy (see `Tape.footprint`)."""
    tokens = batch_on(workload).local_tokens
    constant = 0.0
    if workload.model.positions == "rope" and workload.parallelism.strategy == "fsdp2":
        # FSDP2 casts each block's floating inputs, so every block keeps its own cos and sin
        rows = tokens / workload.micro_batch
        constant = rows * workload.model.head_dim * ELEMENT[workload.precision.kind]
    return _tape(workload, kind).footprint(checkpoint, constant)


@lru_cache(maxsize=256)
def _tape(workload: Workload, kind: str) -> Tape:
    return _Layer(workload, kind).build()


class _Layer:
    """Writes a layer onto a tape."""

    def __init__(self, workload: Workload, kind: str) -> None:
        self.workload, self.model, self.kind = workload, workload.model, kind
        batch = batch_on(workload)
        self.tokens, self.length = batch.local_tokens, batch.local_length
        self.element = ELEMENT[workload.precision.kind]
        self.frozen = workload.method.kind != "full"
        self.targets = adapted(workload.model, workload.method)
        self.tape = Tape()
        self.fused = workload.compile

    def size(self, width: float) -> float:
        """Bytes of an activation of so many columns."""
        return self.element * self.tokens * width

    def build(self) -> Tape:
        """The whole layer."""
        model = self.model
        d = model.hidden_size
        x = self.tape.tensor(self.size(d), "input")
        if model.parallel_block:
            n = self.norm("attention_norm", x, d)
            m = self.norm("ffn_norm", x, d) if model.norms_per_layer >= 2 else n
            a = self.attention(n)
            f = self.feed_forward(m)
            s = self.tape.op("add", (a, f), self.size(d), passes=True)
            self.tape.op("residual", (x, s), self.size(d), passes=True)
            return self.tape
        a = self.attention(self.norm("attention_norm", x, d))
        if model.norms_per_layer == 4:
            a = self.norm("post_attention_norm", a, d)
        x = self.tape.op("attention_residual", (x, a), self.size(d), passes=True)
        f = self.feed_forward(self.norm("ffn_norm", x, d))
        if model.norms_per_layer == 4:
            f = self.norm("post_ffn_norm", f, d)
        self.tape.op("ffn_residual", (x, f), self.size(d), passes=True)
        return self.tape

    def norm(self, name: str, x: int, width: int, heads: int = 1) -> int:
        """RMSNorm or LayerNorm; composite where PyTorch has no fused kernel."""
        size = self.size(width * heads)
        rows = 4.0 * self.tokens * heads
        gradient = 0.0 if self.frozen else self.element * width
        if self.model.norm == "layernorm" or fused_rms_norm(self.workload):
            statistics = rows * (2 if self.model.norm == "layernorm" else 1)
            out = self.tape.op(name, (x,), size, (x,), extra=statistics, weight_gradient=gradient)
            return out
        # cast up, x / rms(x), times the weight, cast down: the first two are kept in fp32
        wide = 2 * size if self.element == 2 else size
        up = self.tape.op(f"{name}.cast", (x,), wide) if self.element == 2 else x
        scaled = self.tape.op(f"{name}.scale", (up,), wide, (up,), extra=rows)
        saves = () if self.frozen else (scaled,)
        return self.tape.op(name, (scaled,), size, saves, weight_gradient=gradient)

    def linear(
        self, name: str, x: int, n_in: int, n_out: int, bias: bool, groups: float = 1.0
    ) -> int:
        """A linear layer, with its adapter if it has one. `groups`: copies of each token routed."""
        weights = float(n_in * n_out)
        copies = 1.0
        if name.startswith("experts"):
            weights *= self.model.experts
            copies = groups
        out_size = self.size(n_out) * copies
        low = self.workload.precision.kind == "fp8" and name not in ("router",)
        if self.frozen:
            saves = (x,) if keeps_inputs(self.workload) else ()
            scratch = self.element * weights if self.workload.method.kind == "qlora" else 0.0
            out = self.tape.op(name, (x,), out_size, saves, matmul=True, scratch=scratch)
        else:
            gradient = self.element * (weights + (n_out if bias else 0))
            if low and self.workload.precision.recipe == "te-delayed":
                # Transformer Engine keeps an FP8 copy of its own, of half the size
                extra = self.tokens * n_in * copies
                out = self.tape.op(
                    name, (x,), out_size, (), weight_gradient=gradient, matmul=True, extra=extra
                )
            else:
                out = self.tape.op(
                    name, (x,), out_size, (x,), weight_gradient=gradient, matmul=True
                )
        if name in self.targets or (name[-2:] in self.targets and name.startswith("experts")):
            out = self.adapter(name, x, out, n_in, n_out, copies)
        return out

    def adapter(self, name: str, x: int, base: int, n_in: int, n_out: int, copies: float) -> int:
        """B(A(dropout(x))) scaled and added to the frozen base's output."""
        method, tape = self.workload.method, self.tape
        dropped = x
        if method.dropout > 0:
            mask = float(self.tokens * n_in) * copies
            dropped = tape.op(f"{name}.dropout", (x,), self.size(n_in) * copies, extra=mask)
        e, r = self.element, method.rank
        low = tape.op(
            f"{name}.A", (dropped,), self.size(r) * copies, (dropped,),
            weight_gradient=e * r * n_in, matmul=True,
        )  # fmt: skip
        high = tape.op(
            f"{name}.B", (low,), self.size(n_out) * copies, (low,),
            weight_gradient=e * r * n_out, matmul=True,
        )  # fmt: skip
        scaled = tape.op(f"{name}.scale", (high,), self.size(n_out) * copies)
        return tape.op(f"{name}.merge", (base, scaled), self.size(n_out) * copies, passes=True)

    def attention(self, n: int) -> int:
        """Projections, positions, scores, output projection."""
        model, tape = self.model, self.tape
        d = model.hidden_size
        q_width, kv_width = head_dims(model)
        bias = model.bias or model.qkv_bias
        if model.fused_qkv:
            mixed = self.linear("wqkv", n, d, q_width + 2 * kv_width, bias)
            # views of one tensor: they cost nothing, their gradients are joined
            q = k = v = mixed
        else:
            q = self.linear("wq", n, d, q_width, bias)
            k = self.linear("wk", n, d, kv_width, bias)
            v = self.linear("wv", n, d, kv_width, bias)
        if model.qk_norm:
            q = self.norm("q_norm", q, model.head_dim, model.heads)
            k = self.norm("k_norm", k, model.head_dim, model.kv_heads)
        if model.positions == "rope":
            q = tape.op("rope.q", (q,), self.size(q_width))
            k = tape.op("rope.k", (k,), self.size(kv_width))
        repeats = model.kv_heads < model.heads and self.workload.attention not in NATIVE_GROUPS
        if repeats:
            k = tape.op("repeat.k", (k,), self.size(q_width))
            v = tape.op("repeat.v", (v,), self.size(q_width))
        out = self.scores(tuple(dict.fromkeys((q, k, v))), q_width)
        return self.linear("wo", out, q_width, d, model.bias or model.output_bias)

    def scores(self, qkv: tuple[int, ...], width: int) -> int:
        """The attention kernel: flash-like keeps its inputs, output and a number a row and head."""
        model, tape = self.model, self.tape
        rows = float(self.tokens * model.heads)
        if self.workload.attention == "eager":
            span = float(self.workload.sequence_length)
            scores = tape.op("scores", qkv[:2], self.element * rows * span, qkv[:2], matmul=True)
            # softmax in fp32, kept, and its cast, kept for the product with v
            soft = tape.op("softmax", (scores,), 4.0 * rows * span, ("out",))
            probabilities = soft
            if self.element != 4:
                probabilities = tape.op("softmax.cast", (soft,), self.element * rows * span)
            reads = (probabilities, qkv[-1])
            return tape.op("values", reads, self.size(width), reads, matmul=True)
        return tape.op(
            "attention", qkv, self.size(width), (*qkv, "out"), kept_by_policy=True,
            extra=4.0 * rows,
            scratch=self._exchanged(width),
        )  # fmt: skip

    def _exchanged(self, width: int) -> float:
        """Buffers of a context-parallel exchange, alive while attention runs.

        Ring: keys and values in use and arriving, and an fp32 output being merged. All-gather: keys
        and values of the whole sequence. Ulysses: the four tensors by heads instead of positions.
        """
        p = self.workload.parallelism
        if p.context_parallel == 1:
            return 0.0
        pairs = 2 * self.size(head_dims(self.model)[1])
        if p.context_parallel_kind == "ring":
            return 2 * pairs + 4.0 * self.tokens * width
        if p.context_parallel_kind == "all-gather":
            return p.context_parallel * pairs
        return pairs + 2 * self.size(width)

    def feed_forward(self, n: int) -> int:
        """Dense FFN, or a mixture's routed and shared experts."""
        model = self.model
        d = model.hidden_size
        if not model.experts or ".dense" in self.kind:
            return self.mlp("", n, d, model.ffn_size, model.bias or model.mlp_bias)
        tape, top = self.tape, float(model.experts_per_token)
        width = model.expert_ffn_size or model.ffn_size
        router = tape.op(
            "router", (n,), self.size(model.experts), (n,), matmul=True,
            weight_gradient=0.0 if self.frozen else self.element * d * model.experts,
        )  # fmt: skip
        weights = tape.op("router.softmax", (router,), 4.0 * self.tokens * model.experts, ("out",))
        sent = tape.op("dispatch", (n,), self.size(d) * top, extra=8.0 * self.tokens * top)
        made = self.mlp("experts.", sent, d, width, False, top)
        out = tape.op("combine", (made, weights), self.size(d), (made,))
        if model.shared_experts:
            shared = self.mlp("shared_", n, d, width * model.shared_experts, False)
            out = tape.op("shared_add", (out, shared), self.size(d), passes=True)
        return out

    def mlp(self, prefix: str, n: int, d: int, f: int, bias: bool, copies: float = 1.0) -> int:
        """Gate and up, activation, down."""
        model, tape = self.model, self.tape
        size = self.size(f) * copies
        if model.ffn not in GATED:
            up = self.linear(f"{prefix}w1", n, d, f, bias, copies)
            act = tape.op("gelu", (up,), size, (up,))
        elif model.fused_gate_up and not prefix:
            both = self.linear("w13", n, d, 2 * f, bias)
            gate = tape.op("silu", (both,), size, (both,))
            act = tape.op("gate", (gate, both), size, () if self.fused else (gate, both))
        else:
            one = self.linear(f"{prefix}w1", n, d, f, bias, copies)
            if self.fused:
                # Inductor recomputes silu, but keeps what a matrix product reads in backward
                two = self.linear(f"{prefix}w3", n, d, f, bias, copies)
                act = tape.op("gate", (one, two), size, (one, two))
            else:
                gate = tape.op("silu", (one,), size, (one,))
                two = self.linear(f"{prefix}w3", n, d, f, bias, copies)
                act = tape.op("gate", (gate, two), size, (gate, two))
        return self.linear(f"{prefix}w2", act, f, d, bias, copies)


@lru_cache(maxsize=256)
def head_footprint(workload: Workload) -> HeadFootprint:
    """Footprint of the final norm, the head and the loss.

    Notes
    -----
    Per token, V the vocabulary: eager keeps the fp32 log-softmax (4 V); its backward holds that,
    the gradient of the loss and its own result (12 V). A compiled loss keeps to the compute dtype
    (logits and their gradient). A chunked one holds logits, their gradient and one chunk of fp32.
    A fused linear loss keeps hidden gradients and one chunk of logits. Hugging Face's causal
    models up to 4.45 compute it eagerly on a shifted copy of fp32 logits; training loops that keep
    the model's output keep those logits (4 V) through backward.

    Source: fsdp/mem recordings (eager); transformers 4.31, LlamaForCausalLM.forward (huggingface);
    Liger-Kernel fused_linear_cross_entropy for the chunk rule.
    """
    model = workload.model
    tokens = batch_on(workload).local_tokens
    e = ELEMENT[workload.precision.kind]
    d, v = model.hidden_size, model.vocab_size
    frozen = workload.method.kind != "full"
    hidden = e * tokens * d
    norm = hidden + (0.0 if frozen else hidden) + 4.0 * tokens
    if not (model.norm == "layernorm" or fused_rms_norm(workload)):
        norm += 3 * hidden - (0.0 if not frozen else 2 * hidden) if e == 2 else 0.0
    logits = e * tokens * v
    wide = 4.0 * tokens * v
    held = 0.0
    if workload.loss == "huggingface":
        held = wide
        saved = norm + held + wide
        forward, backward = saved + wide, saved + 2 * wide
        gradient = logits + held
    elif workload.loss == "eager":
        upcast = wide if e != 4 else 0.0
        saved = norm + wide
        forward, backward = norm + logits + upcast + wide, saved + 2 * wide
        gradient = logits
    elif workload.loss == "compiled":
        saved = norm + logits
        forward, backward, gradient = saved, saved + logits, logits
    elif workload.loss == "chunked":
        saved = norm + logits
        forward = saved + 2 * wide / LOSS_CHUNKS
        backward, gradient = saved + logits + 2 * wide / LOSS_CHUNKS, logits
    else:
        chunks = 1 << max(0, -(-v // d) - 1).bit_length()
        part = -(-tokens // chunks)
        gradient = 0.0
        saved = hidden + 4.0 * tokens + hidden + (0.0 if frozen else e * v * d)
        forward = backward = saved + part * v * (e + 4.0)
    return HeadFootprint(
        norm=norm,
        logits=logits,
        forward_peak=forward,
        saved=saved,
        backward_peak=backward,
        weight_peak=norm + gradient + hidden,
        hidden=hidden,
        held=held,
    )


def checkpoint_policy(workload: Workload) -> str:
    """Name of the policy of checkpointed layers, as `Tape.footprint` takes it."""
    policy = workload.activation_checkpointing
    if policy.kind == "selective-op":
        return "selective-op"
    return "full-reentrant" if policy.reentrant else "full"
