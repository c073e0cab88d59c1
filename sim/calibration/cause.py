"""What a cause of a slow or fast run is: a change of the job that is simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from sim.inputs.calibration import Calibration
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.records import dataclass
from sim.step.breakdown import Breakdown


class Changed(NamedTuple):
    """A job as a cause leaves it, and what that adds to the simulated step.

    What is added may be spent inside the step (``step``), in communication that nothing hides
    (``exposed``), in waiting for data (``wait``), or be an error of counting (``count``).
    """

    topology: Topology
    workload: Workload
    time: Callable[[Breakdown], float] = lambda step: step.time_s
    adds: Literal["step", "exposed", "wait", "count"] = "step"


def parallelism(workload: Workload, **fields: object) -> Workload:
    """A job with other keys of its parallelism."""
    update = {"parallelism": workload.parallelism.model_copy(update=fields)}
    return workload.model_copy(update=update)


def calibrated(topology: Topology, **factors: float) -> Topology:
    """A machine whose constants are further off by these factors."""
    known = topology.calibration or Calibration.model_construct()
    update = {name: getattr(known, name) * factor for name, factor in factors.items()}
    return topology.model_copy(update={"calibration": known.model_copy(update=update)})


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause.

    Attributes
    ----------
    key, title : str
        Short name, and what is wrong.
    plausibility : float
        Beside the other causes.
    change : callable
        (topology, workload, strength) to `Changed`; None where it cannot be.
    strengths : tuple of float
        From mild to hard, to be interpolated between; (1.0,) for a cause that is or is not.
    says : callable
        (topology, workload, strength) to what the strength means.
    check : str
        How to look for it directly.
    faster : bool
        It makes a run faster than declared.
    everywhere : bool
        Whether every run on these machines has it; a slow GPU may be in one node alone.
    """

    key: str
    title: str
    plausibility: float
    change: Callable[[Topology, Workload, float], Changed | None]
    strengths: tuple[float, ...]
    says: Callable[[Topology, Workload, float], str]
    check: str
    everywhere: bool = True
    faster: bool = False


def silent(topology: Topology, workload: Workload, strength: float) -> str:
    """Nothing: for causes that have no strength."""
    return ""


ONCE = (1.0,)  # of a cause that is or is not
