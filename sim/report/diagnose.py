"""A diagnosis as text or JSON."""

from __future__ import annotations

import math

from sim.calibration.diagnose import Diagnosis, Explanation

_SHOWN = 6
_FAINT = 0.005


def formatted(found: Diagnosis, form: str) -> str:
    """Text (``table``) or ``json``."""
    if form == "json":
        return found.to_json()
    lines = [_verdict(found)]
    for figure, seconds in zip(found.figures[1:], found.predicted[1:], strict=True):
        lines.append(
            f"also given: {figure.label}: {figure.tokens_per_s_per_gpu:,.0f} tokens/s per GPU, "
            f"{figure.rate(seconds):,.0f} predicted"
        )
    if not found.fits:
        lines.append(
            "as declared it does not fit in memory: what ran was something else "
            "(scaling-sim memory says what would fit)"
        )
    if found.pace != 1.0:
        lines.append(
            f"kernels run at {found.pace:.2f} of the pace of the shipped constants, "
            "as the baseline shows"
        )
    lines += ["", "single causes, by how well and how plausibly they explain it:"]
    shown = [e for e in found.explanations if e.probability >= _FAINT][:_SHOWN]
    shown = shown or list(found.explanations[:3])
    for i, e in enumerate(shown, start=1):
        lines += _explained(i, e, found)
    lines.append("")
    lines.append(_conclusion(found, shown))
    test = found.test
    if test is not None:
        names = test.tells
        lines += [
            f"To tell {names[0]} from {names[1]}: {test.title}",
            f"  {names[0]}: {test.expected[0]}; {names[1]}: {test.expected[1]}; "
            f"as declared: {test.expected[2]}",
        ]
    return "\n".join(lines)


def _verdict(found: Diagnosis) -> str:
    figure, seconds = found.figures[0], found.predicted[0]
    ratio = found.ratio
    measured, predicted = figure.tokens_per_s_per_gpu, figure.rate(seconds)
    head = (
        f"measured {measured:,.0f} tokens/s per GPU (step {figure.step_time_s:.3g} s); the machine "
        f"should give {predicted:,.0f} ({seconds:.3g} s): "
    )
    if found.ordinary:
        return f"{head}{ratio - 1:+.0%} in step time, within the model's error"
    return head + (f"{ratio:.1f} times too slow" if ratio >= 1 else f"{1 / ratio:.2f} times faster")


def _explained(number: int, e: Explanation, found: Diagnosis) -> list[str]:
    detail = f", {e.detail}" if e.detail else ""
    rates = " and ".join(
        f"{figure.rate(seconds):,.0f}"
        for figure, seconds in zip(found.figures, e.times, strict=True)
    )
    fit = "" if e.explains else f"  (not enough by itself: off by {math.expm1(e.off):.0%})"
    return [
        f"{number}. {e.probability:4.0%}  {e.cause.title}{detail}",
        f"         gives {rates} tokens/s per GPU [{e.cause.key}]{fit}",
        f"         look at: {e.cause.check}",
    ]


def _conclusion(found: Diagnosis, shown: list[Explanation]) -> str:
    if found.ordinary:
        return "Nothing needs explaining: the figure is what the model expects, within its error."
    if found.ratio < 1.0:
        return (
            "Faster than the machine should be: check how tokens are counted, and whether the "
            "topology or the workload understates what ran."
        )
    if not shown[0].explains:
        return (
            "No single cause explains it: look for two at once, the first of the list among them."
        )
    rivals = [e for e in shown[1:] if e.explains and e.probability > shown[0].probability / 3]
    if rivals:
        return f"{len(rivals) + 1} causes explain it about equally well."
    return f"Most likely: {shown[0].cause.title}."
