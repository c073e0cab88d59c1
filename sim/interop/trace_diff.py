"""A recorded step beside the simulated one: which parts make the difference between their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document
from sim.errors import InputError
from sim.inputs.loader import Loaded
from sim.interop.gpu_work import BESIDE, EXPOSED, IDLE, WorkShare
from sim.interop.profile import CollectiveCalls, Profile, profile_of
from sim.interop.recording import PHASES
from sim.interop.trace_file import read_trace
from sim.records import NamedTuple
from sim.step.chrome_trace import traced
from sim.step.variation import Progress, Variation

_KINDS = {
    "gemm": "matrix products", "attention": "attention", "optimizer": "optimizer kernels",
    "other": "norms, element-wise, copies",
}  # fmt: skip
GAPS = {BESIDE: "waits for other streams", IDLE: "idle: waits for the host"}
_SOURCE = "trace diff"
_NOTHING = WorkShare(0.0, 0.0)


class StepPart(NamedTuple):
    """What one part of a step takes on either side; parts add up to the step. [s]"""

    name: str
    phase: str
    kind: str
    recorded_s: float
    simulated_s: float
    difference_s: float  # recorded over simulated
    recorded_calls: float
    simulated_calls: float


class CollectivePair(NamedTuple):
    """Collectives of one kind and size on either side, of one step; None where there are none."""

    op: str
    group_size: int
    size_bytes: float
    recorded_calls: float
    simulated_calls: float
    recorded_s: float | None  # the median
    simulated_s: float | None
    recorded_least_s: float | None


@dataclass(frozen=True, slots=True)
class TraceDifference(Document):
    """A recorded step beside a simulated one; parts by how much they differ.

    Attributes
    ----------
    title : str
        What was simulated.
    recorded, simulated : Profile
        A step of each, taken apart.
    parts : tuple of StepPart
        Their differences add up to that of the steps.
    collectives : tuple of CollectivePair
        By operation and size.
    notes : tuple of str
        What the comparison must be read with.
    """

    schema: ClassVar[str] = SCHEMAS["trace-difference"]

    title: str
    recorded: Profile
    simulated: Profile
    parts: tuple[StepPart, ...]
    collectives: tuple[CollectivePair, ...]
    notes: tuple[str, ...]

    def content(self) -> dict[str, Any]:
        """Both steps, their difference, and what makes it."""
        return {
            "title": self.title,
            "recorded": _head(self.recorded),
            "simulated": _head(self.simulated),
            "difference_s": self.recorded.step_s - self.simulated.step_s,
            "parts": self.parts,
            "collectives": self.collectives,
            "longest": {
                "recorded": self.recorded.longest, "simulated": self.simulated.longest,
            },
            "streams": {"recorded": self.recorded.lanes, "simulated": self.simulated.lanes},
            "waits": {"recorded": self.recorded.waits, "simulated": self.simulated.waits},
            "notes": self.notes,
        }  # fmt: skip

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a part."""
        return [part._asdict() for part in self.parts]


def _head(profile: Profile) -> dict[str, Any]:
    kept = ("source", "gpu", "rank", "world_size", "steps", "step_s")
    return {key: value for key, value in asdict(profile).items() if key in kept}


def recorded_profile(
    path: str, steps: int | None = None, progress: Progress | None = None
) -> Profile:
    """A trace of one rank, taken apart; arguments as for `profile_of` and `read_trace`."""
    found = profile_of(*read_trace(path, progress), path, steps=steps)
    return replace(found, source=Path(path).name)  # reports are handed on: no folder of this one


def simulated_profile(loaded: Loaded, rank: int) -> Profile:
    """The simulated step of a rank, taken apart as a recorded one.

    Raises
    ------
    InputError
        A rank that the machine has not.
    """
    machine, job, _ = loaded
    if not 0 <= rank < machine.world_size:
        message = f"{rank} is none of ranks 0 to {machine.world_size - 1}"
        raise InputError.single(_SOURCE, message)
    found = traced(machine, job, Variation(), "folded", True, ())
    classes = found.outcome.priced.compiled.classes
    alike = classes.ranks[classes.of[rank]]  # the rank that stands for its like
    document = replace(found, ranks=(alike,)).to_dict()
    return replace(profile_of(document, document["traceEvents"], found.title), rank=rank)


def compared(recorded: Profile, simulated: Profile) -> TraceDifference:
    """What makes the difference between two steps."""
    ours, theirs = simulated.parts, recorded.parts
    if not (recorded.phased and simulated.phased):
        ours, theirs = _unphased(ours), _unphased(theirs)
    parts = []
    for phase, kind in dict.fromkeys((*theirs, *ours)):
        a, b = theirs.get((phase, kind), _NOTHING), ours.get((phase, kind), _NOTHING)
        if a.seconds or b.seconds or a.calls or b.calls:
            longer = a.seconds - b.seconds
            name = _name(phase, kind)
            part = StepPart(name, phase, kind, a.seconds, b.seconds, longer, a.calls, b.calls)
            parts.append(part)
    parts.sort(key=lambda part: -abs(part.difference_s))
    return TraceDifference(
        title=simulated.source,
        recorded=recorded,
        simulated=simulated,
        parts=tuple(parts),
        collectives=_pairs(recorded.collectives, simulated.collectives),
        notes=tuple(_notes(recorded, simulated)),
    )


def _unphased(parts: Mapping[tuple[str, str], WorkShare]) -> dict[tuple[str, str], WorkShare]:
    """All phases together; collectives keep their operation."""
    found: dict[tuple[str, str], WorkShare] = {}
    for (phase, kind), share in parts.items():
        key = ("" if phase in PHASES else phase), kind
        known = found.get(key, _NOTHING)
        found[key] = WorkShare(known.seconds + share.seconds, known.calls + share.calls)
    return found


def _name(phase: str, kind: str) -> str:
    if kind == EXPOSED:
        return f"exposed {phase.replace('_', '-')}"
    if kind in GAPS:
        return GAPS[kind]
    return f"{phase}: {_KINDS[kind]}" if phase else _KINDS[kind]


def _pairs(
    recorded: Sequence[CollectiveCalls], simulated: Sequence[CollectiveCalls]
) -> tuple[CollectivePair, ...]:
    """Collectives of equal kind, group and size beside each other."""
    theirs = {c[:3]: c for c in recorded}
    ours = {c[:3]: c for c in simulated}
    found = []
    for key in sorted({*theirs, *ours}):
        a, b = theirs.get(key), ours.get(key)
        found.append(
            CollectivePair(
                *key,
                a.calls if a else 0.0, b.calls if b else 0.0,
                a.median_s if a else None, b.median_s if b else None, a.least_s if a else None,
            )
        )  # fmt: skip
    return tuple(found)


def _notes(recorded: Profile, simulated: Profile) -> list[str]:
    found = list(recorded.notes)
    if recorded.world_size != simulated.world_size:
        found.append(
            f"recorded on {recorded.world_size} ranks, simulated on {simulated.world_size}"
        )
    if not recorded.phased:
        found.append("the recording has no launches of the host: phases are not told apart")
    return found
