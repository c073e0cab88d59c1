"""Short convolutions in attention's place: two gates around a convolution of a few positions.

Source: transformers 5.24, modeling_lfm2.py, ``Lfm2ShortConv``.
"""

from __future__ import annotations

from sim.blocks import scan
from sim.blocks.attention_type import AttentionType
from sim.blocks.linear import linear
from sim.blocks.modules import Position
from sim.blocks.ops import Map
from sim.blocks.tape import Tape


def short_convolution(t: Tape, x: int, window: int | None) -> int:
    """The branch from the norm's output to what is added to the residual stream."""
    m = t.setting.model
    d, bias = m.hidden_size, m.mixer_bias
    size = t.size(d)
    both = linear(t, "in_proj", x, d, 3 * d, targets=("in_proj",), bias=bias)
    # views of one tensor, whose gradients are put together where the first of them arrives
    back = [
        Map("mixer.mul", 6 * size, 2, "strided"),
        Map("mixer.cat", 2 * t.sizes[both], 1, "strided"),
    ]
    opened = t.op(
        "mixer.mul", (both,), size, (both,), [Map("mixer.mul", 3 * size, 1, "strided")], back
    )  # fmt: skip
    made = scan.convolution(t, opened, d, activated=False)
    out = t.op(
        "mixer.out", (made,), size, (both, made), [Map("mixer.out", 3 * size, 1, "strided")],
        [Map("mixer.out", 6 * size, 2, "strided")],
    )  # fmt: skip
    copy = [Map("mixer.copy", 2 * size, 1, "strided", "copy")]
    out = t.op("mixer.copy", (out,), size, (), copy, ())
    return linear(t, "out_proj", out, d, d, Position.OUTPUT, targets=("out_proj",), bias=bias)


CONV = AttentionType(
    takes=lambda model: "conv" in model.layer_pattern,
    play=short_convolution,
    registered=("conv1d", "in_proj", "out_proj"),
    cached=lambda model, tensor, slides: 0.0,
)
