"""What is wanted of a cluster: what shall be least, and its limits."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Literal, cast

from sim.choices import Objective, WrittenShare, share_of
from sim.errors import Fault, InputError
from sim.records import dataclass
from sim.study.estimates import Estimate
from sim.units import UnitError, parse

FIGURES: dict[Objective, str] = {
    "cost": "cost_usd", "time": "wall_s", "co2": "co2_kg", "energy": "energy_j",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """What is wanted; None is no limit.

    Attributes
    ----------
    objective : str
        What is least: ``cost``, ``time``, ``co2`` or ``energy``.
    deadline_s : float, optional
        Wall-clock of the whole job. [s]
    budget_usd : float, optional
        Total cost. [USD]
    tokens_per_s : float, optional
        Throughput of all GPUs. [1/s]
    slack : float
        Of what is least: a smaller cluster is taken that loses no more. [1]
    """

    objective: Objective = "cost"
    deadline_s: float | None = None
    budget_usd: float | None = None
    tokens_per_s: float | None = None
    slack: float = 0.0

    def score(self, figures: Estimate) -> float:
        """What is minimised; time breaks ties."""
        value: float = getattr(figures, FIGURES[self.objective])
        return value * (1.0 + 1e-12 * math.log1p(figures.wall_s)) if math.isfinite(value) else value

    def shortfall(self, figures: Estimate) -> float:
        """Largest ratio of a figure to its limit: at most 1 where all are met."""
        ratios = [0.0]
        if self.deadline_s is not None:
            ratios.append(figures.wall_s / self.deadline_s)
        if self.budget_usd is not None:
            ratios.append(figures.cost_usd / self.budget_usd)
        if self.tokens_per_s is not None:
            ratios.append(self.tokens_per_s / figures.tokens_per_s)
        return max(ratios)

    def met(self, figures: Estimate) -> bool:
        """Whether figures meet every limit."""
        return self.shortfall(figures) <= 1.0


#: of cost, energy and CO2; a step's 80 % band is rarely narrower
SLACK = 0.05


def target_of(
    objective: str, deadline: str | None = None, budget: str | None = None,
    throughput: float | None = None, slack: WrittenShare | None = None,
) -> Target:  # fmt: skip
    """A target from what a command line says.

    Raises
    ------
    InputError
        A quantity that cannot be read, or a limit that is not positive.
    """
    faults: list[Fault] = []
    target = Target(
        cast(Objective, objective),
        _limit("--deadline", deadline, "s", faults),
        _limit("--budget", budget, "USD", faults),
        throughput,
        0.0 if objective == "time" else SLACK,
    )
    if slack is not None:
        target = replace(target, slack=_share("--slack", slack, faults))
    if faults:
        raise InputError(faults)
    return target


def settings_of(risk: WrittenShare, setup: str) -> tuple[float, float]:
    """A risk, and the seconds of a set-up.

    Raises
    ------
    InputError
        One that cannot be read.
    """
    faults: list[Fault] = []
    share = _share("--risk", risk, faults)
    seconds = _setup(setup, faults)
    if faults:
        raise InputError(faults)
    return share, seconds


def setup_s(text: str) -> float:
    """The seconds of a set-up, of which there may be none.

    Raises
    ------
    InputError
        It cannot be read.
    """
    faults: list[Fault] = []
    seconds = _setup(text, faults)
    if faults:
        raise InputError(faults)
    return seconds


def _setup(text: str, faults: list[Fault]) -> float:
    if re.fullmatch(r"\s*0+(\.0*)?\s*[a-z]*\s*", text):  # 0, 0 min
        return 0.0
    return _limit("--setup", text, "s", faults) or 0.0


def _limit(
    option: str, text: str | None, dimension: Literal["s", "USD"], faults: list[Fault]
) -> float | None:
    if text is None:
        return None
    try:
        value = parse(text, dimension)
    except UnitError as error:
        faults.append(Fault(option, None, None, "", str(error)))
        return None
    if value <= 0.0:
        faults.append(Fault(option, None, None, "", f"{text} is not more than nothing"))
    return value


def _share(option: str, text: WrittenShare, faults: list[Fault]) -> float:
    """A share such as ``5 %`` or ``0.05``; a fault where it is none from 0 to 1."""
    try:
        value = share_of(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        faults.append(Fault(option, None, None, "", f"{text} is no share; write 5 % or 0.05"))
    return value
