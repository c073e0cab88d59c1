"""Padding taken out before attention and put back after it, as flash-attn's `bert_padding` does."""

from __future__ import annotations

from sim.blocks.ops import Map
from sim.blocks.tape import Tape

#: `gather`, `scatter_` and index kernels walk rows element by element, as strided ones do
ACCESS = "strided"


def unpadded(
    t: Tape, q: tuple[int, float], k: tuple[int, float], v: tuple[int, float]
) -> tuple[int, ...]:
    """Rows of (tensor, elements) q, k and v without those of padding: a copy of each.

    The mask's row sums, indices, longest row and offsets (`unpad_input`) are found once or for each
    of the three; `nonzero` and `max().item()` make the host wait, in forward and recompute.
    Backward scatters each gradient into zeros.

    Source: Dao-AILab/flash-attention, flash_attn/bert_padding.py; huggingface/transformers,
    modeling_flash_attention_utils.py, `_upad_input`; mosaicml/llm-foundry @5e85bd62d,
    llmfoundry/models/layers/attention.py, `flash_attn_fn`.
    """
    s = t.setting
    e = s.product
    made = []
    for i, (name, (x, n)) in enumerate((("q", q), ("k", k), ("v", v))):
        n *= s.attended_share
        found = _indices(float(s.tokens), float(s.sequences)) if i < s.unpads else []
        forward = [*found, Map(f"unpad.{name}", 2 * e * n, 1, ACCESS, "copy")]
        backward = [
            Map(f"unpad.{name}.zero", e * n),
            Map(f"unpad.{name}.scatter", 2 * e * n, 1, ACCESS, "copy"),
        ]
        extra = 8.0 * s.tokens if found else 0.0
        made.append(t.op(f"unpad.{name}", (x,), e * n, (), forward, backward, extra=extra))
    return tuple(made)


def padded(t: Tape, x: int, n: float) -> int:
    """Attention's output, `n` elements, in its padded place; backward takes the rows out again."""
    e, real = t.setting.product, t.setting.attended_share
    forward = [Map("pad.zero", e * n), Map("pad", 2 * e * n * real, 1, ACCESS, "copy")]
    backward = [Map("pad.rows", 2 * e * n * real, 1, ACCESS, "copy")]
    return t.op("pad", (x,), e * n, (), forward, backward)


def _indices(tokens: float, rows: float) -> list[Map]:
    """`unpad_input`'s work on the mask: sum; nonzero (count, wait, select, write); max; offsets."""
    return [
        Map("unpad.sums", tokens, 1, kind="reduction"),
        Map("unpad.count", tokens, 2, kind="reduction"),
        Map("unpad.nonzero", 8.0, kind="copy", waits=True),
        Map("unpad.indices", 17.0 * tokens, 3),
        Map("unpad.longest", 4.0 * rows, 1, kind="reduction"),
        Map("unpad.item", 4.0, kind="copy", waits=True),
        Map("unpad.offsets", 16.0 * rows, 3),
    ]
