"""`scaling-sim memory` as text, JSON, CSV or Markdown."""

from __future__ import annotations

import json
from typing import Any

from sim.memory.fit import Bound
from sim.memory.report import MemoryReport
from sim.report.quantities import gib, percent, settings
from sim.result.fixes import MemoryFix

SCHEMA = "scaling-sim/memory/1"
_TITLES = {
    "sharded_parameters": "parameters (sharded)",
    "unsharded_parameters": "parameters (gathered)",
    "sharded_gradients": "gradients (sharded)",
    "unsharded_gradients": "gradients (unsharded)",
    "optimizer_states": "optimizer states",
    "activations": "activations, logits",
    "temporaries": "temporaries",
    "all_gather_buffers": "all-gather buffers",
    "reduce_scatter_buffers": "reduce-scatter buffers",
    "inputs": "inputs",
}
_OVERHEADS = {
    "stream_pools": "pools of other streams",
    "fragmentation": "fragmentation",
    "cuda_context": "CUDA context",
    "communicators": "NCCL buffers",
}


def table(
    title: str,
    report: MemoryReport,
    fixes: tuple[MemoryFix, ...],
    bound: Bound | None = None,
) -> str:
    """Verdict, byte table per moment, what dominates, fixes."""
    lines = [title, "", *_verdict(report)]
    if bound is not None:
        lines += ["", *_bound(bound)]
    lines += ["", *_rows(report)]
    if fixes:
        lines += ["", "  Fixes, those that make it fit first, cheapest in GPU time a token first"]
        width = max(len(f.description) for f in fixes)
        for fix in fixes:
            mark = "fits" if fix.fits else "does not fit"
            lines.append(
                f"    {fix.description:<{width}}  -{gib(fix.saved_bytes):>10} -> "
                f"{gib(fix.peak_reserved_bytes):>10}  {mark:<12}  "
                f"{_cost(fix):<30}  {settings(fix.change)}"
            )
    return "\n".join(lines)


def to_json(
    report: MemoryReport, fixes: tuple[MemoryFix, ...], bound: Bound | None = None
) -> dict[str, Any]:
    """The same as data: SI units, stable keys."""
    data: dict[str, Any] = {"schema": SCHEMA, "memory": _report(report)}
    if bound is not None:
        data["bound"] = {"quantity": bound.quantity, "value": bound.value}
        data["bound"]["memory"] = _report(bound.report)
    data["fixes"] = [
        {
            "change": f.change,
            "description": f.description,
            "saved_bytes": f.saved_bytes,
            "peak_reserved_bytes": f.peak_reserved_bytes,
            "fits": f.fits,
            "time_cost": f.time_cost,
            "changes_training": f.changes_training,
        }
        for f in fixes
    ]
    return data


def formatted(
    title: str,
    report: MemoryReport,
    fixes: tuple[MemoryFix, ...],
    bound: Bound | None,
    form: str,
) -> str:
    """Any of the formats a verb offers."""
    if form == "json":
        return json.dumps(_rounded(to_json(report, fixes, bound)), indent=2)
    if form in ("csv", "md"):
        moments = list(report.by_moment)
        rows = [["category", *moments]]
        for name in _TITLES:
            cells = [f"{report.categories_by_moment[m].get(name, 0.0):.0f}" for m in moments]
            rows.append([name, *cells])
        rows.append(["allocated", *(f"{report.by_moment[m]:.0f}" for m in moments)])
        if form == "csv":
            return "\n".join(",".join(row) for row in rows)
        rule = "|" + "---|" * len(rows[0])
        body = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([body[0], rule, *body[1:]])
    return table(title, report, fixes, bound)


