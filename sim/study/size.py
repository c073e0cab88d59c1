"""`size(workload, target)`: the cheapest, fastest or greenest cluster that does the job in time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from sim.documents import SCHEMAS, Document, Section
from sim.errors import Fault, InputError
from sim.inputs.arguments import Argument
from sim.inputs.loader import Prepared, load_topology, prepare
from sim.inputs.shares import batch_on
from sim.inputs.workload import Workload
from sim.study.axes import Grid, from_options
from sim.study.candidates import (
    CHECKPOINTING,
    OFFLOAD,
    Space,
    family,
    plans,
    variants,
)
from sim.study.machines import Machine, Wanted, machines
from sim.study.phases import PhasePlan, light_phases
from sim.study.search import Counts, Estimate, Searcher, Simulated
from sim.units import UnitError, parse

Objective = Literal["cost", "time", "co2", "energy"]
_FIGURE = {"cost": "cost_usd", "time": "wall_s", "co2": "co2_kg", "energy": "energy_j"}
#: GPUs of the node that a batch without `global_batch` is counted on
_REFERENCE_GPUS = 8


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


@dataclass(frozen=True, slots=True)
class Contender(Section):
    """The best plan of one machine, or why it has none.

    Attributes
    ----------
    machine : Machine
        What is rented.
    plan : Simulated or None
        Best plan that meets the target; None if there is none.
    nearest : Simulated or None
        Where there is none: a plan that misses the target by little; None if nothing fits. If no
        machine has a plan, the least of these is the nearest miss of all.
    break_even_usd : float or None
        Price per GPU-hour at which its plan would cost as much as the winner's. [USD/h]
    """

    machine: Machine
    plan: Simulated | None
    nearest: Simulated | None = None
    break_even_usd: float | None = None

    def content(self) -> dict[str, Any]:
        """Machine, plan and price."""
        return {
            "machine": self.machine.name,
            "note": self.machine.note,
            "plan": self.plan,
            "nearest": self.nearest,
            "break_even_usd_per_gpu_hour": self.break_even_usd,
        }


@dataclass(frozen=True, slots=True)
class SizeReport(Document):
    """Answer of a search.

    Attributes
    ----------
    target : Target
        What was asked.
    workload : str
        Its name.
    global_batch : int
        Sequences a step, of every plan.
    assumed_batch : bool
        Whether the workload left it open.
    contenders : tuple of Contender
        Best first; those without a plan last.
    tally : Counts
        Candidates considered, simulated, too large, ruled out by bounds.
    left_out : tuple of str
        Machines that are not where or what is wanted.
    fewer, more : Simulated or None
        The winner's machine with the next smaller and the next larger number of nodes, each with
        its own best layout, whatever the target.
    seconds : float
        The search itself. [s]
    phases : tuple of PhasePlan
        Other phases of the job, each on a machine of its own.
    """

    schema: ClassVar[str] = SCHEMAS["size"]

    target: Target
    workload: str
    global_batch: int
    assumed_batch: bool
    contenders: tuple[Contender, ...]
    tally: Counts
    left_out: tuple[str, ...]
    fewer: Simulated | None
    more: Simulated | None
    seconds: float
    phases: tuple[PhasePlan, ...] = ()

    def content(self) -> dict[str, Any]:
        """Target, counts of the search, winner and contenders."""
        return {
            "workload": self.workload,
            "target": self.target,
            "global_batch": self.global_batch,
            **asdict(self.tally),
            "winner": self.winner,
            "contenders": self.contenders,
            "phases": self.phases,
            "fewer": self.fewer,
            "more": self.more,
            "left_out": self.left_out,
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """The best plan of every machine that has one."""
        return [
            c.plan.content()
            | {"break_even_usd_per_gpu_hour": c.break_even_usd, "note": c.machine.note}
            for c in self.contenders
            if c.plan is not None
        ]

    @property
    def winner(self) -> Simulated | None:
        """The best plan of all."""
        return self.contenders[0].plan if self.contenders else None

    @property
    def nearest(self) -> Simulated | None:
        """Where nothing meets the target: the plan that misses it least."""
        missed = [c.nearest for c in self.contenders if c.nearest]
        return min(missed, key=lambda p: self.target.shortfall(p.figures), default=None)


def size(
    workload: Argument,
    target: Target,
    wanted: Wanted | None = None,
    *,
    sets: Iterable[str] = (),
    topologies: Sequence[Argument] = (),
    prices: Path | None = None,
    spot: bool = False,
    most_gpus: int = 256,
    global_batch: int | None = None,
    vary: Sequence[str] = (),
    searcher: Searcher | None = None,
) -> SizeReport:
    """Search the catalogue for the best cluster.

    Parameters
    ----------
    workload : path, name, mapping or spec
        The job; its micro-batch, accumulation, strategy and checkpointing are chosen anew.
    target : Target
        Limits and what is least.
    wanted : Wanted, optional
        Place and kind of machine.
    sets : iterable of str
        Overrides of the workload.
    topologies : sequence of topology arguments
        Machines to choose from instead of the catalogue.
    prices : Path, optional
        A file of offers over the shipped ones.
    spot : bool
        Also at spot prices.
    most_gpus : int
        Largest cluster to consider.
    global_batch : int, optional
        Sequences a step; the workload's otherwise.
    vary : sequence of str
        Further axes, ``key=a,b``: precision, NIC rate and so on.
    searcher : Searcher, optional
        Shares its simulations with other searches.

    Returns
    -------
    SizeReport
        With a winner, or the nearest miss.

    Raises
    ------
    InputError
        Faults of the inputs; a workload without a length; a place or kind that no offer has.
    """
    began = time.perf_counter()
    found, left_out = machines(wanted or Wanted(), topologies, prices, spot)
    given = list(sets)
    bases, unfit = _bases(workload, given, found)
    job = next(iter(bases.values())).loaded().workload
    if job.tokens is None and job.steps is None and job.samples is None:
        message = "states no length; write tokens, steps or samples"
        raise InputError.single(job.name, message)
    batch = global_batch or job.global_batch
    assumed = batch is None
    if batch is None:
        batch = batch_on(job, _REFERENCE_GPUS).sequences
    extra = Grid("", axes=from_options(vary, False))
    space = Space(batch, most_gpus, family(job), CHECKPOINTING, OFFLOAD, extra)
    search, tally = searcher or Searcher(), Counts()
    phases, target = _phases(job, found, bases, target)
    taking_part = [(i, m) for i, m in enumerate(found) if i in bases]
    contenders = [_contend(search, m, bases[i], space, target, tally) for i, m in taking_part]
    if contenders and not any(c.plan for c in contenders):
        pairs = [(bases[i], space) for i, _ in taking_part]
        contenders = _nearest(search, contenders, pairs, target)
    left_out += unfit
    contenders.sort(key=lambda c: _rank(c, target))
    winner = contenders[0].plan if contenders else None
    fewer = more = None
    if winner is not None:
        contenders = [_broken_even(c, winner) for c in contenders]
        base = bases[found.index(winner.candidate.machine)]
        fewer = _neighbour(search, winner, base, space, target, -1)
        more = _neighbour(search, winner, base, space, target, +1)
    return SizeReport(
        target, job.name, batch, assumed, tuple(contenders), tally, tuple(left_out), fewer, more,
        time.perf_counter() - began, tuple(phases),
    )  # fmt: skip


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


def _bases(
    workload: Argument, sets: list[str], found: Sequence[Machine]
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
            kept[i] = prepare(machine.topology, workload, [*sets, "parallelism.replicate=1"])
        except InputError as error:
            fault = fault or error
            unfit.append(f"{machine.name}: {error.faults[0].message}")
    if not found:
        kept[0] = prepare(load_topology("dgx-h100"), workload, sets)
    if not kept and fault:
        raise fault
    return kept, unfit


def _contend(
    search: Searcher, machine: Machine, base: Prepared, space: Space, target: Target, tally: Counts
) -> Contender:
    candidates = list(plans(machine, variants(base, space.extra), space))
    if target.objective == "cost" and machine.price is None:
        return Contender(machine, None)
    plan = search.best(candidates, target.score, target.met, tally)
    if plan is not None:
        return Contender(machine, plan)
    return Contender(machine, None, search.nearest(candidates, target.shortfall))


def _nearest(
    search: Searcher,
    contenders: list[Contender],
    pairs: list[tuple[Prepared, Space]],
    target: Target,
) -> list[Contender]:
    """Nothing meets the target: find the plan that misses it least, exactly."""
    least = min(
        (target.shortfall(c.nearest.figures) for c in contenders if c.nearest), default=math.inf
    )
    found = []
    for contender, (base, space) in zip(contenders, pairs, strict=True):
        candidates = plans(contender.machine, variants(base, space.extra), space)
        better = search.best(candidates, target.shortfall, _any, Counts(), below=least)
        if better is not None:
            least = target.shortfall(better.figures)
            contender = replace(contender, nearest=better)
        found.append(contender)
    return found


def _any(figures: Estimate) -> bool:
    """Every plan is allowed."""
    return figures.wall_s > 0.0


def _rank(contender: Contender, target: Target) -> tuple[int, float]:
    if contender.plan is not None:
        return 0, target.score(contender.plan.figures)
    if contender.nearest is not None:
        return 1, target.shortfall(contender.nearest.figures)
    return 2, 0.0


def _broken_even(contender: Contender, winner: Simulated) -> Contender:
    """At which price a losing machine would cost as much as the winner."""
    plan = contender.plan
    if plan is None or plan is winner or plan.job.cost is None:
        return contender
    from sim.job.cost import break_even_price

    return replace(
        contender, break_even_usd=break_even_price(winner.figures.cost_usd, plan.job.cost)
    )


def _neighbour(
    search: Searcher, winner: Simulated, base: Prepared, space: Space, target: Target, step: int
) -> Simulated | None:
    """The best plan of the winner's machine with the next number of nodes that goes."""
    machine = winner.candidate.machine
    candidates = list(plans(machine, variants(base, space.extra), space))
    sizes = sorted({c.topology.nodes for c in candidates})
    at = sizes.index(winner.candidate.topology.nodes) + step
    if not 0 <= at < len(sizes):
        return None
    chosen = [c for c in candidates if c.topology.nodes == sizes[at]]
    return search.best(chosen, target.score, _any, Counts())


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
