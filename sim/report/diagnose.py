"""A diagnosis: how far the run is off, which single causes would explain it, how to tell."""

from __future__ import annotations

import math

from sim.calibration.diagnosis import Diagnosis, Explanation
from sim.quantities import percent, whole_percents
from sim.report.view import Fact, Facts, Lines, View, ViewPart, borrowed, warned

_APART = 4.0  # from which a figure is so many times another


def view(found: Diagnosis) -> View:
    """What `scaling-sim diagnose` says."""
    shown = found.named
    odds = whole_percents([*(e.probability for e in shown), found.unnamed])
    causes = [
        _explained(f"{i}. {odd:>3} %", e, found)
        for i, (e, odd) in enumerate(zip(shown, odds, strict=False), start=1)
    ]
    causes.append(Fact(f"   {odds[-1]:>3} %", _else(found)))
    heading = "single causes, by how well and how plausibly they explain it:"
    sections: list[ViewPart] = [
        Lines(_besides(found), indent=0, apart=False),
        Facts(causes, heading, indent=0),
        Lines([conclusion(found), *_telling(found)], indent=0),
        warned(found.warnings)._replace(indent=0),
        borrowed(found.borrowed, indent=0, apart=not found.warnings),
    ]
    return View(_verdict(found), sections, found)


def _verdict(found: Diagnosis) -> str:
    figure, seconds = found.figures[0], found.predicted[0]
    ratio = found.ratio
    measured, predicted = figure.tokens_per_s_per_gpu, figure.rate(seconds)
    head = (
        f"measured {measured:,.0f} tokens/s per GPU (step {figure.step_time_s:.3g} s); the machine "
        f"should give {predicted:,.0f} ({seconds:.3g} s): "
    )
    if found.ordinary:
        return f"{head}{percent(ratio - 1, 0, '+')} in step time, within the model's error"
    if ratio >= 1:
        return f"{head}{ratio:.1f} times too slow"
    return f"{head}{1 / ratio:,.{2 if ratio > 0.1 else 0}f} times faster"


def _besides(found: Diagnosis) -> list[str]:
    """Other figures, and what the first one must be read with."""
    read = found.figures[0].read
    lines = [f"read from {read}"] if read else []
    lines += [f"its log says: {h.says} (line {h.line})" for h in found.figures[0].heard]
    lines += [
        f"also given: {figure.label}: {figure.tokens_per_s_per_gpu:,.0f} tokens/s per GPU, "
        f"{figure.rate(seconds):,.0f} predicted"
        for figure, seconds in zip(found.figures[1:], found.predicted[1:], strict=True)
    ]
    if found.verdict.risk:
        lines.append(f"as declared it is at risk in memory: {found.verdict.risk}")
    if not found.verdict.fits:
        lines.append(
            "as declared it does not fit in memory: what ran was something else "
            "(scaling-sim memory says what would fit)"
        )
    if found.pace != 1.0:
        lines.append(
            f"kernels run at {found.pace:.2f} of the pace of the shipped constants, "
            "as the baseline shows"
        )
    return lines


def _else(found: Diagnosis) -> str:
    """What is left for what is not named."""
    nothing = percent(found.nothing, 0)
    return f"none of these ({nothing}: nothing to explain, it is within the model's error)"


def _explained(label: str, e: Explanation, found: Diagnosis) -> Fact:
    detail = f", {e.detail}" if e.detail else ""
    rates = " and ".join(
        f"{figure.rate(seconds):,.0f}"
        for figure, seconds in zip(found.figures, e.times, strict=True)
    )
    apart = math.exp(e.off)
    off = percent(apart - 1.0, 0) if apart < _APART else f"a factor of {apart:,.0f}"
    fit = "" if e.explains else f"  (not enough by itself: off by {off})"
    return Fact(
        label,
        f"{e.cause.title}{detail}",
        (f"gives {rates} tokens/s per GPU [{e.cause.key}]{fit}", f"look at: {e.cause.check}"),
    )


def conclusion(found: Diagnosis) -> str:
    """What it comes to, in a sentence."""
    shown = found.named
    if found.ordinary:
        return "Nothing needs explaining: the figure is what the model expects, within its error."
    if found.ratio < 1.0 and not (shown and shown[0].explains):
        return (
            "Faster than the machine should be: check how tokens are counted, and whether the "
            "topology or the workload understates what ran."
        )
    enough = next((e for e in shown if e.explains), None)
    if enough is None:
        return (
            "No single cause explains it: look for two at once, the first of the list among them."
        )
    if not shown[0].explains:
        return (
            f"The first is likeliest and not enough by itself, {enough.cause.key} would be: look "
            "for that, or for two at once."
        )
    rivals = [e for e in shown[1:] if e.explains and e.probability > shown[0].probability / 3]
    if rivals:
        return f"{len(rivals) + 1} causes explain it about equally well."
    return f"Most likely: {shown[0].cause.title}."


def _telling(found: Diagnosis) -> list[str]:
    """The test that would tell the first cause from the next, where one is looked for."""
    test = found.test
    if test is None or found.ordinary:
        return []
    first, second = test.tells
    return [
        f"To tell {first} from {second}: {test.title}",
        f"  {first}: {test.expected[0]}; {second}: {test.expected[1]}; "
        f"as declared: {test.expected[2]}",
    ]
