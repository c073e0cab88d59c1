"""Predicted against measured peaks of memory, and whether runs that ran are said to fit."""

from __future__ import annotations

import functools
import statistics
from typing import NamedTuple

from sim.calibration.rows import MeasuredRow, training_rows
from sim.memory.report import memory


class MeasuredPeak(NamedTuple):
    """A measured peak and the model's."""

    row: MeasuredRow
    predicted: float  # [B]

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted / (self.row.memory_bytes or 0.0) - 1.0


class Source(NamedTuple):
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


class MemoryValidation(NamedTuple):
    """Peaks, and verdicts over all rows."""

    peaks: tuple[MeasuredPeak, ...]
    rows: int
    refused: tuple[Refused, ...]

    @property
    def sources(self) -> list[Source]:
        """Errors by source."""
        found = []
        for source in dict.fromkeys(p.row.group for p in self.peaks):
            errors = [p.error for p in self.peaks if p.row.group == source]
            bias, mean = statistics.fmean(errors), statistics.fmean(abs(e) for e in errors)
            found.append(Source(source, len(errors), bias, mean, max(errors, key=abs)))
        return found


@functools.cache
def validate_memory() -> MemoryValidation:
    """Compare every published peak with the model, and ask whether each run would fit."""
    peaks, refused = [], []
    rows = training_rows()
    for row in rows:
        found = memory(row.topology, row.workload)
        if not found.fits:
            refused.append(Refused(row, found.peak_reserved_bytes / found.capacity_bytes))
        if row.memory_bytes:
            allocated = row.memory_figure == "allocated"
            peak = found.peak_allocated_bytes if allocated else found.peak_reserved_bytes
            peaks.append(MeasuredPeak(row, peak))
    return MemoryValidation(tuple(peaks), len(rows), tuple(refused))
