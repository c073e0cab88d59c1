"""Token (and position) look-up before the first layer."""

from __future__ import annotations

from sim.blocks.modules import OpRole, Position
from sim.blocks.norm import norm
from sim.blocks.ops import Map
from sim.blocks.tape import Tape


def embedding(t: Tape, x: int) -> int:
    """The first hidden state; its input, token numbers, has no gradient."""
    s, model = t.setting, t.setting.model
    d, e = model.hidden_size, s.element
    n = float(s.tokens * d)
    trained = not s.frozen

    def gather(name: str, traffic: float) -> Map:
        return Map(name, traffic, 1, "gather", "embedding")

    t.register("embedding", OpRole.TABLE, Position.START, [("weight", (model.vocab_size, d))])
    # backward: zero the table's gradient, sort the indices, add rows
    backward = [
        Map("embedding.zero", float(e * model.vocab_size * d), kind="embedding"),
        Map("embedding.sort", 64.0 * s.tokens, 6, kind="embedding"),
        gather("embedding.rows", 3 * e * n),
    ]
    out = t.op(
        "embedding", (), t.size(d), (), [gather("embedding", 2 * e * n)], backward * trained,
        role=OpRole.TABLE, extra=8.0 * s.tokens,
    )  # fmt: skip
    if model.positions == "learned":
        t.register(
            "positions", OpRole.TABLE, Position.START, [("weight", (model.max_positions, d))]
        )
        out = t.op(
            "positions", (out,), t.size(d), (),
            [gather("positions", 2 * e * n), Map("positions.add", 3 * e * n)],
            [gather("positions", 3 * e * n)] * trained,
            role=OpRole.TABLE, passes=True,
        )  # fmt: skip
    return norm(t, "embedding_norm", out, d) if model.embedding_norm else out
