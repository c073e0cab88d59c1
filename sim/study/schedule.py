"""Jobs on one cluster, gang-scheduled, in SimPy: FIFO, priority with preemption, backfill.

A job holds all its nodes from start to end. Where its nodes lie under several leaf switches and
other jobs' do too, their collectives share the uplinks: a job gets what a max-min fair share leaves
it (others count by the part of their steps in which they communicate), and its pace is the step
model's on a network with that much. Paces change whenever a job starts or ends.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sim.documents import Section
from sim.study.jobs import Cluster, Request

if TYPE_CHECKING:
    from collections.abc import Generator

    import simpy

Policy = Literal["fifo", "priority", "backfill"]
POLICIES: tuple[Policy, ...] = ("fifo", "priority", "backfill")
_PREEMPTED, _REPACED = "preempted", "repaced"


@dataclass(slots=True)
class JobLog(Section):
    """What became of a job. Times from the start of the plan. [s]

    Attributes
    ----------
    request : Request
        What was asked.
    start_s, finish_s : float
        First start, end.
    held_s : float
        Time in which it held its nodes.
    preemptions : int
        How often it lost them.
    """

    request: Request
    start_s: float = -1.0
    finish_s: float = -1.0
    held_s: float = 0.0
    preemptions: int = 0

    @property
    def waiting_s(self) -> float:
        """Time without nodes, first wait and preemptions together. [s]"""
        return self.finish_s - self.request.arrival_s - self.held_s

    @property
    def slowdown(self) -> float:
        """Time with nodes over the time alone: neighbours, saves and restarts."""
        return self.held_s / self.request.alone_s

    @property
    def on_time(self) -> bool:
        """Whether it met its deadline; a job without one does."""
        deadline = self.request.deadline_s
        return deadline is None or self.finish_s <= deadline * (1 + 1e-9)

    def content(self) -> dict[str, Any]:
        """The job as a flat mapping."""
        r = self.request
        return {
            "name": r.name,
            "nodes": r.nodes,
            "priority": r.priority,
            "arrival_s": r.arrival_s,
            "start_s": self.start_s,
            "finish_s": self.finish_s,
            "waiting_s": max(0.0, self.waiting_s),
            "held_s": self.held_s,
            "alone_s": r.alone_s,
            "deadline_s": r.deadline_s,
            "preemptions": self.preemptions,
            "on_time": self.on_time,
        }


@dataclass(slots=True)
class _Running:
    """A job on its nodes."""

    log: JobLog
    left_s: float  # of work, at full pace
    priority: int
    pace: float = 1.0
    nodes: list[int] = field(default_factory=list)
    since: float = 0.0
    process: simpy.Process | None = None
    saving: bool = False

    def finish_at(self, now: float) -> float:
        """When it ends at its present pace. [s]"""
        return now + max(0.0, self.left_s - (now - self.since) * self.pace) / self.pace


def schedule(
    cluster: Cluster, jobs: Sequence[Request], nodes: int, policy: Policy = "fifo"
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
        ``fifo``: strictly by arrival. ``priority``: by priority, then arrival; a job may take the
        nodes of running ones of lower priority, which save, wait and go on. ``backfill``: by
        arrival, but a later job may start if it does not delay the first in the queue.

    Returns
    -------
    list of JobLog
        In the order of the jobs.
    """
    import simpy

    env = simpy.Environment()
    run = _Scheduler(env, cluster, nodes, policy)
    for request in jobs:
        env.process(run.arrive(request))
    env.run()
    return [run.logs[id(request)] for request in jobs]


