"""Hours and weeks of one job in SimPy: steps, evaluation, checkpoints, failures, restarts."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    import simpy

PARTS = ("useful", "data_stall", "checkpoint", "evaluation", "lost_work", "restart", "setup")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the job simulation needs, all in seconds.

    Attributes
    ----------
    steps : int
        Optimizer steps of useful work.
    step_s : float
        One step, waiting for data included. [s]
    stall_s : float
        Part of it spent waiting for data. [s]
    spread : float
        Relative standard deviation of the job's mean pace from run to run.
    interval_s : float
        Wall time between checkpoints; inf: none. [s]
    blocking_s : float
        Training stands still per checkpoint. [s]
    durable_s : float
        From the start of a save until it can be restored from (>= blocking_s). [s]
    mtbf_s : float
        Mean time between failures of the whole machine; inf: none. [s]
    detect_s, restart_s, load_s : float
        After a failure: noticing it, rescheduling and starting, reading the checkpoint. [s]
    repair_s : float
        Time a failed node is away; matters when no spare is left. [s]
    spares : int
        Spare nodes.
    evaluation_every : int
        Steps between evaluations; 0: none.
    evaluation_s : float
        One evaluation. [s]
    setup_s : float
        Before the first step: image, data, compile. [s]
    """

    steps: int
    step_s: float
    stall_s: float = 0.0
    spread: float = 0.0
    interval_s: float = math.inf
    blocking_s: float = 0.0
    durable_s: float = 0.0
    mtbf_s: float = math.inf
    detect_s: float = 0.0
    restart_s: float = 0.0
    load_s: float = 0.0
    repair_s: float = 0.0
    spares: int = 10**6
    evaluation_every: int = 0
    evaluation_s: float = 0.0
    setup_s: float = 0.0


@dataclass(slots=True)
class JobRun:
    """One replica: wall time and where it went. `parts` adds up to `wall_s`."""

    wall_s: float = 0.0
    failures: int = 0
    checkpoints: int = 0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))


def simulate_run(spec: JobSpec, seed: int) -> JobRun:
    """One seeded replica of the job.

    The training process works in stretches that end at the next checkpoint, evaluation or the end
    of the job; the failure process interrupts it at exponential times. Steps since the last
    durable checkpoint are lost work.
    """
    import simpy

    env = simpy.Environment()
    run = JobRun()
    env.run(until=env.process(_train(env, spec, random.Random(seed), run)))
    run.wall_s = env.now
    return run


def _train(
    env: simpy.Environment, spec: JobSpec, rng: random.Random, run: JobRun
) -> Generator[simpy.Event, None, None]:
    pace = spec.step_s * max(0.5, rng.gauss(1.0, spec.spread)) if spec.spread else spec.step_s
    stall = min(1.0, spec.stall_s / spec.step_s)
    parts = run.parts
    yield from _spend(env, parts, "setup", spec.setup_s)
    done = saved = 0
    pending: tuple[float, int] | None = None  # an asynchronous save: when durable, which step
    clock_since_save = 0.0
    next_failure = env.now + _exponential(rng, spec.mtbf_s)
    away: list[float] = []
    while done < spec.steps:
        until_save = spec.steps
        if math.isfinite(spec.interval_s):
            until_save = max(1, math.ceil((spec.interval_s - clock_since_save) / pace))
        until_eval = (
            spec.evaluation_every - done % spec.evaluation_every
            if spec.evaluation_every
            else spec.steps
        )
        steps = min(until_save, until_eval, spec.steps - done)
        stretch = steps * pace
        saves = steps == until_save and done + steps < spec.steps
        pause = spec.blocking_s if saves else 0.0
        if env.now + stretch + pause >= next_failure:
            elapsed = max(0.0, next_failure - env.now)
            yield env.timeout(elapsed)
            if pending and pending[0] <= env.now:
                saved = pending[1]
            pending = None
            run.failures += 1
            lost = (done - saved) * pace
            parts["useful"] -= lost * (1.0 - stall)
            parts["data_stall"] -= lost * stall
            parts["lost_work"] += lost + elapsed
            done = saved
            clock_since_save = 0.0
            away = [t for t in away if t > env.now]
            wait = 0.0
            if len(away) >= spec.spares:
                wait = max(0.0, min(away) - env.now)
            away.append(env.now + spec.repair_s)
            down = spec.detect_s + spec.restart_s + spec.load_s + wait
            yield from _spend(env, parts, "restart", down)
            next_failure = env.now + _exponential(rng, spec.mtbf_s)
            continue
        yield env.timeout(stretch)
        parts["useful"] += stretch * (1.0 - stall)
        parts["data_stall"] += stretch * stall
        done += steps
        clock_since_save += stretch
        if pending and pending[0] <= env.now:
            saved, pending = pending[1], None
        if saves:
            started = env.now
            yield from _spend(env, parts, "checkpoint", spec.blocking_s)
            run.checkpoints += 1
            clock_since_save = 0.0
            if spec.durable_s <= spec.blocking_s:
                saved = done
            else:
                pending = (started + spec.durable_s, done)
        if spec.evaluation_every and done % spec.evaluation_every == 0:
            yield from _spend(env, parts, "evaluation", spec.evaluation_s)


def _spend(
    env: simpy.Environment, parts: dict[str, float], part: str, seconds: float
) -> Generator[simpy.Event, None, None]:
    if seconds > 0.0:
        parts[part] += seconds
        yield env.timeout(seconds)


def _exponential(rng: random.Random, mean_s: float) -> float:
    return rng.expovariate(1.0 / mean_s) if math.isfinite(mean_s) else math.inf


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """Seeded replicas summed up. Shares of the mean wall time; quantiles of wall time. [s]"""

    wall_p10_s: float
    wall_p50_s: float
    wall_p90_s: float
    wall_mean_s: float
    goodput: float
    shares: dict[str, float]
    failures: float
    checkpoints: float
    replicas: int


def simulate_job(spec: JobSpec, replicas: int = 32, seed: int = 0) -> JobOutcome:
    """Wall-clock quantiles and goodput over seeded replicas; same seed, same figures."""
    runs = [simulate_run(spec, seed * 1_000_003 + i) for i in range(replicas)]
    walls = sorted(r.wall_s for r in runs)
    mean = sum(walls) / replicas
    shares = {part: sum(r.parts[part] for r in runs) / replicas / mean for part in PARTS}

    def quantile(q: float) -> float:
        at = q * (replicas - 1)
        low = int(at)
        high = min(low + 1, replicas - 1)
        return walls[low] + (at - low) * (walls[high] - walls[low])

    return JobOutcome(
        wall_p10_s=quantile(0.1),
        wall_p50_s=quantile(0.5),
        wall_p90_s=quantile(0.9),
        wall_mean_s=mean,
        goodput=shares["useful"],
        shares=shares,
        failures=sum(r.failures for r in runs) / replicas,
        checkpoints=sum(r.checkpoints for r in runs) / replicas,
        replicas=replicas,
    )
