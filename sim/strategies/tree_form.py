"""A module tree apart from the sizes of its parameters, and with other sizes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any

from sim.blocks.modules import Block, ModelTree, Module
from sim.records import NamedTuple
from sim.shelf import Shelf
from sim.strategies.units import tree_blocks

MAX_PARTS = 100_000  # of all forms that are kept, at some 300 B: a block is one, a parameter too


class TreeForm(NamedTuple):
    """A tree in two parts.

    Attributes
    ----------
    structure : tuple
        All but sizes: which modules stand where, with which parameters of how many dimensions.
    sizes : tuple of int
        Of the shapes of all parameters, in the order of `with_sizes`, and of layers that miss.
    """

    structure: tuple[Hashable, ...]
    sizes: tuple[int, ...]


# with the tree, so that the id in a key stays its own
_forms = Shelf[tuple[ModelTree, TreeForm]](MAX_PARTS, lambda kept: len(kept[1].structure))


def form_of(tree: ModelTree) -> TreeForm:
    """The form of a tree, kept."""
    return _forms.get((id(tree),), lambda: (tree, _form(tree)))[1]


def _form(tree: ModelTree) -> TreeForm:
    sizes: list[int] = []
    place: dict[int, int] = {}  # of modules that have been met, by id
    structure: list[Hashable] = [tree.tied]
    for block in tree_blocks(tree):
        for module in block.modules:
            if id(module) not in place:
                place[id(module)] = len(place)
                structure.append(module._replace(parameters=()))
                structure += [(p.name, len(p.shape), p.trainable) for p in module.parameters]
                sizes += [size for p in module.parameters for size in p.shape]
        structure.append((block.name, block.kind, *(place[id(m)] for m in block.modules), -1,
                          *(place[id(m)] for m in block.forward)))  # fmt: skip
    return TreeForm(_Hashed(structure), (*sizes, tree.missing))


class _Hashed(tuple[Hashable, ...]):
    """A long key whose hash is worked out once."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def with_sizes(tree: ModelTree, sizes: Sequence[Any]) -> ModelTree:
    """The tree with other sizes; modules that blocks share stay shared."""
    rest = iter(sizes)
    made: dict[int, Any] = {}

    def own(module: Module) -> Module:
        if id(module) not in made:
            parameters = [
                p._replace(shape=tuple([next(rest) for _ in p.shape])) for p in module.parameters
            ]
            made[id(module)] = module._replace(parameters=tuple(parameters))
        found: Module = made[id(module)]
        return found

    def own_all(modules: tuple[Module, ...]) -> tuple[Module, ...]:
        if id(modules) not in made:
            made[id(modules)] = tuple(map(own, modules))
        found: tuple[Module, ...] = made[id(modules)]
        return found

    embedding, *layers, head = (
        Block(b.name, b.kind, own_all(b.modules), own_all(b.forward)) for b in tree_blocks(tree)
    )
    return ModelTree(embedding, tuple(layers), head, tree.tied, next(rest))
