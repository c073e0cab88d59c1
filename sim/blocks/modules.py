"""The module tree of a model: which parameters stand where, in registration order.

Sharding pads by parameter shape and DeepSpeed gathers by leaf module, so schedules need the
tree, not only totals.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter tensor, unsharded."""

    name: str  # within its module: "weight", "bias"
    shape: tuple[int, ...]
    trainable: bool = True

    @property
    def numel(self) -> int:
        """Elements. [1]"""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Module:
    """A leaf module (embedding, norm, linear, adapter matrix) with its own parameters."""

    name: str  # within its block: "attention_norm", "wq", "wq.A", "embedding", "norm", "head"
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder layer, or the root's own modules before (embedding) or after (head) the layers.

    Module order is registration order; `forward_order` the names in the order forward runs them.
    """

    name: str  # "layers.3", "embedding", "head"
    kind: str  # template key, such as "layer" or "head": equal kinds have equal kernels
    modules: tuple[Module, ...]
    forward_order: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelTree:
    """embedding, layers, head (final norm and lm_head). Tied: the head has no own weight."""

    embedding: Block
    layers: tuple[Block, ...]
    head: Block
    tied: bool
