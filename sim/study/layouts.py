"""Layouts: the ways to cut a model over the GPUs of a machine, and which lie beside which."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sim.inputs import check_mesh
from sim.inputs.strategy import Strategy
from sim.inputs.topology import Topology
from sim.inputs.workload import Parallelism, Workload
from sim.pipeline.schedules import SCHEDULES
from sim.records import NamedTuple

#: a part of a sequence is worth a rank of its own from this length on [tokens]
SHORTEST_PART = 4096
#: what a layout is cut along; `schedule` below is of a pipeline
AXES = (
    "tensor_parallel", "pipeline_parallel", "context_parallel", "expert_parallel", "replicate",
)  # fmt: skip
AXIS_TITLES = {
    "tensor_parallel": "TP", "pipeline_parallel": "PP", "context_parallel": "CP",
    "expert_parallel": "EP", "replicate": "replicas", "schedule": "schedule",
}  # fmt: skip
#: what an axis over all of `KEYS` is called
LAYOUT = "layout"
#: keys that `--vary layout` stands for
KEYS = (
    "tensor_parallel", "pipeline_parallel", "context_parallel", "expert_parallel",
    "pipeline_schedule", "virtual_stages",
)  # fmt: skip
#: schedules that are tried, and their stages a rank. GPipe and looped BFS are no faster than these
#: and larger, DualPipeV is ZBV with less freedom.
SCHEDULES_TRIED: tuple[tuple[str, int | None], ...] = (
    ("1f1b", None), ("interleaved-1f1b", 2), ("interleaved-1f1b", 4),
    ("interleaved-zero-bubble", None), ("zbv", None),
)  # fmt: skip
Knobs = dict[str, Any]


class LayoutMove(NamedTuple):
    """A layout one step away from another along one axis.

    Attributes
    ----------
    axis : str
        Of `AXES`, or ``schedule``.
    value : str
        What it is there.
    members : tuple of int
        Indices of the candidates that have it, in the order given.
    """

    axis: str
    value: str
    members: tuple[int, ...]


def layouts(
    workload: Workload, strategy: Strategy, gpus_per_node: int, world: int
) -> Iterator[Knobs]:
    """Knobs of every way to cut a job over some GPUs, the uncut one first.

    Parameters
    ----------
    workload : Workload
        Its model and length are read.
    strategy : Strategy
        Says which axes it takes.
    gpus_per_node : int
        Matrices are cut within a node.
    world : int
        GPUs in all.

    Yields
    ------
    dict
        Values of `KEYS`; whether heads, layers and micro-batches divide is left to the checks.
    """
    tensor = _divisors(gpus_per_node) if strategy.tensor_parallel else [1]
    stages = _divisors(world) if strategy.pipeline_parallel else [1]
    experts = _divisors(workload.model.experts or 1) if strategy.expert_parallel else [1]
    longest = workload.sequence_length // SHORTEST_PART if strategy.context_parallel else 1
    context = [c for c in _divisors(world) if c <= max(1, longest)]
    for c, t, p in itertools.product(context, tensor, stages):
        if world % (c * t * p) or p > workload.model.layers:
            continue
        for e in experts:
            if world // p % e:
                continue
            cut = {
                "context_parallel": c, "tensor_parallel": t, "pipeline_parallel": p,
                "expert_parallel": e,
            }  # fmt: skip
            for schedule, virtual in _schedules(p, workload.model.layers):
                yield {**cut, "pipeline_schedule": schedule, "virtual_stages": virtual}


def _schedules(ranks: int, layers: int) -> Iterator[tuple[str, int | None]]:
    if ranks == 1:
        yield Parallelism.model_fields["pipeline_schedule"].default, None
        return
    for name, virtual in SCHEDULES_TRIED:
        if ranks * (virtual or SCHEDULES[name].virtual) <= layers:
            yield name, virtual


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def warned(topology: Topology, workload: Workload) -> bool:
    """Whether the product warns of a cut on a machine, so that it does not advise it."""
    return any(True for _ in check_mesh.pair_findings(topology, workload))


def cut_of(workload: Workload) -> tuple[int, ...]:
    """Where a layout stands on `AXES`, and whether its schedule splits backward."""
    p = workload.parallelism
    return (*(getattr(p, axis) for axis in AXES), SCHEDULES[p.pipeline_schedule].splits)


def least_form(workload: Workload) -> Workload:
    """The same job, its pipeline with what needs least memory: 1F1B, few micro-batches."""
    p = workload.parallelism
    if p.pipeline_parallel == 1:
        return workload
    plain = p.model_copy(update={"pipeline_schedule": "1f1b", "virtual_stages": None})
    least = SCHEDULES["1f1b"].fewest(p.pipeline_parallel)
    steps = min(workload.gradient_accumulation, max(least, p.pipeline_parallel))
    return workload.model_copy(update={"parallelism": plain, "gradient_accumulation": steps})


def schedule_of(p: Parallelism) -> str:
    """The schedule of a pipeline with its stages a rank; "" without one."""
    if p.pipeline_parallel == 1:
        return ""
    title = SCHEDULES[p.pipeline_schedule].title
    return title if p.virtual_stages is None else f"{title} x{p.virtual_stages}"


def cut_in_words(p: Parallelism) -> str:
    """The axes along which a job is cut: ``TP 4, PP 2 (1F1B)``; "" where along none."""
    found = [f"{title} {getattr(p, a)}" for a, title in AXIS_TITLES.items()
             if a in KEYS and getattr(p, a) > 1]  # fmt: skip
    schedule = schedule_of(p)
    return ", ".join(found).replace(
        f"PP {p.pipeline_parallel}", f"PP {p.pipeline_parallel} ({schedule})"
    )


def beside(chosen: Parallelism, others: Sequence[Parallelism]) -> Iterator[LayoutMove]:
    """The layouts next to one: one axis smaller or larger by a step, or another schedule.

    Parameters
    ----------
    chosen : Parallelism
        The layout.
    others : sequence of Parallelism
        All there are on as many GPUs.
    """
    for axis in AXES:
        rest = [a for a in AXES if a != axis]
        alike = [i for i, p in enumerate(others) if _same(p, chosen, rest)]
        here = getattr(chosen, axis)
        values = sorted({getattr(others[i], axis) for i in alike})
        near = [*[v for v in values if v < here][-1:], *[v for v in values if v > here][:1]]
        for value in near:
            members = tuple(i for i in alike if getattr(others[i], axis) == value)
            yield LayoutMove(axis, str(value), members)
    alike = [i for i, p in enumerate(others) if _same(p, chosen, AXES)]
    for name in dict.fromkeys(schedule_of(others[i]) for i in alike):
        if name != schedule_of(chosen):
            members = tuple(i for i in alike if schedule_of(others[i]) == name)
            yield LayoutMove("schedule", name, members)


def _same(p: Parallelism, other: Parallelism, axes: Iterable[str]) -> bool:
    return all(getattr(p, axis) == getattr(other, axis) for axis in axes)
