"""Mamba-2: a state of inputs and keys (B) that decays by a number a head, read by queries (C).

One projection makes the gate z, the input x with B and C, and the step dt; x, B and C pass a short
convolution; the scan (SSD) runs by chunks: within a chunk as attention without softmax does, with
scores C B^T of a group of heads, and over the state before it. A norm of what SiLU of z gates
follows, where the model has one.

Of L tokens a chunk, heads of P columns in G groups, and N columns of a state, a token multiplies
2 (G L N + H (L P + 2 N P)).

The library's own function does it all, from the convolution to the last projection: it keeps what
it read and what the scan made, and makes all else again in backward.

Source: Dao and Gu, arXiv 2405.21060; mamba-ssm, ops/triton/ssd_combined.py (kernels, what
``MambaSplitConv1dScanCombinedFn`` saves); transformers 5.24, modeling_nemotron_h.py.
"""

from __future__ import annotations

from sim.blocks import mamba_torch, scan
from sim.blocks.attention_type import AttentionType
from sim.blocks.kernels import Kernel
from sim.blocks.linear import linear
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map
from sim.blocks.tape import Tape
from sim.records import NamedTuple

#: rows and columns of a thread block of its kernels
#: Source: mamba-ssm, ops/triton/ssd_*.py, configs of `autotune`
TILE = 64


class StateBytes(NamedTuple):
    """Tensors of the scan, of all tokens. [B]"""

    inner: float  # its input or output
    sides: float  # B or C
    scores: float  # fp32, of each chunk and group
    states: float  # fp32, of each chunk
    steps: float  # fp32, a number a token and head


def mamba(t: Tape, x: int, window: int | None) -> int:
    """The branch from the norm's output to what is added to the residual stream."""
    s, m = t.setting, t.setting.model
    inner, sides = m.mixer_heads * m.mixer_head_dim, m.mixer_groups * m.mixer_key_dim
    d, columns, heads = m.hidden_size, inner + 2 * sides, m.mixer_heads
    both = linear(
        t, "in_proj", x, d, inner + columns + heads, targets=("in_proj",), bias=m.mixer_bias
    )
    mixed = scan.convolution(t, both, columns)
    own: list[tuple[str, tuple[int, ...]]] = [
        (name, (heads,)) for name in ("dt_bias", "A_log", "D")
    ]
    t.register("decay", OpRole.OTHER, Position.INNER, own)
    weights = 3 * s.element * heads * (not s.frozen)
    ahead = _forward(t)
    flops = 2.0 * s.tokens * (
        m.mixer_groups * m.mixer_chunk * m.mixer_key_dim
        + inner * (m.mixer_chunk + 2 * m.mixer_key_dim)
    )  # fmt: skip
    if s.mixer_kernels == "torch":
        out = mamba_torch.rule(t, mixed, both, flops, weights)
    else:
        b = sizes(t)
        made = b.states + b.scores + 4 * b.steps
        out = scanned = t.op(
            "mamba", (mixed,), b.inner, (both,), ahead, _backward(t), role=OpRole.MIXER, own=True,
            gradients=2, flops=flops, weight_gradient=weights, scratch=made,
            backward_scratch=made + b.states + t.sizes[mixed] + 2 * b.sides * m.mixer_heads,
        )  # fmt: skip
        if m.mixer_norm:
            out = scan.norm_of_gated(t, scanned, both, m.mixer_groups, inner)
        t.kept[out] = scanned  # which backward makes the last projection's input of
    return linear(
        t, "out_proj", out, inner, d, Position.OUTPUT, targets=("out_proj",), bias=m.mixer_bias
    )


