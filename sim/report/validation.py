"""The validation report as text, Markdown, CSV, JSON and plots."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sim.blocks.tree import count_parameters
from sim.calibration.cross_validation import SCHEMES, coverage, cross_validate
from sim.calibration.rows import training_rows
from sim.calibration.validate_collectives import quantile, table
from sim.calibration.validate_memory import MemoryReport, validate_memory
from sim.calibration.validate_training import (
    Pair,
    Point,
    Report,
    errors_of,
    validate_training,
    value_of,
)
from sim.calibration.validation import Validation
from sim.report.svg import Axis, Series, scatter
from sim.units import GIB

Table = list[Sequence[str]]
HEAD = ("by", "value", "rows", "bias %", "mean %", "median %", "p90 %", "worst %")


def percent(value: float, sign: bool = False) -> str:
    """A share in per cent, one digit."""
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def training_table(report: Report) -> Table:
    """Errors of the speed over complete rows, by every dimension."""
    rows: Table = [HEAD]
    for g in report.groups:
        figures = (percent(x) for x in (g.mean, g.median, g.p90))
        rows.append((g.dimension, g.value, str(g.rows), percent(g.bias, True), *figures,
                     percent(g.worst, True)))  # fmt: skip
    return rows


def cross_table() -> Table:
    """Errors on rows that the fitted constants had not seen."""
    rows: Table = [("left out", "rows of", "rows", "mean %", "median %", "p90 %", "worst %")]
    for scheme in SCHEMES:
        left = cross_validate(scheme)
        for name, kept in (
            ("all sources", left),
            ("llm-foundry", [x for x in left if x.point.row.group.startswith("llm-foundry")]),
        ):
            g = errors_of(scheme, name, [x.error for x in kept])
            figures = (percent(x) for x in (g.mean, g.median, g.p90))
            rows.append((f"whole {scheme}", name, str(g.rows), *figures, percent(g.worst, True)))
    return rows


def pair_table(pairs: Sequence[Pair]) -> Table:
    """Ratios of like-for-like runs."""
    rows: Table = [("ratio", "pairs", "median error %", "mean %", "worst %")]
    for what in dict.fromkeys(p.what for p in pairs):
        errors = [p.error for p in pairs if p.what == what]
        absolute = [abs(e) for e in errors]
        rows.append((what, str(len(errors)), percent(statistics.median(absolute)),
                     percent(statistics.fmean(absolute)),
                     percent(max(errors, key=abs), True)))  # fmt: skip
    return rows


def point_table(points: Iterable[Point], notes: bool = True) -> Table:
    """Single rows, the worst first."""
    head = ("row", "GPUs", "model", "length", "measured", "model says", "error %")
    rows: Table = [(*head, "note")] if notes else [head]
    for p in sorted(points, key=lambda p: -abs(p.error)):
        row = (
            p.row.id, str(p.row.gpus), p.row.workload.model.name,
            str(p.row.workload.sequence_length), f"{p.row.tokens_per_s_per_gpu:.0f}",
            f"{p.predicted:.0f}", percent(p.error, True),
        )  # fmt: skip
        rows.append((*row, p.row.note) if notes else row)
    return rows


def memory_table(report: MemoryReport) -> Table:
    """Peaks by source."""
    rows: Table = [("source", "peaks", "bias %", "mean %", "worst %")]
    for source in dict.fromkeys(p.row.group for p in report.peaks):
        errors = [p.error for p in report.peaks if p.row.group == source]
        mean = statistics.fmean(abs(e) for e in errors)
        rows.append((source, str(len(errors)), percent(statistics.fmean(errors), True),
                     percent(mean), percent(max(errors, key=abs), True)))  # fmt: skip
    return rows


def peak_table(report: MemoryReport) -> Table:
    """Every peak."""
    rows: Table = [("row", "figure", "measured GiB", "model says GiB", "error %")]
    for p in sorted(report.peaks, key=lambda p: -abs(p.error)):
        rows.append((p.row.id, p.row.memory_figure, f"{(p.row.memory_bytes or 0) / GIB:.1f}",
                     f"{p.predicted / GIB:.1f}", percent(p.error, True)))  # fmt: skip
    return rows


def coverage_table() -> Table:
    """Rows within their 80 % bands."""
    rows: Table = [("rows of", "rows", "within, model left out %", "within, source left out %",
                    "mean half-width %")]  # fmt: skip
    for a, b in zip(coverage(), coverage(by_source=True), strict=True):
        rows.append((a.source, str(a.rows), f"{100 * a.share:.0f}", f"{100 * b.share:.0f}",
                     percent(a.half_width)))  # fmt: skip
    return rows


def markdown(table: Table) -> str:
    """A Markdown table; columns of numbers are aligned right."""
    head, *body = table
    right = [all(_numeric(row[i]) for row in body) for i in range(len(head))]
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + "|".join("---:" if r else "---" for r in right) + "|",
    ]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def text(table: Table) -> str:
    """Aligned columns."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    right = [all(_numeric(row[i]) for row in table[1:]) for i in range(len(widths))]
    lines = []
    for row in table:
        cells = (
            cell.rjust(w) if r else cell.ljust(w)
            for cell, w, r in zip(row, widths, right, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _numeric(cell: str) -> bool:
    return cell.lstrip("+-").replace(".", "", 1).isdigit()


def csv_text(table: Table) -> str:
    """Comma-separated."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(table)
    return out.getvalue().rstrip("\n")


def render(found: Validation, fmt: str, misses: int, plots: str = "") -> str:
    """The report in one of ``table | json | csv | md``.

    Parameters
    ----------
    found : Validation
        What was compared.
    fmt : str
        Format.
    misses : int
        How many single rows to list.
    plots : str
        Folder of the plots, as a link sees it; only in Markdown.
    """
    if fmt == "json":
        return found.to_json()
    if fmt == "csv":
        if found.training is not None:
            return csv_text(point_table(found.training.points))
        return csv_text(peak_table(found.memory or validate_memory()))
    return _page(found, misses, plots) if fmt == "md" else _terminal(found, misses)


def _terminal(found: Validation, misses: int) -> str:
    parts: list[str] = []
    report, memory = found.training, found.memory
    if report is not None:
        parts += ["Speed of training runs (error of tokens/s; + is faster than measured)", ""]
        parts += [text(training_table(report)), "", text(pair_table(report.pairs)), ""]
        if found.cross:
            parts += ["Rows that the fitted constants had not seen", "", text(cross_table()), ""]
            parts += ["80 % bands", "", text(coverage_table()), ""]
        parts += [f"The {misses} worst complete rows", ""]
        parts += [text(point_table(report.complete)[: misses + 1]), ""]
    if memory is not None:
        parts += ["Peak memory", "", text(memory_table(memory)), "", _verdicts(memory), ""]
    if found.collectives is not None:
        parts += ["Collectives", "", table(found.collectives, misses)]
    return "\n".join(parts).rstrip()


def _verdicts(found: MemoryReport) -> str:
    refused = ", ".join(f"{r.row.id} ({r.share:.2f} of the capacity)" for r in found.refused)
    said = f"{found.rows - len(found.refused)} of {found.rows} runs that ran are said to fit"
    return f"{said}; not: {refused}" if refused else said


def _page(found: Validation, misses: int, plots: str) -> str:
    parts = ["# Validation", "", _INTRODUCTION, ""]
    memory = found.memory
    if found.training is not None:
        parts += _training_page(found.training, found.cross, misses, plots)
    if memory is not None:
        parts += ["## Memory", "", markdown(memory_table(memory)), "", _verdicts(memory) + ".", ""]
        parts += [markdown(peak_table(memory)), ""]
    if found.collectives is not None:
        parts += ["## Collectives", "", table(found.collectives, misses), ""]
    return "\n".join(parts).rstrip()


def _training_page(report: Report, cross: bool, misses: int, plots: str) -> list[str]:
    parts = ["## Training runs", "", _TRAINING, "", markdown(training_table(report)), ""]
    if plots:
        parts += [f"![{title}]({plots}/{name}.svg)\n" for name, title in PLOTS.items()]
    parts += ["### Like for like", "", markdown(pair_table(report.pairs)), ""]
    if cross:
        parts += ["### Rows that the fitted constants had not seen", "", _CROSS, ""]
        parts += [markdown(cross_table()), "", "### 80 % bands", "", _BANDS, ""]
        parts += [markdown(coverage_table()), ""]
    parts += [f"### The {misses} worst complete rows", ""]
    parts += [markdown(point_table(report.complete)[: misses + 1]), ""]
    anomalies = [p for p in report.points if p.row.status == "anomaly"]
    parts += ["### Anomalies, left out", "", markdown(point_table(anomalies)), ""]
    incomplete = [p for p in report.points if p.row.status == "incomplete"]
    parts += ["### Rows whose source leaves something out", "", _INCOMPLETE, ""]
    return [*parts, markdown(point_table(incomplete)), ""]


PLOTS = {
    "measured": "predicted against measured speed",
    "size": "error by size of the model",
    "gpus": "error by number of GPUs",
}


def write_plots(folder: Path) -> None:
    """Write the plots of `PLOTS` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    points = validate_training().complete
    by_source: dict[str, list[Point]] = {}
    for p in points:
        by_source.setdefault(value_of(p.row, "source"), []).append(p)

    def series(x: Any, y: Any) -> list[Series]:
        return [
            Series(name, [x(p) for p in mine], [y(p) for p in mine],
                   [f"{p.row.id}: {percent(p.error, True)} %" for p in mine])
            for name, mine in by_source.items()
        ]  # fmt: skip

    def measured(p: Point) -> float:
        return p.row.tokens_per_s_per_gpu or 0.0

    def size(p: Point) -> float:
        return float(count_parameters(p.row.workload.model, p.row.workload.method).total)

    speeds = [measured(p) for p in points]
    low, high = 0.8 * min(speeds), 1.25 * max(speeds)
    limit = 1.1 * quantile([abs(100 * p.error) for p in points], 1.0)
    error = Axis("error of the predicted speed [%]", -limit, limit)
    diagonal = [(low * f, low, high, high / f) for f in (1.0, 1.1)]
    diagonal.append((low, 1.1 * low, high / 1.1, high))
    plots = {
        "measured": scatter(
            "Predicted against measured, tokens per second and GPU (lines: equal, 10 % off)",
            Axis("measured", low, high, True), Axis("predicted", low, high, True),
            series(measured, lambda p: p.predicted), diagonal,
        ),
        "size": scatter(
            "Error by size of the model", Axis("parameters", 8e7, 1e11, True), error,
            series(size, lambda p: 100 * p.error), [(8e7, 0.0, 1e11, 0.0)],
        ),
        "gpus": scatter(
            "Error by number of GPUs", Axis("GPUs", 0.8, 200, True), error,
            series(lambda p: float(p.row.gpus), lambda p: 100 * p.error), [(0.8, 0.0, 200, 0.0)],
        ),
    }  # fmt: skip
    for name, svg in plots.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")


_INTRODUCTION = (
    "Made by `scaling-sim validate --cross-validate --format md -o docs/validation.md --plots "
    "docs/validation`; the rows and their sources are in `sim/data/measured/`. Misses are listed "
    "with the rest."
)
_TRAINING = (
    f"{len(training_rows())} published runs as a user would have written them down. A row is "
    "complete if its source says everything that the step time depends on. The error is that of "
    "tokens/s: + is faster than measured. The same job in two editions of the llm-foundry table "
    "differs by 3.7 % on average."
)
_CROSS = (
    "Five constants a GPU generation come from training rows: how fast products, attention and "
    "element-wise kernels run beside the kernel tables, what collectives cost kernels beside them, "
    "and the variation from rank to rank. Here they are fitted without the rows that they predict."
)
_BANDS = (
    "Share of rows whose measured step time lies in the 80 % band that the model gives, made "
    "without the row's model, and without its source."
)
_INCOMPLETE = (
    "Not counted above: what is missing is assumed, as the note says, and decides the error."
)
