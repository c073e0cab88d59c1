"""Rows of the kernels of a block's template, kept for all steps that run it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from sim.blocks.kernels import Kernel
from sim.cost.host import HostModel
from sim.cost.kernel_cost import CostModel
from sim.lowering.rows import CATEGORY, RowBlock, RowTable, kernel_rows
from sim.strategies.plan import modules_of


class TemplateRun(NamedTuple):
    """A template that a step runs, or one of its modules.

    Attributes
    ----------
    kernels : tuple of Kernel
        Of all modules.
    module : str
        As a plan's segment names it; "" for all.
    calls_s : float
        CPU time of calls before the first. [s]
    """

    kernels: tuple[Kernel, ...]
    module: str
    calls_s: float


_BlockKey = tuple[int, int, int, str, float, float]
_blocks: dict[_BlockKey, tuple[CostModel, HostModel, tuple[Kernel, ...], RowBlock]] = {}
MAX_BLOCKS = 4096


def template_rows(
    model: CostModel, host: HostModel, hbm: float, asked: Sequence[TemplateRun]
) -> list[RowBlock]:
    """Rows of the kernels of templates; those that are not known are priced together."""
    keys = [(id(model), id(host), id(run.kernels), run.module, hbm, run.calls_s) for run in asked]
    missing = {key: run for key, run in zip(keys, asked, strict=True) if key not in _blocks}
    if missing:
        if len(_blocks) + len(missing) > MAX_BLOCKS:
            _blocks.clear()
            missing = dict(zip(keys, asked, strict=True))
        made = _made(model, host, hbm, list(missing.values()))
        for (key, run), block in zip(missing.items(), made, strict=True):
            _blocks[key] = model, host, run.kernels, block  # held, so that the ids stay theirs
    return [_blocks[key][-1] for key in keys]


def _made(
    model: CostModel, host: HostModel, hbm: float, asked: Sequence[TemplateRun]
) -> list[RowBlock]:
    own = [
        tuple([k for k in run.kernels if k.module in modules]) if modules else run.kernels
        for run, modules in [(run, run.module and modules_of(run.module)) for run in asked]
    ]
    every = [k for kernels in own for k in kernels]
    costs = model.costs(every)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.minimum(costs.hbm_bytes / costs.time_s, hbm)
    host_s = np.array([host.launch_s(k) for k in every], dtype=float)
    ends = list(accumulate(map(len, own), initial=0))
    for first, run, kernels in zip(ends, asked, own, strict=False):
        if kernels:
            host_s[first] += run.calls_s
    blocks = kernel_rows(
        costs.time_s, costs.curve, rate, host_s, [CATEGORY[k.kind] for k in every],
        [k.waits for k in every], list(pairwise(ends)),
    )  # fmt: skip
    return [
        block._replace(notes=model.fallbacks_of(kernels)) if kernels else _idle(run.calls_s)
        for block, kernels, run in zip(blocks, own, asked, strict=True)
    ]


def _idle(calls_s: float) -> RowBlock:
    """A template without kernels: the CPU goes by."""
    idle = RowTable()
    idle.add(host_s=calls_s, category=CATEGORY["elementwise"])
    return idle.block()
