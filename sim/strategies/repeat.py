"""Lengthen a plan by equal layers in its middle: recording a few layers, copying the others.

A strategy's state at layer k depends on a few layers before it (prefetch depth, retained
buffers), so in the middle of a run of equal layers its ops repeat, with indices and layers
shifted. Tests hold lengthened plans against plans recorded in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from sim.blocks.modules import ModelTree
from sim.inputs.trainer import reductions
from sim.inputs.workload import Workload
from sim.strategies.allocations import Stretch
from sim.strategies.fsdp_memory import Remembers
from sim.strategies.plan import Plan, PlanOp
from sim.strategies.recorder import Recorder

_new_op = tuple.__new__
_BLOCK, _UNIT, _DEPS, _SYNC = map(PlanOp._fields.index, ("block", "unit", "deps", "host_after"))


class Folding:
    """Watches a recording from whose middle layers are missing.

    Parameters
    ----------
    recorder : Recorder
        Of the layers that are left.
    layer : int
        The one behind which the others are missing; 0 if none are.
    extra : int
        How many are missing. [1]
    """

    def __init__(self, recorder: Recorder, layer: int, extra: int) -> None:
        self.recorder, self.layer, self.extra = recorder, layer, extra
        self.stretches: list[Stretch] = []

    def open(self, block: int, step: int) -> None:
        """A block is about to run forward (`step` 1) or backward (-1)."""
        if self.layer and block == (self.layer if step > 0 else self.layer + 1):
            self._began = len(self.recorder.ops), len(self.recorder.memory.log)

    def close(self, block: int, step: int) -> None:
        """It has run."""
        if self.layer and block == (self.layer if step > 0 else self.layer + 1):
            (op, entry), r = self._began, self.recorder
            self.stretches.append(Stretch((op, len(r.ops)), (entry, len(r.memory.log)), step))

    def unfold(self, plan: Plan, tree: ModelTree) -> Plan:
        """Insert the missing layers into a plan of the full model `tree`."""
        if self.extra:
            plan.memory.lengthen(self.stretches, self.extra)
        if self.extra and plan.issued:
            names = ("", *(block.name for block in tree.layers), "")
            plan.issued = lengthen(plan.issued, self.stretches, self.extra, names)
        return plan


def remember(
    memory: Remembers, folding: Folding, pieces: Sequence[tuple[int, bool]], workload: Workload,
    steps: int,
) -> None:  # fmt: skip
    """Steps as memory sees them, without their hooks: which block is reached when.

    Parameters
    ----------
    memory, folding : Remembers, Folding
        What is told.
    pieces : sequence of (int, bool)
        Blocks, or parts of them, in forward order; whether backward runs them.
    workload : Workload
        Its micro-steps.
    steps : int
        How many.
    """
    reduced = reductions(workload, workload.gradient_accumulation)
    for _ in range(steps):
        memory.start()
        for micro, sync in enumerate(reduced):
            memory.forward(sync=sync, accumulating=micro > 0)
            for block, _ in pieces:
                folding.open(block, 1)
                memory.reach(block)
                folding.close(block, 1)
            memory.backward()
            for block, runs in reversed(pieces):
                folding.open(block, -1)
                memory.reach(block)
                if runs:
                    folding.close(block, -1)
            memory.done()
        memory.step()


def shortened(tree: ModelTree, edge: int) -> ModelTree:
    """A model with `edge` layers at either end and one in the middle; 0: all of them."""
    if not edge:
        return tree
    return ModelTree(tree.embedding, tree.layers[: 2 * edge + 1], tree.head, tree.tied)


def lengthen(
    ops: Sequence[PlanOp], stretches: Sequence[Stretch], extra: int, names: Sequence[str]
) -> list[PlanOp]:
    """Insert `extra` layers at every stretch.

    Parameters
    ----------
    ops : sequence of PlanOp
        Recorded with `extra` layers missing from the middle.
    stretches : sequence of Stretch
        In order; forward ones after the last layer before the gap, backward ones after the first
        layer behind it.
    extra : int
        Layers to insert. [1]
    names : sequence of str
        Unit names by block number of the full model.

    Returns
    -------
    list of PlanOp
        The plan of the full model.
    """
    out: list[PlanOp] = []
    moved: list[int] = []  # new index of each recorded op
    head = len(names) - 1 - extra  # the head's number in the recorded plan
    edge = (head - 2) // 2  # recorded layers before a stretch ends, at least
    at = inserted = low = 0
    for (start, end), _, step in stretches:
        lift = 0 if step > 0 else extra
        _copy(ops, at, end, moved, (low, inserted), (lift, extra, head), names, out)
        period = end - start
        if period:  # backward ends before it gets there where nothing is trained
            out += _copies(out[-period:], extra, step, names)
        at, inserted, low = end, extra * period, end - edge * period
    _copy(ops, at, len(ops), moved, (low, inserted), (0, extra, head), names, out)
    return out


def _copy(
    ops: Sequence[PlanOp], start: int, stop: int, moved: list[int], gap: tuple[int, int],
    blocks: tuple[int, int, int], names: Sequence[str], out: list[PlanOp],
) -> None:  # fmt: skip
    """Recorded ops between two stretches.

    A dependency on an op of the layers right before the last one ends (not before ``gap[0]``) is on
    its copy, ``gap[1]`` later; an older one is on the op itself.
    """
    base = len(out) - start
    low, inserted = gap
    lift, extra, head = blocks
    moved += range(len(out), len(out) + stop - start)
    if not base:  # before the first gap, and before the head, which is behind it
        out += ops[start:stop]
        return
    for op in ops[start:stop]:
        (kind, stream, name, phase, block, module, deps, sync, micro, collective, group, bytes_in,
         bytes_out, dtype, unit, traffic, comm, calls) = op  # fmt: skip
        if deps:
            deps = tuple(
                [d + base if d >= start else moved[d] + (inserted if d >= low else 0) for d in deps]
            )
        elif sync < 0 and block <= 0:
            out.append(op)
            continue
        if sync >= 0:
            sync = sync + base if sync >= start else moved[sync] + (inserted if sync >= low else 0)
        if block == head:
            block += extra
        elif lift and block > 0:
            block += lift
            unit = names[block]
        out.append(_new_op(PlanOp, (
            kind, stream, name, phase, block, module, deps, sync, micro, collective, group,
            bytes_in, bytes_out, dtype, unit, traffic, comm, calls,
        )))  # fmt: skip


def _copies(
    template: Sequence[PlanOp], extra: int, step: int, names: Sequence[str]
) -> list[PlanOp]:
    """`extra` copies of a layer's ops, each `step` layers on, op by op and then put in order."""
    period = len(template)
    copies = [template[0]] * (extra * period)
    for at, op in enumerate(template):
        columns: list[Iterable[Any]] = [repeat(value, extra) for value in op]
        if op.block >= 0:  # what the host does stands in no block
            blocks = range(op.block + step, op.block + step * (extra + 1), step)
            columns[_BLOCK], columns[_UNIT] = blocks, [names[block] for block in blocks]
        if op.deps:
            columns[_DEPS] = zip(*[_shifted(d, period, extra) for d in op.deps], strict=True)
        if op.host_after >= 0:
            columns[_SYNC] = _shifted(op.host_after, period, extra)
        copies[at::period] = list(map(_new_op, repeat(PlanOp), zip(*columns, strict=True)))
    return copies


def _shifted(op: int, period: int, extra: int) -> range:
    """What an op of a layer is in each copy of the layer."""
    return range(op + period, op + period * extra + 1, period)
