"""Predicted against measured fine-tuning runs, as people run them: errors, verdicts, GPU counts.

The error is that of the predicted speed, as in `sim.calibration.validate_training`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable

from sim.calibration.validate_training import TrainingGroup, TrainingPoint, errors_of, predict_all
from sim.published.finetune import finetune_rows
from sim.published.rows import MeasuredRow
from sim.records import NamedTuple

NOISE = (
    0.02  # of one measurement: repeats of a run differ by 0.8 % in the median, 7 % in one of ten
)


def method_of(row: MeasuredRow) -> str:
    """``full``, ``lora``, ``gptq`` or ``nf4``."""
    return row.workload.method.told.split("-")[0]


def machine_of(row: MeasuredRow) -> str:
    """Its GPU, in as much of the name as tells them apart: ``a100-sxm``."""
    return row.topology.first_gpu.name.rsplit("-", 1)[0]


Chooses = Callable[[MeasuredRow], bool]
#: groups of rows without flag, by what they are held against
GROUPS: dict[str, Chooses] = {
    "one GPU": lambda r: r.gpus == 1,
    "full, several A100 SXM": lambda r: _several(r, "a100-sxm") and method_of(r) == "full",
    "LoRA, several A100 SXM": lambda r: _several(r, "a100-sxm") and method_of(r) == "lora",
    "GPTQ, several A100 SXM": lambda r: _several(r, "a100-sxm") and method_of(r) == "gptq",
    "several A100 PCIe or L40S": lambda r: _several(r, "a100-pcie", "l40s-pcie"),
    "several H100 PCIe": lambda r: _several(r, "h100-pcie"),
}


def _several(row: MeasuredRow, *machines: str) -> bool:
    return row.gpus > 1 and machine_of(row) in machines


class ScalingSeries(NamedTuple):
    """Runs that differ in nothing but the number of GPUs."""

    points: tuple[TrainingPoint, ...]

    @property
    def right(self) -> bool:
        """Whether the number of GPUs said to be fastest is, within the noise of a measurement."""
        chosen = max(self.points, key=lambda p: p.predicted * p.row.gpus)
        best = max(map(_measured, self.points))
        return _measured(chosen) >= (1 - NOISE) * best

    @property
    def fewer(self) -> bool:
        """Whether the most GPUs are not the fastest."""
        most = max(self.points, key=lambda p: p.row.gpus)
        return _measured(most) < max(map(_measured, self.points))


def _measured(point: TrainingPoint) -> float:
    return (point.row.tokens_per_s_per_gpu or 0.0) * point.row.gpus


class FinetuneValidation(NamedTuple):
    """All of it."""

    points: tuple[TrainingPoint, ...]
    groups: tuple[TrainingGroup, ...]
    flagged: tuple[TrainingGroup, ...]
    scaling: tuple[ScalingSeries, ...]

    @property
    def unflagged(self) -> list[TrainingPoint]:
        """Points that headline errors count."""
        return [p for p in self.points if p.row.status == "complete"]

    @property
    def table(self) -> list[TrainingPoint]:
        """Those of them that stand in the large table."""
        return [p for p in self.unflagged if p.row.group == "finetune"]

    @property
    def refused(self) -> list[TrainingPoint]:
        """Runs that ran and are said not to fit."""
        return [p for p in self.points if not p.memory.fits]


@functools.cache
def validate_finetune() -> FinetuneValidation:
    """Compare every published fine-tuning run with the model."""
    points = predict_all(finetune_rows())
    complete = [p for p in points if p.row.status == "complete"]
    table = [p for p in complete if p.row.group == "finetune"]
    groups = [("all", "the table, no flag", table)]
    groups += [("group", name, [p for p in table if of(p.row)]) for name, of in GROUPS.items()]
    for key, of in (("method", method_of), ("gpu", machine_of), ("model", _model)):
        groups += [(key, v, mine) for v, mine in _by(table, of).items()]
    others = [p for p in points if p.row.group != "finetune"]
    groups += [("source", v, mine) for v, mine in _by(others, lambda r: r.group).items()]
    flagged = [p for p in points if p.row.status == "anomaly"]
    return FinetuneValidation(
        points,
        tuple(errors_of(key, value, [p.error for p in mine]) for key, value, mine in groups),
        tuple(
            errors_of("flag", v, [p.error for p in mine])
            for v, mine in _by(flagged, lambda r: r.note).items()
        ),
        tuple(scaling(table)),
    )


def _model(row: MeasuredRow) -> str:
    return row.workload.model.name


def shape_of(row: MeasuredRow) -> str:
    """What models have in common that are left out together: editions of one differ elsewhere."""
    m = row.workload.model
    return f"{m.layers} x {m.hidden_size}, {m.heads} over {m.kv_heads}, {m.ffn_size}"


def _by(
    points: Iterable[TrainingPoint], of: Callable[[MeasuredRow], str]
) -> dict[str, list[TrainingPoint]]:
    out: dict[str, list[TrainingPoint]] = {}
    for p in points:
        out.setdefault(of(p.row), []).append(p)
    return out


def scaling(points: Iterable[TrainingPoint]) -> Iterable[ScalingSeries]:
    """Groups of runs of the same job and global batch on different numbers of equal GPUs."""
    alike: dict[Hashable, dict[int, TrainingPoint]] = {}
    for p in points:
        w = p.row.workload
        key = (
            machine_of(p.row), w.model.name, method_of(p.row), w.sequence_length,
            w.micro_batch * p.row.gpus, w.gradient_accumulation,
        )  # fmt: skip
        alike.setdefault(key, {}).setdefault(p.row.gpus, p)
    for found in alike.values():
        if len(found) > 1:
            yield ScalingSeries(tuple(found.values()))
