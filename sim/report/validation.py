"""The validation report: errors of training speed, memory and collectives, misses included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.calibration import validate_collectives as collectives
from sim.calibration.cross_validation import SCHEMES, coverage, cross_validate, memory_coverage
from sim.calibration.validate_memory import MemoryValidation
from sim.calibration.validate_training import TrainingValidation, errors_of
from sim.calibration.validation import Validation
from sim.published.rows import training_rows
from sim.quantities import percent
from sim.report import validation_finetune as finetune
from sim.report import validation_mesh as mesh
from sim.report.validation_cells import ERRORS, count, gib, groups, points, share, table
from sim.report.validation_plots import PLOTS
from sim.report.view import Cell, Lines, Picture, Row, Table, View, ViewPart


def view(
    found: Validation, misses: int = 20, plots: Mapping[str, str] | None = None, folder: str = ""
) -> View:
    """What `scaling-sim validate` says.

    Parameters
    ----------
    found : Validation
        What was compared.
    misses : int
        How many single rows to list.
    plots : mapping of str to str, optional
        SVG by the keys of `PLOTS`, shown if given.
    folder : str
        Of the plots' files, as a link sees it.
    """
    # layouts say themselves how their page was made
    parts: list[ViewPart] = [] if found.parts == ("mesh",) else [Lines([_INTRODUCTION], indent=0)]
    if found.training is not None:
        shown = [Picture([PLOTS[n]], f"{folder}/{n}.svg", svg) for n, svg in (plots or {}).items()]
        parts += _training(found.training, found.cross, misses, shown)
    if found.finetune is not None:
        parts += finetune.parts(found.finetune, found.cross, misses)
    if found.memory is not None:
        parts += _memory(found.memory)
    if found.cross:
        parts += [Lines([_BANDS], "80 % bands", indent=0), _coverage(), *_memory_coverage()]
    if found.collectives is not None:
        parts += _collectives(found.collectives, misses)
    if found.mesh is not None:
        parts += mesh.parts(found.mesh, misses)
    return View("Validation", parts, found)


def _training(
    report: TrainingValidation, cross: bool, misses: int, plots: Sequence[ViewPart]
) -> list[ViewPart]:
    parts: list[ViewPart] = [
        Lines([_TRAINING.format(len(training_rows()))], "Training runs", indent=0),
        groups(report.groups), *plots,
        _ratios(report),
    ]  # fmt: skip
    if cross:
        parts += [Lines([_CROSS], "Rows that the fitted constants had not seen", indent=0)]
        parts.append(_left_out())
    anomalies = [p for p in report.points if p.row.status == "anomaly"]
    incomplete = [p for p in report.points if p.row.status == "incomplete"]
    return [
        *parts,
        points(report.complete, f"The {misses} worst complete rows", misses),
        points(anomalies, "Anomalies, left out"),
        Lines([_INCOMPLETE], "Rows whose source leaves something out", indent=0),
        points(incomplete),
    ]


def _left_out() -> Table:
    """Errors on rows that the fitted constants had not seen."""
    rows: list[Row] = []
    for scheme in SCHEMES:
        unseen = cross_validate(scheme)
        for name, kept in (
            ("all sources", unseen),
            ("llm-foundry", [x for x in unseen if x.point.row.group.startswith("llm-foundry")]),
        ):
            g = errors_of(scheme, name, [x.error for x in kept])
            figures = map(share, (g.mean, g.median, g.p90))
            rows.append([f"whole {scheme}", name, count(g.rows), *figures, share(g.worst, "+")])
    return table(("left out", "rows of", "rows", *ERRORS), rows)


def _ratios(report: TrainingValidation) -> Table:
    """Ratios of like-for-like runs."""
    rows: list[Row] = [
        [r.what, count(r.pairs), share(r.median), share(r.mean), share(r.worst, "+")]
        for r in report.ratios
    ]
    return table(("ratio", "pairs", "median error %", "mean %", "worst %"), rows, "Like for like")


def _coverage() -> Table:
    """Rows whose step time is within its 80 % band."""
    rows: list[Row] = [
        [a.source, count(a.rows), share(a.share, digits=0), share(a.half_width),
         share(b.share, digits=0), share(b.half_width)]
        for a, b in zip(coverage(), coverage(by_source=True), strict=True)
    ]  # fmt: skip
    heads = (
        "step times of", "rows", "within, model left out %", "mean half-width %",
        "within, source left out %", "mean half-width, source left out %",
    )  # fmt: skip
    return table(heads, rows)


def _memory_coverage() -> list[ViewPart]:
    """The same of peaks of memory, sources left out."""
    rows: list[Row] = [
        [a.source, count(a.rows), share(a.share, digits=0), share(a.half_width)]
        for a in memory_coverage()
    ]
    heads = ("peaks of", "rows", "within, source left out %", "mean half-width %")
    return [Lines([_MEMORY_BANDS], indent=0), table(heads, rows)]


def _memory(report: MemoryValidation) -> list[ViewPart]:
    """Peaks by source and one by one, and runs that are said not to fit."""
    sources: list[Row] = [
        [x.source, count(x.peaks), share(x.bias, "+"), share(x.mean), share(x.worst, "+")]
        for x in report.sources
    ]
    peaks: list[Row] = [
        [p.row.id, p.row.memory_figure, gib(p.row.memory_bytes or 0.0), gib(p.predicted),
         share(p.error, "+")]
        for p in sorted(report.peaks, key=lambda p: -abs(p.error))
    ]  # fmt: skip
    refused = ", ".join(f"{r.row.id} ({r.share:.2f} of the capacity)" for r in report.refused)
    said = f"{report.rows - len(report.refused)} of {report.rows} runs that ran are said to fit"
    return [
        table(("source", "peaks", "bias %", "mean %", "worst %"), sources, "Peak memory"),
        Lines([f"{said}; not: {refused}" if refused else said, _caught(report)], indent=0),
        table(("row", "figure", "measured GiB", "model says GiB", "error %"), peaks),
    ]


def _caught(report: MemoryValidation) -> str:
    """Jobs that ran out of memory, and what the model says of them."""
    words: dict[str, list[str]] = {"does not fit": [], "at risk": [], "fits": []}
    for tried in report.out_of_memory:
        words[tried.verdict.word].append(f"{tried.row.id} ({tried.verdict.share:.2f})")
    said = (
        f"{len(words['does not fit'])} of {len(report.out_of_memory)} jobs that ran out of memory "
        "are said not to fit"
    )
    for word in ("at risk", "fits"):
        if words[word]:
            said += f"; {word}: {', '.join(words[word])}"
    return said


def _collectives(report: collectives.CollectiveValidation, misses: int) -> list[ViewPart]:
    """By machine and operation, then misses, then anomalies."""
    systems: list[Row] = [
        [g.system, g.op, g.band, count(g.points),
         *map(share, (g.bias, g.median, g.p90, g.worst))]
        for g in report.groups
    ]  # fmt: skip
    worst: list[Row] = [
        [
            p.measured.system, p.measured.op, count(p.measured.ranks),
            Cell(collectives.size_text(p.measured.size), p.measured.size, "B"),
            _microseconds(p.measured.time_s), _microseconds(p.time_s),
            share(p.error, "+", 0), f"{p.predicted.algorithm} {p.predicted.protocol}",
        ]
        for p in report.misses[:misses]
    ]  # fmt: skip
    said = (
        f"Misses: {len(report.misses)} of {len(report.points)} points off by more than "
        f"{percent(collectives.MISS, 0)} from {collectives.size_text(collectives.SHOWN_FROM)} up; "
        f"the worst {misses}:"
    )
    left_out = [f"{name}, {rows} rows: {reason}" for name, rows, reason in report.anomalies]
    heads = ("machine", "operation", "sizes", "points", "bias %", "median %", "p90 %", "worst %")
    single = (
        "machine", "operation", "GPUs", "size", "measured us", "model us", "error %", "runs as",
    )  # fmt: skip
    return [
        table(heads, systems, "Collectives"), Lines([said], indent=0), table(single, worst),
        Lines(left_out, "Left out:", list=True),
    ]  # fmt: skip


def _microseconds(seconds: float) -> Cell:
    return Cell(f"{seconds * 1e6:.1f}", seconds, "s")


_INTRODUCTION = (
    "Made by `scaling-sim validate --cross-validate -o docs/validation.md --plots "
    "docs/validation`; the rows and their sources are in `sim/data/measured/`. Misses are listed "
    "with the rest."
)
_TRAINING = (
    "{} published runs as a user would have written them down. A row is "
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
    "without the row's model, and without its source: constants fitted anew, and no residual of "
    "it among those that make the band."
)
_MEMORY_BANDS = "Measured peaks in their 80 % bands, made without the peaks of the source:"
_INCOMPLETE = (
    "Not counted above: what is missing is assumed, as the note says, and decides the error."
)
