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
from dataclasses import replace

import numpy as np

from sim.calibration.cause import Changed, calibrated
from sim.calibration.causes import NOTHING
from sim.calibration.diagnosis import Diagnosis, Explanation, Test
from sim.calibration.figures import Figure
from sim.calibration.predictions import predictions
from sim.calibration.probes import PROBES
from sim.inputs.topology import Topology
from sim.result.warned import warnings_of
from sim.step.breakdown import Breakdown
from sim.step.step import quick, step
from sim.step.variation import Progress

#: by how much a line of the run's log makes a cause that it names likelier: judgement, as the
#: plausibilities; it is what runs, if not always what is slow
SAID = 20.0
_SLOWEST = 0.05  # pace
_RIVALS = 4


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
        warnings_of(first.topology, first.workload, first.notes, steps[0]),
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
