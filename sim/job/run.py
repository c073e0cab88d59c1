"""Hours and weeks of one job: steps, evaluation, checkpoints, failures, restarts.

Training works in stretches that end at the next evaluation, at an interruption, when a missing node
is back or at the end of the job. Saves fall at known times of a stretch, so that an interruption
says by arithmetic how far it had come: simulating a run costs as much as it has interruptions,
however many checkpoints lie between them. A start may be interrupted too. Copies in host memory
come more often still: what they block is spread over the steps. Broken nodes are repaired meanwhile
and come back as spares.
"""

from __future__ import annotations

import math
import random
from dataclasses import field

from sim.job.cadence import cadence
from sim.job.nodes import Nodes
from sim.job.spec import JobSpec
from sim.records import NamedTuple, dataclass

PARTS = (
    "useful", "data_stall", "checkpoint", "evaluation", "lost_work", "restart", "waiting",
    "fewer_nodes", "setup",
)  # fmt: skip

HOPELESS = 1000  # interruptions in a row without a durable save between them


@dataclass(slots=True)
class JobRun:
    """One replica: wall time and where it went. `parts` adds up to `wall_s`.

    Interruptions strike while it works or starts, for `up_s` in all; `failures` holds those of
    single nodes and of domains. Not `finished`: given up after `HOPELESS` starts that came to
    nothing.
    """

    finished: bool = True
    wall_s: float = 0.0
    up_s: float = 0.0
    failures: int = 0
    preemptions: int = 0
    checkpoints: int = 0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))


def simulate_run(spec: JobSpec, seed: int) -> JobRun:
    """One seeded replica of the job."""
    job = _Replica(spec, seed)
    job.train()
    job.run.wall_s = job.now
    return job.run


class _Hit(NamedTuple):
    """An interruption."""

    cause: str
    lost: int = 0  # nodes that are away
    away_s: float = 0.0  # how long each


