"""A Comparison: figures side by side, why each differs from the first, what to choose."""

from __future__ import annotations

from collections.abc import Callable

from sim.inputs.notes import Message
from sim.quantities import count, counted, duration, gib, percent, usd
from sim.report.view import (
    Cell,
    Column,
    Lines,
    Remarks,
    Row,
    Table,
    View,
    ViewPart,
    borrowed,
    so_far,
    warned,
)
from sim.result.result import Result
from sim.study.compared import PARTS, Comparison, part_times

_RATIOS = {
    "tokens_per_s": "tokens/s", "tokens_per_s_per_GPU": "tokens/s per GPU", "memory": "memory",
    "cost": "cost", "energy": "energy",
}  # fmt: skip
_WIDEST = 4  # variants that stand side by side; more are listed, one a line
_LISTED = (
    "memory per GPU", "step time", "tokens/s", "tokens/s per GPU", "MFU", "exposed comm",
    "bottleneck", "wall-clock", "cost",
)  # fmt: skip


def view(comparison: Comparison) -> View:
    """What `scaling-sim compare` says."""
    first = comparison.variants[0].label
    why = [
        Lines(d.reasons, f"Why {d.label} differs from {first}", indent=4, list=True)
        for d in comparison.deltas
    ]
    ended = []
    if comparison.stopped:
        ended = [so_far(len(comparison.variants), comparison.asked, "variant")]
    said = dict.fromkeys(text for v in comparison.variants for text in v.result.borrowed)
    parts: list[ViewPart] = [
        _table(comparison), *why, Lines(comparison.summary),
        Remarks([*ended, *comparison.notes, *_warned(comparison), *borrowed(said).lines],
                apart=not comparison.summary),
    ]  # fmt: skip
    return View("", parts, comparison)


def _warned(comparison: Comparison) -> list[str]:
    """What variants are warned of, each warning once, with those that it is of if not of all."""
    of: dict[Message, list[str]] = {}
    for variant in comparison.variants:
        for warning in variant.result.warnings:
            of.setdefault(warning, []).append(variant.label)
    lines = []
    for labels, line in zip(of.values(), warned(of).lines, strict=True):
        if len(labels) < len(comparison.variants):
            many = f"{counted(len(labels), 'variant')} of {len(comparison.variants)}"
            line = f"{line} [{', '.join(labels) if len(labels) <= _WIDEST else many}]"
        lines.append(line)
    return lines


def _table(comparison: Comparison) -> Table:
    head, *rows = _grid(comparison)
    if len(comparison.variants) > _WIDEST:
        ratios = ("1", *(_times(d.tokens_per_s_ratio) for d in comparison.deltas))
        listed = _LISTED if comparison.as_long else (*_LISTED, "per million tokens")
        kept = [head, *(row for row in rows if row[0] in listed), ("ratio", *ratios)]
        turned: list[Row] = [list(column) for column in zip(*kept, strict=True)]
        head, *rows = turned
    columns = [Column(str(label), right=i > 0) for i, label in enumerate(head)]
    return Table(columns, rows, indent=2)


def _grid(comparison: Comparison) -> list[Row]:
    """Labels of the variants, the metrics, the parts of the step as GPU-time per token."""
    variants = comparison.variants
    rows: list[Row] = [["", *(v.label for v in variants)]]
    rows += [[name, *(show(v.result) for v in variants)] for name, show in _ROWS]
    times = [part_times(v.result) for v in variants]
    for part in PARTS:
        cells = [Cell(f"{t[part] * 1e6:.1f}", t[part], "s") for t in times]
        if any(float(cell.text) for cell in cells):
            rows.append([f"{part} [us/token/GPU]", *cells])
    for key, name in _RATIOS.items():
        if key == "cost":
            rows += _cost_ratios(comparison)
            continue
        ratios = [_times(d.ratios[key]) for d in comparison.deltas]
        if any(cell.value is not None for cell in ratios):
            rows.append([f"{name} ratio", "1", *ratios])
    return rows


def _cost_ratios(comparison: Comparison) -> list[Row]:
    """Of one provider's prices apart from those of prices as they are, where both are there."""
    own = [_times(d.ratios["cost"]) for d in comparison.deltas]
    same = [
        _times(next((p.cost_ratio for p in d.prices if p.one_provider), None))
        for d in comparison.deltas
    ]
    if not any(cell.value is not None for cell in own):
        return []
    if all(p.alike for d in comparison.deltas for p in d.prices):
        return [["cost ratio", "1", *own]]
    rows: list[Row] = [["cost ratio, each at its price", "1", *own]]
    if any(cell.value is not None for cell in same):
        rows.insert(0, ["cost ratio, one provider", "1", *same])
    return rows


def _times(value: float | None) -> Cell:
    return Cell("-" if value is None else f"{value:.2f} x", value)


def _cell(value: float | None, show: Callable[[float], str], unit: str = "") -> Cell:
    return Cell("-" if value is None else show(value), value, unit)


def _memory(r: Result) -> Cell:
    m = r.memory
    verdict = f" {m.verdict}" if m.fits else f" of {gib(m.capacity_bytes)}: DOES NOT FIT"
    return Cell(gib(m.needed_bytes) + verdict, m.needed_bytes, "B")


def _step(r: Result) -> Cell:
    band = ""
    if r.uncertainty is not None:
        known = r.uncertainty.step_time_s
        band = f" ({duration(known.low)} to {duration(known.high)})"
    return Cell(duration(r.step.time_s) + band, r.step.time_s, "s")


def _cost(r: Result) -> Cell | str:
    if not r.job:
        return "-"
    total = r.cost.total_usd if r.cost else None
    return "no price" if total is None else Cell(usd(total), total, "USD")


def _optional(section: object, key: str, show: Callable[[float], str], unit: str = "") -> Cell:
    return _cell(getattr(section, key, None), show, unit)


_ROWS: tuple[tuple[str, Callable[[Result], Cell | str]], ...] = (
    ("machine", lambda r: r.topology.title),
    ("job", lambda r: f"{r.workload.title} {r.workload.precision}"),
    ("memory per GPU", _memory),
    ("step time", _step),
    ("tokens/s", lambda r: _cell(r.throughput.tokens_per_s, count)),
    ("tokens/s per GPU", lambda r: _cell(r.throughput.tokens_per_s_per_gpu, count)),
    ("MFU", lambda r: _cell(r.throughput.mfu, percent)),
    ("exposed comm", lambda r: percent(r.step.exposed_communication_s / r.step.time_s)),
    ("bottleneck", lambda r: r.bottleneck.kind),
    ("wall-clock", lambda r: _optional(r.job, "wall_clock_s", duration, "s")),
    ("goodput", lambda r: _optional(r.job, "goodput", percent)),
    ("cost", _cost),
    ("per million tokens", lambda r: _optional(r.cost, "usd_per_million_tokens", usd, "USD")),
    ("energy", lambda r: _optional(r.energy, "energy_j", lambda j: f"{j / 3.6e6:,.0f} kWh", "J")),
    ("CO2e", lambda r: _optional(r.energy, "co2_kg", lambda kg: f"{kg:,.0f} kg", "kg")),
)
