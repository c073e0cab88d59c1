"""`size(workload, target)`: the cheapest, fastest or greenest cluster that does the job in time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sim.errors import InputError
from sim.inputs.arguments import Argument
from sim.inputs.loader import Prepared, load_topology, prepare
from sim.inputs.shares import batch_on
from sim.inputs.workload import Workload
from sim.step.step import memory_of
from sim.study.axes import Grid, from_options
from sim.study.candidates import (
    CHECKPOINTING,
    OFFLOAD,
    SAVING,
    Candidate,
    Space,
    family,
    plans,
    variants,
)
from sim.study.layouts import LAYOUT, beside
from sim.study.machines import Machine, Wanted, machines
from sim.study.phases import PhasePlan, light_phases
from sim.study.search import Counts, Estimate, Searcher, Simulated
from sim.study.sized import Beside, Contender, SizeReport
from sim.study.target import Target

#: GPUs of the node that a batch without `global_batch` is counted on
_REFERENCE_GPUS = 8


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
    gpus: int | None = None,
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
    gpus : int, optional
        So many GPUs, neither more nor fewer.
    global_batch : int, optional
        Sequences a step; the workload's otherwise.
    vary : sequence of str
        Further axes, ``key=a,b``: precision, NIC rate and so on; ``layout`` cuts the model in
        every way that goes.
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
    keys = [key for key in vary if key.strip() != LAYOUT]
    space = Space(
        batch, max(most_gpus, gpus or 0), family(job), CHECKPOINTING, OFFLOAD,
        Grid("", axes=from_options(keys, False)), len(keys) < len(vary), gpus,
    )  # fmt: skip
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
    next_to: list[Beside] = []
    if winner is not None:
        contenders = [_broken_even(c, winner) for c in contenders]
        base = bases[found.index(winner.candidate.machine)]
        fewer = _neighbour(search, winner, base, space, target, -1)
        more = _neighbour(search, winner, base, space, target, +1)
        if space.layouts:
            next_to = _beside(search, winner, base, space, target)
    return SizeReport(
        target, job.name, batch, assumed, tuple(contenders), tally, tuple(left_out), fewer, more,
        time.perf_counter() - began, tuple(phases), tuple(next_to),
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


def _beside(
    search: Searcher, winner: Simulated, base: Prepared, space: Space, target: Target
) -> list[Beside]:
    """The best plan of every layout next to the winner's, on as many GPUs."""
    machine, gpus = winner.candidate.machine, winner.candidate.gpus
    alike = replace(space, gpus=gpus)
    candidates = [
        c for c in plans(machine, variants(base, space.extra), alike)
        if c.workload.parallelism.strategy == winner.candidate.workload.parallelism.strategy
    ]  # fmt: skip
    found = []
    chosen = winner.candidate.workload.parallelism
    for step in beside(chosen, [c.workload.parallelism for c in candidates]):
        members = [candidates[i] for i in step.members]
        plan = search.best(members, target.score, _any, Counts())
        if plan is not None:
            needed = plan.memory.needed_bytes
        else:
            least = min(members, key=_size_order)
            needed = memory_of(least.topology, least.workload).needed_bytes
        found.append(Beside(step.axis, step.value, plan, needed))
    return found


def _size_order(candidate: Candidate) -> tuple[int, int, int]:
    """Candidates of one cut from the one that needs least memory."""
    w = candidate.workload
    return w.micro_batch, SAVING.index(w.activation_checkpointing.kind), w.gradient_accumulation
