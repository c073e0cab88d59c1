"""Rows of the kernels of templates, and of all that a plan runs of them, kept for all steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np

from sim.blocks.kernels import Kernel
from sim.blocks.unroll import Templates
from sim.cost.host import HostModel
from sim.cost.kernel_cost import CostModel
from sim.lowering.rows import (
    CATEGORY,
    KernelRows,
    RowBlock,
    chained,
    idle_row,
    kernel_rows,
    one_of,
)
from sim.records import NamedTuple
from sim.strategies.plan import Calls, modules_of


class Segment(NamedTuple):
    """A segment over tokens: a template that a plan runs, or one of its modules.

    Attributes
    ----------
    block : str
        Kind of the block.
    phase : str
        Of its templates.
    module : str
        As the plan names it; "" for all.
    calls_s : float
        CPU time of calls before its first kernel, but of a trainer's. [s]
    calls : tuple of (str, float)
        Calls of a trainer before it, and how often.
    """

    block: str
    phase: str
    module: str
    calls_s: float
    calls: Calls


class Segments:
    """Those of a plan: the same if it is one."""

    __slots__ = ("of",)

    def __init__(self, of: tuple[Segment, ...]) -> None:
        self.of = of


def segments_of(of: tuple[Segment, ...]) -> Segments:
    """Segments, one object for equal ones."""
    return one_of(("segments", of), lambda: Segments(of))


class TemplateRows(NamedTuple):
    """Rows of segments, one after the other, and how many each has."""

    block: RowBlock
    sizes: tuple[int, ...]
    notes: tuple[str, ...]  # what is costed with constants of something else


class _TemplateRun(NamedTuple):
    """Kernels of a template, the module that is run, and CPU time of calls. [s]"""

    kernels: tuple[Kernel, ...]
    module: str
    calls_s: float  # before the first kernel
    along_s: float  # from there on, before each as much


#: calls of a trainer that go along with all kernels of a segment: its own modules' Python
ALONG = ("trainer.layer_forward", "trainer.layer_backward")

_BlockKey = tuple[int, int, int, str, float, float, float]
_blocks: dict[_BlockKey, tuple[CostModel, HostModel, tuple[Kernel, ...], KernelRows]] = {}
_rows: dict[tuple[object, ...], tuple[CostModel, HostModel, Segments, Templates, TemplateRows]] = {}
MAX_BLOCKS, MAX_ROWS = 4096, 512


def template_rows(
    model: CostModel, host: HostModel, hbm: float, segments: Segments, templates: Templates,
    trainer: Mapping[str, float],
) -> TemplateRows:  # fmt: skip
    """Rows of a plan's segments; those that are not known are priced together.

    Parameters
    ----------
    model, host : CostModel, HostModel
        Of the ranks' GPU, and of its host.
    hbm : float
        What a GPU's memory moves at most. [B/s]
    segments : Segments
        What is run.
    templates : Templates
        Of the job.
    trainer : mapping of str to float
        CPU time of its trainer's calls, on the constants' host. [s]
    """
    key = (id(model), id(host), id(segments), id(templates), hbm, *trainer.values())
    known = _rows.get(key)
    if known is not None:
        return known[-1]
    asked = [
        _TemplateRun(
            templates.of(each.block, each.phase), each.module,
            each.calls_s + host.trainer_s([c for c in each.calls if c[0] not in ALONG], trainer),
            host.trainer_s([c for c in each.calls if c[0] in ALONG], trainer),
        )
        for each in segments.of
    ]  # fmt: skip
    blocks = _blocks_of(model, host, hbm, asked)
    sizes = tuple([block.category.size for block in blocks])
    every = {id(run.kernels): run.kernels for run in asked}.values()
    notes = model.fallbacks_of([k for kernels in every for k in kernels])
    found = TemplateRows(chained(blocks), sizes, notes)
    if len(_rows) >= MAX_ROWS:
        _rows.clear()
    _rows[key] = model, host, segments, templates, found  # held, so that the ids stay theirs
    return found


def _blocks_of(
    model: CostModel, host: HostModel, hbm: float, asked: Sequence[_TemplateRun]
) -> list[KernelRows]:
    keys = [
        (id(model), id(host), id(run.kernels), run.module, hbm, run.calls_s, run.along_s)
        for run in asked
    ]
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
    model: CostModel, host: HostModel, hbm: float, asked: Sequence[_TemplateRun]
) -> list[KernelRows]:
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
            host_s[first : first + len(kernels)] += run.along_s / len(kernels)
    blocks = kernel_rows(
        costs.time_s, costs.curve, rate, host_s, [CATEGORY[k.kind] for k in every],
        [k.waits for k in every], list(pairwise(ends)),
    )  # fmt: skip
    return [
        block if kernels else idle_row(run.calls_s + run.along_s)
        for block, kernels, run in zip(blocks, own, asked, strict=True)
    ]
