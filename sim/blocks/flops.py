"""FLOPs of a training step, counted from its matrix products: what MFU and HFU divide by.

Convention: 2 m n k a product. Model FLOPs are forward plus backward without recompute: 6 for each
weight that multiplies (active experts, the head, also if tied; no embedding look-up), 4 for frozen
ones, which have no weight gradient, and 12 x layers x heads x head_dim x T a token for attention,
counted in full although causal kernels skip half (the convention of PaLM, llm-foundry and
torchtitan; ``attention="causal"`` halves it). Hardware FLOPs add what checkpointing recomputes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.blocks.modules import Block
from sim.blocks.tree import adapted, build_tree, head_dims
from sim.inputs.model import Model
from sim.inputs.workload import Checkpointing, Method

#: matrix products of a block that torchtitan's per-op policy recomputes: every second one
SELECTIVE_RECOMPUTED = ("wk", "wo", "w3")


@dataclass(frozen=True, slots=True)
class TokenFlops:
    """FLOPs per trained token.

    Attributes
    ----------
    forward, backward : float
        One forward and one backward pass. [FLOP]
    recompute : float
        Repeated in backward by activation checkpointing. [FLOP]
    attention : float
        Attention's share of ``forward + backward``. [FLOP]
    """

    forward: float
    backward: float
    recompute: float
    attention: float

    @property
    def model(self) -> float:
        """Numerator of MFU. [FLOP]"""
        return self.forward + self.backward

    @property
    def hardware(self) -> float:
        """Numerator of HFU. [FLOP]"""
        return self.forward + self.backward + self.recompute


def token_flops(
    model: Model,
    sequence_length: int,
    method: Method | None = None,
    checkpointing: Checkpointing | None = None,
    attention: Literal["full", "causal"] = "full",
) -> TokenFlops:
    """FLOPs that training on one token takes.

    Parameters
    ----------
    model : Model
        Shape.
    sequence_length : int
        Tokens that attention spans.
    method : Method, optional
        LoRA and QLoRA train adapters alone.
    checkpointing : Checkpointing, optional
        What backward recomputes.
    attention : {"full", "causal"}
        Count all T x T scores, or the half that a causal mask leaves.

    Returns
    -------
    TokenFlops
        Per token.
    """
    method = method or Method()
    checkpointing = checkpointing or Checkpointing()
    tree = build_tree(model, method)
    frozen = method.kind != "full"
    targets = adapted(model, method)
    forward = backward = recompute = attention_total = 0.0
    cache: dict[str, tuple[float, float, float, float, float]] = {}
    for index, block in enumerate(tree.layers):
        if block.kind not in cache:
            cache[block.kind] = _layer(
                block, model, sequence_length, attention, frozen, checkpointing
            )
        f, b, full, selective, a = cache[block.kind]
        forward, backward, attention_total = forward + f, backward + b, attention_total + a
        if checkpointed(checkpointing, index, model.layers):
            recompute += selective if checkpointing.kind == "selective-op" else full
    head = 2.0 * model.vocab_size * model.hidden_size
    forward += head
    backward += head if frozen and "head" not in targets else 2 * head
    return TokenFlops(forward, backward, recompute, attention_total)


def checkpointed(checkpointing: Checkpointing, index: int, layers: int) -> bool:
    """Whether a layer is checkpointed (wholly, or by the per-op policy).

    ``every``: each n-th layer, counted from 1 (torchtitan). ``fraction``: spread evenly.
    """
    if checkpointing.kind == "none":
        return False
    if checkpointing.kind in ("full", "selective-op"):
        return True
    if checkpointing.fraction is None:
        return (index + 1) % max(1, checkpointing.every) == 0
    share = checkpointing.fraction
    before, after = int(index * share + 0.5), int((index + 1) * share + 0.5)
    return after > before


def _layer(
    block: Block,
    model: Model,
    sequence_length: int,
    attention: Literal["full", "causal"],
    frozen: bool,
    checkpointing: Checkpointing,
) -> tuple[float, float, float, float, float]:
    """Forward, backward, full recompute, per-op recompute and attention's share of a layer."""
    forward = backward = skipped = selective = 0.0
    for module in block.modules:
        share = model.experts_per_token / model.experts if module.name.startswith("experts") else 1
        work = 2.0 * share * sum(p.numel for p in module.parameters if len(p.shape) == 2)
        if not work:
            continue
        forward += work
        trains = any(p.trainable for p in module.parameters)
        backward += work * (2 if trains or not frozen else 1)
        if module.name == "w2" and not checkpointing.reentrant:
            skipped += work  # recomputation stops once the last saved tensor is there
        if module.name in SELECTIVE_RECOMPUTED:
            selective += work
    span = sequence_length
    if ".sliding" in block.kind and model.sliding_window:
        span = min(span, model.sliding_window)
    width = head_dims(model)[0]
    scores = 4.0 * width * span * (0.5 if attention == "causal" and span == sequence_length else 1)
    return (
        forward + scores,
        backward + 2 * scores,
        forward - skipped + scores,
        selective,
        3 * scores,
    )
