"""Observations: what was measured, and what a calibrated model says to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.calibration.runs import LoggedRun
from sim.inputs.calibration import Calibration
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.step.step import quick

RUN_ERROR = 0.04  # of a step time: what is left of a well-specified run after calibration


@dataclass(frozen=True, slots=True)
class Observation:
    """One measured figure and the model's answer to it.

    Attributes
    ----------
    group : str
        Evidence that comes and goes together: one log, one run, one trace.
    kind : str
        ``run | collective | kernels | copy``.
    measured : float
        A time. [s]
    sigma : float
        Standard error of its logarithm.
    predict : callable
        Calibration to the predicted time. [s]
    """

    label: str
    group: str
    kind: str
    measured: float
    sigma: float
    predict: Callable[[Calibration], float]


def run_observation(run: LoggedRun) -> Observation:
    """A timed run as evidence."""
    return Observation(
        run.name, run.name, "run", run.step_time_s, RUN_ERROR,
        lambda known: step_time(run.topology, run.workload, known),
    )  # fmt: skip


def step_time(topology: Topology, workload: Workload, known: Calibration) -> float:
    """Predicted time of a step under a calibration. [s]"""
    calibrated = topology.model_copy(update={"calibration": known})
    return quick(calibrated, workload).time_s
