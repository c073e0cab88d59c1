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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim.api import tokens_per_step
from sim.calibration.causes import CAUSES, NOTHING, Cause, Changed
from sim.calibration.probes import PROBES
from sim.errors import Fault, InputError
from sim.result.breakdown import Breakdown
from sim.result.quick import quick_breakdown
from sim.spec.loader import Argument, load
from sim.spec.topology import Topology
from sim.spec.workload import Workload

F8 = npt.NDArray[np.float64]
SHARED_ERROR = 0.06  # b
OWN_ERROR = 0.04  # n: fully specified runs the constants were not fitted to, docs/validation.md
EXPLAINS = 0.15  # |ln(predicted/measured)| up to which a cause explains the figures
_FIGURES = ("tokens_per_s_per_gpu", "step_time_s")
_FINE = 40  # interpolated strengths between two simulated ones


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured run."""

    topology: Topology
    workload: Workload
    step_time_s: float
    label: str = ""

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """As a rate. [1/s]"""
        return self.rate(self.step_time_s)

    def rate(self, seconds: float) -> float:
        """Tokens a second and GPU, of a step of so many seconds."""
        return tokens_per_step(self.topology, self.workload) / seconds / self.topology.world_size


@dataclass(frozen=True, slots=True)
class Explanation:
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


@dataclass(frozen=True, slots=True)
class Test:
    """A measurement that tells two causes apart."""

    title: str
    expected: tuple[str, ...]  # under the first cause, the second, and if all were as declared
    separation: float  # in standard errors


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What came out; explanations by probability."""

    figures: tuple[Figure, ...]
    predicted: tuple[float, ...]  # step times as declared [s]
    explanations: tuple[Explanation, ...]
    nothing: float  # probability that there is nothing to explain
    test: Test | None


def diagnose(figures: Sequence[Figure]) -> Diagnosis:
    """Rank the causes that would explain measured runs of one job on one machine.

    Parameters
    ----------
    figures : sequence of Figure
        The run in question first; others (on one node, say) must be explained by the same cause.
    """
    measured = np.array([f.step_time_s for f in figures])
    declared = [quick_breakdown(f.topology, f.workload) for f in figures]
    found = []
    for cause in (NOTHING, *CAUSES):
        weighed = _weigh(cause, figures, declared, measured)
        if weighed is not None:
            found.append((cause, *weighed))
    total = sum(cause.plausibility * evidence for cause, evidence, _, _ in found) or 1.0
    explanations = []
    nothing = 0.0
    for cause, evidence, strength, times in found:
        probability = cause.plausibility * evidence / total
        if cause is NOTHING:
            nothing = probability
            continue
        first = figures[0]
        explanations.append(
            Explanation(
                cause, probability, strength, cause.says(first.topology, first.workload, strength),
                tuple(times.tolist()), float(np.abs(np.log(times / measured)).max()),
            )
        )  # fmt: skip
    explanations.sort(key=lambda e: (-e.probability, e.off, e.cause.key))
    return Diagnosis(
        tuple(figures), tuple(b.time_s for b in declared), tuple(explanations), nothing,
        _telling(figures[0], explanations),
    )  # fmt: skip


def _weigh(
    cause: Cause, figures: Sequence[Figure], declared: Sequence[Breakdown], measured: F8
) -> tuple[float, float, F8] | None:
    """Mean likelihood over the strengths, the best strength, and the step times there."""
    first = figures[0]
    if cause.change(first.topology, first.workload, cause.strengths[0]) is None:
        return None
    rows = []
    for strength in cause.strengths:
        try:
            rows.append(
                [_time(cause, f, b, strength) for f, b in zip(figures, declared, strict=True)]
            )
        except InputError:  # a machine that cannot be, such as one without any link
            if len(cause.strengths) == 1:
                return None
            break
    if not rows:
        return None
    logs = np.log(np.array(rows))
    places = np.arange(len(rows), dtype=float)
    fine = np.linspace(0.0, places[-1], max(1, _FINE * (len(rows) - 1) + 1))
    times = np.stack([np.interp(fine, places, column) for column in logs.T], axis=1)
    strengths = np.exp(np.interp(fine, places, np.log(cause.strengths[: len(rows)])))
    likelihood = np.exp(_log_likelihood(times - np.log(measured)))
    best = int(np.argmax(likelihood))
    return float(likelihood.mean()), float(strengths[best]), np.exp(times[best])