def _report(report: MemoryReport) -> dict[str, Any]:
    return {
        "peak_allocated_bytes": report.peak_allocated_bytes,
        "peak_reserved_bytes": report.peak_reserved_bytes,
        "capacity_bytes": report.capacity_bytes,
        "fits": report.fits,
        "peak_moment": report.peak_moment,
        "dominating": report.dominating,
        "by_category": report.by_category,
        "terms": report.terms,
        "by_moment": report.by_moment,
        "categories_by_moment": report.categories_by_moment,
        "overheads": report.overheads,
        "warnings": [{"code": w.code, "message": w.message} for w in report.warnings],
        "host_bytes": report.host_bytes,
        "host_terms": report.host_terms,
        "host_loading_bytes": report.host_loading_bytes,
        "host_capacity_bytes": report.host_capacity_bytes,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return value


def _verdict(report: MemoryReport) -> list[str]:
    used = f"{gib(report.peak_reserved_bytes)} of {gib(report.capacity_bytes)}"
    share = percent(report.peak_reserved_bytes / report.capacity_bytes)
    size = gib(report.terms.get(report.dominating, 0.0))
    why = f"largest at the peak ({report.peak_moment}): {report.dominating}, {size}"
    if report.fits:
        lines = [f"  Fits: {used} ({share}); {why}"]
        if report.headroom_bytes < 0.05 * report.capacity_bytes:
            lines.append("  ! within 5 % of the capacity: allocator retries will slow the step")
    elif report.headroom_bytes >= 0:
        lines = [f"  Does not fit on the host; the GPU would take {used} ({share})"]
    else:
        lines = [f"  Does not fit: {used} ({share}), {gib(-report.headroom_bytes)} too much; {why}"]
    for warning in report.warnings:
        if warning.code != "memory.close-to-capacity":
            lines.append(f"  ! {warning.message}; {warning.hint}")
    capacity = gib(report.host_capacity_bytes)
    if report.host_bytes:
        verdict = "" if report.host_bytes <= report.host_capacity_bytes else ": does not fit"
        parts = sorted(report.host_terms.items(), key=lambda item: -item[1])
        text = ", ".join(f"{name} {gib(size)}" for name, size in parts)
        lines.append(
            f"  Host memory a node: {gib(report.host_bytes)} of {capacity}{verdict} ({text})"
        )
    loading = report.host_loading_bytes
    if loading:
        verdict = "" if loading <= report.host_capacity_bytes else ": does not fit"
        lines.append(
            f"  Host memory a node while loading, a copy on every rank: {gib(loading)} of "
            f"{capacity}{verdict}"
        )
    return lines


def _bound(bound: Bound) -> list[str]:
    name = bound.quantity.replace("_", " ")
    most = "Fewest nodes that fit" if bound.quantity == "nodes" else f"Largest {name} that fits"
    line = f"  {most}: {bound.value:,} ({gib(bound.report.peak_reserved_bytes)}"
    if bound.beyond is not None:
        line += f"; one step beyond {gib(bound.beyond.peak_reserved_bytes)}"
    return [line + ")"]


def _rows(report: MemoryReport) -> list[str]:
    moments = list(report.by_moment)
    width = max(len(t) for t in (*_TITLES.values(), *_OVERHEADS.values()))
    lines = [f"  {'GiB per GPU':<{width}}" + "".join(f"{m:>11}" for m in moments)]
    gigabytes = float(1 << 30)
    for name, text in _TITLES.items():
        cells = [report.categories_by_moment[m].get(name, 0.0) / gigabytes for m in moments]
        if max(cells) >= 0.005:
            shown = "".join(f"{c:>11.2f}" if c >= 0.005 else f"{'-':>11}" for c in cells)
            lines.append(f"  {text:<{width}}{shown}")
    total = "".join(f"{report.by_moment[m] / gigabytes:>11.2f}" for m in moments)
    lines.append(f"  {'allocated':<{width}}{total}")
    for name, text in _OVERHEADS.items():
        size = report.overheads.get(name, 0.0) / gigabytes
        if size >= 0.005:
            lines.append(f"  + {text:<{width - 2}}{size:>11.2f}")
    reserved = report.peak_reserved_bytes / gigabytes
    lines.append(f"  {'needed in all':<{width}}{reserved:>11.2f}")
    return lines


def _cost(fix: MemoryFix) -> str:
    cost = f"time {100 * fix.time_cost:+.1f} %"
    return f"{cost}, another training" if fix.changes_training else cost
