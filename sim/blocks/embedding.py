"""Token (and position) look-up before the first layer."""

from __future__ import annotations

from sim.blocks.modules import OpRole, Position
from sim.blocks.norm import norm
from sim.blocks.ops import Map
from sim.blocks.tape import Tape
from sim.blocks.tensor import leave


def embedding(t: Tape, x: int) -> int:
    """The first hidden state; its input, token numbers, has no gradient."""
    s, model = t.setting, t.setting.model
    d, e = model.hidden_size, s.element
    n = float(s.tokens * d)
    trained = not s.frozen

    def gather(name: str, traffic: float) -> Map:
        return Map(name, traffic, 1, "gather", "embedding")

    rows = s.split(model.vocab_size)
    t.register("embedding", OpRole.TABLE, Position.START, [("weight", (rows, d))])
    # backward: zero the table's gradient, sort the indices, add rows
    backward = [
        Map("embedding.zero", float(e * rows * d), kind="embedding"),
        Map("embedding.sort", 64.0 * s.tokens, 6, kind="embedding"),
        gather("embedding.rows", 3 * e * n),
    ]
    out = t.op(
        "embedding", (), t.size(d), (), [gather("embedding", 2 * e * n)], backward * trained,
        role=OpRole.TABLE, extra=8.0 * s.tokens,
    )  # fmt: skip
    out = leave(t, out)
    if model.positions == "learned":
        t.register(
            "positions", OpRole.TABLE, Position.START, [("weight", (model.max_positions, d))]
        )
        out = t.op(
            "positions", (out,), t.stream(d), (),
            [gather("positions", 2 * t.stream(d)), Map("positions.add", 3 * t.stream(d))],
            [gather("positions", 3 * t.stream(d))] * trained,
            role=OpRole.TABLE, passes=True,
        )  # fmt: skip
    return norm(t, "embedding_norm", out, d) if model.embedding_norm else out
