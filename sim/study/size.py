"""`size(workload, target)`: the cheapest, fastest or greenest cluster that does the job in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sim.errors import InputError
from sim.inputs.arguments import Argument
from sim.inputs.loader import Prepared, load_topology, prepare
from sim.inputs.shares import batch_on
from sim.inputs.workload import Workload
from sim.job.basis import has_length, no_length
from sim.step.variation import Progress, Stop, never, silent
from sim.study.axes import Grid, from_options
from sim.study.candidates import CHECKPOINTING, CHOSEN, NODES, OFFLOAD, Space, family
from sim.study.contest import Contest, broken_even
from sim.study.layouts import KEYS, LAYOUT
from sim.study.machines import SETUP_S, Machine, MachineFilter, machines, rented_as_set, set_up
from sim.study.phases import PhasePlan, light_phases
from sim.study.room import RISK
from sim.study.search import Searcher
from sim.study.sized import REFERENCE_GPUS, Beside, SizeReport
from sim.study.target import Target

#: what may be spent on offers other than the winner's where layouts are searched (`Need.work`)
_OTHERS = 1000.0
#: from one word of progress to the next [s]
_PACE_S = 0.1
_VARY = "--vary"


def size(
    workload: Argument,
    target: Target,
    wanted: MachineFilter | None = None,
    *,
    sets: Iterable[str] = (),
    topologies: Sequence[Argument] = (),
    prices: Path | None = None,
    spot: bool = False,
    most_gpus: int = 256,
    gpus: int | None = None,
    global_batch: int | None = None,
    vary: Sequence[str] = (),
    risk: float = RISK,
    setup_s: float = SETUP_S,
    tuned: bool = True,
    searcher: Searcher | None = None,
    progress: Progress | None = None,
    stop: Stop = never,
    exhaustive: bool = False,
) -> SizeReport:
    """Search the catalogue for the best cluster.

    Arguments and answer are those of `sim.size`, these apart.

    Parameters
    ----------
    target : Target
        Limits and what is least.
    wanted : MachineFilter, optional
        Place and kind of machine.
    most_gpus : int
        Largest cluster to consider: `max_gpus`.
    risk : float
        Probability of running out of memory that a plan may have. [1]
    setup_s : float
        Paid for on every node before the first step, where its offer states none. [s]
    tuned : bool
        Also consider faster implementations that train the same: not `as_written`.
    searcher : Searcher, optional
        Shares its simulations with other searches.
    progress : callable, optional
        Called with plans decided and those in all, while these are listed with those that are yet.

    Raises
    ------
    InputError
        Faults of the inputs; a workload without a length; a place or kind that no offer has.
    """
    began = time.perf_counter()
    found, left_out = machines(wanted or MachineFilter(), topologies, prices, spot)
    found = [set_up(machine, setup_s) for machine in found]
    given = list(sets)
    bases, unfit = _bases(workload, given, found, gpus)
    found = [rented_as_set(m, bases[i]) if i in bases else m for i, m in enumerate(found)]
    job = next(iter(bases.values())).loaded().workload
    if not has_length(job):
        raise no_length(job.name)
    batch = global_batch or job.global_batch
    assumed = None if batch else gpus or max(REFERENCE_GPUS, job.parallelism.sharing)
    if assumed:
        batch = batch_on(job, assumed).sequences
    assert batch is not None
    keys = [key for key in vary if key.strip() != LAYOUT]
    space = Space(
        batch, max(most_gpus, gpus or 0), family(job), CHECKPOINTING, OFFLOAD,
        Grid("", axes=from_options(keys, False)), len(keys) < len(vary), gpus,
        tuned, frozenset(s.partition("=")[0].strip() for s in given),
    )  # fmt: skip
    _check_free(space)
    search = searcher or Searcher(risk)
    search.stop, search.stopped, search.listed = stop, False, 0
    told = progress or silent
    phases, target = _phases(job, found, bases, target)
    taking_part = [(i, m) for i, m in enumerate(found) if i in bases]
    contest = Contest(search, space, target)

    def moved() -> None:
        tally = contest.tally
        told(tally.decided, max(search.listed, tally.considered))

    search.moved = _paced(moved)
    race = search.race((contest.contend(m, bases[i]) for i, m in taking_part), contest.rank)
    leader = race.decide()
    winner, decided = leader.plan if leader else None, not search.stopped
    fewer = more = None
    next_to: list[Beside] = []
    if winner is not None:
        base = bases[found.index(winner.candidate.machine)]
        if not search.stopped:
            around = (contest.neighbour(winner, base, step) for step in (-1, +1))
            fewer, more = (s and s.plan for s in search.together(around))
        if space.layouts and not search.stopped:
            next_to = contest.beside(winner, base)
    race.finish(_OTHERS if space.layouts and not exhaustive else math.inf)
    tally = contest.tally
    told(tally.decided, tally.considered)
    contenders = [c for _, c in sorted(race.found.items())]
    contenders.sort(key=contest.rank)
    if winner is not None:
        contenders = [broken_even(c, winner) for c in contenders]
    left_out += unfit
    return SizeReport(
        target, job.name, batch, assumed, tuple(contenders), tally, tuple(left_out), fewer, more,
        time.perf_counter() - began, search.risk, space.most_gpus,
        gpus, tuple(phases), tuple(next_to), search.stopped,
        len(taking_part) - len(contenders), decided,
    )  # fmt: skip


def _check_free(space: Space) -> None:
    """Refuse further axes that every plan has its own value of.

    Raises
    ------
    InputError
        One is.
    """
    chosen = CHOSEN | {f"parallelism.{key}" for key in KEYS if space.layouts}
    for key in space.extra.keys:
        if key.removeprefix("workload.").removeprefix("topology.") in chosen:
            message = "size chooses it for every plan; leave it out of --vary"
            raise InputError.single(_VARY, message, key)


def _paced(tell: Callable[[], None]) -> Callable[[], None]:
    """Tell at most ten times a second."""
    told = -math.inf

    def moved() -> None:
        nonlocal told
        if time.monotonic() >= told + _PACE_S:
            tell()
            told = time.monotonic()

    return moved


#: share of the deadline that one light phase may take
_LIGHT_SHARE = 0.25


def _phases(
    job: Workload, found: Sequence[Machine], bases: dict[int, Prepared], target: Target
) -> tuple[list[PhasePlan], Target]:
    """Machines of the light phases, and what they leave of deadline and budget for training."""
    if not job.phases or not found:
        return [], target
    deadline, budget = target.deadline_s, target.budget_usd
    limit = None if deadline is None else _LIGHT_SHARE * deadline
    phases = light_phases(job, found, bases, limit)
    if deadline is not None:
        deadline = max(1e-9, deadline - sum(p.wall_s for p in phases))
    if budget is not None:
        budget = max(1e-9, budget - sum(p.cost_usd for p in phases))
    return phases, replace(target, deadline_s=deadline, budget_usd=budget)


def _base(machine: Machine, workload: Argument, sets: Sequence[str], gpus: int | None) -> Prepared:
    """The workload checked beside one node of a machine, or as many as its own layout needs.

    Raises
    ------
    InputError
        It goes on no number of nodes: what is wrong on one, or on those that were asked for.
    """
    sizes: Sequence[int] = NODES
    if gpus is not None:
        nodes, rest = divmod(gpus, machine.topology.gpus_per_node)
        sizes = (1,) if rest else (1, nodes)
    fault: InputError | None = None
    for nodes in sizes:
        topology = machine.topology.model_copy(update={"nodes": nodes})
        try:
            return prepare(topology, workload, [*sets, "parallelism.replicate=1"])
        except InputError as error:
            fault = error if gpus is not None else fault or error
            cut = all(found.path.startswith("parallelism.") for found in error.faults)
            if not cut or machine.most_nodes == 1:
                break
    assert fault is not None
    raise fault


def _bases(
    workload: Argument, sets: list[str], found: Sequence[Machine], gpus: int | None
) -> tuple[dict[int, Prepared], list[str]]:
    """The workload checked beside each machine, and why it cannot run on others.

    Raises
    ------
    InputError
        Where no machine is left: faults of the workload itself.
    """
    kept: dict[int, Prepared] = {}
    unfit: list[str] = []
    fault: InputError | None = None
    for i, machine in enumerate(found):
        try:
            kept[i] = _base(machine, workload, sets, gpus)
        except InputError as error:
            fault = fault or error
            unfit.append(f"{machine.name}: {error.faults[0].message}")
    if not found:
        kept[0] = prepare(load_topology("dgx-h100"), workload, sets)
    if not kept and fault:
        raise fault
    return kept, unfit
