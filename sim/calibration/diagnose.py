"""How far a run is from what its machine should give, and which single cause would explain it.

    P(cause | figures)  ~  plausibility  x  mean over strengths of  L(strength)
    ln L = -r' S^-1 r / 2,   r_i = ln(predicted_i / measured_i),   S = b^2 + n^2 I

Averaging over the strengths is what keeps a cause that could explain any figure from winning over
one that could only explain this one. The model's own error is one part b that all figures of a
user's run share (its constants on this cluster), and one part n of each figure.

Source: MacKay, Information Theory, Inference, and Learning Algorithms, chapter 28 (Occam factor).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.calibration.cause import Cause, Changed, calibrated
from sim.calibration.causes import CAUSES, NOTHING
from sim.calibration.figures import Figure
from sim.calibration.probes import PROBES
from sim.documents import SCHEMAS, Document, Section
from sim.errors import InputError
from sim.inputs.topology import Topology
from sim.memory.verdict import Verdict
from sim.step.breakdown import Breakdown
from sim.step.step import memory_of, quick, step
from sim.step.variation import Progress

F8 = npt.NDArray[np.float64]
SHARED_ERROR = 0.06  # b
OWN_ERROR = 0.04  # n: fully specified runs the constants were not fitted to, docs/validation.md
FREEDOM = 4  # degrees of freedom of their tails
EXPLAINS = 0.15  # |ln(predicted/measured)| up to which a cause explains the figures
#: by how much a line of the run's log makes a cause that it names likelier: judgement, as the
#: plausibilities; it is what runs, if not always what is slow
SAID = 20.0
_SLOWEST = 0.05  # pace
_RIVALS = 4
_FINE = 40  # interpolated strengths between two simulated ones


@dataclass(frozen=True, slots=True)
class Explanation(Section):
    """A cause at its best strength.

    Attributes
    ----------
    probability : float
        Among all causes and "nothing".
    strength : float
        1 for causes without.
    times : tuple of float
        Step time of each figure under it. [s]
    off : float
        Largest |ln(predicted/measured)|.
    """

    cause: Cause
    probability: float
    strength: float
    detail: str
    times: tuple[float, ...]
    off: float

    @property
    def explains(self) -> bool:
        """Whether it brings every figure within the model's error."""
        return self.off <= EXPLAINS

    def content(self) -> dict[str, Any]:
        """The cause, how likely, and what it gives."""
        return {
            "key": self.cause.key,
            "title": self.cause.title,
            "probability": self.probability,
            "strength": self.strength,
            "detail": self.detail,
            "step_s": self.times,
            "explains": self.explains,
            "check": self.cause.check,
        }


@dataclass(frozen=True, slots=True)
class Test(Section):
    """A measurement that tells two causes apart."""

    title: str
    tells: tuple[str, str]  # keys of the causes
    expected: tuple[str, ...]  # under the first cause, the second, and if all were as declared
    separation: float  # in standard errors

    def content(self) -> dict[str, Any]:
        """What to measure, and what each cause expects."""
        return {"title": self.title, "tells": self.tells, "expected": self.expected}


