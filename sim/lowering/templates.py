"""Rows of the kernels of a block's template, kept for all steps that run it."""

from __future__ import annotations

import numpy as np

from sim.blocks.kernels import Kernel
from sim.cost.host import HostModel
from sim.cost.kernel_cost import CostModel
from sim.lowering.rows import CATEGORY, RowBlock, RowTable, kernel_rows
from sim.strategies.plan import runs

_BlockKey = tuple[int, int, int, str, float, float]
_blocks: dict[_BlockKey, tuple[CostModel, HostModel, tuple[Kernel, ...], RowBlock]] = {}
MAX_BLOCKS = 4096


def template_rows(
    model: CostModel, host: HostModel, kernels: tuple[Kernel, ...], module: str, hbm: float,
    calls_s: float,
) -> RowBlock:  # fmt: skip
    """Rows of a template's kernels, or of those of one of its modules; before the first, calls."""
    key = (id(model), id(host), id(kernels), module, hbm, calls_s)
    found = _blocks.get(key)
    if found is not None:
        return found[-1]
    own = tuple(k for k in kernels if runs(module, k.module)) if module else kernels
    if own:
        block = _kernels(model, host, own, hbm, calls_s)
    else:
        idle = RowTable()
        idle.add(host_s=calls_s, category=CATEGORY["elementwise"])
        block = idle.block()
    if len(_blocks) >= MAX_BLOCKS:
        _blocks.clear()
    _blocks[key] = (model, host, kernels, block)  # held, so that the ids stay theirs
    return block


def _kernels(
    model: CostModel, host: HostModel, own: tuple[Kernel, ...], hbm: float, calls_s: float
) -> RowBlock:
    costs = model.costs(own)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.minimum(costs.hbm_bytes / costs.time_s, hbm)
    host_s = np.array([host.launch_s(k) for k in own], dtype=float)
    host_s[0] += calls_s
    return kernel_rows(
        costs.time_s, costs.curve, rate, host_s, [CATEGORY[k.kind] for k in own],
        [k.waits for k in own], model.fallbacks_of(own),
    )  # fmt: skip
