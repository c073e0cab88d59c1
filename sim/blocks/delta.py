"""Gated DeltaNet: a state of keys and values that each token decays and corrects (Qwen3-Next).

Queries, keys and values of one product pass a short convolution; the delta rule runs by chunks:
within a chunk an inverse of (I + tril(K K^T)) makes what each token writes and reads of the state
before it, and one kernel after another hands the state on. A norm beside SiLU of a gate follows.

Of C tokens a chunk, keys of K and values of V columns, a token and head multiply
2 (3 C K + 2 C V + 3 K V): K K^T, its inverse times both, the state's read, write and output.

Source: Yang et al., arXiv 2412.06464; fla 0.6, ops/gated_delta_rule/chunk.py (kernels, what
``ChunkGatedDeltaRuleFunction`` saves); transformers 5.24, modeling_qwen3_next.py.
"""

from __future__ import annotations

from sim.blocks import delta_torch, scan
from sim.blocks.attention_type import AttentionType
from sim.blocks.kernels import Kernel
from sim.blocks.linear import linear
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map
from sim.blocks.scan import BLOCK_COLUMNS
from sim.blocks.tape import Tape
from sim.records import NamedTuple


class Bytes(NamedTuple):
    """Tensors of the rule, of all tokens. [B]"""

    keys: float  # of the heads of keys: a query's too
    values: float
    widened: float  # keys of every head of values
    inverse: float  # of each chunk, a row for each of its tokens: the last is not filled up
    states: float  # before each chunk
    decays: float  # fp32, a number a token and head


def delta(t: Tape, x: int, window: int | None) -> int:
    """The branch from the norm's output to what is added to the residual stream."""
    m = t.setting.model
    d, heads = m.hidden_size, m.mixer_heads
    keys, values = m.mixer_groups * m.mixer_key_dim, heads * m.mixer_head_dim
    decay = [("dt_bias", (heads,)), ("A_log", (heads,))]
    if m.mixer_split:
        mixed = _linear(t, "in_proj", x, 2 * keys + values)
        z = _linear(t, "z_proj", x, values)
        b, a = (_linear(t, name, x, heads) for name in ("b_proj", "a_proj"))
    else:
        both = _linear(t, "in_proj", x, 2 * keys + 2 * values)
        b = a = _linear(t, "ba_proj", x, 2 * heads)
        mixed, z = _ordered(t, both, 2 * keys + values, values)
    # several linears read one input: gradients are added
    t.unseen("mixer.sum", (), [Map("mixer.sum", 3 * t.size(d))] * (3 if m.mixer_split else 1))
    qkv = scan.convolution(t, mixed, 2 * keys + values)
    t.register("decay", OpRole.OTHER, Position.INNER, decay)
    beta, decays = _gates(t, b, a)
    out = _rule(t, qkv, beta, decays)
    out = scan.gated_norm(t, out, z, heads, m.mixer_head_dim, m.mixer_head_dim)
    return linear(t, "out_proj", out, values, d, Position.OUTPUT, targets=("out_proj",))


def _linear(t: Tape, name: str, x: int, columns: int) -> int:
    return linear(t, name, x, t.setting.model.hidden_size, columns, targets=("in_proj",))


def _ordered(t: Tape, both: int, mixed: int, gate: int) -> tuple[int, int]:
    """q, k and v side by side, and the gate: copied out of groups of heads.

    Backward gathers all gradients in one copy, when the first of both comes to it.
    """
    z = t.op(
        "mixer.gate",
        (),
        t.size(gate),
        (),
        [Map("mixer.order", 2 * t.size(gate), 1, "strided", "copy")],
    )
    copies = [Map("mixer.order", 2 * t.size(mixed), 3, "strided", "copy"),
              Map("mixer.cat", 2 * t.size(mixed), 1, "strided", "copy")]  # fmt: skip
    back = [Map("mixer.split", 2 * t.size(mixed + gate), 1, "strided", "copy")]
    return t.op("mixer.order", (both,), t.size(mixed), (), copies, back), z


def _gates(t: Tape, b: int, a: int) -> tuple[int, int]:
    """How much a token writes, and how much of the state it leaves: sigmoid and -A softplus."""
    s, heads = t.setting, t.setting.model.mixer_heads
    n = float(s.tokens * heads)
    e = s.element
    beta = t.op(
        "beta", (b,), e * n, (), [Map("beta", 4 * e * n, 2)], [Map("beta", 3 * e * n, 1)], own=True
    )  # fmt: skip
    # cast, sum, softplus and product; softplus keeps what it read, the product what it made
    forward = [Map("decay", (e + 4 + 3 * 8) * n, 4), Map("decay.exp", 12.0 * heads, 3)]
    back = [
        Map("decay", (12 + 12 + 8 + 4 + e) * n, 4),
        Map("decay.sum", 2 * 4.0 * n, 2, kind="reduction"),
    ]
    gradient = 2 * e * heads * (not s.frozen)
    kept = 8 * n + 8.0 * heads * (not s.frozen)  # and of A, its exponential and what is minus that
    decays = t.op(
        "decay", (a,), 4 * n, (), forward, back, extra=kept, weight_gradient=gradient,
    )  # fmt: skip
    return beta, decays


def sizes(t: Tape) -> Bytes:
    """Bytes of the rule's tensors."""
    s, m = t.setting, t.setting.model
    _, every = scan.chunks(t)
    e, n, heads = s.element, float(s.tokens), m.mixer_heads
    return Bytes(
        keys=e * n * m.mixer_groups * m.mixer_key_dim,
        values=e * n * heads * m.mixer_head_dim,
        widened=e * n * heads * m.mixer_key_dim,
        inverse=e * n * heads * m.mixer_chunk,
        states=e * every * heads * m.mixer_key_dim * m.mixer_head_dim,
        decays=4 * n * heads,
    )


