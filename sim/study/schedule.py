"""Jobs on one cluster, gang-scheduled, in SimPy: who goes first, on how many nodes, who waits.

A job holds all its nodes from start to end. Where its nodes lie under several leaf switches and
other jobs' do too, their collectives share the uplinks: a job gets what a max-min fair share leaves
it (others count by the part of their steps in which they communicate), and its pace is the step
model's on a network with that much. Paces change whenever a job starts or ends.

A job of several sizes takes the fewest node-hours that meet its deadline; without one, or where
none meets it, the size at which it ends first, for which it may wait.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sim.choices import Policy
from sim.study.cluster import Cluster, Request
from sim.study.joblog import Hold, JobLog
from sim.study.pool import Placed, Pool
from sim.study.uplinks import paces

if TYPE_CHECKING:
    from collections.abc import Generator

    import simpy

#: what comes first, and whether others may pass
POLICIES: dict[Policy, str] = {
    "fifo": "first come, first served",
    "sjf": "shortest job first",
    "edf": "earliest deadline first",
    "priority": "by priority, which preempts",
    "backfill": "first come, and who does not delay the first may pass (EASY)",
}
DEPTH = 100  # jobs of the queue that backfill looks at
_PREEMPTED, _REPACED = "preempted", "repaced"


@dataclass(slots=True, eq=False)  # each is itself: lists of them are searched for one
class _Running:
    """A job that waits or runs."""

    log: JobLog
    stretch: float  # times as long as expected that its work is
    forms: tuple[Request, ...]  # what it may start as: once begun, what it was
    left_s: float = 0.0  # of work, at full pace
    pace: float = 1.0
    placed: Placed = field(default_factory=list)
    since: float = 0.0
    process: simpy.Process | None = None
    saving: bool = False

    @property
    def begun(self) -> bool:
        """Whether it ever held nodes."""
        return self.log.start_s >= 0.0

    def needs_s(self, form: Request) -> float:
        """Time that it takes as something, with the network to itself. [s]"""
        return self.left_s if self.begun else form.alone_s * self.stretch

    def finish_at(self, now: float) -> float:
        """When it ends at its present pace. [s]"""
        return now + max(0.0, self.left_s - (now - self.since) * self.pace) / self.pace


def schedule(
    cluster: Cluster,
    jobs: Sequence[Request],
    nodes: int,
    policy: Policy = "fifo",
    stretch: Callable[[int], float] | None = None,
    told: Callable[[], None] | None = None,
) -> list[JobLog]:
    """Run jobs on a cluster.

    Parameters
    ----------
    cluster : Cluster
        Prices the sharing of uplinks.
    jobs : sequence of Request
        By arrival; none larger than the cluster.
    nodes : int
        Of the cluster.
    policy : str
        ``fifo``: strictly by arrival. ``sjf``: the shortest first. ``edf``: the earliest deadline
        first. ``priority``: by priority, then arrival; a job may take the nodes of running ones of
        lower priority, which save, wait and go on. ``backfill``: by arrival, but a later job may
        start if it does not delay the first in the queue.
    stretch : callable, optional
        How many times as long as expected the i-th job takes.
    told : callable, optional
        Called whenever a job has given its nodes back.

    Returns
    -------
    list of JobLog
        In the order of the jobs.
    """
    import simpy

    env = simpy.Environment()
    run = _Scheduler(env, cluster, nodes, policy, told)
    logs = [JobLog(request) for request in jobs]
    for i, log in enumerate(logs):
        job = _Running(log, stretch(i) if stretch else 1.0, log.request.forms)
        # no process of its own: there may be 10^5, each of which waits once
        arrival = env.timeout(log.request.arrival_s, job)
        assert arrival.callbacks is not None
        arrival.callbacks.append(run.arrived)
    env.run()
    return logs


class _Scheduler:
    def __init__(
        self, env: simpy.Environment, cluster: Cluster, nodes: int, policy: Policy,
        told: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self.told = told
        self.env, self.cluster, self.policy = env, cluster, policy
        self.pool = Pool(nodes, cluster.per_node, cluster.leaf_nodes)
        self.queue: deque[_Running] = deque()
        self.running: list[_Running] = []
        self.talking = 0  # of them, those that others' collectives can slow
        self.seen = 0  # of the queue, jobs that cannot pass as things are: only time has gone by

    def arrived(self, arrival: simpy.Event) -> None:
        """A job has come, the value of its arrival."""
        assert isinstance(arrival.value, _Running)
        self._enqueue(arrival.value)
        self._dispatch()

    def _enqueue(self, job: _Running) -> None:
        """By the policy, then arrival. A preempted job keeps its place."""
        if not self.queue or self._order(self.queue[-1]) <= self._order(job):
            self.queue.append(job)  # as a rule
        else:
            bisect.insort(self.queue, job, key=self._order)

    def _order(self, job: _Running) -> tuple[float, float]:
        request, first = job.log.request, 0.0
        if self.policy == "priority":
            first = -request.priority
        elif self.policy == "sjf":
            first = job.needs_s(request.fastest)
        elif self.policy == "edf":
            first = math.inf if request.deadline_s is None else request.deadline_s
        return first, request.arrival_s

    # --- starting --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Start what can start now."""
        started = False
        while self.queue and self.pool.fits(form := self._wanted(self.queue[0])):
            self._start(self.queue.popleft(), form)
            started = True
        if started:
            self.seen = 0
        if self.queue and self.policy == "priority":
            self._preempt_for(self.queue[0])
        elif self.queue and self.policy == "backfill":
            started |= self._backfill()
        if started:
            self._repace()

    def _wanted(self, job: _Running) -> Request:
        """The size that a job takes, or waits for."""
        forms = job.forms
        if len(forms) == 1:
            return forms[0]
        return self._best(job, forms, [self._shadow(form)[0] for form in forms])

    def _best(self, job: _Running, forms: Sequence[Request], starts: Sequence[float]) -> Request:
        """Of sizes and their starts: the fewest node-hours in time, or the first to end."""
        ends = [(start + job.needs_s(f), f) for start, f in zip(starts, forms, strict=True)]
        deadline = job.log.request.deadline_s
        in_time = [f for end, f in ends if deadline is not None and end <= deadline]
        if in_time:
            return min(in_time, key=lambda f: (f.nodes * job.needs_s(f), f.nodes))
        return min(ends, key=lambda e: (e[0], e[1].nodes))[1]

    def _shadow(self, form: Request) -> tuple[float, Pool]:
        """When there is room for a job if nobody else starts, and what is free then. [s]"""
        trial, now = self.pool.copy(), self.env.now
        if trial.fits(form):
            return now, trial
        for end, _, job in sorted((j.finish_at(now), i, j) for i, j in enumerate(self.running)):
            trial.release(job.placed)
            if trial.fits(form):
                return end, trial
        return math.inf, trial

    def _backfill(self) -> bool:
        """EASY: others may start if the first in the queue is not delayed by it."""
        after, self.seen = max(1, self.seen), min(len(self.queue), DEPTH + 1)
        if after >= self.seen or not self.pool.any_free:
            return False
        room: dict[tuple[int, int], bool] = {}  # by nodes and GPUs: many jobs want the same
        small = []
        for job in itertools.islice(self.queue, after, DEPTH + 1):
            for form in job.forms:
                size = form.nodes, form.gpus
                if size not in room:
                    room[size] = self.pool.fits(form)
                if room[size]:
                    small.append(job)
                    break
        if not small:
            return False
        first = self._wanted(self.queue[0])
        reserved, then = self._shadow(first)
        if reserved < math.inf:
            then.place(first)
        started, now = False, self.env.now
        for job in small:
            able = [
                f for f in job.forms
                if self.pool.fits(f) and (now + job.needs_s(f) <= reserved or then.fits(f))
            ]  # fmt: skip
            if not able:
                continue
            form = self._best(job, able, [now] * len(able))
            if now + job.needs_s(form) > reserved:
                then.place(form)
            self.queue.remove(job)
            self._start(job, form)
            self.seen, started = 0, True
            if not self.pool.any_free:
                break
        return started

    def _preempt_for(self, wanting: _Running) -> None:
        """Take nodes from running jobs of lower priority: the lowest and latest first."""
        form, trial = self._wanted(wanting), self.pool.copy()
        for job in self.running:
            if job.saving:
                trial.release(job.placed)
        priority = wanting.log.request.priority
        lower = [j for j in self.running if j.log.request.priority < priority and not j.saving]
        lower.sort(key=lambda j: (j.log.request.priority, -j.log.start_s))
        chosen = []
        for job in lower:
            if trial.fits(form):
                break
            chosen.append(job)
            trial.release(job.placed)
        if not trial.fits(form):
            return
        for job in chosen:
            job.saving = True
            assert job.process is not None
            job.process.interrupt(_PREEMPTED)

    def _start(self, job: _Running, form: Request) -> None:
        job.left_s = job.needs_s(form)
        job.log.request, job.forms = form, (form,)
        job.placed = self.pool.place(form)
        if job.log.start_s < 0.0:
            job.log.start_s = self.env.now
        job.since, job.pace, job.saving = self.env.now, 1.0, False
        self.running.append(job)
        self.talking += form.communication > 0.0
        job.process = self.env.process(self._run(job))

    # --- running ---------------------------------------------------------------------------------

    def _run(self, job: _Running) -> Generator[simpy.Event, Any, None]:
        import simpy

        env, log = self.env, job.log
        held_from = env.now
        while True:
            try:
                yield env.timeout(job.left_s / job.pace)
                break
            except simpy.Interrupt as interrupt:
                self._advance(job)
                if interrupt.cause == _PREEMPTED:
                    yield from self._save(job, held_from)
                    return
        log.finish_s = env.now
        self._leave(job, held_from)

    def _save(self, job: _Running, held_from: float) -> Generator[simpy.Event, Any, None]:
        """Save, give the nodes back and queue again, with the restart added to the work."""
        import simpy

        until = self.env.now + job.log.request.save_s
        while self.env.now < until:
            try:
                yield self.env.timeout(until - self.env.now)
            except simpy.Interrupt:
                job.since = self.env.now  # a new pace does not matter any more
        job.log.preemptions += 1
        job.left_s += job.log.request.resume_s
        self._enqueue(job)
        self._leave(job, held_from)

    def _leave(self, job: _Running, held_from: float) -> None:
        """Give the nodes back."""
        self.running.remove(job)
        self.talking -= job.log.request.communication > 0.0
        job.log.held_s += self.env.now - held_from
        nodes = tuple(sorted(node for node, _ in job.placed))
        job.log.holds.append(Hold(held_from, self.env.now, nodes))
        self.pool.release(job.placed)
        job.placed = []
        self.seen = 0
        if self.told is not None:
            self.told()
        self._dispatch()
        self._repace()

    def _advance(self, job: _Running) -> None:
        job.left_s = max(0.0, job.left_s - (self.env.now - job.since) * job.pace)
        job.since = self.env.now

    # --- sharing the network ---------------------------------------------------------------------

    def _repace(self) -> None:
        """Set every running job's pace by who is on its uplinks now."""
        if not self.talking or self.pool.per_leaf >= len(self.pool.free):
            return
        placed = [(job.log.request, job.placed) for job in self.running]
        now = paces(placed, self.cluster, self.pool.per_leaf)
        for job, pace in zip(self.running, now, strict=True):
            if pace == job.pace or job.saving:
                continue
            self._advance(job)
            job.pace = pace
            if job.process is not None and job.process is not self.env.active_process:
                job.process.interrupt(_REPACED)
