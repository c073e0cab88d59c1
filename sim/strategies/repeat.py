"""Lengthen a plan by equal layers in its middle: recording a few layers, copying the others.

A strategy's state at layer k depends on a few layers before it (prefetch depth, retained
buffers), so in the middle of a run of equal layers its ops repeat, with indices and layers
shifted. Tests hold lengthened plans against plans recorded in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sim.strategies.plan import PlanOp

_new_op = tuple.__new__


class Fence(NamedTuple):
    """One layer's ops in one pass, after which copies of them are to be inserted."""

    start: int
    end: int
    step: int  # layers the next copy is on: 1 forward, -1 backward


def lengthen(
    ops: Sequence[PlanOp], fences: Sequence[Fence], extra: int, names: Sequence[str]
) -> list[PlanOp]:
    """Insert `extra` layers at every fence.

    Parameters
    ----------
    ops : sequence of PlanOp
        Recorded with `extra` layers missing from the middle.
    fences : sequence of Fence
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
    edge = (head - 2) // 2  # recorded layers before a fence, at least
    at = inserted = low = 0
    for fence in fences:
        lift = 0 if fence.step > 0 else extra
        _copy(ops, at, fence.end, moved, (low, inserted), (lift, extra, head), names, out)
        period = fence.end - fence.start
        template = out[-period:]
        for k in range(1, extra + 1):
            _shifted(template, k * period, k * fence.step, names, out)
        at, inserted, low = fence.end, extra * period, fence.end - edge * period
    _copy(ops, at, len(ops), moved, (low, inserted), (0, extra, head), names, out)
    return out


def _copy(
    ops: Sequence[PlanOp], start: int, stop: int, moved: list[int], gap: tuple[int, int],
    blocks: tuple[int, int, int], names: Sequence[str], out: list[PlanOp],
) -> None:  # fmt: skip
    """Recorded ops between two fences.

    A dependency on an op of the layers right before the last fence (not before ``gap[0]``) is on
    its copy, ``gap[1]`` later; an older one is on the op itself.
    """
    base = len(out) - start
    low, inserted = gap
    lift, extra, head = blocks
    for op in ops[start:stop]:
        deps, block, unit, sync = op.deps, op.block, op.unit, op.host_after
        if deps and base:
            deps = tuple(
                [d + base if d >= start else moved[d] + (inserted if d >= low else 0) for d in deps]
            )
        if sync >= 0 and base:
            sync = sync + base if sync >= start else moved[sync] + (inserted if sync >= low else 0)
        moved.append(len(out))
        if block == head:
            block += extra
        elif lift and block > 0:
            block += lift
            unit = names[block]
        if deps is not op.deps or block != op.block or sync != op.host_after:
            op = _new_op(PlanOp, (*op[:4], block, op[5], deps, sync, *op[8:14], unit, *op[15:]))
        out.append(op)


def _shifted(
    template: Sequence[PlanOp], ahead: int, layers: int, names: Sequence[str], out: list[PlanOp]
) -> None:
    """One copy of a layer's ops."""
    append = out.append
    for (
        kind, stream, name, phase, block, module, deps, host_after, micro_step,
        collective, group, bytes_in, bytes_out, dtype, _, traffic, comm,
    ) in template:  # fmt: skip
        if deps:
            deps = (deps[0] + ahead,) if len(deps) == 1 else tuple([d + ahead for d in deps])
        if host_after >= 0:
            host_after += ahead
        block += layers
        append(
            _new_op(PlanOp, (
                kind, stream, name, phase, block, module, deps, host_after, micro_step,
                collective, group, bytes_in, bytes_out, dtype, names[block], traffic, comm,
            ))
        )  # fmt: skip
