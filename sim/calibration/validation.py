"""The model beside published measurements: training speed, fine-tuning, memory, collectives."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.calibration import validate_collectives as collectives
from sim.calibration import validate_training as training
from sim.calibration.baselines import SPLITS, comparison
from sim.calibration.cross_validation import SCHEMES, coverage, cross_validate, memory_coverage
from sim.calibration.validate_finetune import FinetuneValidation, validate_finetune
from sim.calibration.validate_memory import MemoryValidation, validate_memory
from sim.calibration.validate_mesh import MeshValidation, validate_mesh
from sim.choices import CHOICES
from sim.documents import SCHEMAS, Document
from sim.published.finetune import finetune_rows
from sim.step.variation import Progress

#: what "all" are; the mesh's take minutes and are asked for by name alone
PARTS = tuple(part for part in CHOICES["PublishedPart"] if part not in ("all", "mesh"))


@dataclass(frozen=True, slots=True)
class Validation(Document):
    """Errors of the model, part by part; a part that was not asked for is None.

    Attributes
    ----------
    training : training.TrainingValidation or None
        Speed of published runs.
    finetune : FinetuneValidation or None
        Speed of fine-tuning as people run it, whether it fits, on how many GPUs it is fastest.
    memory : MemoryValidation or None
        Peaks of memory, and runs that are said not to fit.
    collectives : collectives.CollectiveValidation or None
        Collectives of real clusters.
    cross : bool
        Also errors on rows that the fitted constants had not seen, which takes a while to make.
    mesh : MeshValidation or None
        Speed of layouts of data, tensor and pipeline parallelism, and which is the best.
    """

    schema: ClassVar[str] = SCHEMAS["validation"]

    training: training.TrainingValidation | None = None
    finetune: FinetuneValidation | None = None
    memory: MemoryValidation | None = None
    collectives: collectives.CollectiveValidation | None = None
    cross: bool = False
    mesh: MeshValidation | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """What was asked for."""
        return tuple(
            part for part in CHOICES["PublishedPart"][1:] if getattr(self, part) is not None
        )

    def content(self) -> dict[str, Any]:
        """Figures of every part that was asked for."""
        out: dict[str, Any] = {}
        if self.training is not None:
            out["training"] = _training(self.training)
            if self.cross:
                out["training"]["cross_validation"] = {
                    scheme: {x.point.row.id: x.error for x in cross_validate(scheme)}
                    for scheme in SCHEMES
                }
        if self.finetune is not None:
            out["finetune"] = _finetune(self.finetune)
            if self.cross:
                out["finetune"]["comparison"] = {split: comparison(split) for split in SPLITS}
        if self.memory is not None:
            out["memory"] = {
                "sources": self.memory.sources,
                "peaks": _peaks(self.memory),
                "refused": [{"id": r.row.id, "share": r.share} for r in self.memory.refused],
                "rows": self.memory.rows,
                "out_of_memory": [
                    {"id": x.row.id, "verdict": x.verdict.word, "share": x.verdict.share}
                    for x in self.memory.out_of_memory
                ],
            }
        if self.collectives is not None:
            out["collectives"] = {
                "groups": self.collectives.groups,
                "rows": _collectives(self.collectives),
                "left_out": [
                    {"system": system, "rows": rows, "reason": reason}
                    for system, rows, reason in self.collectives.anomalies
                ],
            }
        if self.mesh is not None:
            out["mesh"] = _mesh(self.mesh)
        if self.cross:
            out["bands"] = {
                "without_model": coverage(), "without_source": coverage(by_source=True),
                "memory_without_source": memory_coverage(),
            }  # fmt: skip
        return out

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a published figure: tokens/s per GPU, peak bytes, or seconds of a collective."""
        rows: list[tuple[str, list[dict[str, Any]]]] = []
        if self.training is not None:
            rows.append(("training", _points(self.training.points)))
        if self.finetune is not None:
            rows.append(("finetune", _points(self.finetune.points)))
        if self.memory is not None:
            rows.append(("memory", _peaks(self.memory)))
        if self.collectives is not None:
            rows.append(("collectives", _collectives(self.collectives)))
        if self.mesh is not None:
            rows.append(("mesh", _points([p.point for p in self.mesh.points])))
        return [{"part": part, **row} for part, found in rows for row in found]


def _training(report: training.TrainingValidation) -> dict[str, Any]:
    return {
        "groups": report.groups,
        "ratios": report.ratios,
        "pairs": [{**p._asdict(), "error": p.error} for p in report.pairs],
        "rows": _points(report.points),
    }


def _finetune(report: FinetuneValidation) -> dict[str, Any]:
    return {
        "groups": report.groups,
        "flagged": report.flagged,
        "refused": [p.row.id for p in report.refused],
        "gpu_counts": [
            {"rows": [p.row.id for p in s.points], "right": s.right, "fewer": s.fewer}
            for s in report.scaling
        ],
        "rows": _points(report.points),
    }


def _mesh(report: MeshValidation) -> dict[str, Any]:
    return {
        "groups": report.groups,
        "cells": [cell._asdict() for cell in report.cells],
        "refused": [p.layout.id for p in report.refused],
        "left_out": [{"id": row.id, "reason": why} for row, why in report.inexpressible],
        "rows": [
            {**row, "at_odds": p.odd}
            for row, p in zip(_points([p.point for p in report.points]), report.points, strict=True)
        ],
    }


def _points(points: Sequence[training.TrainingPoint]) -> list[dict[str, Any]]:
    return [
        {
            "id": p.row.id,
            "source": p.row.source,
            "status": p.row.status,
            "note": p.row.note,
            "gpus": p.row.gpus,
            "measured": p.row.tokens_per_s_per_gpu,
            "predicted": p.predicted,
            "error": p.error,
        }
        for p in points
    ]


def _peaks(report: MemoryValidation) -> list[dict[str, Any]]:
    return [
        {"id": p.row.id, "measured": p.row.memory_bytes, "predicted": p.predicted, "error": p.error}
        for p in report.peaks
    ]


def _collectives(report: collectives.CollectiveValidation) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{p.measured.system} {p.measured.op}",
            "gpus": p.measured.ranks,
            "size_bytes": p.measured.size,
            "measured": p.measured.time_s,
            "predicted": p.time_s,
            "error": p.error,
            "runs_as": f"{p.predicted.algorithm} {p.predicted.protocol}",
        }
        for p in report.points
    ]


def validation(
    parts: Collection[str] = PARTS, cross: bool = False, progress: Progress | None = None
) -> Validation:
    """Compare the model with published measurements.

    `parts` are of `sim.choices.PublishedPart` but for "all", other arguments as of `sim.validate`.
    """
    # what each part then asks for is kept; rows of all of them that are alike are run together
    rows = [*(training.speed_rows() if "training" in parts else ())]
    rows += finetune_rows() if "finetune" in parts else ()
    training.predict_all(rows, progress)
    return Validation(
        training.validate_training() if "training" in parts else None,
        validate_finetune() if "finetune" in parts else None,
        validate_memory() if "memory" in parts else None,
        collectives.validate_collectives() if "collectives" in parts else None,
        cross,
        validate_mesh(progress) if "mesh" in parts else None,
    )
