"""Hours and weeks of one job: steps, evaluation, checkpoints, failures, restarts.

Training works in stretches that end at the next evaluation, at an interruption or at the end of the
job. Saves fall at known times of a stretch, so that an interruption says by arithmetic how far it
had come: simulating a run costs as much as it has interruptions, however many checkpoints lie
between them. Broken nodes are repaired meanwhile and come back as spares.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field, replace

PARTS = (
    "useful", "data_stall", "checkpoint", "evaluation", "lost_work", "restart", "waiting", "setup",
)  # fmt: skip


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
        Training time between checkpoints; inf: none. [s]
    blocking_s : float
        Training stands still per checkpoint. [s]
    durable_s : float
        From the start of a save until it can be restored from (>= blocking_s). [s]
    mtbf_s : float
        Mean time between failures of the whole machine; inf: none. [s]
    detect_s, restart_s, load_s : float
        After a failure: noticing it, starting again, reading the checkpoint. [s]
    repair_s : float
        Time a broken node is away; matters when no spare is left. [s]
    repair_share : float
        Failures that take a node away; after the others it starts again at once.
    spares : int or None
        Spare nodes; None: a broken node is replaced at once.
    preemption_s : float
        Mean time between preemptions of the whole machine; inf: none. [s]
    preemption_wait_s : float
        Mean wait for capacity after one, exponential. [s]
    preemption_notice_s : float
        Warning: a save that takes no longer loses nothing. [s]
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
    repair_share: float = 1.0
    spares: int | None = None
    preemption_s: float = math.inf
    preemption_wait_s: float = 0.0
    preemption_notice_s: float = 0.0
    evaluation_every: int = 0
    evaluation_s: float = 0.0
    setup_s: float = 0.0


MOST = 1000  # interruptions or evaluations that are simulated one by one
HOPELESS = 1000  # interruptions in a row without a durable save between them


@dataclass(slots=True)
class JobRun:
    """One replica: wall time and where it went. `parts` adds up to `wall_s`.

    Not `finished`: given up after `HOPELESS` starts that came to nothing.
    """

    finished: bool = True
    wall_s: float = 0.0
    failures: int = 0
    preemptions: int = 0
    checkpoints: int = 0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))


def simulate_run(spec: JobSpec, seed: int) -> JobRun:
    """One seeded replica of the job."""
    job = _Job(spec, seed)
    job.train()
    job.run.wall_s = job.now
    return job.run


class _Job:
    """One replica: its clock, its books and its machine."""

    def __init__(self, spec: JobSpec, seed: int) -> None:
        self.now, self.spec, self.run = 0.0, spec, JobRun()
        # a stream of random numbers each, so that changing one thing moves nothing else
        self.repairs = random.Random(f"{seed} repairs")
        self.causes = {
            cause: (mean_s, random.Random(f"{seed} {cause}"))
            for cause, mean_s in (("failure", spec.mtbf_s), ("preemption", spec.preemption_s))
            if math.isfinite(mean_s)
        }
        self.uptime_left = {cause: self.draw(cause) for cause in self.causes}
        pace = 1.0
        if spec.spread:
            pace = max(0.5, random.Random(f"{seed} pace").gauss(1.0, spec.spread))
        self.pace_s = spec.step_s * pace
        self.stall = min(1.0, spec.stall_s / spec.step_s)
        self.every = spec.steps + 1  # steps between saves
        if math.isfinite(spec.interval_s):
            self.every = max(1, math.ceil(spec.interval_s / self.pace_s - 1e-9))
        # an asynchronous save that outlasts the interval holds the next one up
        self.save_s = max(spec.blocking_s, spec.durable_s - self.every * self.pace_s)
        self.cycle_s = self.save_s + self.every * self.pace_s
        self.done = self.saved = 0  # steps: worked, and durable
        self.since = 0  # steps worked since the last save began
        self.pending: tuple[float, int] | None = None  # a save under way: durable when, which step
        self.spares = spec.spares
        self.repaired: list[float] = []  # when broken nodes come back, a heap

    def draw(self, cause: str) -> float:
        """Time up until the next interruption of a kind. [s]"""
        mean_s, rng = self.causes[cause]
        return rng.expovariate(1.0 / mean_s)

    # -- what happens -----------------------------------------------------------------------------

    def train(self) -> None:
        """Work until all steps are done, through interruptions."""
        spec, fruitless = self.spec, 0
        self.spend("setup", spec.setup_s)
        while self.done < spec.steps:
            began, work = self.now, spec.steps - self.done
            if spec.evaluation_every:
                work = min(work, spec.evaluation_every - self.done % spec.evaluation_every)
            evaluates = bool(spec.evaluation_every) and not (
                (self.done + work) % spec.evaluation_every
            )
            length_s = work * self.pace_s + self.saves_within(work) * self.save_s
            length_s += spec.evaluation_s if evaluates else 0.0
            cause = min(self.uptime_left, key=self.uptime_left.__getitem__, default="")
            stop_s = self.uptime_left[cause] if cause else math.inf
            self.now += min(length_s, stop_s)
            for kind in self.uptime_left:
                self.uptime_left[kind] -= min(length_s, stop_s)
            if stop_s < length_s:
                before = self.saved
                self.break_off(began, work, stop_s, cause)
                fruitless = 0 if self.saved > before else fruitless + 1
                if fruitless == HOPELESS:
                    self.run.finished = False
                    return
                self.uptime_left[cause] = self.draw(cause)
                self.recover(cause)
            else:
                self.complete(began, work)
                self.run.parts["evaluation"] += spec.evaluation_s if evaluates else 0.0

    def recover(self, cause: str) -> None:
        """Notice, wait for a machine, start again and load. Nothing fails meanwhile."""
        spec = self.spec
        if cause == "preemption":
            self.run.preemptions += 1
            self.spend("waiting", self.repairs.expovariate(1.0) * spec.preemption_wait_s)
        else:
            self.run.failures += 1
            self.spend("restart", spec.detect_s)
            if self.repairs.random() < spec.repair_share and self.spares is not None:
                self.replace_node()
        self.spend("restart", spec.restart_s + spec.load_s)

    def replace_node(self) -> None:
        """Send a node to repair and take a spare, or wait for the next that comes back."""
        assert self.spares is not None
        heapq.heappush(self.repaired, self.now + self.spec.repair_s)
        while self.repaired and (self.repaired[0] <= self.now or not self.spares):
            back = heapq.heappop(self.repaired)
            self.spend("waiting", back - self.now)
            self.spares += 1
        self.spares -= 1

    def spend(self, part: str, seconds: float) -> None:
        """Let time pass on something."""
        if seconds > 0.0:
            self.run.parts[part] += seconds
            self.now += seconds

    # -- arithmetic of a stretch ------------------------------------------------------------------

    def saves_within(self, work: int) -> int:
        """Saves in the next `work` steps; none after the job's last step."""
        first = self.every - self.since
        if work < first:
            return 0
        saves, rest = divmod(work - first, self.every)
        at_the_end = rest == 0 and self.done + work == self.spec.steps
        return saves + (0 if at_the_end else 1)

    def complete(self, began: float, work: int) -> None:
        """A whole stretch is done."""
        saves, first = self.saves_within(work), self.every - self.since
        self.account(work * self.pace_s, saves * self.save_s)
        self.note_saves(began, first, saves)
        self.done += work
        self.since = (work - first) - (saves - 1) * self.every if saves else self.since + work

    def break_off(self, began: float, work: int, elapsed_s: float, cause: str) -> None:
        """An interruption after `elapsed_s` of a stretch: what is not durable is lost."""
        spec, parts = self.spec, self.run.parts
        saves, first = self.saves_within(work), self.every - self.since
        after_first = elapsed_s - first * self.pace_s
        begun = completed = 0
        in_save = 0.0
        if saves and after_first >= 0.0:
            cycles = min(int(after_first // self.cycle_s), saves - 1)
            begun, inside = cycles + 1, after_first - cycles * self.cycle_s
            completed = begun if inside >= self.save_s else cycles
            in_save = 0.0 if completed == begun else inside
        worked_s = elapsed_s - completed * self.save_s - in_save
        in_evaluation = max(0.0, worked_s - work * self.pace_s)
        worked_s -= in_evaluation
        self.account(worked_s, completed * self.save_s)
        self.note_saves(began, first, begun)
        reached = self.done + worked_s / self.pace_s
        if cause == "preemption" and spec.preemption_notice_s >= max(spec.durable_s, 1e-9):
            self.saved = max(self.saved, int(reached))
        lost_s = (reached - self.saved) * self.pace_s
        parts["useful"] -= lost_s * (1.0 - self.stall)
        parts["data_stall"] -= lost_s * self.stall
        parts["lost_work"] += lost_s + in_save + in_evaluation
        self.done, self.since, self.pending = self.saved, 0, None

    def account(self, worked_s: float, saving_s: float) -> None:
        """Put time under its headings."""
        parts = self.run.parts
        parts["useful"] += worked_s * (1.0 - self.stall)
        parts["data_stall"] += worked_s * self.stall
        parts["checkpoint"] += saving_s

    def note_saves(self, began: float, first: int, begun: int) -> None:
        """Which of the saves begun in a stretch, or before it, are durable by now."""
        now = self.now + 1e-9 * self.cycle_s  # a sum of many cycles is not exact
        if self.pending and self.pending[0] <= now:
            self.saved, self.pending = self.pending[1], None
        self.run.checkpoints += begun
        start = began + first * self.pace_s
        for index in range(max(0, begun - 2), begun):  # each is durable before the next begins
            durable_at = start + index * self.cycle_s + self.spec.durable_s
            step = self.done + first + index * self.every
            if durable_at <= now:
                self.saved = step
            else:
                self.pending = (durable_at, step)


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """Seeded replicas summed up. Shares of the mean wall time; quantiles of wall time. [s]

    Where a replica had to be given up, the job does not finish and the times are infinite.
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


def simulate_job(spec: JobSpec, replicas: int = 32, seed: int = 0) -> JobOutcome:
    """Wall-clock quantiles and goodput over seeded replicas; same seed, same figures.

    Of a job of very many interruptions a part is simulated and scaled up: the rest is like it.
    """
    spec, scale = _shortened(spec)
    runs: list[JobRun] = []
    while len(runs) < replicas and (not runs or runs[-1].finished):
        runs.append(simulate_run(spec, seed * 1_000_003 + len(runs)))
    replicas = len(runs)
    mean = sum(r.wall_s for r in runs) / replicas
    spent = {part: sum(r.parts[part] for r in runs) / replicas for part in PARTS}
    shares = {part: max(0.0, seconds / mean) for part, seconds in spent.items()}
    walls = sorted(r.wall_s * scale for r in runs)
    mean *= scale
    if not runs[-1].finished:
        walls, mean = [math.inf] * replicas, math.inf

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
        failures=scale * sum(r.failures for r in runs) / replicas,
        preemptions=scale * sum(r.preemptions for r in runs) / replicas,
        checkpoints=scale * sum(r.checkpoints for r in runs) / replicas,
        replicas=replicas,
    )


def _shortened(spec: JobSpec) -> tuple[JobSpec, float]:
    """A job of at most `MOST` interruptions and evaluations, and how often it goes into the whole.

    Interruptions are counted as if no work were lost. Evaluations too many to be simulated one by
    one are held several at a time.
    """
    interruptions = spec.steps * spec.step_s * (1.0 / spec.mtbf_s + 1.0 / spec.preemption_s)
    scale = max(1.0, interruptions / MOST)
    spec = replace(spec, steps=max(1, round(spec.steps / scale)))
    lumps = spec.steps // spec.evaluation_every // MOST + 1 if spec.evaluation_every else 1
    every, each_s = spec.evaluation_every * lumps, spec.evaluation_s * lumps
    return replace(spec, evaluation_every=every, evaluation_s=each_s), scale
