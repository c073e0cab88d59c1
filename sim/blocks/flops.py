"""FLOPs of a training step, counted from its matrix products: what MFU and HFU divide by.

Convention: 2 m n k a product. Model FLOPs are forward plus backward without recompute: 6 for each
weight that multiplies (active experts, the head, also if tied; no embedding look-up), 4 for frozen
ones, which have no weight gradient, and 12 x layers x heads x head_dim x T a token for attention,
counted in full although causal kernels skip half (the convention of PaLM, llm-foundry and
torchtitan; ``attention="causal"`` halves it). A scan in its place counts the products of its chunks
(`sim.blocks.delta`), which are as many whatever runs them and whatever T is. Hardware FLOPs are
those that run: recompute is added, and what a fused kernel skips is left out
(``attention="run"``), so that HFU stays below 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from sim.blocks.from_workload import early_stop, setting_of
from sim.blocks.layer import HEAD, BlockKind, describe, layer_kinds
from sim.blocks.modules import OpRole
from sim.blocks.ops import Op, recomputed
from sim.blocks.setting import Setting
from sim.inputs.model import Model
from sim.inputs.reference import reference_of
from sim.inputs.rows import as_counted
from sim.inputs.workload import Checkpointing, Workload
from sim.records import dataclass

Counting = Literal["full", "causal", "run"]


@dataclass(frozen=True, slots=True)
class TokenFlops:
    """FLOPs per trained token.

    Attributes
    ----------
    forward, backward : float
        One forward and one backward pass. [FLOP]
    recompute : float
        Repeated in backward by activation checkpointing, and by a tiled loss. [FLOP]
    attention : float
        Attention's share of ``forward + backward``. [FLOP]
    reference : float
        Forwards of a frozen model beside them. [FLOP]
    """

    forward: float
    backward: float
    recompute: float
    attention: float
    reference: float = 0.0

    @property
    def model(self) -> float:
        """Numerator of MFU. [FLOP]"""
        return self.forward + self.backward

    @property
    def hardware(self) -> float:
        """Numerator of HFU. [FLOP]"""
        return self.forward + self.backward + self.recompute + self.reference


@lru_cache(maxsize=1024)
def token_flops(workload: Workload, attention: Counting = "full") -> TokenFlops:
    """FLOPs that training on one token takes.

    Parameters
    ----------
    workload : Workload
        Model, method, shapes and stack matter.
    attention : {"full", "causal", "run"}
        Count all T x T scores, the half that a causal mask leaves, or those that the kernel works
        on: eager attention computes what the mask hides too.

    Returns
    -------
    TokenFlops
        Per token.
    """
    masked = attention == "causal" or (attention == "run" and workload.attention != "eager")
    setting = setting_of(as_counted(workload)).whole
    policy, early = workload.activation_checkpointing, early_stop(workload)
    found = _token_flops(setting, workload.model, policy, early, masked)
    if workload.reference == "none":
        return found
    frozen = token_flops(reference_of(workload), attention)
    return replace(found, reference=workload.reference_passes * frozen.forward)


@lru_cache(maxsize=512)
def _token_flops(
    setting: Setting, model: Model, policy: Checkpointing, early: bool, masked: bool
) -> TokenFlops:
    """Of jobs that differ in their length, batch or optimizer alone."""
    kinds = layer_kinds(model, setting.method, setting.bf16_ends)
    again = checkpointed_layers(policy, len(kinds))
    forward = backward = recompute = scores = 0.0
    for (kind, repeats), times in Counter(zip(kinds, again, strict=True)).items():
        ops = describe(setting, kind).ops
        f, b, a = _counted(ops, setting, kind, masked)
        if kind.state == "passive":
            f, b, a, repeats = f, 0.0, a / 3, False
        forward, backward, scores = forward + times * f, backward + times * b, scores + times * a
        if repeats:
            twice = recomputed(ops, policy.kind == "selective-op", early)
            run = [op for op, kept in twice if not kept]
            recompute += times * _counted(run, setting, kind, masked)[0]
    f, b, _ = _counted(describe(setting, HEAD).ops, setting, HEAD, masked)
    recompute += f if setting.loss == "tiled" else 0.0
    n = setting.tokens
    return TokenFlops((forward + f) / n, (backward + b) / n, recompute / n, scores / n)


def _counted(
    ops: Iterable[Op], setting: Setting, kind: BlockKind, masked: bool
) -> tuple[float, float, float]:
    """Forward, backward and attention's share of both, of all the rank's tokens."""
    masked = masked and (kind.window is None or kind.window >= setting.keys)
    forward = backward = scores = 0.0
    for op in ops:
        work = op.flops
        if op.role is OpRole.ATTENTION:
            work *= 0.5 if masked else 1.0
            scores += (1 + op.gradients) * work
        forward += work
        backward += op.gradients * work
    return forward, backward, scores


@lru_cache(maxsize=64)
def checkpointed_layers(policy: Checkpointing, layers: int) -> tuple[bool, ...]:
    """Which layers are checkpointed (wholly, or by the per-op policy).

    ``every``: each n-th layer, counted from 1 (torchtitan). ``fraction``: spread evenly.
    """
    if policy.kind != "selective-blocks":
        return (policy.kind != "none",) * layers
    share = policy.fraction
    if share is None:
        return tuple((i + 1) % max(1, policy.every) == 0 for i in range(layers))
    return tuple(int((i + 1) * share + 0.5) > int(i * share + 0.5) for i in range(layers))
