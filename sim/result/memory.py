"""What the verb `memory` answers: bytes by moment, the verdict, a bound, changes to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document
from sim.inputs.notes import Message
from sim.memory.bound import Bound
from sim.memory.report import MemoryReport
from sim.result.trials import MemoryFix
from sim.strategies.terms import TERMS


@dataclass(frozen=True, slots=True)
class MemoryAnswer(Document):
    """Memory of a job on a machine.

    Attributes
    ----------
    title : str
        Job and machine.
    report : MemoryReport
        Bytes on a GPU and on its host. [B]
    fixes : tuple of MemoryFix
        Changes that save memory, each simulated; empty where they were not asked for.
    bounds : tuple of Bound
        The largest or the fewest that fits, of each quantity that was asked for.
    unbounded : tuple of str
        Where several were asked for: why one has no answer.
    warnings : tuple of Message
        What the job is warned of, as `run` has it.
    """

    schema: ClassVar[str] = SCHEMAS["memory"]

    title: str
    report: MemoryReport
    fixes: tuple[MemoryFix, ...] = ()
    bounds: tuple[Bound, ...] = ()
    unbounded: tuple[str, ...] = ()
    warnings: tuple[Message, ...] = ()

    @property
    def bound(self) -> Bound | None:
        """The first of `bounds`."""
        return self.bounds[0] if self.bounds else None

    def content(self) -> dict[str, Any]:
        """Report, bounds if there are any, fixes."""
        found: dict[str, Any] = {"memory": _report(self.report)}
        bounds = [
            {"quantity": b.quantity, "value": b.value, "sure": b.sure, "memory": _report(b.report)}
            for b in self.bounds
        ]
        if bounds:
            found["bound"] = bounds[0]
        if len(bounds) + len(self.unbounded) > 1:
            found |= {"bounds": bounds, "unbounded": self.unbounded}
        return found | {"fixes": self.fixes, "warnings": self.warnings}

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a category, with its bytes at each moment and at the peak; then what is added."""
        r = self.report
        rows: list[dict[str, Any]] = [
            {"category": name}
            | {moment: found.get(name, 0.0) for moment, found in r.categories_by_moment.items()}
            | {"peak": r.by_category.get(name, 0.0)}
            for name in dict.fromkeys(term.category for term in TERMS)
        ]
        rows.append({"category": "allocated", **r.by_moment, "peak": r.peak_allocated_bytes})
        added = {
            **r.overheads, "reserved": r.peak_reserved_bytes, "needed": r.needed_bytes,
            "capacity": r.capacity_bytes,
        }  # fmt: skip
        added |= {f"host {name}": size for name, size in r.host_terms.items()}
        return [*rows, *({"category": name, "peak": size} for name, size in added.items())]


def _report(report: MemoryReport) -> dict[str, Any]:
    names = (
        "peak_allocated_bytes", "peak_reserved_bytes", "needed_bytes", "capacity_bytes", "fits",
        "peak_moment",
        "dominating", "by_category", "terms", "by_moment", "categories_by_moment", "overheads",
    )  # fmt: skip
    host = ("host_bytes", "host_terms", "host_loading_bytes", "host_capacity_bytes")
    warnings = [{"code": w.code, "message": w.message} for w in report.warnings]
    verdict = report.verdict
    return {
        **{name: getattr(report, name) for name in names},
        "verdict": verdict.word,
        "fit_probability": verdict.probability,
        "risk": verdict.risk,
        "warnings": warnings,
        **{name: getattr(report, name) for name in host},
    }
