"""What a diagnosis says: causes, how likely each is, and what to measure to tell two apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sim.calibration.cause import Cause
from sim.calibration.figures import Figure
from sim.documents import SCHEMAS, Document, Section
from sim.inputs.notes import Message
from sim.memory.verdict import Verdict

EXPLAINS = 0.15  # |ln(predicted/measured)| up to which a cause explains the figures
_NAMED = 6  # causes at most
_FAINT = 0.005  # probability under which a cause is not worth its lines


@dataclass(frozen=True, slots=True)
class Explanation(Section):
    """A cause at its best strength.

    Attributes
    ----------
    probability : float
        Among all causes and "nothing".
    strength : float
        1 for causes without.
    times : tuple of float
        Step time of each figure under it. [s]
    off : float
        Largest |ln(predicted/measured)|.
    """

    cause: Cause
    probability: float
    strength: float
    detail: str
    times: tuple[float, ...]
    off: float

    @property
    def explains(self) -> bool:
        """Whether it brings every figure within the model's error."""
        return self.off <= EXPLAINS

    def content(self) -> dict[str, Any]:
        """The cause, how likely, and what it gives."""
        return {
            "key": self.cause.key,
            "title": self.cause.title,
            "probability": self.probability,
            "strength": self.strength,
            "detail": self.detail,
            "step_s": self.times,
            "explains": self.explains,
            "check": self.cause.check,
        }


@dataclass(frozen=True, slots=True)
class Test(Section):
    """A measurement that tells two causes apart."""

    title: str
    tells: tuple[str, str]  # keys of the causes
    expected: tuple[str, ...]  # under the first cause, the second, and if all were as declared
    separation: float  # in standard errors

    def content(self) -> dict[str, Any]:
        """What to measure, and what each cause expects."""
        return {"title": self.title, "tells": self.tells, "expected": self.expected}


@dataclass(frozen=True, slots=True)
class Diagnosis(Document):
    """What came out; explanations by probability."""

    schema: ClassVar[str] = SCHEMAS["diagnosis"]

    figures: tuple[Figure, ...]
    predicted: tuple[float, ...]  # step times as declared [s]
    pace: float  # of kernels, beside the shipped constants, that the baseline asked for
    explanations: tuple[Explanation, ...]
    nothing: float  # probability that there is nothing to explain
    test: Test | None
    verdict: Verdict  # of memory, as declared
    borrowed: tuple[str, ...] = ()  # constants that are those of other hardware
    warnings: tuple[Message, ...] = ()  # of the job as declared

    @property
    def ratio(self) -> float:
        """Step time of the run in question over the predicted one."""
        return self.figures[0].step_time_s / self.predicted[0]

    @property
    def ordinary(self) -> bool:
        """Whether the run is what the model expects, within its error."""
        return self.nothing > 0.5 and abs(math.log(self.ratio)) <= EXPLAINS

    @property
    def named(self) -> list[Explanation]:
        """Causes worth naming, the likeliest first."""
        # the others are weighed for the odds: what makes it faster explains nothing that is slow,
        # and what gives no more than was declared nothing that is fast
        able = [e for e in self.explanations if not e.cause.faster]
        if self.ratio < 1.0:
            able = [e for e in self.explanations if e.times[0] < self.predicted[0]]
        return [e for e in able if e.probability >= _FAINT][:_NAMED] or able[:3]

    @property
    def unnamed(self) -> float:
        """Probability that it is none of those named: another cause, or nothing at all."""
        return max(0.0, 1.0 - sum(e.probability for e in self.named))

    def content(self) -> dict[str, Any]:
        """Figures beside what is predicted, causes, and the measurement to make next."""
        return {
            "figures": [
                {
                    "label": f.label,
                    "measured_tokens_per_s_per_gpu": f.tokens_per_s_per_gpu,
                    "predicted_tokens_per_s_per_gpu": f.rate(seconds),
                    "measured_step_s": f.step_time_s,
                    "predicted_step_s": seconds,
                }
                for f, seconds in zip(self.figures, self.predicted, strict=True)
            ],
            "pace": self.pace,
            "fits": self.verdict.fits,
            "verdict": self.verdict.word,
            "nothing": self.nothing,
            "unnamed": self.unnamed,
            "causes": self.explanations,
            "test": self.test,
            "borrowed": self.borrowed,
            "warnings": self.warnings,
            "heard": [{"says": h.says, "line": h.line} for h in self.figures[0].heard],
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a cause, beside what was measured and predicted."""
        first = {
            "measured_step_s": self.figures[0].step_time_s,
            "predicted_step_s": self.predicted[0],
        }
        return [e.content() | first for e in self.explanations]