class _Replica:
    """One replica: its clock, its books and its machine."""

    def __init__(self, spec: JobSpec, seed: int) -> None:
        self.now, self.spec, self.run = 0.0, spec, JobRun()
        self.nodes = Nodes(spec)
        self.domains = {f"domain {i}": domain for i, domain in enumerate(spec.domains)}
        # a stream of random numbers each, so that changing one thing moves nothing else
        self.repairs = random.Random(f"{seed} repairs")
        means = [("failure", spec.mtbf_s), ("preemption", spec.preemption_s)]
        means += [(cause, domain.mtbf_s) for cause, domain in self.domains.items()]
        self.causes = {
            cause: (mean_s, random.Random(f"{seed} {cause}"))
            for cause, mean_s in means
            if math.isfinite(mean_s)
        }
        self.uptime_left = {cause: self.draw(cause) for cause in self.causes}
        pace = 1.0
        if spec.spread:
            pace = max(0.5, random.Random(f"{seed} pace").gauss(1.0, spec.spread))
        self.full_pace_s = spec.step_s * pace  # of a step on all nodes
        self.stall = min(1.0, spec.stall_s / spec.step_s)
        self.done = self.saved = 0  # steps: worked, and durable
        self.resumed = 0  # step of the last start
        self.starting_s = 0.0  # until the next step can begin: what fails meanwhile starts it over
        self.since = 0  # steps worked since the last save began
        self.pending: tuple[float, int] | None = None  # a save under way: durable when, which step
        self.set_pace()

    def set_pace(self) -> None:
        """Steps as long as they are on the nodes that are there, and saves as often."""
        worked_s = self.full_pace_s * self.nodes.slowdown
        at = cadence(self.spec, worked_s)
        self.pace_s, self.every, self.save_s, self.copy_every, copy_s = at
        self.cycle_s = at.cycle_s
        self.useful = self.full_pace_s / self.pace_s  # shares of a step
        self.copying = copy_s / self.pace_s

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
            length_s = self.starting_s + work * self.pace_s + self.saves_within(work) * self.save_s
            length_s += spec.evaluation_s if evaluates else 0.0
            cause = min(self.uptime_left, key=self.uptime_left.__getitem__, default="")
            stop_s = self.uptime_left[cause] if cause else math.inf
            if self.nodes.missing and (back_s := self.nodes.next_back_s - self.now) < stop_s:
                cause, stop_s = "back", max(0.0, back_s)
            passed_s = min(length_s, stop_s)
            self.now += passed_s
            self.run.up_s += passed_s
            for kind in self.uptime_left:
                self.uptime_left[kind] -= passed_s
            start_s, self.starting_s = min(self.starting_s, passed_s), 0.0
            self.run.parts["restart"] += start_s
            if stop_s >= length_s:
                self.complete(began + start_s, work)
                self.run.parts["evaluation"] += spec.evaluation_s if evaluates else 0.0
                continue
            hit, before = self.hit(cause), self.resumed
            from_memory = self.break_off(began + start_s, work, stop_s - start_s, hit)
            if cause == "back":
                self.grow()
                continue
            fruitless = 0 if self.resumed > before else fruitless + 1
            if fruitless == HOPELESS:
                self.run.finished = False
                return
            self.uptime_left[cause] = self.draw(cause)
            self.recover(hit, from_memory)

    def hit(self, cause: str) -> _Hit:
        """What an interruption takes away."""
        spec = self.spec
        if cause == "preemption":
            return _Hit(cause, 1, self.repairs.expovariate(1.0) * spec.preemption_wait_s)
        if cause == "failure":
            return _Hit(cause, int(self.repairs.random() < spec.repair_share), spec.repair_s)
        if cause in self.domains:
            return _Hit(cause, self.domains[cause].nodes, self.domains[cause].repair_s)
        return _Hit(cause)

    def recover(self, hit: _Hit, from_memory: bool) -> None:
        """Wait for nodes; then noticing, starting again and loading are ahead of the next step."""
        spec = self.spec
        wait_s = detect_s = 0.0
        if hit.cause == "preemption":
            self.run.preemptions += 1
            wait_s = hit.away_s if spec.spares is None else 0.0
        else:
            self.run.failures += 1
            detect_s = spec.detect_s
        wait_s += self.nodes.lose(hit.lost, self.now, hit.away_s)
        self.spend("waiting", wait_s)
        stood_by = spec.warm_restart_s is not None and not wait_s and not self.nodes.missing
        start_s = spec.warm_restart_s if stood_by else spec.restart_s
        assert start_s is not None
        self.starting_s = detect_s + start_s
        self.starting_s += spec.memory_load_s if from_memory else spec.load_s
        self.set_pace()

    def grow(self) -> None:
        """Save, and start again with the nodes that are back."""
        self.spend("checkpoint", self.spec.blocking_s)
        self.nodes.regain(self.now)
        self.starting_s = self.spec.restart_s + self.spec.load_s
        self.set_pace()

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
        self.account(work * self.pace_s)
        self.run.parts["checkpoint"] += saves * self.save_s
        self.note_saves(began, first, saves)
        self.done += work
        self.since = (work - first) - (saves - 1) * self.every if saves else self.since + work

    def break_off(self, began: float, work: int, elapsed_s: float, hit: _Hit) -> bool:
        """An interruption after `elapsed_s` of a stretch: what is nowhere else is lost.

        Whether the job goes on from a copy in memory.
        """
        spec = self.spec
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
        self.account(worked_s)
        self.run.parts["checkpoint"] += completed * self.save_s
        self.note_saves(began, first, begun)
        reached = self.done + worked_s / self.pace_s
        reclaimed = hit.cause == "preemption"
        copied = self.copied(reached) if spec.kept_in_memory(hit.lost) else 0
        if reclaimed and spec.copied_when_warned:
            copied = int(reached)
        elif hit.cause == "back" or (reclaimed and spec.warned):
            self.saved = max(self.saved, int(reached))
        from_memory = copied > self.saved
        resumed = max(self.saved, copied)
        lost_s = (reached - resumed) * self.pace_s
        self.account(-lost_s)
        self.run.parts["lost_work"] += lost_s + in_save + in_evaluation
        # a copy in memory may lie further than the last save: the next one is due all the same
        self.done = self.resumed = resumed
        self.since, self.pending = (resumed - self.saved) % self.every, None
        return from_memory

    def copied(self, reached: float) -> int:
        """Step of the last whole copy in memory; never before the last start."""
        last = int(reached) // self.copy_every * self.copy_every
        if (reached - last) * self.pace_s < self.spec.memory_durable_s:
            last -= self.copy_every
        return max(self.resumed, last)

    def account(self, worked_s: float) -> None:
        """Put time of steps, saves apart, under its headings."""
        parts, useful_s = self.run.parts, worked_s * self.useful
        parts["useful"] += useful_s * (1.0 - self.stall)
        parts["data_stall"] += useful_s * self.stall
        if self.useful < 1.0:
            parts["checkpoint"] += worked_s * self.copying
            parts["fewer_nodes"] += worked_s * (1.0 - self.useful - self.copying)

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