def sizes(t: Tape) -> StateBytes:
    """StateBytes of the scan's tensors."""
    s, m = t.setting, t.setting.model
    _, every = scan.chunks(t)
    n = float(s.tokens)
    return StateBytes(
        inner=s.element * n * m.mixer_heads * m.mixer_head_dim,
        sides=s.element * n * m.mixer_groups * m.mixer_key_dim,
        scores=4.0 * every * m.mixer_chunk**2 * m.mixer_groups,
        states=4.0 * every * m.mixer_heads * m.mixer_head_dim * m.mixer_key_dim,
        steps=4.0 * n * m.mixer_heads,
    )


def _products(t: Tape) -> tuple[float, float, float]:
    """FLOPs within a chunk by group, within it by head (what is later is skipped), by state."""
    m = t.setting.model
    n, inner = 2.0 * t.setting.tokens, m.mixer_heads * m.mixer_head_dim
    groups = n * m.mixer_groups * m.mixer_chunk * m.mixer_key_dim
    return groups, n * inner * m.mixer_chunk / 2, n * inner * m.mixer_key_dim


def _made(t: Tape, direction: str) -> list[Map | Kernel]:
    """Steps, the state that each chunk adds, states handed on, and scores; backward runs it too."""
    m, b = t.setting.model, sizes(t)
    _, every = scan.chunks(t)
    groups, _, state = _products(t)
    heads = every * m.mixer_heads * -(-m.mixer_head_dim // TILE) * -(-m.mixer_key_dim // TILE)
    blocks = every * m.mixer_groups * (-(-m.mixer_chunk // TILE)) ** 2
    return [
        Map("mamba.steps", 2.5 * b.steps, 1, "fused"),
        scan.kernel(t, "mamba.states", state, b.inner + b.sides + b.states, heads, 1, direction),
        Map("mamba.passing", 2 * b.states, 1, "fused"),
        scan.kernel(t, "mamba.scores", groups, 2 * b.sides + b.scores, blocks, 1, direction),
    ]


def _rows(t: Tape) -> int:
    """Thread blocks of kernels that have one for some rows of a chunk and a head."""
    m = t.setting.model
    parts = -(-m.mixer_chunk // TILE) * -(-m.mixer_head_dim // TILE)
    return scan.chunks(t)[1] * m.mixer_heads * parts


def _forward(t: Tape) -> list[Map | Kernel]:
    b, (_, within, state) = sizes(t), _products(t)
    traffic = 2 * b.inner + b.sides + b.scores + b.states
    return [*_made(t, "forward"), scan.kernel(t, "mamba.scan", within + state, traffic, _rows(t))]


def _backward(t: Tape) -> list[Map | Kernel]:
    """All of forward but the last kernel again, the convolution too; then each gradient."""
    m, b = t.setting.model, sizes(t)
    groups, within, state = _products(t)
    rows, wide = _rows(t), b.inner + 2 * b.sides
    heads = b.sides * m.mixer_heads / m.mixer_groups  # gradients of B and C by head, then summed

    def one(name: str, flops: float, traffic: float) -> Kernel:
        return scan.kernel(t, f"mamba.{name}", flops, traffic, rows, 1, "backward")

    return [
        Map("mamba.conv1d", 2 * wide, 1, "fused"),
        *_made(t, "backward"),
        one("dstates", state, b.inner + b.sides + b.states),
        Map("mamba.dpassing", 3 * b.states, 1, "fused"),
        one("dx", within + state, 3 * b.inner + b.sides + b.scores + b.states),
        one("db", state, b.inner + b.states + 2 * heads),
        one("dc", state, b.inner + b.states + 2 * heads),
        one("dscores", within, 2 * b.inner + b.scores),
        one("dsides", 2 * groups, 2 * b.scores + 4 * b.sides),
        one("dsteps", within, 2 * b.inner + b.scores + 3 * b.steps),
    ]


MAMBA = AttentionType(
    takes=lambda model: "mamba" in model.layer_pattern,
    play=mamba,
    registered=("decay", "conv1d", "in_proj", "mixer_norm", "out_proj"),
    cached=lambda model, tensor, slides: 0.0,
)
