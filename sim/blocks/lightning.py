"""Lightning attention: attention without softmax, whose state decays by a fixed number a head.

One projection makes queries, keys and values behind SiLU; the rule runs by chunks; a norm over all
heads and a sigmoid gate from a projection of its own follow (MiniMax-Text-01 and M1).

Of C tokens a chunk, keys of K and values of V columns, a token and head multiply
2 (C K + C V + 2 K V): scores and what they weigh within the chunk, the state's read and write.

Source: Qin et al., arXiv 2401.04658; fla 0.6, ops/simple_gla/chunk.py, which its lightning_attn is
(kernels, what ``ChunkSimpleGLAFunction`` saves); transformers 5.24, modeling_minimax.py.
"""

from __future__ import annotations

from sim.blocks import scan
from sim.blocks.attention_type import AttentionType
from sim.blocks.delta import columns, sizes
from sim.blocks.kernels import Kernel
from sim.blocks.linear import linear
from sim.blocks.modules import OpRole, Position
from sim.blocks.norm import norm
from sim.blocks.ops import Map
from sim.blocks.scan import BLOCK_COLUMNS, WIDE
from sim.blocks.tape import Tape


def lightning(t: Tape, x: int, window: int | None) -> int:
    """The branch from the norm's output to what is added to the residual stream."""
    m = t.setting.model
    d, inner = m.hidden_size, m.mixer_heads * m.mixer_head_dim
    size = t.size(inner)
    both = linear(t, "in_proj", x, d, 3 * inner, targets=("in_proj",))
    active = t.op(
        "silu", (both,), 3 * size, (both,), [Map("silu", 6 * size)], [Map("silu", 9 * size)]
    )
    # three views of each head's columns; their gradients are put together
    qkv = t.op(
        "qkv.copy", (active,), 3 * size, (), [Map("qkv.copy", 6 * size, 3, "strided", "copy")],
        [Map("qkv.cat", 6 * size, 1, "strided", "copy")],
    )  # fmt: skip
    out = norm(t, "mixer_norm", _rule(t, qkv), inner, Position.INNER)
    gate = linear(t, "output_gate", x, d, inner, targets=("in_proj",))
    t.unseen("mixer.sum", (), [Map("mixer.sum", 3 * t.size(d))])  # two linears read one input
    gate = t.op(
        "gate.sigmoid", (gate,), size, (), [Map("gate.sigmoid", 2 * size)],
        [Map("gate.sigmoid", 3 * size)], own=True,
    )  # fmt: skip
    out = t.op(
        "gate", (out, gate), size, (out, gate), [Map("gate", 3 * size)], [Map("gate", 6 * size, 2)]
    )
    return linear(t, "out_proj", out, inner, d, Position.OUTPUT, targets=("out_proj",))


def _rule(t: Tape, qkv: int) -> int:
    """The rule by chunks: the state before each, then all outputs; decays are no tensors."""
    s, m = t.setting, t.setting.model
    b, (each, every) = sizes(t), scan.chunks(t)
    key, value, chunk = m.mixer_key_dim, m.mixer_head_dim, m.mixer_chunk
    blocks, n = every * m.mixer_heads, 2.0 * s.tokens * m.mixer_heads
    handing = columns(t) * -(-key // BLOCK_COLUMNS)
    wide = blocks * -(-value // (2 * BLOCK_COLUMNS))
    states = b.states / s.element * WIDE  # backward's are made again, and in fp32

    def one(
        name: str, flops: float, traffic: float, blocks: int, steps: int = 1,
        direction: str = "forward",
    ) -> Kernel:  # fmt: skip
        return scan.kernel(t, f"lightning.{name}", n * flops, traffic, blocks, steps, direction)

    forward: list[Map | Kernel] = [
        one("states", key * value, b.keys + b.values + b.states, handing, each),
        one("out", chunk * (key + value) + key * value, 2 * b.keys + 2 * b.values + b.states, wide),
    ]
    backward: list[Map | Kernel] = [
        one("states", key * value, b.keys + b.values + states, handing, each, "backward"),
        one("dstates", key * value, b.keys + b.values + states, handing, each, "backward"),
        one("dqk", 2 * key * value + chunk * (2 * key + value),
            4 * b.keys + 2 * b.values + 2 * states, wide, 1, "backward"),
        one("dv", key * value + chunk * (key + value), 2 * b.keys + 2 * b.values + states, wide,
            1, "backward"),
    ]  # fmt: skip
    return t.op(
        "lightning", (qkv,), b.values, (qkv,), forward, backward, role=OpRole.MIXER, gradients=2,
        flops=scan.model_flops(forward), scratch=b.states,
        backward_scratch=2 * states + 2 * b.keys + b.values,
    )  # fmt: skip


LIGHTNING = AttentionType(
    takes=lambda model: "lightning" in model.layer_pattern,
    play=lightning,
    registered=("mixer_norm", "in_proj", "out_proj", "output_gate"),
    cached=lambda model, tensor, slides: 0.0,
)
