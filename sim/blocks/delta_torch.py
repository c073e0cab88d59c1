"""The gated delta rule in PyTorch alone: what transformers runs where no kernels are installed.

All of it in fp32, with keys repeated to every head of values; products within chunks at once, the
state from chunk to chunk in a loop. Every step is saved, and backward of a loop over slices writes
a gradient of the whole tensor for each: time grows with the square of the length.

Source: transformers 5.24, ``torch_chunk_gated_delta_rule``; what is saved is recorded from it
(tests/unit/test_mixers.py).
"""

from __future__ import annotations

from sim.blocks import scan
from sim.blocks.kernels import Kernel
from sim.blocks.modules import OpRole
from sim.blocks.ops import Map
from sim.blocks.scan import WIDE, widened, within_chunks
from sim.blocks.tape import Tape


def rule(t: Tape, qkv: int, beta: int, decays: int, flops: float) -> int:
    """The output of the rule, of `flops` by the convention; its tensor."""
    s, m = t.setting, t.setting.model
    _, every = scan.chunks(t)
    heads, chunk, e = m.mixer_heads, m.mixer_chunk, s.element
    rows = every * chunk * heads  # with the last chunk filled up
    keys, values = WIDE * rows * m.mixer_key_dim, WIDE * rows * m.mixer_head_dim
    within, gates = WIDE * rows * chunk, WIDE * rows
    n = float(s.tokens * heads)
    narrow = e * n * m.mixer_key_dim
    unit = WIDE * n * m.mixer_key_dim
    v = widened(t, "values", (), WIDE * n * m.mixer_head_dim, (e + WIDE) * n * m.mixer_head_dim)
    v = widened(t, "values.pad", (v,), values, 2 * values)
    qk = widened(t, "qk.repeat", (qkv,), 2 * narrow, 4 * narrow, 2)
    qk = widened(t, "qk.cast", (qk,), 2 * unit, 2 * narrow + 2 * unit, 2)
    qk = widened(t, "qk.norm", (qk,), 2 * unit, 13 * unit, 11, (qk,), extra=2 * WIDE * n)
    qk = widened(t, "qk.pad", (qk,), 2 * keys, 4 * keys, 2)
    beta = widened(t, "beta.cast", (beta,), gates, 4 * gates, 2)
    decays = widened(t, "decays.sum", (decays,), gates, 6 * gates, 3)
    written = widened(t, "values.beta", (v, beta), values, 2 * values, 1, (v, beta))
    kb = widened(t, "keys.beta", (qk, beta), keys, 2 * keys, 1, (qk, beta))
    pairs = widened(t, "pairs", (decays,), within, 5 * within, 3, own=True, extra=float(chunk**2))
    kk = within_chunks(t, "kk", (kb, qk), within, (chunk, chunk, m.mixer_key_dim), every)
    kk = widened(t, "kk.decay", (kk, pairs), within, 3 * within, 1, (kk, pairs))
    attended = within_chunks(t, "qk", (qk,), within, (chunk, chunk, m.mixer_key_dim), every)
    attended = widened(t, "qk.decay", (attended, pairs), within, 3 * within, 1, (attended, pairs))
    read = widened(t, "keys.decay", (kb, decays), keys, 2 * keys, 2, (kb,), extra=gates)
    solved = within_chunks(
        t, "solve", (kk, written, read), values + keys,
        (chunk, m.mixer_key_dim + m.mixer_head_dim, chunk), every, saves=(kk,), own=True,
    )  # fmt: skip
    q = widened(t, "queries.decay", (qk, decays), keys, 2 * keys, 2, (qk,), extra=gates)
    k = widened(t, "keys.left", (qk, decays), keys, 2 * keys, 3, (qk,),
             extra=gates + WIDE * heads * every)  # fmt: skip
    out = _loop(t, (solved, q, k, attended), values, (keys, within), flops)
    return widened(
        t, "delta.cast", (out,), e * n * m.mixer_head_dim, values + e * n * m.mixer_head_dim
    )


def _loop(
    t: Tape, sliced: tuple[int, ...], values: float, others: tuple[float, float], flops: float
) -> int:
    """The state from chunk to chunk; each slice's gradient is one of the whole, and is added."""
    s, m = t.setting, t.setting.model
    each, _ = scan.chunks(t)
    keys, within = others
    key, value, chunk, batch = (
        m.mixer_key_dim,
        m.mixer_head_dim,
        m.mixer_chunk,
        s.sequences * m.mixer_heads,
    )
    state = WIDE * batch * key * value
    shapes = ((chunk, value, key), (chunk, value, key), (chunk, value, chunk), (key, value, chunk))

    def gemm(name: str, m: int, n: int, k: int, direction: str) -> Kernel:
        one = t.gemm(name, m, n, k, direction, batch, "fp32", role=OpRole.MIXER)
        return one._replace(launches=each, flops=one.flops * each, bytes=one.bytes * each)

    ahead = [gemm("loop", *shape, "forward") for shape in shapes]
    back = [gemm("loop.left", a, k, b, "dgrad") for a, b, k in shapes]
    back += [gemm("loop.right", k, b, a, "dgrad") for a, b, k in shapes]
    # zeros, a slice, and the sum with those of earlier chunks; the output's is copied whole
    whole = each * (4 * (values + 3 * keys + within) + 2 * values)
    return t.op(
        "loop", sliced, values, sliced,
        [*ahead, Map("loop", each * 7 * state + 8 * values, 6 * each, "strided")],
        [*back, Map("loop", each * 8 * state + 8 * values, 8 * each, "strided"),
         Map("loop.slices", whole, 16 * each)],
        role=OpRole.MIXER, flops=flops, gradients=2, extra=values + each * state,
    )  # fmt: skip