def _time(cause: Cause, figure: Figure, declared: Breakdown, strength: float) -> float:
    changed = cause.change(figure.topology, figure.workload, strength)
    if changed is None:  # does not touch this figure's machine
        return declared.time_s
    return changed.time(_step(changed, figure, declared))


def _step(changed: Changed, figure: Figure, declared: Breakdown) -> Breakdown:
    if changed.topology is figure.topology and changed.workload is figure.workload:
        return declared
    return quick_breakdown(changed.topology, changed.workload)


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
    return np.asarray(-0.5 * (4 + n) * np.log1p(quadratic / 4))


def _telling(figure: Figure, ranked: Sequence[Explanation]) -> Test | None:
    """The measurement that separates the two best causes most, in its own noise."""
    good = [e for e in ranked if e.explains][:2] or list(ranked[:2])
    if len(good) < 2:
        return None
    jobs = []
    for e in good:
        changed = e.cause.change(figure.topology, figure.workload, e.strength)
        if changed is None:
            return None
        jobs.append((changed, quick_breakdown(changed.topology, changed.workload)))
    plain = Changed(figure.topology, figure.workload)
    jobs.append((plain, quick_breakdown(figure.topology, figure.workload)))
    best: Test | None = None
    for probe in PROBES:
        values = [probe.predict(changed, step) for changed, step in jobs]
        if not all(math.isfinite(v) and v > 0 for v in values):
            continue
        separation = abs(math.log(values[0] / values[1])) / probe.noise
        if separation > (best.separation if best else 1.0):
            best = Test(probe.title, tuple(probe.show(v) for v in values), separation)
    return best


def read_figures(
    topology: Argument, workload: Argument, sets: Sequence[str], measured: str,
    also: Sequence[str] = (),
) -> list[Figure]:  # fmt: skip
    """Figures as the command line has them.

    Parameters
    ----------
    topology, workload : path, name, mapping or spec
        The job.
    sets : sequence of str
        Overrides of all figures.
    measured : str
        ``tokens_per_s_per_gpu=1000`` or ``step_time_s=12.5``.
    also : sequence of str
        Such a figure and overrides of its own, separated by spaces.
    """
    faults: list[Fault] = []
    figures: list[Figure] = []
    for text in (measured, *also):
        option = "--measured" if not figures and text is measured else "--also"
        try:
            figures.append(_figure(topology, workload, sets, text, option))
        except InputError as error:
            faults.extend(error.faults)
    if faults:
        raise InputError(faults)
    return figures


def _figure(
    topology: Argument, workload: Argument, sets: Sequence[str], text: str, option: str
) -> Figure:
    words, source = text.split(), f"{option} {text}"
    given = [w for w in words if w.partition("=")[0] in _FIGURES]
    if len(given) != 1:
        message = "give one of tokens_per_s_per_gpu=NUMBER and step_time_s=NUMBER"
        raise InputError.single(source, message)
    key, _, number = given[0].partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError.single(source, f"{number!r} is no positive number", key)
    changes = [w for w in words if w not in given]
    loaded = load(topology, workload, (*sets, *changes))
    figure = Figure(loaded.topology, loaded.workload, value, " ".join(changes) or "as given")
    if key == "tokens_per_s_per_gpu":
        seconds = tokens_per_step(loaded.topology, loaded.workload) / value
        return replace(figure, step_time_s=seconds / loaded.topology.world_size)
    return figure
