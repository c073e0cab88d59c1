"""A Comparison as a side-by-side table with reasons, or as JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from sim.documents import plain
from sim.report.quantities import count, duration, gib, percent, usd
from sim.result.result import Result
from sim.study.compare import PARTS, Comparison, part_times

Row = tuple[str, Callable[[Result], str]]
_RATIOS = {
    "tokens_per_s": "tokens/s", "tokens_per_s_per_GPU": "tokens/s per GPU", "memory": "memory",
    "cost": "cost", "energy": "energy",
}  # fmt: skip


def _usd(value: float | None) -> str:
    return "no price" if value is None else usd(value)


def _optional(section: object, key: str, show: Callable[[float], str]) -> str:
    value = getattr(section, key, None)
    return "-" if value is None else show(value)


def _band(result: Result) -> str:
    known = result.uncertainty
    if known is None:
        return ""
    return f" ({duration(known.step_time_s.low)} to {duration(known.step_time_s.high)})"


ROWS: tuple[Row, ...] = (
    ("machine", lambda r: r.topology.title),
    ("job", lambda r: f"{r.workload.title} {r.workload.precision}"),
    (
        "memory per GPU",
        lambda r: (
            gib(r.memory.peak_reserved_bytes)
            + (" fits" if r.memory.fits else f" of {gib(r.memory.capacity_bytes)}: DOES NOT FIT")
        ),
    ),
    ("step time", lambda r: duration(r.step.time_s) + _band(r)),
    ("tokens/s", lambda r: count(r.throughput.tokens_per_s)),
    ("tokens/s per GPU", lambda r: count(r.throughput.tokens_per_s_per_gpu)),
    ("MFU", lambda r: percent(r.throughput.mfu)),
    ("exposed comm", lambda r: percent(r.step.exposed_communication_s / r.step.time_s)),
    ("bottleneck", lambda r: r.bottleneck.kind),
    ("wall-clock", lambda r: _optional(r.job, "wall_clock_s", duration)),
    ("goodput", lambda r: _optional(r.job, "goodput", percent)),
    ("cost", lambda r: _usd(r.cost.total_usd if r.cost else None) if r.job else "-"),
    ("per million tokens", lambda r: _optional(r.cost, "usd_per_million_tokens", _usd)),
    ("energy", lambda r: _optional(r.energy, "energy_j", lambda j: f"{j / 3.6e6:,.0f} kWh")),
    ("CO2e", lambda r: _optional(r.energy, "co2_kg", lambda kg: f"{kg:,.0f} kg")),
)


def formatted(comparison: Comparison, form: str) -> str:
    """As ``table``, ``json``, ``csv`` (one row a variant) or ``md``."""
    if form == "json":
        return comparison.to_json()
    if form == "csv":
        return _csv(comparison)
    if form == "md":
        return _markdown(comparison)
    return _table(comparison)


def grid(comparison: Comparison) -> list[list[str]]:
    """Rows of cells: a header, the metrics, the parts of the step as GPU-time per token."""
    variants = comparison.variants
    rows = [["", *(v.label for v in variants)]]
    rows += [[name, *(show(v.result) for v in variants)] for name, show in ROWS]
    times = [part_times(v.result) for v in variants]
    for part in PARTS:
        cells = [f"{t[part] * 1e6:.1f}" for t in times]
        if any(float(cell) for cell in cells):
            rows.append([f"{part} [us/token/GPU]", *cells])
    deltas = comparison.deltas
    for key, name in _RATIOS.items():
        cells = [_times(d.ratios[key]) for d in deltas]
        if any(cell != "-" for cell in cells):
            rows.append([f"{name} ratio", "1", *cells])
    return rows


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"


_WIDEST = 4  # variants that stand side by side; more are listed, one a line
_LISTED = (
    "memory per GPU", "step time", "tokens/s", "tokens/s per GPU", "MFU", "exposed comm",
    "bottleneck", "wall-clock", "cost",
)  # fmt: skip


def _laid_out(comparison: Comparison) -> list[list[str]]:
    rows = grid(comparison)
    if len(comparison.variants) <= _WIDEST:
        return rows
    kept = [rows[0], *(row for row in rows if row[0] in _LISTED)]
    ratio = ["ratio", "1", *(_times(d.tokens_per_s_ratio) for d in comparison.deltas)]
    return [list(column) for column in zip(*kept, ratio, strict=True)]


def _table(comparison: Comparison) -> str:
    rows = _laid_out(comparison)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    for delta in comparison.deltas:
        lines += ["", f"  Why {delta.label} differs from {comparison.variants[0].label}"]
        lines += [f"    {reason}" for reason in delta.reasons]
    ending = (*comparison.summary, *comparison.notes)
    return "\n".join([*lines, "", *(f"  {line}" for line in ending)])


def _markdown(comparison: Comparison) -> str:
    head, *body = _laid_out(comparison)
    lines = [_md_row(head), _md_row(["---", *["---:"] * (len(head) - 1)])]
    lines += [_md_row(row) for row in body]
    for delta in comparison.deltas:
        lines += ["", f"Why {delta.label} differs from {comparison.variants[0].label}:", ""]
        lines += [f"- {reason}" for reason in delta.reasons]
    ending = (*comparison.summary, *comparison.notes)
    return "\n".join([*lines, "", *(f"{line}  " for line in ending)])


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _csv(comparison: Comparison) -> str:
    rows = comparison.records()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_written(value) for value in row.values()] for row in rows)
    return text.getvalue().rstrip("\n")


def _written(value: object) -> str:
    if isinstance(value, float):
        return str(plain(value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
