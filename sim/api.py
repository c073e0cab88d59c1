"""`simulate(topology, workload) -> Result`: the whole road in one call."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike

from sim.inputs.calibration import Calibration, calibration_settings
from sim.inputs.loader import Argument, load
from sim.result.predict import predict
from sim.result.result import Result
from sim.step.variation import read_variation


def simulate(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Iterable[str] = (),
    calibration: str | PathLike[str] | Calibration | None = None,
    engine: str = "auto",
    level: str | None = None,
    jitter: str = "0%",
    slow: Iterable[str] = (),
    seed: int = 0,
    replicas: int = 1,
    scaling: bool = True,
    fixes: bool = True,
) -> Result:
    """Predict one training job on one machine.

    Parameters
    ----------
    topology, workload : path, catalogue name, mapping of the YAML's keys, or spec
        Machine and job.
    overrides : iterable of str
        ``key=value`` as for ``--set``.
    calibration : path or Calibration, optional
        Corrections of this cluster, as ``scaling-sim calibrate`` writes them.
    engine : str
        ``auto | reference | python | compiled``; all give the same times.
    level : str, optional
        ``folded`` (equal ranks once), ``ranks`` or ``steps`` (every ring step of every rank);
        ``ranks`` where ranks differ by `jitter` or `slow`, else ``folded``.
    jitter : str
        Deviation of each rank's compute time, block by block, such as ``5%``.
    slow : iterable of str
        Slow GPUs and links: ``rank:3=0.9``, ``link:NAME=0.5``.
    seed, replicas : int
        Of the jitter's draws, and how many steps to draw; ``result.variation`` has their
        distribution, and the step is the median one.
    scaling : bool
        Also simulate 1, 2, 4 and 8 nodes.
    fixes : bool
        Also simulate changes worth trying.

    Returns
    -------
    Result
        An infeasible job gets a full result with ``memory.fits`` false.

    Raises
    ------
    InputError
        All faults of both inputs.
    """
    known = calibration_settings(calibration) if calibration is not None else ()
    varied = read_variation(jitter, slow, seed, replicas)
    level = varied.level(level)
    loaded = load(topology, workload, (*known, *overrides))
    return predict(
        loaded.topology, loaded.workload, loaded.notes, engine=engine, level=level,
        scaling=scaling, fixes=fixes, variation=varied,
    )  # fmt: skip
