"""Mamba-2's scan in PyTorch alone: what transformers runs where no kernels are installed.

All of it in fp32, with B and C repeated to every head; every product of all chunks at once, the
states of chunks from one another by a product over all that are earlier.

Source: transformers 5.24, ``mamba2_chunk_scan``; what is saved is recorded from it
(tests/unit/test_mixers.py).
"""

from __future__ import annotations

from sim.blocks import scan
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import Map
from sim.blocks.scan import WIDE, widened, within_chunks
from sim.blocks.tape import Tape


def rule(t: Tape, mixed: int, both: int, flops: float, weights: float) -> int:
    """The output of scan and norm, of `flops` by the convention; its tensor."""
    s, m = t.setting, t.setting.model
    each, every = scan.chunks(t)
    heads, chunk, e = m.mixer_heads, m.mixer_chunk, s.element
    n, rows = float(s.tokens * heads), every * chunk * heads  # with the last chunk filled up
    key, head = m.mixer_key_dim, m.mixer_head_dim
    inner, sides, within = WIDE * rows * head, WIDE * rows * key, WIDE * rows * chunk
    gates, states = WIDE * rows, WIDE * every * heads * key * head
    handed = WIDE * s.sequences * (each + 1) * heads * key * head
    triangle = 2.0 * chunk**2 + 2.0 * (each + 1) ** 2
    x = widened(t, "x.cast", (mixed,), WIDE * n * head, (e + WIDE) * n * head)
    skipped = widened(t, "x.pad", (x,), inner, 2 * inner, own=True)
    # softplus, a clamp and what is cast of them; decays, and their sums by pairs
    steps = widened(
        t, "steps", (), 2 * WIDE * n, (8 * e + 4 * WIDE) * n, 8, own=True,
        extra=2 * e * n + WIDE * heads * (1 + (not s.frozen)),
    )  # fmt: skip
    x = widened(t, "x.steps", (x, steps), WIDE * n * head, 3 * WIDE * n * head, 1, (x,))
    x = widened(t, "x.chunks", (x,), inner, 2 * inner)
    b, c = (
        widened(t, f"{name}.heads", (mixed,), sides, (e + 5 * WIDE) * n * key, 3) for name in "bc"
    )
    pairs = widened(t, "pairs", (steps,), within, 9 * within, 6, own=True, extra=triangle)
    c_rows = widened(t, "c.rows", (c,), sides, 2 * sides)
    b_rows = widened(t, "b.rows", (b,), sides, 2 * sides)
    scores = within_chunks(t, "scores", (c_rows, b_rows), within, (chunk, chunk, key), every)
    masked = widened(t, "scores.decay", (scores, pairs), within, 3 * within, 1, (scores, pairs))
    x_rows = widened(t, "x.rows", (x,), inner, 2 * inner)
    near = within_chunks(t, "near", (masked, x_rows), inner, (chunk, head, chunk), every)
    decayed = widened(t, "b.decay", (b, steps), sides, 2 * sides, 3, (b,), extra=gates)
    decayed = widened(t, "b.columns", (decayed,), sides, 2 * sides)
    x_columns = widened(t, "x.columns", (x,), inner, 2 * inner)
    added = within_chunks(t, "states", (decayed, x_columns), states, (head, key, chunk), every)
    handed_on = widened(
        t, "states.cat", (added,), handed, 2 * handed, 2, own=True,
        extra=WIDE * s.sequences * heads * (each + 1) ** 2,
    )  # fmt: skip
    batch = s.sequences * heads
    pass_on = t.gemm("states.pass", each + 1, key * head, each + 1, "forward", batch, "fp32",
                     role=OpRole.MIXER)  # fmt: skip
    before = t.op(
        "states.pass", (handed_on,), handed, (), [pass_on], [pass_on, pass_on],
        role=OpRole.MIXER, flops=flops, gradients=2,
    )  # fmt: skip
    before = widened(t, "states.rows", (before,), states, 2 * states)
    c_again = widened(t, "c.again", (c,), sides, 2 * sides)
    far = within_chunks(t, "far", (c_again, before), inner, (chunk, head, key), every)
    far = widened(t, "far.decay", (far, steps), inner, 2 * inner, 2, (far,), extra=gates)
    out = widened(t, "scan.sum", (near, far), inner, 3 * inner)
    out = widened(
        t, "scan.skip", (out, skipped), inner, 5 * inner, 2, weight_gradient=weights,
    )  # fmt: skip
    return _norm(t, out, both, e * n * head, WIDE * n * head)


def _norm(t: Tape, out: int, gate: int, narrow: float, wide: float) -> int:
    """SiLU of the gate, in fp32 as what it gates, and the norm of both where there is one."""
    s, m = t.setting, t.setting.model
    opened = t.op(
        "mixer_gate.silu", (), wide, (), [Map("mixer_gate.silu", narrow + 3 * wide, 2)],
        [Map("mixer_gate.silu", narrow + 4 * wide, 2)], own=True, extra=wide,
    )  # fmt: skip
    gated = t.op(
        "mixer_gate", (out, opened), wide, (out, opened), [Map("mixer_gate", 3 * wide)],
        [Map("mixer_gate", 6 * wide, 2)],
    )  # fmt: skip
    if m.mixer_norm:
        width, trained = m.mixer_heads * m.mixer_head_dim, not s.frozen
        t.register("mixer_norm", OpRole.NORM, Position.INNER, [("weight", (width,))])
        scaled = t.op(
            "mixer_norm.scale", (gated,), wide, (gated,),
            [Map("mixer_norm.scale", 4 * wide, 5, "composite", "norm")],
            [Map("mixer_norm.scale", 13 * wide, 8, "composite", "norm")], role=OpRole.NORM,
            extra=4.0 * s.tokens * m.mixer_groups,
        )  # fmt: skip
        gated = t.op(
            "mixer_norm", (scaled,), wide, (scaled,) if trained else (),
            [Map("mixer_norm", 2 * wide, 1, "", "norm")],
            [Map("mixer_norm", 4 * wide, 2, "composite", "norm")], role=OpRole.NORM,
            weight_gradient=s.element * width * trained,
        )  # fmt: skip
    cast = [Map("mixer_norm.cast", narrow + wide, 1, "cast")]
    return t.op("mixer_norm.cast", (gated,), narrow, (), cast, cast)
