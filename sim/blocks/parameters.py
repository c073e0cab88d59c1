"""Parameters: a block's modules as registered and as forward runs them, and their totals.

Names are those of the reference Llama: ``wq wk wv wo w1 w2 w3 attention_norm ffn_norm`` (``w1``
gate, ``w3`` up, ``w2`` down; a plain FFN has ``w1`` up and ``w2`` down). Fused matrices are
``wqkv`` and ``w13``. An adapter stands beside its frozen base as ``wq.A`` and ``wq.B``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sim.blocks.layer import EMBEDDING, HEAD, BlockKind, describe, layer_kinds, registered
from sim.blocks.modules import Block, ModelTree, Module, OpRole
from sim.blocks.setting import FULL, Setting, one_layer
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.modelling import model_of, stacks_experts
from sim.inputs.workload import Workload
from sim.records import NamedTuple, dataclass


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameter totals of a tree.

    Attributes
    ----------
    total : int
        All parameters, a tied embedding once. [1]
    active : int
        Those one token meets: as `total`, but only the routed experts. [1]
    trainable : int
        Those with a gradient. [1]
    embedding : int
        Token and position tables; looked up, not multiplied, unless tied to the head. [1]
    tensors : int
        Parameter tensors. [1]
    """

    total: int
    active: int
    trainable: int
    embedding: int
    tensors: int


class ParameterShare(NamedTuple):
    """How the parameters of a block are cut before data-parallel shards are.

    Attributes
    ----------
    tensor : int
        Ranks that share its matrices: shapes are one rank's, of the largest part. [1]
    sequence_parallel : bool
        They see different positions of what its norms are applied to.
    expert : int
        Ranks that its experts are spread over. [1]
    grouped : bool
        All experts' matrices of a kind are one parameter.
    bf16_ends : tuple of int
        Layers at either end that are kinds of their own, as their products stay in bf16.
    """

    tensor: int = 1
    sequence_parallel: bool = False
    expert: int = 1
    grouped: bool = False
    bf16_ends: tuple[int, int] = (0, 0)


WHOLE = ParameterShare()


@lru_cache(maxsize=64)
def build_tree(
    model: Model, method: Method | None = None, share: ParameterShare = WHOLE, missing: int = 0
) -> ModelTree:
    """Module tree of a model under a training method.

    Parameters
    ----------
    model : Model
        Shape of the transformer.
    method : Method, optional
        LoRA and QLoRA freeze the base and add adapters. Default: full fine-tuning.
    share : ParameterShare
        What a rank has of every block.
    missing : int
        Layers more that the tree is to know of (`ModelTree.missing`). [1]

    Returns
    -------
    ModelTree
        Blocks of one kind share one tuple of modules.
    """
    tensor = share.tensor
    setting = Setting(
        one_layer(model), method or FULL, tensor=tensor,
        sequence_parallel=share.sequence_parallel, expert=share.expert,
        stacked=share.grouped,
    )  # fmt: skip
    places = registered(model, norms_first=tensor > 1)

    def block(kind: BlockKind) -> Block:
        run = describe(setting, kind).modules
        modules = tuple(sorted(run, key=lambda m: places.get(m.base or m.name, 0)))
        return Block(kind.key, kind.key, modules, run)

    kinds = layer_kinds(model, setting.method, share.bf16_ends)
    templates = {kind: block(kind) for kind in dict.fromkeys(kinds)}
    layers = (
        Block(f"layers.{i}", k.key, templates[k].modules, templates[k].forward)
        for i, k in enumerate(kinds)
    )
    ends = block(EMBEDDING), tuple(layers), block(HEAD)
    return ModelTree(*ends, model.tied_embeddings, missing)


def tree_of(workload: Workload, missing: int = 0) -> ModelTree:
    """A workload's module tree, as one rank holds it before data-parallel shards are cut."""
    return build_tree(model_of(workload), workload.method, share_of(workload), missing)


def share_of(workload: Workload) -> ParameterShare:
    """How a workload cuts its blocks."""
    p = workload.parallelism
    tensor = p.tensor_parallel
    whole = tensor > 1 and p.sequence_parallel
    ends = workload.precision.bf16_ends
    return ParameterShare(tensor, whole, p.expert_parallel, stacks_experts(workload), ends)


@lru_cache(maxsize=64)
def count_parameters(model: Model, method: Method | None = None) -> ParameterCounts:
    """Parameter totals of a model under a method."""
    tree = build_tree(model, method)
    total = trainable = tensors = active = 0
    by_kind: dict[str, tuple[int, int, int, int]] = {}
    for block in (tree.embedding, *tree.layers, tree.head):
        if block.kind not in by_kind:
            by_kind[block.kind] = (
                numel(block.modules),
                numel(block.modules, trainable=True),
                sum(len(m.parameters) for m in block.modules),
                round(sum(m.active * numel((m,)) for m in block.modules)),
            )
        n, t, c, a = by_kind[block.kind]
        total, trainable, tensors, active = total + n, trainable + t, tensors + c, active + a
    tables = [m for m in tree.embedding.modules if m.role is OpRole.TABLE]
    return ParameterCounts(
        total=total,
        active=active,
        trainable=trainable,
        embedding=numel(tables),
        tensors=tensors,
    )


def numel(modules: Iterable[Module], trainable: bool | None = None) -> int:
    """Elements of the modules' parameters, or of the trainable (frozen) ones alone."""
    return sum(
        p.numel
        for m in modules
        for p in m.parameters
        if trainable is None or p.trainable == trainable
    )
