"""Questions over many jobs: which machine, which configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.api.arguments import (
    Overrides,
    Varied,
    axes,
    path,
    settings,
    several,
)
from sim.errors import Fault, InputError

if TYPE_CHECKING:
    from sim.choices import (
        BatchSize,
        ConfigurationCount,
        EngineName,
        GpuCount,
        Objective,
        ProcessCount,
        TokenRate,
        WrittenShare,
    )
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.step.variation import Progress, Stop
    from sim.study.axes import Grid
    from sim.study.compared import Comparison
    from sim.study.sized import SizeReport
    from sim.study.sweep import SweepOutcome


def compare(
    topologies: Argument | Sequence[Argument],
    workloads: Argument | Sequence[Argument],
    *,
    vary: Varied = (),
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    offer: str = "",
    prices: File | None = None,
    engine: EngineName = "auto",
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Comparison:
    """Machines, jobs and changes side by side, and why each differs from the first.

    Parameters
    ----------
    topologies, workloads : one or several
        Every machine is simulated with every job.
    vary : iterable of ``KEY=A,B``, or mapping of keys to values
        Several keys give all their combinations.
    overrides, calibration, prices, engine
        As for `simulate`.
    offer : str
        Price every machine at its cheapest offer whose name contains this, or ``cheapest``; left
        empty, a machine that names no price gets the cheapest of the catalogue, and a note.
    progress : callable, optional
        Called with variants simulated and all there are.
    stop : callable, optional
        Asked before each but the first, also as it is read: once true, the answer is `stopped` and
        has those so far.

    Raises
    ------
    InputError
        Faults of any variant, or fewer than two variants.
    """
    from sim.step.variation import never
    from sim.study.compare import compare

    return compare(
        several(topologies), several(workloads), vary=axes(vary),
        overrides=settings(overrides, calibration), offer=offer, prices=path(prices),
        engine=engine, progress=progress, stop=stop or never,
    )  # fmt: skip


def size(
    workload: Argument,
    *,
    objective: Objective = "cost",
    deadline: str | None = None,
    budget: str | None = None,
    throughput: TokenRate | None = None,
    residency: Sequence[str] = (),
    region: Sequence[str] = (),
    provider: Sequence[str] = (),
    gpu: Sequence[str] = (),
    topologies: Argument | Sequence[Argument] = (),
    prices: File | None = None,
    spot: bool = False,
    max_gpus: GpuCount = 256,
    gpus: GpuCount | None = None,
    global_batch: BatchSize | None = None,
    vary: Varied = (),
    risk: WrittenShare = "5 %",
    slack: WrittenShare | None = None,
    setup: str = "15 min",
    as_written: bool = False,
    exhaustive: bool = False,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> SizeReport:
    """Search for the cheapest, fastest or greenest cluster that does a job in time.

    Parameters
    ----------
    workload, overrides, calibration, prices
        As for `simulate`.
    objective : {"cost", "time", "co2", "energy"}
        What shall be least.
    deadline, budget : str, optional
        Of the whole job, with their units: ``48h``, ``500 USD``.
    throughput : float, optional
        Tokens a second at least. [1/s]
    residency, region, provider, gpu : str or sequence of str
        Where data may be, and alternatives of offers; a region or GPU by its beginning.
    topologies : one or several machines
        Choose among these instead of the catalogue.
    spot : bool
        Also at spot prices.
    max_gpus : int
        Largest cluster.
    gpus : int, optional
        So many GPUs, neither more nor fewer.
    global_batch : int, optional
        Sequences a step.
    vary : iterable of ``KEY=A,B``, or mapping
        Also choose these keys; ``layout`` cuts the model in every way that goes.
    risk : str or float
        Probability of running out of memory that a plan may have.
    slack : str or float, optional
        Share of what is least by which a smaller cluster may be worse; 5 %, or 0 for the fastest.
    setup : str
        Paid for on every node before the first step, where its offer states none.
    as_written : bool
        Do not consider faster implementations that train the same: torch.compile, attention, loss.
    exhaustive : bool
        Where layouts are searched: the best plan of every offer, though it cannot win.
    progress : callable, optional
        Called with (plans decided, plans in all).
    stop : callable, optional
        Asked between simulations: once it is true, the answer is the best so far (``stopped``).

    Returns
    -------
    SizeReport
        ``winner`` is None if nothing meets the target.
    """
    from sim.step.variation import never
    from sim.study.machines import MachineFilter
    from sim.study.size import size
    from sim.study.target import settings_of, target_of

    allowed, setup_s = settings_of(risk, setup)
    wanted = MachineFilter(*map(tuple, (residency, region, provider, gpu)))
    return size(
        workload, target_of(objective, deadline, budget, throughput, slack),
        wanted,
        sets=settings(overrides, calibration), topologies=several(topologies),
        prices=path(prices), spot=spot, most_gpus=max_gpus, gpus=gpus, global_batch=global_batch,
        vary=axes(vary), risk=allowed, setup_s=setup_s, tuned=not as_written,
        progress=progress, stop=stop or never, exhaustive=exhaustive,
    )  # fmt: skip


def sweep(
    *inputs: Any,
    vary: Varied = (),
    zipped: bool = False,
    where: Sequence[str] = (),
    require: Sequence[str] = (),
    pareto: str | None = None,
    store: File | None = None,
    processes: ProcessCount | None = None,
    workers: ProcessCount | None = None,
    scheduler: str | None = None,
    screen: str | None = None,
    exact: ConfigurationCount | None = None,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
) -> SweepOutcome:
    """Compute every configuration of a grid once: what is stored already is not repeated.

    With `screen`, only those are computed that may be the best by one measure, in this process; a
    surrogate learnt from them says all the others.

    Parameters
    ----------
    *inputs : a sweep file, a Grid, or topology and workload
        What to sweep over.
    vary, zipped
        Axes over any key of either file, added to the grid's; see `compare`. ``1..8`` is a range,
        ``layout`` all ways to cut the model over the GPUs.
    where, require : sequence of str
        Conditions over inputs (others are not computed) and over results (others are marked).
    pareto : str, optional
        Measures to trade against each other, such as ``cost_usd,wall_clock_s``.
    store : path, optional
        SQLite file of results; ``NAME.sweep.sqlite`` by default.
    processes : int, optional
        All cores by default.
    workers, scheduler
        Of a local Dask cluster, or the address of one that runs.
    screen : str, optional
        The measure by which the best is sought, such as ``cost_usd``.
    exact : int, optional
        Configurations that a screening computes at the most; 2,000 by default.
    overrides, calibration
        As for `simulate`, in every configuration.
    progress : callable, optional
        Called with the configurations done and their number.
    """
    import os

    from sim.study.screened import EXACT, screened
    from sim.study.sweep import sweep

    _alone(screen, exact, processes=processes, workers=workers, scheduler=scheduler)
    grid = sweep_grid(
        *inputs, vary=vary, zipped=zipped, where=where, require=require, pareto=pareto,
        overrides=overrides, calibration=calibration,
    )  # fmt: skip
    if screen:
        return screened(
            grid, Path(store or grid.store), screen, exact=exact or EXACT,
            sets=settings(overrides, calibration), progress=progress,
        )  # fmt: skip
    return sweep(
        grid, Path(store or grid.store),
        sets=settings(overrides, calibration), processes=processes or os.cpu_count() or 1,
        workers=workers, scheduler=scheduler, progress=progress,
    )  # fmt: skip


def _alone(screen: str | None, exact: int | None, **given: int | str | None) -> None:
    """Refuse what a screening does not take, and what it alone takes."""
    faults = []
    for name, value in given.items():
        here = name == "processes" and value == 1
        if screen and value is not None and not here:
            message = "a screening computes few configurations, in this process; leave it out"
            faults.append(Fault("sweep", None, None, name, message))
    pools = [name for name, value in given.items() if value is not None]
    if len(pools) > 1:
        message = f"say one of {' and '.join(pools)}: where configurations are computed"
        faults.append(Fault("sweep", None, None, pools[-1], message))
    if exact is not None and not screen:
        message = "is of a screening; write screen=MEASURE as well"
        faults.append(Fault("sweep", None, None, "exact", message))
    if faults:
        raise InputError(faults)


def sweep_grid(
    *inputs: Any,
    vary: Varied = (),
    zipped: bool = False,
    where: Sequence[str] = (),
    require: Sequence[str] = (),
    pareto: str | None = None,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
) -> Grid:
    """The grid that `sweep` would compute; its length counts the configurations."""
    from sim.study.grid import grid_of

    sets = settings(overrides, calibration)
    return grid_of(inputs, axes(vary), zipped, where, require, pareto, sets)
