"""Conditions of a grid: over inputs before computing, over results after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.errors import Fault, InputError
from sim.study.axes import SIDES, Grid, names_of, number
from sim.study.bases import Bases
from sim.study.expressions import Condition, parse_condition
from sim.study.measures import MEASURES, RANKED
from sim.study.store import StoredRow


def conditions(grid: Grid, bases: Bases) -> tuple[list[Condition], list[Condition]]:
    """What a grid says under ``where`` and ``require``.

    Raises
    ------
    InputError
        A condition that cannot be read, or a name or measure that there is not.
    """
    loaded = bases.pairs[bases.sides].loaded()
    inputs = names_of({"topology": loaded.topology, "workload": loaded.workload})
    inputs |= {*grid.keys, *grid.fixed, "gpus", "topology", "workload"}
    faults: list[Fault] = []
    found: dict[str, list[Condition]] = {"where": [], "require": []}
    for name, texts, known in (
        ("where", grid.where, inputs),
        ("require", grid.require, inputs | set(MEASURES)),
    ):
        for text in texts:
            try:
                found[name].append(parse_condition(text, name, known))
            except InputError as error:
                faults.extend(error.faults)
    for name in grid.pareto:
        if name not in RANKED:
            message = f"no such measure to trade; there are {', '.join(RANKED)}"
            faults.append(Fault("pareto", None, None, name, message))
    if faults:
        raise InputError(faults)
    return found["where"], found["require"]


def input_of(name: str, changes: Mapping[str, Any], bases: Bases) -> Any:
    """An input of a configuration, by its dotted name."""
    if name in changes:
        return number(changes[name])
    pair = bases.pair_of(changes)
    if name in SIDES:
        return pair[SIDES.index(name)]
    if name == "gpus":
        each = input_of("node.gpus", changes, bases)
        return None if each is None else input_of("nodes", changes, bases) * each
    loaded = bases.pairs[pair].loaded()
    for spec in (loaded.topology, loaded.workload):
        value: Any = spec
        for step in name.split("."):
            value = getattr(value, step, _NONE)
        if value is not _NONE:
            return value
    return None


_NONE = object()


def passes(changes: Mapping[str, Any], conditions: list[Condition], bases: Bases) -> bool:
    """Whether the inputs of a configuration meet conditions."""
    return all(c.holds(lambda name: input_of(name, changes, bases)) for c in conditions)


def meets(row: StoredRow, conditions: list[Condition], bases: Bases) -> bool:
    """Whether a row has a result that meets conditions."""

    def lookup(name: str) -> Any:
        return row.measures[name] if name in MEASURES else input_of(name, row.changes, bases)

    return row.status == "ok" and all(c.holds(lookup) for c in conditions)


#: what a measure takes that not every job and machine states
_TAKES = {
    "cost_usd": "it takes offer: {price_per_gpu_hour: 2 USD} and the job's tokens",
    "co2_kg": "it takes offer: {country: DEU} and the job's tokens",
}
_TAKES |= {"usd_per_million_tokens": _TAKES["cost_usd"]}
_TAKES |= dict.fromkeys(("wall_clock_s", "goodput", "energy_j"), "it takes the job's tokens")


def check_measured(option: str, measure: str, rows: Sequence[StoredRow]) -> None:
    """Refuse to look for the best by a measure that none of some configurations has.

    Raises
    ------
    InputError
        There are configurations, and none has it.
    """
    if not rows or any(row.measures.get(measure) is not None for row in rows):
        return
    why = f"; {_TAKES[measure]}" if measure in _TAKES else ""
    if all(row.error for row in rows):
        why = f"; the first of them: {rows[0].error}"
    message = f"none of {len(rows):,} configurations has one, so that none can be the best{why}"
    raise InputError.single(option, message, measure)
