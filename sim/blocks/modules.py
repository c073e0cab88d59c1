"""The module tree of a model: which parameters stand where, in registration order, and as what.

Sharding pads by parameter shape and DeepSpeed gathers by leaf module, so schedules need the
tree, not only totals. What a module is and where it stands are typed: nobody reads names.
"""

from __future__ import annotations

from enum import Enum
from math import prod

from sim.records import NamedTuple, dataclass


class OpRole(Enum):
    """What a module, an operation or a kernel is."""

    __hash__ = object.__hash__  # one object each; Enum's own runs Python for each kernel looked up

    LINEAR = "linear"  # weight matrices that FP8, 4-bit storage and adapters apply to
    ADAPTER = "adapter"
    ROUTER = "router"
    NORM = "norm"
    TABLE = "table"  # looked up, not multiplied
    HEAD = "head"  # projection to the vocabulary, and the loss
    ATTENTION = "attention"
    MIXER = "mixer"  # scans in attention's place
    DEQUANTISE = "dequantise"
    OTHER = "other"


class Position(Enum):
    """Where a module stands on a block's way: what reaches it, and where its output goes."""

    __hash__ = object.__hash__

    START = "start"  # reads no activation
    STREAM = "stream"  # reads the residual stream and opens a branch
    BRANCH = "branch"  # reads what opened the branch
    INNER = "inner"  # reads what the branch has made so far
    OUTPUT = "output"  # reads that too, and is added to the stream
    WHOLE = "whole"  # reads what opened the branch, and is added to the stream
    POST = "post"  # a norm of a branch's output


class Parameter(NamedTuple):
    """One parameter tensor, unsharded."""

    name: str  # within its module: "weight", "bias"
    shape: tuple[int, ...]
    trainable: bool = True

    @property
    def numel(self) -> int:
        """Elements. [1]"""
        return prod(self.shape)


class Module(NamedTuple):
    """A leaf module (embedding, norm, linear, adapter matrix) with its own parameters.

    Attributes
    ----------
    name : str
        Within its block: "attention_norm", "wq", "wq.A", "embedding", "norm", "head".
    parameters : tuple of Parameter
        In registration order.
    role : OpRole
        What it is.
    place : Position
        Where it stands.
    base : str
        Of an adapter: the frozen module beside it.
    active : float
        Share of its parameters that one token meets: less than 1 of routed experts. [1]
    partial : bool
        Tensor-parallel ranks hold all of it and see a part of what it is applied to, so that their
        gradients are to be summed.
    calls : int
        Leaf modules of the model's code that it stands for, where that calls them one by one.
    expert : bool
        Its parameters are those of the experts on this rank, of which other ranks hold others.
    """

    name: str
    parameters: tuple[Parameter, ...]
    role: OpRole
    place: Position
    base: str = ""
    active: float = 1.0
    partial: bool = False
    calls: int = 1
    expert: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder layer, or the root's own modules before (embedding) or after (head) the layers.

    `modules` are in the order of registration, `forward` in the order that forward runs them.
    """

    name: str  # "layers.3", "embedding", "head"
    kind: str  # key of its `BlockKind`: equal kinds have equal kernels
    modules: tuple[Module, ...]
    forward: tuple[Module, ...]

    @property
    def forward_order(self) -> tuple[str, ...]:
        """Names of the modules as forward runs them."""
        return tuple(m.name for m in self.forward)


@dataclass(frozen=True, slots=True)
class ModelTree:
    """embedding, layers, head (final norm and lm_head). Tied: the head has no own weight.

    `missing` layers more, equal to those there, are not run here but are updated with them.
    """

    embedding: Block
    layers: tuple[Block, ...]
    head: Block
    tied: bool
    missing: int = 0
