"""`scaling-sim memory`: verdict, bytes by category and moment, what would make it fit."""

from __future__ import annotations

from sim.memory.bound import Bound
from sim.memory.report import MemoryReport
from sim.memory.verdict import Verdict
from sim.quantities import gib, percent
from sim.report.settings import settings
from sim.report.view import Cell, Column, Lines, Row, Table, View, ViewPart, left, warned
from sim.result.memory import MemoryAnswer
from sim.result.trials import MemoryFix
from sim.units import GIB

TITLES = {
    "sharded_parameters": "parameters (sharded)",
    "unsharded_parameters": "parameters (gathered)",
    "sharded_gradients": "gradients (sharded)",
    "unsharded_gradients": "gradients (unsharded)",
    "optimizer_states": "optimizer states",
    "activations": "activations, logits",
    "pipeline_messages": "messages of the pipeline",
    "reference_model": "reference model",
    "temporaries": "temporaries",
    "all_gather_buffers": "all-gather buffers",
    "reduce_scatter_buffers": "reduce-scatter buffers",
    "inputs": "inputs",
}
_WHOLE = TITLES | {
    "sharded_parameters": "parameters",
    "unsharded_parameters": "parameters (copies)",
    "unsharded_gradients": "gradients",
    "reduce_scatter_buffers": "buckets of gradients",
}
#: how it ends: no error of CUDA's, no traceback
KILLED = "where Linux would kill a rank (exit code -9)"
_OVERHEADS = {
    "stream_pools": "pools of other streams",
    "fragmentation": "fragmentation",
    "cuda_context": "CUDA context",
    "communicators": "NCCL buffers",
}


def titles(report: MemoryReport) -> dict[str, str]:
    """Words for the categories of a report: what is sharded is called that."""
    return _WHOLE if report.whole else TITLES


def view(answer: MemoryAnswer) -> View:
    """What `scaling-sim memory` says."""
    report = answer.report
    bound = [*map(_bound, answer.bounds), *answer.unbounded]
    sections: list[ViewPart] = [
        Lines([_verdict(report)]), warned(answer.warnings)._replace(apart=False),
        Lines(_host(report), apart=False), Lines(bound), _moments(report),
        _fixes(answer.fixes, report.verdict),
    ]  # fmt: skip
    return View(answer.title, sections, answer)


def _verdict(report: MemoryReport) -> str:
    found = report.verdict
    used = f"{gib(report.needed_bytes)} of {gib(report.capacity_bytes)}"
    share = percent(found.share)
    size = gib(report.terms.get(report.dominating, 0.0))
    why = f"largest at the peak ({report.peak_moment}): {report.dominating}, {size}"
    if found.risk:
        return f"At risk: {used} ({share}), {found.risk}; {why}"
    if found.fits:
        return f"Fits: {used} ({share}); {why}"
    if found.on_gpu:
        return f"Does not fit on the host, {KILLED}; the GPU would take {used} ({share})"
    return f"Does not fit: {used} ({share}), {gib(-report.headroom_bytes)} too much; {why}"


def _host(report: MemoryReport) -> list[str]:
    lines = []
    capacity = report.host_capacity_bytes
    if report.host_bytes:
        parts = sorted(report.host_terms.items(), key=lambda item: -item[1])
        text = ", ".join(f"{name} {gib(size)}" for name, size in parts)
        verdict = "" if report.host_bytes <= capacity else ": does not fit"
        lines.append(
            f"Host memory a node: {gib(report.host_bytes)} of {gib(capacity)}{verdict} ({text})"
        )
    loading = report.host_loading_bytes
    if loading:
        verdict = "" if loading <= capacity else ": does not fit"
        lines.append(
            f"Host memory a node while loading, a copy on every rank: {gib(loading)} of "
            f"{gib(capacity)}{verdict}"
        )
    return lines


def _bound(bound: Bound) -> str:
    name = bound.quantity.replace("_", " ")
    most = "Fewest nodes that fit" if bound.quantity == "nodes" else f"Largest {name} that fits"
    line = f"{most}: {bound.value:,} ({gib(bound.report.needed_bytes)}"
    if bound.beyond is not None:
        line += f"; one step beyond {gib(bound.beyond.needed_bytes)}"
    risk = bound.report.verdict.risk
    if risk:
        line += f"; {risk}"
    if bound.sure is not None:
        line += f"; without risk {bound.sure:,}"
    return line + ")"


def _moments(report: MemoryReport) -> Table:
    moments = list(report.by_moment)
    width = max(len(t) for t in (*TITLES.values(), *_OVERHEADS.values()))
    rows: list[Row] = []
    for name, text in titles(report).items():
        sizes = [report.categories_by_moment[m].get(name, 0.0) for m in moments]
        if max(sizes) >= 0.005 * GIB:
            rows.append([text, *map(_size, sizes)])
    rows.append(["allocated", *(_gib(report.by_moment[m]) for m in moments)])
    for name, text in _OVERHEADS.items():
        size = report.overheads.get(name, 0.0)
        if size >= 0.005 * GIB:
            rows.append([f"+ {text}", _gib(size)])
    rows.append(["reserved, were there room", _gib(report.peak_reserved_bytes)])
    rows.append(["needed in all", _gib(report.needed_bytes)])
    columns = [
        left("GiB per GPU", width=width), *(Column(m, width=11, before="") for m in moments)
    ]  # fmt: skip
    return Table(columns, rows, indent=2)


def _gib(size: float) -> Cell:
    return Cell(f"{size / GIB:.2f}", size, "B")


def _size(size: float) -> Cell:
    return _gib(size) if size >= 0.005 * GIB else Cell("-", size, "B")


def _fixes(fixes: tuple[MemoryFix, ...], now: Verdict) -> Table:
    columns = [
        left("change"), Column("saves", width=10, before="  -"),
        Column("needs then", width=10, before=" -> "), left("verdict", width=12),
        left("cost", width=30), left("as options"),
    ]  # fmt: skip
    rows: list[Row] = [
        [
            f.description, Cell(gib(f.saved_bytes), f.saved_bytes, "B"),
            Cell(gib(f.needed_bytes), f.needed_bytes, "B"),
            f.verdict, Cell(_cost(f), f.time_cost), settings(f.change),
        ]
        for f in fixes
    ]  # fmt: skip
    if now.fits:
        lead = f"What would save {'host memory a node' if now.host_decides else 'memory'}"
    else:
        found = "those that make it fit first"
        lead = f"Fixes{' of host memory a node' * now.host_decides}, "
        lead += found if any(f.fits for f in fixes) else "none of which makes it fit"
    heading = f"{lead}, cheapest in GPU time a token first"
    return Table(columns, rows, heading, headed=False)


def _cost(fix: MemoryFix) -> str:
    cost = f"time {percent(fix.time_cost, sign='+')}"
    return f"{cost}, another training" if fix.changes_training else cost
