"""What a training step does module by module, as DeepSpeed's hooks see it.

DeepSpeed hangs hooks on every module of the tree, containers included: fetch before and release
after a module's forward, and again around its backward. A module's backward is seen only where its
output needs a gradient, and the release after it only where its input does. Recomputation under
activation checkpointing runs the forward hooks a second time, inside the backward pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sim.blocks.flops import checkpointed_layers
from sim.blocks.modules import Block, ModelTree, Module, Parameter, Position
from sim.inputs.workload import Workload
from sim.shelf import Shelf
from sim.strategies.units import is_matrix, tree_blocks

FETCH, SEGMENT, GRADIENT, RELEASE = range(4)
FORWARD, BACKWARD, RECOMPUTE = range(3)
PHASES = ("forward", "backward", "recompute")

#: places whose module reads what its branch has made so far
_WITHIN = frozenset({Position.INNER, Position.OUTPUT, Position.POST})
#: places whose module's output is the residual stream, or is added to it
_ENDS = frozenset({Position.START, Position.OUTPUT, Position.WHOLE, Position.POST})

Call = tuple[int, int, int]
"""What (FETCH, SEGMENT, GRADIENT, RELEASE), unit, direction."""


@dataclass(slots=True)
class ModuleTrace:
    """One micro-batch. Parameters and units (modules with hooks) are numbered from 0."""

    parameter_names: list[str] = field(default_factory=list)
    numel: list[int] = field(default_factory=list)
    trainable: list[bool] = field(default_factory=list)
    widest: list[int] = field(default_factory=list)  # longest side of a matrix, 0 of a vector
    all_held: list[int] = field(default_factory=list)  # those of missing layers as their like's
    unit_names: list[str] = field(default_factory=list)
    unit_modules: list[str] = field(default_factory=list)  # "" for containers
    unit_blocks: list[int] = field(default_factory=list)
    unit_parameters: list[tuple[int, ...]] = field(default_factory=list)
    unit_gradients: list[tuple[int, ...]] = field(default_factory=list)  # complete after it
    unit_calls: list[int] = field(default_factory=list)  # leaf modules of the model's code
    reduced: set[int] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    order: list[int] = field(default_factory=list)  # units as they are fetched
    queue: list[tuple[int, int]] = field(default_factory=list)  # parameter, step in `order`
    uses: list[list[int]] = field(default_factory=list)  # steps of each parameter
    travelled: list[int] = field(default_factory=list)  # elements of all units before a step
    # what is worked out once a trace and its settings
    derived: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def unit(
        self, name: str, block: int, module: str = "", parameters: Sequence[int] = (),
        calls: int = 1,
    ) -> int:  # fmt: skip
        """Add a module."""
        self.unit_calls.append(calls)
        self.unit_names.append(name)
        self.unit_modules.append(module)
        self.unit_blocks.append(block)
        self.unit_parameters.append(tuple(parameters))
        mine = tuple(p for p in parameters if self.trainable[p] and p not in self.reduced)
        self.reduced.update(mine)
        self.unit_gradients.append(mine)
        return len(self.unit_names) - 1

    def complete(self) -> None:
        """Number the fetches: the order of modules and of parameters that DeepSpeed records."""
        self.order = [unit for what, unit, _ in self.calls if what == FETCH]
        self.uses = [[] for _ in self.numel]
        self.travelled = [0]
        for step, unit in enumerate(self.order):
            size = 0
            for p in self.unit_parameters[unit]:
                self.queue.append((p, step))
                self.uses[p].append(step)
                size += self.numel[p]
            self.travelled.append(self.travelled[-1] + size)


@dataclass(slots=True)
class _Leaf:
    unit: int
    needs_input_grad: bool
    needs_output_grad: bool


@dataclass(slots=True)
class _Group:
    """A leaf module, or an adapted linear: a container of base, A and B."""

    container: int  # -1 none
    needs_input_grad: bool
    needs_output_grad: bool
    leaves: list[_Leaf]


@dataclass(slots=True)
class _BlockUnits:
    container: int  # -1 none
    needs_input_grad: bool
    needs_output_grad: bool
    groups: list[_Group]


def trace_of(workload: Workload, tree: ModelTree) -> ModuleTrace:
    """The calls of a micro-batch (kept for a tree seen before)."""
    policy = workload.activation_checkpointing
    layers = checkpointed_layers(policy, workload.model.layers)
    asked = workload.method.input_require_grads
    # PEFT asks for input gradients where checkpointing is on: without them nothing would train
    grads = workload.method.frozen and (any(layers) if asked is None else asked)
    packed = 1
    if workload.method.quantised:
        packed = 8 if workload.precision.kind == "fp32" else 4
    key = (id(tree), layers, policy.reentrant, grads, packed)

    def traced() -> tuple[ModelTree, ModuleTrace]:
        return tree, build_trace(tree, layers, policy.reentrant, grads, packed)

    return _traces.get(key, traced)[1]


# of a model of 32 layers a hundred fit; a call takes some 160 B, and trees are held, so that the
# ids in keys stay theirs
_traces = Shelf[tuple[ModelTree, ModuleTrace]](400_000, lambda kept: len(kept[1].calls))


def build_trace(
    tree: ModelTree, recomputed: Sequence[bool], reentrant: bool, input_grads: bool, packed: int = 1
) -> ModuleTrace:
    """The calls of one forward and backward pass.

    Parameters
    ----------
    tree : ModelTree
        Modules with their parameters.
    recomputed : sequence of bool
        Which layers recompute their forward in the backward pass.
    reentrant : bool
        Checkpointing as an autograd function of its own (``use_reentrant=True``): the recompute
        comes before the layer's backward. Otherwise the first saved tensor that is asked for
        sets it off, and it stops early, at the last tensor that was saved.
    input_grads : bool
        Make the embedding's output need a gradient although it is frozen
        (``enable_input_require_grads``).
    packed : int
        Frozen matrix weights in one stored element: 4 for four-bit weights kept in bf16
        tensors (``bnb_4bit_quant_storage``).

    Returns
    -------
    ModuleTrace
        Parameters numbered in registration order, calls in the order of execution.
    """
    t = ModuleTrace()
    by_block = _number_parameters(t, tree, packed)
    root = t.unit("root", -1)
    grad = False
    embedding, grad = _units(t, tree.embedding, 0, by_block[0], grad, "")
    if input_grads:
        grad = embedding.needs_output_grad = True
        _seen(embedding)
    layers = []
    for index, block in enumerate(tree.layers):
        container = t.unit(block.name, index + 1)
        units, out = _units(t, block, index + 1, by_block[index + 1], grad, block.name + ".")
        units.container, units.needs_input_grad, units.needs_output_grad = container, grad, out
        layers.append(units)
        grad = out
    last = len(tree.layers) + 1
    head, grad = _units(t, tree.head, last, by_block[last], grad, "")
    calls = t.calls
    calls.append((FETCH, root, FORWARD))
    for units in (embedding, *layers, head):
        _forward(calls, units, FORWARD, stop_early=False)
    calls.append((RELEASE, root, FORWARD))
    if grad:
        calls.append((FETCH, root, BACKWARD))
    _backward(t, head, recompute=False)
    for units, again in zip(reversed(layers), reversed(recomputed), strict=True):
        if again and reentrant:
            _forward(calls, units, RECOMPUTE, stop_early=False)
        _backward(t, units, recompute=again and not reentrant)
    _backward(t, embedding, recompute=False)
    t.complete()
    return t


def _stored(module: Module, parameter: Parameter, packed: int) -> int:
    if packed > 1 and not parameter.trainable and is_matrix(module, parameter):
        return -(-parameter.numel // packed)
    return parameter.numel


def _widest(shape: tuple[int, ...]) -> int:
    return max(shape) if len(shape) > 1 else 0


def _number_parameters(t: ModuleTrace, tree: ModelTree, packed: int) -> list[dict[str, list[int]]]:
    by_block = []
    templates: dict[int, list[tuple[str, str, int, bool, int]]] = {}
    last = len(tree.layers) + 1
    for number, block in enumerate(tree_blocks(tree)):
        prefix = block.name + "." if 0 < number < last else ""
        rows = templates.get(id(block.modules))
        if rows is None:
            rows = [
                (m.name, f"{m.name}.{p.name}", _stored(m, p, packed), p.trainable, _widest(p.shape))
                for m in block.modules
                for p in m.parameters
            ]
            templates[id(block.modules)] = rows
        numbers: dict[str, list[int]] = {m.name: [] for m in block.modules}
        for module, name, numel, trainable, widest in rows:
            numbers[module].append(len(t.numel))
            t.parameter_names.append(prefix + name)
            t.numel.append(numel)
            t.trainable.append(trainable)
            t.widest.append(widest)
        by_block.append(numbers)
        mine = [p for each in numbers.values() for p in each]
        t.all_held += mine * (1 + tree.missing * (number == last - 1))
    if tree.tied:
        table, head = tree.embedding.modules[0], tree.head.forward[-1]
        by_block[-1][head.name].extend(by_block[0][table.name][:1])
    return by_block


def _units(
    t: ModuleTrace,
    block: Block,
    number: int,
    parameters: dict[str, list[int]],
    grad: bool,
    prefix: str,
) -> tuple[_BlockUnits, bool]:
    """Hooked modules of a block and where gradients flow. `grad`: its input needs one."""
    groups: list[_Group] = []
    stream, branch, inner = grad, grad, False
    for parts in _with_adapters(block):
        base = parts[0]
        if base.place is Position.START:
            reads = False
        elif base.place is Position.STREAM:
            reads = stream
        else:
            reads = (inner and base.place in _WITHIN) or branch
        group = _group(t, prefix, number, parts, parameters, reads)
        groups.append(group)
        out = group.needs_output_grad
        if base.place is Position.STREAM:
            branch, inner = out, False
        elif base.place in _ENDS:
            stream, inner = stream or out, out
        else:
            inner = inner or out
    # a head's stream ends in what is no part of it: its norm, its product and the loss
    any_out = any(group.needs_output_grad for group in groups)
    return _BlockUnits(-1, grad, any_out, groups), any_out


def _with_adapters(block: Block) -> list[list[Module]]:
    """Modules as forward runs them, each with the adapters that follow it."""
    groups: list[list[Module]] = []
    for module in block.forward:
        if module.base:
            groups[-1].append(module)
        else:
            groups.append([module])
    return groups


def _group(
    t: ModuleTrace, prefix: str, block: int, parts: list[Module],
    parameters: dict[str, list[int]], reads: bool,
) -> _Group:  # fmt: skip
    container = t.unit(prefix + parts[0].name, block) if len(parts) > 1 else -1
    leaves: list[_Leaf] = []
    flow = reads
    any_out = False
    for index, part in enumerate(parts):
        name = part.name
        suffix = ".base" if len(parts) > 1 and index == 0 else ""
        unit = t.unit(prefix + name + suffix, block, name, parameters[name], part.calls)
        source = flow if index > 1 else reads  # a second adapter matrix reads the first's output
        flow = source or bool(t.unit_gradients[unit])
        any_out = any_out or flow
        leaves.append(_Leaf(unit, source, flow))
    return _Group(container, reads, any_out, leaves)


def _seen(units: _BlockUnits) -> None:
    """The output of the embedding's last module was made to need a gradient."""
    group = units.groups[-1]
    group.needs_output_grad = True
    group.leaves[-1].needs_output_grad = True


