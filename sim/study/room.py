"""Which plans of a search have room in memory, asked of as few as can be."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any, Literal

from sim.inputs.topology import Topology
from sim.inputs.workload import Checkpointing, Workload
from sim.memory.report import machine, sizes
from sim.records import NamedTuple, dataclass
from sim.step.step import memory_of, micro_steps_walked
from sim.strategies import micro_steps_apart
from sim.study.candidates import Candidate, frugal_form, saves_as_much
from sim.study.layouts import least_form
from sim.study.memory_bounds import FULL, MemoryBounds

#: probability of running out of memory that a plan may have where nobody says
RISK = 0.05
Room = Literal["fits", "at risk", "too large"]
#: over what is there, what a frugal form needs where others of its cut need more than is there:
#: stages of an interleaved rank are reduced one by one, which saves up to 3 % over 1F1B
_SURELY = 1.05


class _Asked(NamedTuple):
    """What memory said of some checkpointing and micro-batch."""

    policy: Checkpointing
    micro_batch: int
    steps: int  # micro-steps that tell in memory: without a sync each, one alone keeps least
    needs: float  # of what there is [1]
    word: Room  # where it is not sure enough to fit
    probability: float

    def covers(self, w: Workload) -> bool:
        """Whether a job needs as much, cut in the same way."""
        smaller = self.micro_batch <= w.micro_batch and self.steps <= _steps(w)
        return smaller and saves_as_much(self.policy, w.activation_checkpointing)


def _steps(w: Workload) -> int:
    """Micro-steps that tell in memory: those until nothing new is kept. [1]"""
    ranks = w.parallelism.pipeline_parallel
    return micro_steps_apart(w) if ranks == 1 else min(w.gradient_accumulation, FULL * ranks)


def _asked(candidate: Candidate, w: Workload) -> _Asked:
    found = memory_of(candidate.topology, w)
    verdict = found.verdict
    return _Asked(
        w.activation_checkpointing, w.micro_batch, _steps(w),
        found.needed_bytes / found.capacity_bytes,
        "at risk" if verdict.fits else "too large", verdict.probability if verdict.fits else 0.0,
    )  # fmt: skip


def _node(topology: Topology) -> tuple[float, ...]:
    """What of a machine says whether a job has room, but for how many nodes there are."""
    capacity, _, host = machine(topology)
    _, per_node, tightest = sizes(topology)
    return capacity, host, per_node, tightest or 0


@dataclass(slots=True)
class Rooms:
    """What memory has said in one search; machines whose nodes have as much are asked once.

    Attributes
    ----------
    risk : float
        Probability of running out of memory that a plan may have. [1]
    """

    risk: float = RISK
    _bounds: MemoryBounds = field(default_factory=MemoryBounds)
    #: micro-batch from which on plans are too large by what they need at the least
    _exceeding: dict[Any, int] = field(default_factory=dict)
    #: what is too much, by the rest of a plan
    _too_large: dict[Any, list[_Asked]] = field(default_factory=dict)
    #: forms that stand for others and are not too large for them all, and on how few nodes
    _enough: dict[Any, int] = field(default_factory=dict)

    def room(self, candidate: Candidate) -> Room:
        """Whether a candidate has room in memory, as surely as is asked.

        What is too much of a layout stays so with larger micro-batches and with less checkpointing,
        where no fewer micro-steps go with them: gradients that are kept between steps are spared.
        """
        least = least_form(candidate.workload)
        single = least.model_copy(update={"micro_batch": 1, "global_batch": None})
        if self.hopeless(candidate) or any(self._lacks(candidate, w) for w in (single, least)):
            return "too large"
        return self._room(candidate, candidate.workload)

    def exceeds(self, candidate: Candidate) -> bool:
        """Whether it is too large by what it needs at the least, which takes no walk."""
        topology, w = candidate.topology, candidate.workload
        key = (_node(topology), topology.nodes, candidate.extra, w.parallelism,
               w.activation_checkpointing)  # fmt: skip
        full = w.gradient_accumulation >= FULL * w.parallelism.pipeline_parallel
        if full and w.micro_batch >= self._exceeding.get(key, math.inf):
            return True
        exceeds = self._bounds.needed(topology, w) > machine(topology)[0]
        if exceeds and full:
            self._exceeding[key] = w.micro_batch
        return exceeds

    def hopeless(self, candidate: Candidate) -> bool:
        """Whether its cut is too large in every form; its most frugal one is asked."""
        return self._lacks(candidate, frugal_form(candidate.workload))

    def _lacks(self, candidate: Candidate, w: Workload) -> bool:
        """Whether so frugal a form is too large that those it stands for are."""
        failed = self._failed(candidate, w)
        if any(f.needs > _SURELY for f in failed if f.covers(w)):
            return True
        steps, nodes = micro_steps_walked(w), candidate.topology.nodes
        key = (w.parallelism, w.activation_checkpointing, w.micro_batch, steps)
        asked = (_node(candidate.topology), candidate.extra, *key)
        # more nodes need no more; did they, the plan itself is asked before it is taken
        if nodes < self._enough.get(asked, nodes + 1):
            found = _asked(candidate, w)
            if found.needs > _SURELY:
                failed.append(found)
                return True
            self._enough[asked] = nodes
        return False

    def _room(self, candidate: Candidate, w: Workload) -> Room:
        failed = self._failed(candidate, w)
        for known in failed:
            if known.covers(w):
                return known.word
        found = _asked(candidate, w)
        if found.word != "too large" and found.probability >= 1.0 - self.risk:
            return "fits"
        failed.append(found)
        return found.word

    def _failed(self, candidate: Candidate, w: Workload) -> list[_Asked]:
        topology = candidate.topology
        key = (_node(topology), topology.nodes, candidate.extra, w.parallelism)
        return self._too_large.setdefault(key, [])
