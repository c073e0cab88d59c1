"""What is wanted of a cluster: what shall be least, and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

from sim.errors import Fault, InputError
from sim.study.search import Estimate
from sim.units import UnitError, parse

Objective = Literal["cost", "time", "co2", "energy"]
_FIGURE = {"cost": "cost_usd", "time": "wall_s", "co2": "co2_kg", "energy": "energy_j"}


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
    """

    objective: Objective = "cost"
    deadline_s: float | None = None
    budget_usd: float | None = None
    tokens_per_s: float | None = None

    def score(self, figures: Estimate) -> float:
        """What is minimised; time breaks ties."""
        value: float = getattr(figures, _FIGURE[self.objective])
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


def target_of(
    objective: str, deadline: str | None, budget: str | None, throughput: float | None
) -> Target:
    """A target from what a command line says.

    Raises
    ------
    InputError
        A quantity that cannot be read, or a limit that is not positive.
    """
    faults: list[Fault] = []

    def read(option: str, text: str | None, dimension: Literal["s", "USD"]) -> float | None:
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

    target = Target(
        cast(Objective, objective), read("--deadline", deadline, "s"),
        read("--budget", budget, "USD"), throughput,
    )  # fmt: skip
    if faults:
        raise InputError(faults)
    return target
