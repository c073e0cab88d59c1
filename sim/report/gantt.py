"""Jobs of a plan over time, as a terminal draws them."""

from __future__ import annotations

from sim.quantities import duration
from sim.study.joblog import JobLog
from sim.study.planned import PlanReport

WIDTH = 60
SHOWN = 40
LEGEND = "· waits  █ runs  | deadline  ! past it"


def chart(report: PlanReport) -> list[str]:
    """A line a job, from the first arrival to the last end; `LEGEND` below, `SHOWN` at most."""
    logs = report.logs[:SHOWN]
    begin = min(log.request.arrival_s for log in report.logs)
    span = report.span_s or 1.0
    names = [log.request.name[:20] for log in logs]
    wide = max(map(len, names))
    lines = [
        f"{name:{wide}} {_size(log):>4} {_row(log, begin, span)}"
        for name, log in zip(names, logs, strict=True)
    ]
    left = " " * (wide + 6)
    middle, end = duration(span / 2), duration(span)
    scale = f"0{middle:^{WIDTH - 2}}"
    lines = [*lines, left + scale[: WIDTH - len(end)] + end]
    hidden = len(report.logs) - len(logs)
    return [*lines, left + LEGEND + (f"  ({hidden} more jobs)" if hidden else "")]


def _size(log: JobLog) -> str:
    return "part" if log.request.gpus else str(log.request.nodes)


def _row(log: JobLog, begin: float, span: float) -> str:
    """One job's line."""

    def at(moment: float) -> int:
        return min(WIDTH, max(0, int((moment - begin) / span * WIDTH + 1e-9)))

    cells = [" "] * WIDTH
    _fill(cells, at(log.request.arrival_s), at(log.finish_s), "·")
    for hold in log.holds:
        _fill(cells, at(hold.start_s), at(hold.end_s), "█")
    deadline = log.request.deadline_s
    if deadline is not None and deadline <= begin + span:
        cells[min(WIDTH - 1, at(deadline))] = "|" if log.on_time else "!"
    return "".join(cells).rstrip()


def _fill(cells: list[str], first: int, last: int, mark: str) -> None:
    first = min(first, WIDTH - 1)
    for i in range(first, max(first + 1, last)):
        cells[i] = mark