class _Scheduler:
    def __init__(
        self, env: simpy.Environment, cluster: Cluster, nodes: int, policy: Policy
    ) -> None:
        self.env, self.cluster, self.policy = env, cluster, policy
        self.free = list(range(nodes))
        self.queue: list[_Running] = []
        self.running: list[_Running] = []
        self.logs: dict[int, JobLog] = {}

    def arrive(self, request: Request) -> Generator[simpy.Event, None, None]:
        yield self.env.timeout(request.arrival_s)
        log = self.logs[id(request)] = JobLog(request)
        self._enqueue(_Running(log, request.alone_s, request.priority))
        self._dispatch()

    def _enqueue(self, job: _Running) -> None:
        """By arrival; under priorities by these first. A preempted job keeps its place."""
        bisect.insort(self.queue, job, key=self._order)

    def _order(self, job: _Running) -> tuple[float, float]:
        first = -job.priority if self.policy == "priority" else 0
        return first, job.log.request.arrival_s

    # --- starting --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Start what can start now."""
        started = False
        while self.queue and self.queue[0].log.request.nodes <= len(self.free):
            self._start(self.queue.pop(0))
            started = True
        if self.queue and self.policy == "priority":
            self._preempt_for(self.queue[0])
        elif self.queue and self.policy == "backfill":
            started |= self._backfill()
        if started:
            self._repace()

    def _backfill(self) -> bool:
        """EASY: others may start if the first in the queue is not delayed by it."""
        first = self.queue[0].log.request.nodes
        ends = sorted((j.finish_at(self.env.now), len(j.nodes)) for j in self.running)
        available, reserved, spare = len(self.free), self.env.now, 0
        for end, count in ends:
            available += count
            if available >= first:
                reserved, spare = end, available - first
                break
        started = False
        for job in self.queue[1:]:
            need = job.log.request.nodes
            if need > len(self.free):
                continue
            short = self.env.now + job.left_s <= reserved
            if not short and need > spare:
                continue
            if not short:
                spare -= need
            self.queue.remove(job)
            self._start(job)
            started = True
        return started

    def _preempt_for(self, wanting: _Running) -> None:
        """Take nodes from running jobs of lower priority: the lowest and latest first."""
        need = wanting.log.request.nodes - len(self.free)
        need -= sum(len(j.nodes) for j in self.running if j.saving)
        lower = [j for j in self.running if j.priority < wanting.priority and not j.saving]
        lower.sort(key=lambda j: (j.priority, -j.log.start_s))
        chosen = []
        for job in lower:
            if need <= 0:
                break
            chosen.append(job)
            need -= len(job.nodes)
        if need > 0:
            return
        for job in chosen:
            job.saving = True
            assert job.process is not None
            job.process.interrupt(_PREEMPTED)

    def _start(self, job: _Running) -> None:
        job.nodes = self._place(job.log.request.nodes)
        if job.log.start_s < 0.0:
            job.log.start_s = self.env.now
        job.since, job.pace, job.saving = self.env.now, 1.0, False
        self.running.append(job)
        job.process = self.env.process(self._run(job))

    def _place(self, count: int) -> list[int]:
        """Nodes under as few leaves as possible, the tightest fit first."""
        per_leaf = self.cluster.leaf_nodes
        leaves: dict[int, list[int]] = {}
        for node in self.free:
            leaves.setdefault(node // per_leaf, []).append(node)
        whole = [g for g in leaves.values() if len(g) >= count]
        if whole:
            chosen = min(whole, key=len)[:count]
        else:
            chosen = []
            for group in sorted(leaves.values(), key=len, reverse=True):
                chosen.extend(group[: count - len(chosen)])
        taken = set(chosen)
        self.free = [n for n in self.free if n not in taken]
        return chosen

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
                    yield from self._save(job)
                    log.held_s += env.now - held_from
                    return
        self.running.remove(job)
        log.held_s += env.now - held_from
        log.finish_s = env.now
        self._release(job)

    def _save(self, job: _Running) -> Generator[simpy.Event, Any, None]:
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
        self.running.remove(job)
        nodes, job.nodes = job.nodes, []
        self._enqueue(job)
        self._release(job, nodes)

    def _release(self, job: _Running, nodes: list[int] | None = None) -> None:
        self.free = sorted([*self.free, *(job.nodes if nodes is None else nodes)])
        self._dispatch()
        self._repace()

    def _advance(self, job: _Running) -> None:
        job.left_s = max(0.0, job.left_s - (self.env.now - job.since) * job.pace)
        job.since = self.env.now

    # --- sharing the network ---------------------------------------------------------------------

    def _repace(self) -> None:
        """Set every running job's pace by who is on its uplinks now."""
        crossing = [(j, leaves) for j in self.running if len(leaves := self._leaves(j)) > 1]
        paces = {id(j): 1.0 for j in self.running}
        for job, leaves in crossing:
            widest = max(leaves.values())
            share = min(self._share(job, leaf, crossing) for leaf in leaves)
            kind = job.log.request.kind
            paces[id(job)] = 1.0 / self.cluster.slowdown(kind, widest, widest / share)
        for job in self.running:
            pace = paces[id(job)]
            if pace == job.pace or job.saving:
                continue
            self._advance(job)
            job.pace = pace
            if job.process is not None and job.process is not self.env.active_process:
                job.process.interrupt(_REPACED)

    def _leaves(self, job: _Running) -> dict[int, int]:
        """Nodes of a job by leaf."""
        found: dict[int, int] = {}
        for node in job.nodes:
            leaf = node // self.cluster.leaf_nodes
            found[leaf] = found.get(leaf, 0) + 1
        return found

    def _share(
        self, job: _Running, leaf: int, crossing: list[tuple[_Running, dict[int, int]]]
    ) -> float:
        """Uplink of a leaf that a job gets, in units of one node's NICs.

        Every ring that crosses leaves once asks for one node's NICs; others ask for it as often as
        they communicate. What is left over is the job's; its fair share is, if that is more.
        """
        others = sum(
            other.log.request.communication
            for other, theirs in crossing
            if other is not job and leaf in theirs
        )
        uplink = self.cluster.uplink
        return max(uplink - others, uplink / (1.0 + others))
