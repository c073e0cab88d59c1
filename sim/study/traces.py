"""Jobs of a real cluster, from a CSV with a line a job as Philly and Helios have them."""

from __future__ import annotations

import csv
import datetime
import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sim.errors import Fault, InputError, visible
from sim.inputs.csv_file import csv_rows
from sim.study.cluster import Request
from sim.units import DAY_S

MOST_ROWS = 200_000
MOST_BYTES = 64_000_000
MOST_FAULTS = 20
LONGEST_S = 10 * 365 * DAY_S  # of a job, and of a trace
#: what a column may be called, by what it says; the first that is there is read
NAMES = {
    "name": ("job_id", "jobid", "id", "name", "job"),
    "arrival": ("submit_time", "submitted_time", "submission_time", "submit", "arrival"),
    "gpus": ("gpu_num", "num_gpus", "num_gpu", "gpus", "gpu_count", "alloc_gpus"),
    "duration": ("duration", "run_time", "runtime", "elapsed"),
    "start": ("start_time", "start"),
    "end": ("end_time", "end", "finished_time"),
    "priority": ("priority",),
    "deadline": ("deadline",),
}
_TIMES = ("%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f")


@dataclass(frozen=True, slots=True)
class JobTrace:
    """Jobs in order of arrival, the first at 0, and what of the file they do not hold."""

    jobs: tuple[Request, ...]
    notes: tuple[str, ...]


def read_trace(path: Path, per_node: int) -> JobTrace:
    """A CSV of jobs with their GPUs and how long they ran.

    Parameters
    ----------
    per_node : int
        GPUs of a node of the cluster that is to serve them: with fewer a job takes part of one,
        with more it takes whole nodes.

    Raises
    ------
    InputError
        As for `csv_rows`; no such columns, cells that are no numbers or times (up to 20 faults),
        too many rows.
    """
    with csv_rows(path, MOST_BYTES, "cut it to fewer jobs") as rows:
        return _read(str(path), rows, per_node)


def _read(source: str, reader: csv.DictReader[str], per_node: int) -> JobTrace:
    columns = _columns(source, [name or "" for name in reader.fieldnames or ()])
    faults: list[Fault] = []
    left_out: Counter[str] = Counter()
    found: list[Request] = []
    for number, record in enumerate(reader):
        if number == MOST_ROWS:
            message = f"has more than {MOST_ROWS:,} rows; cut it to fewer jobs"
            raise InputError([*faults, Fault(source, reader.line_num, None, "", message)])
        row = _Row(source, reader.line_num, columns, record, faults)
        job = row.job(per_node, left_out)
        if job is not None:
            found.append(job)
        if len(faults) >= MOST_FAULTS:
            break
    if faults:
        raise InputError(faults)
    if not found:
        raise InputError.single(source, "holds no job with GPUs and a duration")
    first = min(job.arrival_s for job in found)
    found = [_after(job, first) for job in found]
    if max(job.arrival_s for job in found) > LONGEST_S:
        raise InputError.single(source, "spans more than ten years; check its times")
    notes = tuple(f"{count:,} rows left out: {why}" for why, count in sorted(left_out.items()))
    return JobTrace(tuple(sorted(found, key=lambda job: job.arrival_s)), notes)


def _columns(source: str, heads: list[str]) -> dict[str, str]:
    """The column of the file for each thing that is in it."""
    by_name = {head.strip().lower(): head for head in heads}
    found = {
        what: by_name[next(name for name in names if name in by_name)]
        for what, names in NAMES.items()
        if any(name in by_name for name in names)
    }
    missing = [what for what in ("arrival", "gpus") if what not in found]
    if "duration" not in found and not {"start", "end"} <= found.keys():
        missing.append("duration")
    if missing:
        needs = "; ".join(f"{what}: one of {', '.join(NAMES[what][:4])}" for what in missing)
        seen = ", ".join(visible(head)[:40] for head in heads[:12]) or "nothing"
        message = f"lacks columns ({needs}); its first line has {seen}"
        raise InputError([Fault(source, 1, None, "", message)])
    return found


def _after(job: Request, first_s: float) -> Request:
    deadline = None if job.deadline_s is None else job.deadline_s - first_s
    return Request(
        job.name, job.nodes, job.arrival_s - first_s, deadline, job.priority, job.alone_s, 0.0,
        0.0, 0.0, 0, gpus=job.gpus,
    )  # fmt: skip


class _Row:
    """A line of the file; what is no number becomes a fault."""

    def __init__(
        self, source: str, line: int, columns: Mapping[str, str],
        record: Mapping[str, str | None], faults: list[Fault],
    ) -> None:  # fmt: skip
        self.source, self.line, self.columns = source, line, columns
        self.record, self.faults = record, faults

    def job(self, per_node: int, left_out: Counter[str]) -> Request | None:
        """The job; None where it has no GPUs or never ran, or the line is faulty."""
        gpus, arrival = self.number("gpus"), self.time("arrival")
        length = self.number("duration")
        if length is None and "duration" not in self.columns:
            start, end = self.time("start"), self.time("end")
            length = None if start is None or end is None else end - start
        priority, deadline = self.number("priority") or 0.0, self.number("deadline")
        if gpus is None or arrival is None or length is None:
            left_out["without GPUs, a time of arrival or a duration"] += 1
            return None
        if gpus <= 0.0 or length <= 0.0:
            left_out["no GPUs, or no time"] += 1
            return None
        if gpus != int(gpus) or gpus > 1e6 or length > LONGEST_S:
            what, value = ("duration", length) if length > LONGEST_S else ("gpus", gpus)
            self.fault(what, f"{value:g} is not plausible")
            return None
        whole, name = int(gpus), (self.text("name") or f"line {self.line}")[:60]
        part = whole if whole < per_node else 0
        return Request(
            visible(name), 1 if part else math.ceil(whole / per_node), arrival,
            None if deadline is None else arrival + deadline, int(priority), length, 0.0, 0.0, 0.0,
            0, gpus=part,
        )  # fmt: skip

    def text(self, what: str) -> str:
        cell = self.record.get(self.columns[what]) if what in self.columns else None
        return (cell or "").strip()

    def fault(self, what: str, message: str) -> None:
        self.faults.append(Fault(self.source, self.line, None, self.columns[what], message))

    def number(self, what: str) -> float | None:
        """A number; None where the cell is empty or there is no such column."""
        text = self.text(what)
        if not text or text.lower() in ("none", "null", "nan", "n/a"):
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or abs(value) > 1e15:
            self.fault(what, f'"{visible(text)[:40]}" is no number')
            return None
        return value

    def time(self, what: str) -> float | None:
        """A point in time: seconds, or date and time. [s]"""
        text = self.text(what)
        if not text or text.lower() in ("none", "null"):
            return None
        if text.replace(".", "", 1).isdecimal():  # else 12340506 s were a day of the year 1234
            return self.number(what)
        with suppress(ValueError):  # a tenth of the time that the others take
            return _seconds(datetime.datetime.fromisoformat(text))
        for form in _TIMES:
            with suppress(ValueError):
                return _seconds(datetime.datetime.strptime(text, form))
        return self.number(what)


def _seconds(moment: datetime.datetime) -> float:
    """Seconds since 1970; without a zone, as if it were UTC."""
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return zoned.timestamp()