def contiguous(t: Tape, qkv: int, b: Bytes) -> tuple[int, int]:
    """Queries and keys, copied and made of length one, and values, copied."""
    values = t.op("values", (), b.values, (), [Map("qkv.copy", 2 * b.values, 1, "strided", "copy")])
    norms = [Map("qkv.copy", 4 * b.keys, 2, "strided", "copy"),
             Map("qk.norm", 4 * b.keys, 2, "fused", "norm")]  # fmt: skip
    back = [Map("qk.norm", 6 * b.keys, 2, "fused", "norm"),
            Map("qkv.cat", 4 * b.keys + 2 * b.values, 1, "strided", "copy")]  # fmt: skip
    return t.op("keys", (qkv,), 2 * b.keys, (), norms, back), values


def _rule(t: Tape, qkv: int, beta: int, decays: int) -> int:
    """q, k and v made contiguous, q and k of length one, and the rule by chunks."""
    s, m = t.setting, t.setting.model
    b = sizes(t)
    forward = _forward(t, b)
    flops = scan.model_flops(forward)
    if s.mixer_kernels == "torch":
        return delta_torch.rule(t, qkv, beta, decays, flops)
    keys, values = contiguous(t, qkv, b)
    within = 2 * b.widened + 2 * b.values + b.states  # w and what is read of it, u and v, states
    return t.op(
        "delta", (keys, values, beta, decays), b.values, (keys, values, beta),
        forward, _backward(t, b), role=OpRole.MIXER, gradients=2, flops=flops,
        extra=b.inverse + b.decays + 8.0 * s.tokens * m.mixer_groups, scratch=within,
        backward_scratch=within + b.states + 2 * b.values + 2 * b.widened,
    )  # fmt: skip


def _forward(t: Tape, b: Bytes) -> list[Map | Kernel]:
    """Kernels of the rule's forward, of which backward runs the middle ones again."""
    s, m = t.setting, t.setting.model
    _, every = scan.chunks(t)
    key, value, chunk = m.mixer_key_dim, m.mixer_head_dim, m.mixer_chunk
    blocks, n = every * m.mixer_heads, 2.0 * s.tokens * m.mixer_heads
    out = n * (key * value + chunk * (key + value))
    wide = blocks * -(-value // (2 * BLOCK_COLUMNS))
    return [
        Map("delta.decays", 2 * b.decays, 1, "fused"),
        Map("delta.zeros", b.inverse),
        scan.kernel(t, "delta.inverse", n * chunk * key, b.keys + b.inverse, blocks),
        *states(t, b, "forward"),
        scan.kernel(t, "delta.out", out, 2 * b.keys + 2 * b.values + b.states, wide),
    ]


def states(t: Tape, b: Bytes, direction: str, rule: str = "delta") -> list[Map | Kernel]:
    """What tokens write and read (w and u), and the state before each chunk."""
    s, m = t.setting, t.setting.model
    each, every = scan.chunks(t)
    key, value = m.mixer_key_dim, m.mixer_head_dim
    blocks, n = every * m.mixer_heads, 2.0 * s.tokens * m.mixer_heads
    read = b.keys + b.values + b.inverse + b.widened + b.values
    handed = b.keys + b.widened + 2 * b.values + b.states
    return [
        scan.kernel(t, f"{rule}.wu", n * m.mixer_chunk * (key + value), read, blocks, 1, direction),
        scan.kernel(
            t, f"{rule}.states", n * 2 * key * value, handed, columns(t), each, direction
        ),
    ]  # fmt: skip


def columns(t: Tape) -> int:
    """Thread blocks of a kernel that goes from chunk to chunk: those of a head's values."""
    m = t.setting.model
    return t.setting.sequences * m.mixer_heads * -(-m.mixer_head_dim // BLOCK_COLUMNS)


def _backward(t: Tape, b: Bytes) -> list[Map | Kernel]:
    s, m = t.setting, t.setting.model
    each, every = scan.chunks(t)
    key, value, chunk = m.mixer_key_dim, m.mixer_head_dim, m.mixer_chunk
    blocks, n = every * m.mixer_heads, 2.0 * s.tokens * m.mixer_heads
    side, inner = chunk * (key + value), key * value
    wide = blocks * -(-key // (2 * BLOCK_COLUMNS))

    def one(name: str, flops: float, traffic: float, blocks: int, steps: int = 1) -> Kernel:
        return scan.kernel(t, f"delta.{name}", n * flops, traffic, blocks, steps, "backward")

    return [
        *states(t, b, "backward"),
        one("dv", side, 2 * b.keys + 2 * b.values, blocks),
        one("dstates", 3 * inner, 2 * b.keys + b.widened + 3 * b.values + b.states,
            columns(t), each),
        one("dqkw", 3 * inner + side + 2 * chunk * key,
            2 * b.keys + 3 * b.values + 2 * b.states + 4 * b.widened, wide),
        one("dinverse", 2 * side + 2 * chunk * chunk,
            b.keys + 3 * b.values + 2 * b.widened + b.inverse, blocks),
        Map("delta.dk", 3 * b.widened, 1),
        Map("delta.ddecays", 5 * b.decays, 2, "fused"),
    ]  # fmt: skip


DELTA = AttentionType(
    takes=lambda model: "delta" in model.layer_pattern,
    play=delta,
    registered=(
        "decay", "conv1d", "in_proj", "z_proj", "b_proj", "a_proj", "ba_proj", "mixer_norm",
        "out_proj",
    ),
    cached=lambda model, tensor, slides: 0.0,
)  # fmt: skip
