"""What the simulation of a whole job needs to know: work, saves, failures, machine."""

from __future__ import annotations

import math

from sim.records import dataclass


@dataclass(frozen=True, slots=True)
class Domain:
    """Nodes that fail together: a rack, a switch, a power feed.

    Attributes
    ----------
    name : str
        Of the kind.
    nodes : int
        The job's nodes that go at once.
    mtbf_s : float
        Mean time between failures of all domains of the kind together. [s]
    repair_s : float
        Until its nodes are back. [s]
    """

    name: str
    nodes: int
    mtbf_s: float
    repair_s: float


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
    memory_interval_s : float
        Training time between copies in host memory; inf: none. [s]
    memory_blocking_s, memory_durable_s, memory_load_s : float
        The same of such a copy: it blocks, is complete, is read back. [s]
    peers : int
        Copies of it on other nodes: so many nodes may go at once and it is still there.
    nodes : int
        Nodes of the job.
    mtbf_s : float
        Mean time between failures of the whole machine, domains apart; inf: none. [s]
    detect_s, restart_s, load_s : float
        After a failure: noticing it, starting again, reading the checkpoint. [s]
    warm_restart_s : float or None
        Starting again where a spare stands ready for each lost node; None: as any other. [s]
    repair_s : float
        Time a broken node is away; matters when no spare is left. [s]
    repair_share : float
        Failures that take a node away; after the others it starts again at once.
    domains : tuple of Domain
        Nodes that fail together, beside single ones.
    spares : int or None
        Spare nodes; None: a broken node is replaced at once.
    least_nodes : int
        With fewer the job waits, and with as many it goes on, slower; 0: it needs all.
    preemption_s : float
        Mean time until one of the job's nodes is reclaimed; inf: none. [s]
    preemption_wait_s : float
        Mean wait for capacity after one, exponential. [s]
    preemption_notice_s : float
        Warning: a save that takes no longer loses nothing. [s]
    evaluation_every : int
        Steps between evaluations; 0: none.
    evaluation_s : float
        One evaluation. [s]
    setup_s : float
        Before the first step: a reference's passes. [s]
    """

    steps: int
    step_s: float
    stall_s: float = 0.0
    spread: float = 0.0
    interval_s: float = math.inf
    blocking_s: float = 0.0
    durable_s: float = 0.0
    memory_interval_s: float = math.inf
    memory_blocking_s: float = 0.0
    memory_durable_s: float = 0.0
    memory_load_s: float = 0.0
    peers: int = 0
    nodes: int = 1
    mtbf_s: float = math.inf
    detect_s: float = 0.0
    restart_s: float = 0.0
    load_s: float = 0.0
    warm_restart_s: float | None = None
    repair_s: float = 0.0
    repair_share: float = 1.0
    domains: tuple[Domain, ...] = ()
    spares: int | None = None
    least_nodes: int = 0
    preemption_s: float = math.inf
    preemption_wait_s: float = 0.0
    preemption_notice_s: float = 0.0
    evaluation_every: int = 0
    evaluation_s: float = 0.0
    setup_s: float = 0.0

    @property
    def warned(self) -> bool:
        """Whether a reclaimed node leaves time for a save."""
        return self.preemption_notice_s >= max(self.durable_s, 1e-9)

    @property
    def evaluated_s(self) -> float:
        """All evaluations, each once. [s]"""
        return (
            self.steps // self.evaluation_every * self.evaluation_s
            if self.evaluation_every
            else 0.0
        )

    @property
    def failure_rate(self) -> float:
        """Failures of any kind. [1/s]"""
        return 1.0 / self.mtbf_s + sum(1.0 / d.mtbf_s for d in self.domains)

    @property
    def interruption_rate(self) -> float:
        """Failures and reclaimed nodes. [1/s]"""
        return self.failure_rate + 1.0 / self.preemption_s

    def kept_in_memory(self, lost: int) -> bool:
        """Whether a copy in host memory outlives the loss of so many nodes at once."""
        return math.isfinite(self.memory_interval_s) and lost <= self.peers

    @property
    def copied_when_warned(self) -> bool:
        """Whether a warning leaves time for a copy in memory, which outlives a reclaimed node."""
        return self.kept_in_memory(1) and self.preemption_notice_s >= self.memory_durable_s > 0.0

    @property
    def warned_rate(self) -> float:
        """Nodes reclaimed with a warning that leaves time to keep the state. [1/s]"""
        return 1.0 / self.preemption_s if self.warned or self.copied_when_warned else 0.0

    @property
    def storage_rate(self) -> float:
        """Interruptions after which only storage has the state, as last saved. [1/s]"""
        unwarned = 1.0 / self.preemption_s - self.warned_rate
        if not math.isfinite(self.memory_interval_s):
            return self.failure_rate + unwarned
        rate = sum(1.0 / d.mtbf_s for d in self.domains if not self.kept_in_memory(d.nodes))
        if not self.kept_in_memory(1):
            rate += self.repair_share / self.mtbf_s + unwarned
        return rate

    @property
    def memory_rate(self) -> float:
        """Interruptions after which memory has it, as last copied. [1/s]"""
        return self.interruption_rate - self.storage_rate - self.warned_rate
