"""Seeded replicas of a job summed up: quantiles, shares, expected counts, odds of a deadline."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

from sim.job.run import PARTS, JobRun, simulate_run
from sim.job.spec import JobSpec
from sim.records import dataclass

MOST = 1000  # interruptions or evaluations that are simulated one by one


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """Seeded replicas summed up. Shares of the mean wall time; quantiles of wall time. [s]

    Failures and preemptions are those expected: the mean time up over the time between them, which
    says more than counting those of a few replicas. Where a replica had to be given up, the job
    does not finish: times and counts are infinite.
    """

    wall_p10_s: float
    wall_p50_s: float
    wall_p90_s: float
    wall_mean_s: float
    goodput: float
    shares: dict[str, float]
    failures: float
    preemptions: float
    checkpoints: float
    replicas: int
    walls_s: tuple[float, ...] = ()  # of each replica, ascending

    def done_by(self, deadline_s: float, half_width: float = 0.0, coverage: float = 0.8) -> float:
        """Probability that the job is done in so much time.

        Parameters
        ----------
        deadline_s : float
            From the start. [s]
        half_width : float
            By how far the model may be off, in the logarithm of the wall time, with probability
            `coverage`; 0: luck alone.

        Notes
        -----
        The mean over replicas of a normal error of the logarithm of each one's wall time.
        """
        if half_width <= 0.0:
            return sum(wall <= deadline_s for wall in self.walls_s) / len(self.walls_s)
        sigma = half_width / NormalDist().inv_cdf(0.5 + coverage / 2.0)
        finite = [wall for wall in self.walls_s if math.isfinite(wall)]
        odds = (NormalDist().cdf(math.log(deadline_s / wall) / sigma) for wall in finite)
        return sum(odds) / len(self.walls_s)


def simulate_job(spec: JobSpec, replicas: int = 32) -> JobOutcome:
    """Wall-clock quantiles and goodput over replicas, each seeded with its number.

    Of a job of very many interruptions a part is simulated and scaled up: the rest is like it.
    """
    spec, scale = _shortened(spec)
    runs: list[JobRun] = []
    while len(runs) < replicas and (not runs or runs[-1].finished):
        runs.append(simulate_run(spec, len(runs)))
    replicas = len(runs)
    mean = sum(r.wall_s for r in runs) / replicas
    spent = {part: sum(r.parts[part] for r in runs) / replicas for part in PARTS}
    shares = {part: max(0.0, seconds / mean) for part, seconds in spent.items()}
    walls = sorted(r.wall_s * scale for r in runs)
    mean *= scale
    up_s = scale * sum(r.up_s for r in runs) / replicas
    if not runs[-1].finished:
        walls, mean, up_s = [math.inf] * replicas, math.inf, math.inf

    def quantile(q: float) -> float:
        at = q * (replicas - 1)
        low = int(at)
        high = min(low + 1, replicas - 1)
        between = walls[high] - walls[low] if walls[high] < math.inf else 0.0
        return walls[low] + (at - low) * between

    return JobOutcome(
        wall_p10_s=quantile(0.1),
        wall_p50_s=quantile(0.5),
        wall_p90_s=quantile(0.9),
        wall_mean_s=mean,
        goodput=shares["useful"],
        shares=shares,
        failures=up_s * spec.failure_rate if spec.failure_rate else 0.0,
        preemptions=up_s / spec.preemption_s if math.isfinite(spec.preemption_s) else 0.0,
        checkpoints=scale * sum(r.checkpoints for r in runs) / replicas,
        replicas=replicas,
        walls_s=tuple(walls),
    )


def _shortened(spec: JobSpec) -> tuple[JobSpec, float]:
    """A job of at most `MOST` interruptions and evaluations, and how often it goes into the whole.

    Interruptions are counted as if no work were lost. Evaluations too many to be simulated one by
    one are held several at a time.
    """
    interruptions = spec.steps * spec.step_s * spec.interruption_rate
    scale = max(1.0, interruptions / MOST)
    spec = replace(spec, steps=max(1, round(spec.steps / scale)))
    lumps = spec.steps // spec.evaluation_every // MOST + 1 if spec.evaluation_every else 1
    every, each_s = spec.evaluation_every * lumps, spec.evaluation_s * lumps
    setup_s = spec.setup_s / scale
    return replace(spec, evaluation_every=every, evaluation_s=each_s, setup_s=setup_s), scale
