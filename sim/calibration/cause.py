"""What a cause of a slow or fast run is: a change of the job that is simulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from sim.inputs.calibration import Calibration
from sim.inputs.checks import check
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.records import NamedTuple, dataclass
from sim.step.breakdown import Breakdown


class Changed(NamedTuple):
    """A job as a cause leaves it, and what that adds to the simulated step.

    What is added may be spent inside the step (``step``), in communication that nothing hides
    (``exposed``), in waiting for data (``wait``), or be an error of counting (``count``), of tokens
    alone (``tokens``), by which no time is off.
    """

    topology: Topology
    workload: Workload
    time: Callable[[Breakdown], float] = lambda step: step.time_s
    adds: Literal["step", "exposed", "wait", "count", "tokens"] = "step"


class Heard(NamedTuple):
    """What a run's log says, at a line, and the causes that it names or denies by their keys."""

    says: str
    line: int
    causes: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


#: (topology, workload, strength) to the job with a cause; None where it cannot be
Effect = Callable[[Topology, Workload, float], Changed | None]


def job_with(
    when: Callable[[Topology, Workload], bool], *, checked: bool = False, **fields: object
) -> Effect:
    """A job with other keys, or with ``parallelism={...}`` other keys of that, where that is one.

    Parameters
    ----------
    when : callable
        (topology, workload) to whether it changes anything.
    checked : bool
        Nothing either where the loader would refuse it.
    **fields
        The keys.
    """

    def change(topology: Topology, workload: Workload, strength: float) -> Changed | None:
        if not when(topology, workload):
            return None
        update = dict(fields)
        if isinstance(axes := update.get("parallelism"), dict):
            update["parallelism"] = workload.parallelism.model_copy(update=axes)
        job = workload.model_copy(update=update)
        refused = checked and any(finding.error for finding in check(topology, job))
        return None if refused else Changed(topology, job)

    return change


def miscounted(
    factor: Callable[[Topology, Workload, float], float], of: Literal["count", "tokens"] = "tokens"
) -> Effect:
    """The figure is off by a factor of the step's time; nothing where that is 1."""

    def change(topology: Topology, workload: Workload, strength: float) -> Changed | None:
        times = factor(topology, workload, strength)
        return None if times == 1.0 else Changed(topology, workload, lambda b: b.time_s * times, of)

    return change


def gpus_of_a_node(topology: Topology) -> int:
    """Of the whole machine where it has no nodes that are alike."""
    return topology.node.gpus if topology.node else topology.world_size


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
    change : Effect
        What it makes of a job.
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
    change: Effect
    strengths: tuple[float, ...]
    says: Callable[[Topology, Workload, float], str]
    check: str
    everywhere: bool = True
    faster: bool = False


def silent(topology: Topology, workload: Workload, strength: float) -> str:
    """Nothing: for causes that have no strength."""
    return ""


ONCE = (1.0,)  # of a cause that is or is not
