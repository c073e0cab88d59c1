"""Kimi Delta Attention: the gated delta rule with a decay for each column of a key.

Projections of their own for q, k and v, one convolution over all three; decays from a narrow
latent, made in fp32; a norm beside SiLU of a gate from another latent.

A token and head multiply as under `sim.blocks.delta`.

Source: Kimi Linear (arXiv 2510.26692); fla 0.6, ops/kda (kernels, what ``ChunkKDAFunction`` saves);
transformers 5.24, modeling_kimi_linear.py.
"""

from __future__ import annotations

from sim.blocks import scan
from sim.blocks.attention_type import AttentionType
from sim.blocks.delta import columns, contiguous, sizes, states
from sim.blocks.kernels import Kernel
from sim.blocks.linear import linear
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map
from sim.blocks.tape import Tape


def kimi_delta(t: Tape, x: int, window: int | None) -> int:
    """The branch from the norm's output to what is added to the residual stream."""
    m = t.setting.model
    d, heads, dim = m.hidden_size, m.mixer_heads, m.mixer_head_dim
    inner = heads * dim
    parts = [linear(t, f"{name}_proj", x, d, inner, targets=(name,)) for name in "qkv"]
    joined = [Map("mixer.cat", 2 * t.size(3 * inner), 1, "strided", "copy")]
    split = [Map("mixer.split", 2 * t.size(3 * inner), 3, "strided", "copy")]
    mixed = t.op("mixer.cat", tuple(parts), t.size(3 * inner), (), joined, split)
    # six linears read one input
    t.unseen("mixer.sum", (), [Map("mixer.sum", 15 * t.size(d), 5)])
    qkv = scan.convolution(t, mixed, 3 * inner)
    t.register("decay", OpRole.OTHER, Position.INNER,
               [("dt_bias", (inner,)), ("A_log", (1, 1, heads, 1))])  # fmt: skip
    low = linear(t, "f_a_proj", x, d, dim)
    decays = _decays(t, linear(t, "f_b_proj", low, dim, inner, Position.INNER), inner)
    b = linear(t, "b_proj", x, d, heads)
    size = t.size(heads)
    beta = t.op("beta", (b,), size, (), [Map("beta", 2 * size)], [Map("beta", 3 * size)], own=True)
    out = _rule(t, qkv, beta, decays)
    low = linear(t, "g_a_proj", x, d, dim)
    gate = linear(t, "g_b_proj", low, dim, inner, Position.INNER)
    out = scan.gated_norm(t, out, gate, heads, dim, dim)
    return linear(t, "o_proj", out, inner, d, Position.OUTPUT, targets=("o",))


def _decays(t: Tape, x: int, inner: int) -> int:
    """-A softplus(x + dt): written out in fp32, with a comparison, an exponential and a logarithm.

    Kept: the exponential, what the logarithm read, softplus, and a mask.
    """
    s = t.setting
    n = float(s.tokens * inner)
    forward = [Map("decay", (s.element + 4 + 13 * 4 + 2) * n, 8)]
    back = [Map("decay", 16 * 4 * n, 9), Map("decay.sum", 2 * 4 * n, 2, kind="reduction")]
    weights = s.element * (inner + s.model.mixer_heads) * (not s.frozen)
    return t.op("decay", (x,), 4 * n, (), forward, back, extra=13 * n, weight_gradient=weights)


def _rule(t: Tape, qkv: int, beta: int, decays: int) -> int:
    """The rule by chunks: scores of keys and of queries in one kernel, states, the output."""
    s, m = t.setting, t.setting.model
    b, (each, every) = sizes(t), scan.chunks(t)
    key, value, chunk = m.mixer_key_dim, m.mixer_head_dim, m.mixer_chunk
    blocks, n = every * m.mixer_heads, 2.0 * s.tokens * m.mixer_heads
    wide = 4.0 * s.tokens * m.mixer_heads * key  # a decay for each column, in fp32

    def one(name: str, flops: float, traffic: float, direction: str = "forward") -> Kernel:
        return scan.kernel(t, f"kda.{name}", n * flops, traffic, blocks, 1, direction)

    keys, values = contiguous(t, qkv, b)
    out = one("out", key * value + chunk * value, b.keys + 2 * b.values + b.states + wide)
    forward = [
        Map("kda.decays", 2 * wide, 1, "fused"),
        one("scores", 2 * chunk * key, 2 * b.keys + 2 * b.inverse + wide),
        *states(t, b, "forward", "kda"),
        out,
    ]
    backward = [
        *states(t, b, "backward", "kda"),
        one("dv", chunk * value, b.inverse + 2 * b.values, "backward"),
        scan.kernel(
            t, "kda.dstates", n * 3 * key * value,
            3 * b.keys + 3 * b.values + b.states, columns(t), each, "backward",
        ),
        one("dscores", 3 * key * value + 2 * chunk * (key + value) + 2 * chunk**2,
            4 * b.keys + 5 * b.values + 2 * b.states + 2 * wide, "backward"),
        one("dkeys", 4 * chunk * key, 6 * b.keys + 2 * b.inverse + 3 * wide, "backward"),
        Map("kda.ddecays", 3 * wide, 1, "fused"),
    ]  # fmt: skip
    return t.op(
        "kda", (keys, values, beta, decays), b.values, (keys, values, beta, decays),
        forward, backward, role=OpRole.MIXER, gradients=2, flops=scan.model_flops(forward),
        extra=2 * b.inverse + wide + 8.0 * s.tokens * m.mixer_groups,
        scratch=2 * b.widened + 2 * b.values + b.states,
        backward_scratch=4 * b.widened + 4 * b.values + 2 * b.states,
    )  # fmt: skip


KDA = AttentionType(
    takes=lambda model: "kda" in model.layer_pattern,
    play=kimi_delta,
    registered=(
        "q_proj", "k_proj", "v_proj", "conv1d", "decay", "f_a_proj", "f_b_proj", "b_proj",
        "g_a_proj", "g_b_proj", "mixer_norm", "o_proj",
    ),
    cached=lambda model, tensor, slides: 0.0,
)  # fmt: skip
