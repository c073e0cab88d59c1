"""Rows of the kernels of templates, and of all that a plan runs of them, kept for all steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from sim.blocks.kernels import Kernel
from sim.blocks.unroll import Templates
from sim.cost.host import HostModel
from sim.cost.kernel_cost import CostModel
from sim.lowering.parts import I8
from sim.lowering.rows import (
    CATEGORY,
    IDLE,
    KernelRows,
    RowBlock,
    chained,
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


class _TemplateCosts(NamedTuple):
    """What kernels of a template cost on a GPU and its host."""

    kernels: tuple[Kernel, ...]
    rows: KernelRows
    notes: tuple[str, ...]
    by_module: dict[str, list[int]]  # which of them each leaf module runs
    places: dict[str, I8]  # which of them segments run that have been asked for, by their module

    def run_by(self, module: str) -> I8:
        """Which of the kernels a segment of a module, of several or of all ("") runs."""
        found = self.places.get(module)
        if found is None:
            at: Iterable[int] = range(len(self.kernels))
            if module:
                at = chain.from_iterable(self.by_module.get(m, ()) for m in modules_of(module))
            found = self.places[module] = np.array(sorted(at), dtype=np.int64)
        return found


#: calls of a trainer that go along with all kernels of a segment: its own modules' Python
ALONG = ("trainer.layer_forward", "trainer.layer_backward")

_AT_IDLE = np.zeros(1, dtype=np.int64)
_costs: dict[tuple[int, int, int, float], tuple[CostModel, HostModel, _TemplateCosts]] = {}
_rows: dict[tuple[object, ...], tuple[CostModel, HostModel, Segments, Templates, TemplateRows]] = {}
MAX_COSTS, MAX_ROWS = 1024, 512


def template_rows(
    model: CostModel, host: HostModel, hbm: float, segments: Segments, templates: Templates,
    trainer: Mapping[str, float],
) -> TemplateRows:  # fmt: skip
    """Rows of a plan's segments; templates that are not known are priced together.

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
    kernels = [templates.of(each.block, each.phase) for each in segments.of]
    costs = _costs_of(model, host, hbm, kernels)
    notes = chain(model.constants.fallbacks, *(each.notes for each in costs))
    found = _of_segments(host, segments.of, costs, trainer, tuple(dict.fromkeys(notes)))
    if len(_rows) >= MAX_ROWS:
        _rows.clear()
    _rows[key] = model, host, segments, templates, found  # held, so that the ids stay theirs
    return found


def _of_segments(
    host: HostModel, segments: Sequence[Segment], costs: Sequence[_TemplateCosts],
    trainer: Mapping[str, float], notes: tuple[str, ...],
) -> TemplateRows:  # fmt: skip
    """Rows of segments, each of a template that costs so much."""
    distinct = list({id(each): each for each in costs}.values())
    parts = [IDLE, *(each.rows for each in distinct)]
    ends = accumulate(part.category.size for part in parts)
    first = {id(each): end for each, end in zip(distinct, ends, strict=False)}
    at = []
    for each, cost in zip(segments, costs, strict=True):
        mine = cost.run_by(each.module)
        at.append(mine + first[id(cost)] if mine.size else _AT_IDLE)
    sizes = tuple([mine.size for mine in at])
    calls, along = np.zeros(len(at)), np.zeros(len(at))
    for i, each in enumerate(segments):
        calls[i] = each.calls_s
        if each.calls:
            calls[i] += host.trainer_s([c for c in each.calls if c[0] not in ALONG], trainer)
            along[i] = host.trainer_s([c for c in each.calls if c[0] in ALONG], trainer)
    rows = chained(parts, np.concatenate(at) if at else _AT_IDLE[:0])
    host_s = rows.columns[6]
    host_s[np.cumsum((0, *sizes))[:-1]] += calls
    host_s += (along / sizes).repeat(sizes)
    return TemplateRows(rows, sizes, notes)


def _costs_of(
    model: CostModel, host: HostModel, hbm: float, asked: Sequence[tuple[Kernel, ...]]
) -> list[_TemplateCosts]:
    keys = [(id(model), id(host), id(kernels), hbm) for kernels in asked]
    missing = {key: one for key, one in zip(keys, asked, strict=True) if key not in _costs}
    if missing:
        if len(_costs) + len(missing) > MAX_COSTS:
            _costs.clear()
            missing = dict(zip(keys, asked, strict=True))
        made = _priced(model, host, hbm, list(missing.values()))
        for key, one in zip(missing, made, strict=True):
            _costs[key] = model, host, one  # held, so that the ids stay theirs
    return [_costs[key][-1] for key in keys]


def _priced(
    model: CostModel, host: HostModel, hbm: float, templates: Sequence[tuple[Kernel, ...]]
) -> Iterator[_TemplateCosts]:
    """What templates cost, all of them together."""
    every = [k for kernels in templates for k in kernels]
    costs = model.costs(every)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.minimum(costs.hbm_bytes / costs.time_s, hbm)
    blocks = kernel_rows(
        costs.time_s, costs.curve, rate, [host.launch_s(k) for k in every],
        [CATEGORY[k.kind] for k in every], [k.waits for k in every],
        list(pairwise(accumulate(map(len, templates), initial=0))),
    )  # fmt: skip
    for kernels, rows in zip(templates, blocks, strict=True):
        by_module: dict[str, list[int]] = {}
        for i, kernel in enumerate(kernels):
            by_module.setdefault(kernel.module, []).append(i)
        yield _TemplateCosts(kernels, rows, model.fallbacks_of(kernels), by_module, {})
