"""A plan of changes: the combination that helps most, found step by step, each step simulated.

A job that does not fit, or may not, is first made to fit; then the change that saves most time is
made, again and again, until none saves enough. Then each step is tried without, and against what
else could stand in its place. Nothing is proposed that the product itself would warn of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document, Section
from sim.inputs.notes import Message, Notes
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.report import MemoryReport
from sim.result.advice import changes
from sim.result.change import Aim, Change
from sim.result.sections import title_of
from sim.result.trials import SHORTER, adds, timed
from sim.result.warned import codes_of, pressed, warnings_of
from sim.step.step import memory_of
from sim.step.variation import Progress, Stop, never, silent

#: changes that one plan makes at most
LONGEST = 8
#: keys whose change rounds numbers otherwise
NUMERICS = ("precision", "optimizer", "parallelism.reduce_dtype", "method.frozen_dtype")


@dataclass(frozen=True, slots=True)
class JobState(Section):
    """A job as it is at some point of a plan.

    Attributes
    ----------
    topology, workload : specs
        The job.
    gpu_s_per_token : float
        Time of one GPU for a token. [s]
    step_s : float
        Of an optimizer step. [s]
    memory : MemoryReport
        On the fullest GPU.
    """

    topology: Topology
    workload: Workload
    gpu_s_per_token: float
    step_s: float
    memory: MemoryReport

    @property
    def sure(self) -> bool:
        """Whether it simply fits."""
        return self.memory.verdict.word == "fits"

    def content(self) -> dict[str, Any]:
        """Time and memory."""
        return {
            "step_time_s": self.step_s,
            "gpu_s_per_token": self.gpu_s_per_token,
            "memory_bytes": self.memory.needed_bytes,
            "verdict": self.memory.verdict.word,
            "fit_probability": self.memory.verdict.probability,
        }


@dataclass(frozen=True, slots=True)
class Made(Section):
    """One change of a plan, and the job with it and all before it.

    Attributes
    ----------
    settings : dict
        As for ``--set``.
    text : str
        In words.
    state : JobState
        After it.
    """

    settings: dict[str, Any]
    text: str
    state: JobState

    @property
    def name(self) -> tuple[Any, ...]:
        """As `Change.name`."""
        return (*self.settings, self.text)

    @property
    def rounds(self) -> bool:
        """Whether it computes in other number formats than before."""
        return any(key.partition(".")[0] in NUMERICS or key in NUMERICS for key in self.settings)

    def content(self) -> dict[str, Any]:
        """The change, and time and memory after it."""
        other = {"settings": self.settings, "text": self.text, "other_numerics": self.rounds}
        return other | self.state.content()


@dataclass(frozen=True, slots=True)
class Improvement(Document):
    """A plan of changes.

    Attributes
    ----------
    title : str
        Job and machine.
    before : JobState
        As given.
    made : tuple of Made
        In the order in which they are made; empty where nothing helps.
    stopped : bool
        The search was stopped: what there is is the best so far.
    warnings : tuple of Message
        What the job as given is warned of.
    """

    schema: ClassVar[str] = SCHEMAS["improvement"]

    title: str
    before: JobState
    made: tuple[Made, ...]
    stopped: bool = False
    warnings: tuple[Message, ...] = ()

    @property
    def after(self) -> JobState:
        """With all of them."""
        return self.made[-1].state if self.made else self.before

    @property
    def settings(self) -> dict[str, Any]:
        """All of them, as for ``--set``; the last word on each key."""
        return {key: value for made in self.made for key, value in made.settings.items()}

    @property
    def time_ratio(self) -> float:
        """GPU time of a token after over before. [1]"""
        return self.after.gpu_s_per_token / self.before.gpu_s_per_token

    def content(self) -> dict[str, Any]:
        """Where it begins, what is done, where it ends."""
        return {
            "title": self.title,
            "before": self.before,
            "changes": self.made,
            "after": self.after,
            "settings": self.settings,
            "time_ratio": self.time_ratio,
            "stopped": self.stopped,
            "warnings": self.warnings,
        }


def improve(
    topology: Topology, workload: Workload, notes: Notes | None = None, *, numerics: bool = True,
    progress: Progress | None = None, stop: Stop = never,
) -> Improvement:  # fmt: skip
    """The plan of changes that helps a job most on its machine.

    Arguments are those of `sim.improve`: the machine stays as it is, `numerics` is not its
    `same_numerics`, `progress` is called with changes tried and all that are known to be ahead,
    and `stop` is asked before each.

    Returns
    -------
    Improvement
        Its steps trained the same model from the same data.
    """
    search = _Search(topology, workload, numerics, progress or silent, stop)
    before = state_of(topology, workload)
    made = search.grown(before, [])
    made = search.exchanged(before, made)
    search.told(search.tried, search.tried)
    warnings = warnings_of(topology, workload, notes)
    return Improvement(title_of(topology, workload), before, tuple(made), search.stopped, warnings)


def state_of(topology: Topology, workload: Workload) -> JobState:
    """A job, simulated; where it does not fit, as if it just ran."""
    step_s, token_s, memory = timed(topology, workload)
    return JobState(topology, workload, token_s, step_s, memory)


class _Search:
    def __init__(
        self, topology: Topology, workload: Workload, numerics: bool, told: Progress, stop: Stop
    ) -> None:
        self.numerics = numerics
        self.stop, self.stopped = stop, False
        self.told, self.tried = told, 0
        told(0, 1)
        self.but: tuple[Any, ...] | None = None
        self.known = codes_of(topology, workload)

    def grown(
        self, before: JobState, made: list[Made], but: tuple[Any, ...] | None = None
    ) -> list[Made]:
        """The plan with the best further change, and so on; never the one of the name `but`."""
        self.but = but
        made = list(made)
        while len(made) < LONGEST:
            at = made[-1].state if made else before
            best = self._fitting(at) if not at.sure else self._faster(at)
            if best is None and at.memory.fits and not at.sure:
                best = self._faster(at)  # it cannot be made sure, but may be made faster
            if best is None:
                break
            made.append(best)
        return made

    def exchanged(self, before: JobState, made: list[Made]) -> list[Made]:
        """The plan with no step that it is better without, alone or with another in its place."""
        for name in dict.fromkeys(m.name for m in made):
            if self._halted():
                break
            fewer = self._replayed(before, [m for m in made if m.name != name])
            if fewer is None:
                continue
            others = self.grown(before, fewer, name)
            first = bool(made) and name == made[0].name
            anew = self.grown(before, [], name) if first and not before.sure else []
            self.but = None
            for candidate in (fewer, others, anew):
                if _better(candidate, made, before):
                    made = candidate
        return made

    def _replayed(self, before: JobState, steps: Sequence[Made]) -> list[Made] | None:
        found: list[Made] = []
        for wanted in steps:
            at = found[-1].state if found else before
            change = next((c for c in self._options(at) if c.name == wanted.name), None)
            if change is None:
                return None
            found.append(_made(change))
        return found

    def _faster(self, at: JobState) -> Made | None:
        """The change that saves most time and fits as surely."""
        found: list[Made] = []
        for change in self._counted(self._options(at, "faster")):
            verdict = memory_of(change.topology, change.workload).verdict
            if not verdict.fits or (at.sure and verdict.word != "fits"):
                continue
            found.append(_made(change))
        least = (1.0 - SHORTER) * at.gpu_s_per_token
        times = [(made.settings, made.state.gpu_s_per_token) for made in found]
        worth = [
            made for made, (settings, time) in zip(found, times, strict=True)
            if time < least and adds(settings, time, times)
        ]  # fmt: skip
        worth.sort(key=lambda made: made.state.gpu_s_per_token)
        states = ((made, made.state) for made in worth)
        return next((made for made, at in states if not pressed(at.topology, at.workload)), None)

    def _fitting(self, at: JobState) -> Made | None:
        """The quickest change that makes it fit; where none does, the one that saves most."""
        need = at.memory.needed_bytes + at.memory.host_bytes
        options = [_made(c) for c in self._counted(self._options(at, "smaller"))]
        options = [m for m in options if m.state.memory.needed_bytes < need * (1.0 - SHORTER)]
        sure = [m for m in options if m.state.sure]
        if sure:
            return min(sure, key=lambda m: m.state.gpu_s_per_token)
        if at.memory.fits:
            return None
        return min(options, key=lambda m: m.state.memory.needed_bytes, default=None)

    def _counted(self, options: Iterable[Change]) -> Iterator[Change]:
        """Changes that are tried, until stopped; each is counted when it has been."""
        ahead = [] if self._halted() else list(options)
        most = self.tried + len(ahead)
        for change in ahead:
            if self._halted():
                return
            yield change
            self.tried += 1
            self.told(self.tried, most)

    def _halted(self) -> bool:
        """Whether to end with what was found; once so, always."""
        self.stopped = self.stopped or self.stop()
        return self.stopped

    def _options(self, at: JobState, aim: Aim | None = None) -> Iterator[Change]:
        """Changes that keep machine and training, and of which nothing warns."""
        seen: set[tuple[Any, ...]] = set()
        aims: tuple[Aim, ...] = (aim,) if aim else ("faster", "smaller")
        for wanted in aims:
            for change in changes(at.topology, at.workload, wanted):
                if change.name in seen or change.name == self.but or change.changes_training:
                    continue
                seen.add(change.name)
                if change.topology is not at.topology:
                    continue
                if not self.numerics and Made(change.settings, change.text, at).rounds:
                    continue
                if codes_of(change.topology, change.workload) <= self.known:
                    yield change


def _better(plan: Sequence[Made], other: Sequence[Made], before: JobState) -> bool:
    """Whether a plan ends better: as surely, and quicker, or as quick in fewer steps."""
    a = plan[-1].state if plan else before
    b = other[-1].state if other else before
    if (a.sure, a.memory.fits) < (b.sure, b.memory.fits):
        return False
    quicker = a.gpu_s_per_token < (1.0 - SHORTER) * b.gpu_s_per_token
    as_quick = a.gpu_s_per_token < (1.0 + 0.1 * SHORTER) * b.gpu_s_per_token
    return quicker or (as_quick and len(plan) < len(other))


def _made(change: Change) -> Made:
    return Made(change.settings, change.text, state_of(change.topology, change.workload))
