"""A calibration's report as text or JSON."""

from __future__ import annotations

import math

from sim.calibration.calibrate import CalibrationReport, Compared, mean_error

_KINDS = {
    "run": "training runs",
    "collective": "collectives (nccl-tests, trace)",
    "kernels": "kernels of a profiled step",
    "copy": "copies",
}
_MANY = 12  # single rows shown of one kind


def formatted(report: CalibrationReport, form: str) -> str:
    """Text (``table``) or ``json``."""
    if form == "json":
        return report.to_json()
    lines = ["constant             value  +-      known from"]
    for c in report.constants:
        source = "your measurements" if c.informed > 0.5 else "your measurements and the prior"
        if c.informed < 0.05:
            source = "prior: nothing you gave says anything about it"
        spread = 100 * math.expm1(c.sigma)
        lines.append(f"{c.name:19s} {c.value:6.3f}  {spread:4.1f} %  {source}")
    lines += ["", "mean |predicted/measured - 1|      points  before   after  left out"]
    for kind, name in _KINDS.items():
        found = [c for c in report.fitted if c.kind == kind]
        if found:
            lines.append(_row(name, found))
    if report.held_out:
        lines.append(_row("held out, not fitted", list(report.held_out)))
    lines += ["", *_runs(report), report.verdict]
    return "\n".join(lines)


def _row(name: str, found: list[Compared]) -> str:
    before, after = (100 * mean_error([getattr(c, k) for c in found]) for k in ("before", "after"))
    unseen = 100 * mean_error([c.unseen for c in found])
    return f"{name:34s} {len(found):6d}  {before:5.1f} %  {after:5.1f} %  {unseen:6.1f} %"


def _runs(report: CalibrationReport) -> list[str]:
    runs = [c for c in (*report.fitted, *report.held_out) if c.kind != "collective"]
    if not runs:
        return []
    lines = ["                                        measured  before   after  left out"]
    for c in runs[:_MANY]:
        lines.append(
            f"{c.label[:38]:38s} {c.measured:9.4g} s {100 * c.before:+6.1f} % "
            f"{100 * c.after:+6.1f} % {100 * c.unseen:+7.1f} %"
        )
    if len(runs) > _MANY:
        lines.append(f"... and {len(runs) - _MANY} more (--format json)")
    return [*lines, ""]
