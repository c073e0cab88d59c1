"""Predicted against measured peaks of memory, and whether runs that ran are said to fit."""

from __future__ import annotations

import functools
import statistics

from sim.calibration.validate_training import memory_said
from sim.memory.report import MemoryReport
from sim.memory.verdict import Verdict
from sim.published.finetune import finetune_rows
from sim.published.rows import MeasuredRow, out_of_memory_rows, training_rows
from sim.records import NamedTuple


class MeasuredPeak(NamedTuple):
    """A measured peak and the model's."""

    row: MeasuredRow
    predicted: float  # [B]

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted / (self.row.memory_bytes or 0.0) - 1.0


class SourceErrors(NamedTuple):
    """Errors of the peaks of one source."""

    source: str
    peaks: int
    bias: float
    mean: float  # of |error|
    worst: float


class Refused(NamedTuple):
    """A run that ran, and that the model says would not fit."""

    row: MeasuredRow
    share: float  # of the capacity that the model says it needs


class Tried(NamedTuple):
    """What the model says of a job that ran out of memory."""

    row: MeasuredRow
    verdict: Verdict


class MemoryValidation(NamedTuple):
    """Peaks, verdicts over all rows that ran, and over jobs that ran out of memory."""

    peaks: tuple[MeasuredPeak, ...]
    rows: int
    refused: tuple[Refused, ...]
    out_of_memory: tuple[Tried, ...]

    @property
    def sources(self) -> list[SourceErrors]:
        """Errors by source."""
        found = []
        for source in dict.fromkeys(p.row.group for p in self.peaks):
            errors = [p.error for p in self.peaks if p.row.group == source]
            bias, mean = statistics.fmean(errors), statistics.fmean(abs(e) for e in errors)
            found.append(SourceErrors(source, len(errors), bias, mean, max(errors, key=abs)))
        return found


def figure(found: MemoryReport, name: str) -> float:
    """What a source's figure counts.

    Parameters
    ----------
    found : MemoryReport
        Of the job.
    name : str
        ``allocated`` (live tensors), ``reserved`` (the caching allocator's), ``device`` (all that
        nvidia-smi counts: context and communicators too).

    Returns
    -------
    float
        Peak. [B]
    """
    if name == "allocated":
        return found.peak_allocated_bytes
    beside = ("cuda_context", "communicators") if name == "reserved" else ()
    return found.peak_reserved_bytes - sum(found.overheads[key] for key in beside)


@functools.cache
def validate_memory() -> MemoryValidation:
    """Compare every published peak with the model, and ask whether each run would fit."""
    peaks, refused = [], []
    rows = (*training_rows(), *(row for row in finetune_rows() if row.memory_bytes))
    for row in rows:
        found = memory_said(row)
        if not found.fits:
            refused.append(Refused(row, found.verdict.share))
        if row.memory_bytes:
            peaks.append(MeasuredPeak(row, figure(found, row.memory_figure)))
    tried = [Tried(row, memory_said(row).verdict) for row in out_of_memory_rows()]
    return MemoryValidation(tuple(peaks), len(rows), tuple(refused), tuple(tried))