@dataclass(frozen=True, slots=True)
class Diagnosis(Document):
    """What came out; explanations by probability."""

    schema: ClassVar[str] = SCHEMAS["diagnosis"]

    figures: tuple[Figure, ...]
    predicted: tuple[float, ...]  # step times as declared [s]
    pace: float  # of kernels, beside the shipped constants, that the baseline asked for
    explanations: tuple[Explanation, ...]
    nothing: float  # probability that there is nothing to explain
    test: Test | None
    verdict: Verdict  # of memory, as declared
    borrowed: tuple[str, ...] = ()  # constants that are those of other hardware

    @property
    def ratio(self) -> float:
        """Step time of the run in question over the predicted one."""
        return self.figures[0].step_time_s / self.predicted[0]

    @property
    def ordinary(self) -> bool:
        """Whether the run is what the model expects, within its error."""
        return self.nothing > 0.5 and abs(math.log(self.ratio)) <= EXPLAINS

    def content(self) -> dict[str, Any]:
        """Figures beside what is predicted, causes, and the measurement to make next."""
        return {
            "figures": [
                {
                    "label": f.label,
                    "measured_tokens_per_s_per_gpu": f.tokens_per_s_per_gpu,
                    "predicted_tokens_per_s_per_gpu": f.rate(seconds),
                    "measured_step_s": f.step_time_s,
                    "predicted_step_s": seconds,
                }
                for f, seconds in zip(self.figures, self.predicted, strict=True)
            ],
            "pace": self.pace,
            "fits": self.verdict.fits,
            "verdict": self.verdict.word,
            "nothing": self.nothing,
            "causes": self.explanations,
            "test": self.test,
            "borrowed": self.borrowed,
            "heard": [{"says": h.says, "line": h.line} for h in self.figures[0].heard],
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a cause, beside what was measured and predicted."""
        first = {
            "measured_step_s": self.figures[0].step_time_s,
            "predicted_step_s": self.predicted[0],
        }
        return [e.content() | first for e in self.explanations]


def diagnose(
    figures: Sequence[Figure], baseline: Figure | None = None, progress: Progress | None = None
) -> Diagnosis:
    """Rank the causes that would explain measured runs of one job on one machine.

    Parameters
    ----------
    figures : sequence of Figure
        The run in question first; others (on one node, say) must be explained by the same cause.
    baseline : Figure, optional
        A run taken as it is: kernels are given the pace that it shows, so that only what `figures`
        lack beside it needs explaining. On another number of nodes, say, it is taken to have the
        same cause; where it is the same job, to be of another cluster that does not have it.
    progress : callable, optional
        Called with causes simulated and how many there are.
    """
    pace, beside = 1.0, None
    if baseline is not None:
        pace = kernel_pace(baseline)
        if (baseline.topology, baseline.workload) != (figures[0].topology, figures[0].workload):
            beside = replace(baseline, topology=_paced(baseline.topology, pace))
        figures = [replace(f, topology=_paced(f.topology, pace)) for f in figures]
    measured = np.log([f.step_time_s for f in figures])
    steps = [step(f.topology, f.workload) for f in figures]
    declared = [found.breakdown for found in steps]
    first, nothing, explanations = figures[0], 0.0, []
    table = predictions(figures, beside, progress)
    likelihoods = [p.weighed(measured) for p in table]
    odds = _odds(first)
    evidence = [
        p.cause.plausibility * float(ls.mean()) * odds.get(p.cause.key, 1.0)
        for p, ls in zip(table, likelihoods, strict=True)
    ]
    total = sum(evidence) or 1.0
    for p, likelihood, weight in zip(table, likelihoods, evidence, strict=True):
        if p.cause is NOTHING:
            nothing = weight / total
            continue
        best = int(np.argmax(likelihood))
        strength, times = float(p.strengths[best]), np.exp(p.logs[best])
        explanations.append(
            Explanation(
                p.cause, weight / total, strength,
                p.cause.says(first.topology, first.workload, strength), tuple(times.tolist()),
                float(np.abs(p.logs[best] - measured).max()),
            )
        )  # fmt: skip
    explanations.sort(key=lambda e: (-e.probability, e.off, e.cause.key))
    return Diagnosis(
        tuple(figures), tuple(b.time_s for b in declared), pace, tuple(explanations), nothing,
        _telling(figures[0], explanations),
        steps[0].memory.verdict, tuple(dict.fromkeys(text for s in steps for text in s.fallbacks)),
    )  # fmt: skip


def _odds(figure: Figure) -> dict[str, float]:
    """By what a figure's log makes causes likelier, or less likely."""
    odds = {key: 1.0 / SAID for heard in figure.heard for key in heard.denied}
    return odds | {key: SAID for heard in figure.heard for key in heard.causes}


def kernel_pace(baseline: Figure) -> float:
    """The common factor on the rate of all kernels and of their launch that a run shows."""
    pace = 1.0
    for _ in range(6):
        paced = _paced(baseline.topology, pace)
        predicted = quick(paced, baseline.workload).time_s
        ratio = predicted / baseline.step_time_s
        pace = min(max(pace * ratio, _SLOWEST), 1.0 / _SLOWEST)
        if abs(math.log(ratio)) < 0.005:
            break
    return pace


def _paced(topology: Topology, pace: float) -> Topology:
    return calibrated(topology, gemm_clock=pace, hbm_bandwidth=pace, host_launch=1.0 / pace)


class Predicted(NamedTuple):
    """What a cause gives: strengths (m,) and logarithms of the figures' step times (m, n)."""

    cause: Cause
    strengths: F8
    logs: F8

    def weighed(self, measured: F8) -> F8:
        """Likelihood of logarithms of measured step times (n,) at each strength. (m,)"""
        return np.asarray(np.exp(_log_likelihood(self.logs - measured)))


def predictions(
    figures: Sequence[Figure], baseline: Figure | None = None, progress: Progress | None = None
) -> list[Predicted]:
    """Every cause that can be, simulated at strengths from mild to hard.

    Parameters
    ----------
    figures : sequence of Figure
        The jobs; what was measured of them does not matter.
    baseline : Figure, optional
        A job whose pace is taken as it is, and that has what causes everything has.
    progress : callable, optional
        Called with causes simulated and how many there are.
    """
    declared = [step(f.topology, f.workload).breakdown for f in figures]
    reference = None
    if baseline is not None:
        reference = step(baseline.topology, baseline.workload).breakdown
    found, causes = [], (NOTHING, *CAUSES)
    for done, cause in enumerate(causes, 1):
        found.append(_predicted(cause, figures, declared, (baseline, reference)))
        if progress is not None:
            progress(done, len(causes))
    return [one for one in found if one is not None]


def _predicted(
    cause: Cause, figures: Sequence[Figure], declared: Sequence[Breakdown],
    baseline: tuple[Figure | None, Breakdown | None],
) -> Predicted | None:  # fmt: skip
    """A cause at its strengths, interpolated; None where it cannot be."""
    first = figures[0]
    changed = cause.change(first.topology, first.workload, cause.strengths[0])
    if changed is None or _cannot_be(changed, first):
        return None
    if first.timed and changed.adds == "tokens":
        return None
    rows = []
    for strength in cause.strengths:
        try:
            times = [_time(cause, f, b, strength) for f, b in zip(figures, declared, strict=True)]
            rows.append([t / _shared(cause, *baseline, strength) for t in times])
        except InputError:  # a machine that cannot be, such as one without any link
            if len(cause.strengths) == 1:
                return None
            break
    if not rows:
        return None
    logs = np.log(np.array(rows))
    places = np.arange(len(rows), dtype=float)
    fine = np.linspace(0.0, places[-1], max(1, _FINE * (len(rows) - 1) + 1))
    found = np.stack([np.interp(fine, places, column) for column in logs.T], axis=1)
    strengths = np.exp(np.interp(fine, places, np.log(cause.strengths[: len(rows)])))
    return Predicted(cause, strengths, found)


def _cannot_be(changed: Changed, figure: Figure) -> bool:
    """Whether a job that fits as declared would not as a cause leaves it: then it did not run."""
    if changed.workload is figure.workload and changed.topology is figure.topology:
        return False
    fits = memory_of(figure.topology, figure.workload).fits
    return fits and not memory_of(changed.topology, changed.workload).fits


def _shared(
    cause: Cause, baseline: Figure | None, declared: Breakdown | None, strength: float
) -> float:
    """How much slower the baseline is by the cause: that much of it is in its pace already."""
    if baseline is None or declared is None or not cause.everywhere:
        return 1.0
    return _time(cause, baseline, declared, strength) / declared.time_s


def _time(cause: Cause, figure: Figure, declared: Breakdown, strength: float) -> float:
    changed = cause.change(figure.topology, figure.workload, strength)
    if changed is None or (figure.timed and changed.adds == "tokens"):  # it is not touched
        return declared.time_s
    return changed.time(_step(changed, figure, declared))


def _step(changed: Changed, figure: Figure, declared: Breakdown) -> Breakdown:
    if changed.topology is figure.topology and changed.workload is figure.workload:
        return declared
    return step(changed.topology, changed.workload).breakdown


def _log_likelihood(r: F8) -> F8:
    """Of residuals (m, n figures), up to a constant, with Student's tails.

    Notes
    -----
    Normal tails would call a run that is 3 times off "impossible" under every cause that explains
    half of it; a t of 4 degrees of freedom keeps an order among them.
    """
    n = r.shape[1]
    covariance = np.full((n, n), SHARED_ERROR**2) + np.diag(np.full(n, OWN_ERROR**2))
    quadratic = np.einsum("mi,ij,mj->m", r, np.linalg.inv(covariance), r)
    return np.asarray(-0.5 * (FREEDOM + n) * np.log1p(quadratic / FREEDOM))


def _telling(figure: Figure, ranked: Sequence[Explanation]) -> Test | None:
    """The measurement that separates the best cause from the next that any can separate from it."""
    slower = figure.step_time_s > quick(figure.topology, figure.workload).time_s
    ranked = [e for e in ranked if not (slower and e.cause.faster)]
    good = [e for e in ranked if e.explains][:_RIVALS] or ranked[:_RIVALS]
    if not good:
        return None
    plain = Changed(figure.topology, figure.workload)
    declared = plain, step(figure.topology, figure.workload).breakdown
    first = _under(good[0], figure)
    for rival in good[1:]:
        second = _under(rival, figure)
        best: Test | None = None
        for probe in PROBES:
            values = [probe.predict(*job) for job in (first, second, declared)]
            if not all(math.isfinite(v) and v > 0 for v in values):
                continue
            separation = abs(math.log(values[0] / values[1])) / probe.noise
            if separation > (best.separation if best else 1.5):
                shown = tuple(probe.show(v) for v in values)
                pair = good[0].cause.key, rival.cause.key
                best = Test(probe.title, pair, shown, separation)
        if best is not None:
            return best
    return None


def _under(e: Explanation, figure: Figure) -> tuple[Changed, Breakdown]:
    changed = e.cause.change(figure.topology, figure.workload, e.strength)
    if changed is None:
        changed = Changed(figure.topology, figure.workload)
    return changed, step(changed.topology, changed.workload).breakdown
