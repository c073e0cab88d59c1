"""Multi-head latent attention (DeepSeek-V2 and V3): keys and values come from one narrow latent.

A token keeps a latent of ``kv_lora_rank`` columns, from which all heads' keys and values are
projected, and ``rope_head_dim`` columns of key that are rotated and shared by all heads. Queries
may pass through a latent of their own. In training the heads are written out (nothing is absorbed),
so the core is plain attention with keys wider than values.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1; transformers, modeling_deepseek_v3.
"""

from __future__ import annotations

from sim.blocks.attention import core, rope
from sim.blocks.attention_type import AttentionType
from sim.blocks.linear import linear
from sim.blocks.modules import Position
from sim.blocks.norm import norm
from sim.blocks.ops import Map
from sim.blocks.tape import Tape
from sim.blocks.tensor import enter, leave
from sim.inputs.model import Model


def latent_attention(t: Tape, x: int, window: int | None) -> int:
    """The branch from the norm's output to what is added to the residual stream.

    Tensor-parallel ranks share the heads; each makes the latents whole.
    """
    s, model = t.setting, t.setting.model
    d, heads, dim, value = model.hidden_size, s.split(model.heads), model.head_dim, model.v_head_dim
    turned, rank, shared = model.rope_head_dim, model.kv_lora_rank, s.tensor > 1
    queries = heads * dim
    x = enter(t, x, "wq_a" if model.q_lora_rank else "wq", "wkv_a")
    if model.q_lora_rank:
        low = linear(t, "wq_a", x, d, model.q_lora_rank, targets=("q",), partial=shared)
        low = norm(t, "q_a_norm", low, model.q_lora_rank, Position.INNER)
        q = linear(t, "wq_b", low, model.q_lora_rank, queries, Position.INNER, targets=("q",))
    else:
        q = linear(t, "wq", x, d, queries, targets=("q",))
    latent = linear(t, "wkv_a", x, d, rank + turned, targets=("k", "v"), partial=shared)
    # both read one input: their gradients are added
    t.unseen("latent.sum", (), [Map("latent.sum", 3 * t.size(d))])
    c = norm(t, "kv_a_norm", latent, rank, Position.INNER)
    kv = linear(
        t, "wkv_b", c, rank, heads * (dim - turned + value), Position.INNER, targets=("k", "v")
    )
    q_turned, k_turned = q, latent
    if model.positions == "rope":
        q_turned, k_turned = rope(t, (q, heads * turned), (latent, turned))
    # the turned columns beside the others; a key's are copied to every head
    q, k = (
        t.op(
            f"{name}.cat", (plain, rotated), t.size(queries), (),
            [Map(f"{name}.cat", 2 * t.size(queries), 1, "strided", "copy")],
            [Map(f"{name}.split", 2 * t.size(queries), 2, "strided", "copy")],
        )
        for name, plain, rotated in (("q", q, q_turned), ("k", kv, k_turned))
    )  # fmt: skip
    out = core(t, q, k, kv, (heads, heads, dim, value), window)
    made = linear(t, "wo", out, heads * value, d, Position.OUTPUT, targets=("o",))
    return leave(t, made)


def _cached(model: Model, tensor: int, slides: bool) -> float:
    """Its latent and the rotated part, whole on every GPU."""
    return float(model.kv_lora_rank + model.rope_head_dim)


LATENT = AttentionType(
    takes=lambda model: bool(model.kv_lora_rank),
    play=latent_attention,
    registered=("wq", "wq_a", "q_a_norm", "wq_b", "wkv_a", "kv_a_norm", "wkv_b", "wo"),
    cached=_cached,
)
