"""A calibration's report as text or JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from sim.calibration.calibrate import Compared, Report, mean_error
from sim.documents import round_significant

_KINDS = {
    "run": "training runs",
    "collective": "collectives (nccl-tests, trace)",
    "kernels": "kernels of a profiled step",
    "copy": "copies",
}
_MANY = 12  # single rows shown of one kind


def formatted(report: Report, form: str) -> str:
    """Text (``table``) or ``json``."""
    if form == "json":
        return json.dumps(as_dict(report), indent=1)
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
    lines += ["", *_runs(report), verdict(report)]
    return "\n".join(lines)


def _row(name: str, found: list[Compared]) -> str:
    before, after = (100 * mean_error([getattr(c, k) for c in found]) for k in ("before", "after"))
    unseen = 100 * mean_error([c.unseen for c in found])
    return f"{name:34s} {len(found):6d}  {before:5.1f} %  {after:5.1f} %  {unseen:6.1f} %"


def _runs(report: Report) -> list[str]:
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


def verdict(report: Report) -> str:
    """What the calibration is worth on what it did not see."""
    unseen = list(report.held_out) or [c for c in report.fitted if c.kind == "run"]
    which = "held-out figures" if report.held_out else "runs, each left out of its own fit"
    if not report.held_out and len({c.group for c in report.fitted}) < 2:
        return "only one piece of evidence: no error on unseen ones can be given"
    if not unseen:
        unseen, which = list(report.fitted), "measurements, each file left out of its own fit"
    before = mean_error([c.before for c in unseen])
    after = mean_error([c.unseen for c in unseen])
    word = "fell" if after < before else "rose"
    text = f"error on {len(unseen)} {which}: {word} from {before:.1%} to {after:.1%}"
    if after >= before:
        text += "; the shipped constants fit them better, use this calibration with care"
    return text


def as_dict(report: Report) -> dict[str, Any]:
    """All of it, times in seconds."""
    return {
        "constants": {
            c.name: {
                "value": round_significant(c.value), "sigma_log": round_significant(c.sigma),
                "informed": round_significant(c.informed),
            }
            for c in report.constants
        },
        "errors": [
            {
                "label": c.label, "group": c.group, "kind": c.kind,
                "measured_s": round_significant(c.measured),
                "before": round_significant(c.before), "after": round_significant(c.after),
                "left_out": None if c.left_out is None else round_significant(c.left_out),
            }
            for c in (*report.fitted, *report.held_out)
        ],
        "verdict": verdict(report),
        "notes": list(report.notes),
    }  # fmt: skip
