"""Fine-tuning as people run it, in the validation report: ours beside simple methods."""

from __future__ import annotations

from collections import Counter

from sim.calibration.baselines import SPLITS, MethodErrors, comparison
from sim.calibration.validate_finetune import NOISE, FinetuneValidation
from sim.calibration.validate_training import TrainingPoint
from sim.quantities import percent
from sim.report.validation_cells import ERRORS, count, groups, points, share, table
from sim.report.view import Lines, Row, ViewPart

_LEFT_OUT = {
    "rows": "a fifth of the rows", "models": "whole models", "GPU kinds": "whole GPU kinds",
}  # fmt: skip
_METHODS = {"roofline": "the roofline", "boosted": "the regressor"}


def parts(report: FinetuneValidation, cross: bool, misses: int) -> list[ViewPart]:
    """Errors by group, what is left out, verdicts and GPU counts."""
    out: list[ViewPart] = [
        Lines([_TABLE], "Fine-tuning as people run it", indent=0), groups(report.groups),
        Lines([_FLAGGED], indent=0), groups(report.flagged),
        Lines([_scaling(report), _refused(report)], indent=0, list=True),
    ]  # fmt: skip
    if cross:
        found = {split: comparison(split) for split in SPLITS}
        said = [line for split in SPLITS for line in _beaten(split, found[split])]
        out += [Lines([_BESIDE], "Beside simple methods", indent=0), _compared(found)]
        out.append(Lines(said, "Where they beat the model:", list=True))
    return [*out, points(report.unflagged, f"The {misses} worst fine-tuning runs", misses)]


def _scaling(report: FinetuneValidation) -> str:
    right = [s.right for s in report.scaling]
    fewer = [s.right for s in report.scaling if s.fewer]
    return (
        f"Of {len(right)} groups of runs that differ only in the number of GPUs the fastest number "
        f"is right, within {percent(NOISE)}, in {sum(right)} ({percent(sum(right) / len(right), 1)}"
        f"); where fewer GPUs were faster than the most, in {sum(fewer)} of {len(fewer)}."
    )


def _refused(report: FinetuneValidation) -> str:
    def said(points: list[TrainingPoint]) -> str:
        words = Counter[str](p.memory.verdict.word for p in points)
        return ", ".join(
            f"{words[word]} ({percent(words[word] / len(points), 1)}) {text}"
            for word, text in (("does not fit", "are said not to fit"), ("at risk", "at risk"))
        )

    return (
        f"All {len(report.points)} runs ran; {said(list(report.points))}. Of those without flag "
        f"{said(report.unflagged)}."
    )


def _compared(found: dict[str, tuple[MethodErrors, ...]]) -> ViewPart:
    rows: list[Row] = [
        [c.group, count(c.rows), _LEFT_OUT[split],
         *(share(x) for pair in (c.ours, c.roofline, c.boosted) for x in pair)]
        for split in SPLITS for c in found[split]
    ]  # fmt: skip
    heads = [f"{name} {what} %" for name in ("model", "roofline", "boosted") for what in ERRORS[:2]]
    return table(("rows", "number", "left out", *(h.replace(" % %", " %") for h in heads)), rows)


def _beaten(split: str, found: tuple[MethodErrors, ...]) -> list[str]:
    """A line a method that is nearer than the model, by mean or by median."""
    lines = []
    for key, name in _METHODS.items():
        where = []
        for c in found:
            theirs: tuple[float, float] = getattr(c, key)
            better = [what for what, a, b in zip(("mean", "median"), theirs, c.ours, strict=True)
                      if a < b]  # fmt: skip
            if better:
                figures = f"{percent(theirs[0], 1)} and {percent(theirs[1], 1)}"
                ours = f"{percent(c.ours[0], 1)} and {percent(c.ours[1], 1)}"
                where.append(f"{c.group} ({' and '.join(better)}: {figures} against {ours})")
        if where:
            lines.append(f"{_LEFT_OUT[split]} left out, {name}: {'; '.join(where)}.")
    return lines or [f"{_LEFT_OUT[split]} left out: nowhere."]


_TABLE = (
    "IBM's LLMFineTuningBench by way of Kavier: Hugging Face Trainer, FSDP1 on several GPUs, PEFT "
    "or GPTQ, two CPU cores a GPU, first steps included (`sim/data/measured/finetune.toml` says "
    "what ran); below it runs of fms-acceleration, vectorlm and ms-swift. The error is that of "
    "tokens/s: + is faster than measured. Repeats of a run differ by 0.8 % in the median, 7 % in "
    "one of ten."
)
_FLAGGED = "Flagged rows, counted nowhere else:"
_BESIDE = (
    "The same rows, the same left out: the model (of models and GPU kinds left out, its constants "
    "of kernels, collectives, host and links fitted anew without them), a roofline (arithmetic, "
    "memory, links at data-sheet rates) with one fitted efficiency per GPU and method, and "
    "scikit-learn's gradient boosting (`scripts/baselines.py`). Mean and median of the size of the "
    "error."
)