def _forward(calls: list[Call], units: _BlockUnits, direction: int, stop_early: bool) -> None:
    if units.container >= 0:
        calls.append((FETCH, units.container, direction))
    last = units.groups[-1].leaves[-1].unit
    for group in units.groups:
        if group.container >= 0:
            calls.append((FETCH, group.container, direction))
        for leaf in group.leaves:
            calls.append((FETCH, leaf.unit, direction))
            calls.append((SEGMENT, leaf.unit, direction))
            if stop_early and leaf.unit == last:
                return
            calls.append((RELEASE, leaf.unit, direction))
        if group.container >= 0:
            calls.append((RELEASE, group.container, direction))
    if units.container >= 0:
        calls.append((RELEASE, units.container, direction))


def _backward(t: ModuleTrace, units: _BlockUnits, recompute: bool) -> None:
    calls = t.calls
    outer = units.container
    if not units.needs_output_grad:
        return
    if outer >= 0:
        calls.append((FETCH, outer, BACKWARD))
    for group in reversed(units.groups):
        if group.container >= 0 and group.needs_output_grad:
            calls.append((FETCH, group.container, BACKWARD))
        for leaf in reversed(group.leaves):
            unit = leaf.unit
            if leaf.needs_output_grad:
                calls.append((FETCH, unit, BACKWARD))
            if recompute:
                _forward(calls, units, RECOMPUTE, stop_early=True)
                recompute = False
            runs = units.needs_input_grad or outer >= 0 or leaf.needs_input_grad
            if runs or t.unit_gradients[unit]:
                calls.append((SEGMENT, unit, BACKWARD))
            if t.unit_gradients[unit]:
                calls.append((GRADIENT, unit, BACKWARD))
            if leaf.needs_input_grad:
                calls.append((RELEASE, unit, BACKWARD))
        if group.container >= 0 and group.needs_input_grad:
            calls.append((RELEASE, group.container, BACKWARD))
    if outer >= 0 and units.needs_input_grad:
        calls.append((RELEASE, outer, BACKWARD))
