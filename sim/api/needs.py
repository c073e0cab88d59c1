"""Inverse questions: what must be true for an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.api.arguments import Overrides, settings
from sim.choices import share_of

if TYPE_CHECKING:
    from sim.choices import Efficiency
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.memory.bound import Bound
    from sim.step.variation import Progress, Stop
    from sim.study.needed import BandwidthNeeded, GpusNeeded, PriceNeeded


def need_bandwidth(
    topology: Argument,
    workload: Argument,
    *,
    efficiency: Efficiency = 0.9,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> BandwidthNeeded:
    """The NIC rate at which a job scales with a given efficiency.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`.
    efficiency : str or float
        Throughput over nodes x that of one node.
    progress : callable, optional
        Called with steps simulated and all there will be.
    stop : callable, optional
        Asked before each once a rate that does is known: once true, the answer is `stopped`, a rate
        that does with one that does not.

    Raises
    ------
    InfeasibleError
        No network does.
    """
    from sim.step.variation import never
    from sim.study.inverse import bandwidth_for

    sets = settings(overrides, calibration)
    return bandwidth_for(topology, workload, share_of(efficiency), sets, progress, stop or never)


def need_gpus(
    topology: Argument,
    workload: Argument,
    *,
    deadline: str | float | None = None,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> GpusNeeded:
    """The fewest nodes on which a job fits and ends in time.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`.
    deadline : str or float, optional
        Wall-clock of the whole job, such as ``48h``, or in seconds; whatever it takes where it is
        left out. [s]
    progress : callable, optional
        Called with sizes tried and all there are.
    stop : callable, optional
        Asked before each but the first: once true, the answer is `stopped`, sizes that do not do.

    Raises
    ------
    InfeasibleError
        No size does.
    """
    from sim.step.variation import never
    from sim.study.inverse import gpus_for
    from sim.study.target import target_of

    limit = None
    if deadline is not None:
        text = deadline if isinstance(deadline, str) else f"{deadline} s"
        limit = target_of("cost", text, None, None).deadline_s
    sets = settings(overrides, calibration)
    return gpus_for(topology, workload, limit, sets, progress, stop or never)


def need_context(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Bound:
    """The longest sequence of a job that fits on a machine.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`.
    progress : callable, optional
        Called with lengths tried and how many may be.
    stop : callable, optional
        Asked before each once one that fits is known: once true, the answer is `stopped`, a length
        that fits with one that does not.

    Raises
    ------
    InfeasibleError
        None does.
    """
    from sim.step.variation import never
    from sim.study.inverse import context_for

    sets = settings(overrides, calibration)
    return context_for(topology, workload, sets, progress, stop or never)


def need_price(
    first: Argument,
    other: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
) -> PriceNeeded:
    """The price at which the first machine costs as much as the other for a job.

    Parameters
    ----------
    first, other, workload, overrides, calibration
        As for `simulate`; both machines must have a price, the job a length.
    progress : callable, optional
        Called with machines simulated, of two.
    """
    from sim.study.inverse import price_for

    return price_for(first, other, workload, settings(overrides, calibration), progress)
