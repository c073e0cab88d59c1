"""The base pairs of a grid, parsed once, and the keys that it varies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sim.errors import Fault, InputError
from sim.inputs.loader import Prepared, prepare
from sim.result.predict import inputs_hash
from sim.study.axes import SIDES, Changes, Grid
from sim.study.store import key_of

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Bases:
    """The base pairs of a grid, parsed once: the sides of a grid may themselves be axes."""

    pairs: dict[Pair, Prepared]
    hashes: dict[Pair, str]
    sides: Pair  # the pair of configurations that name none

    def pair_of(self, changes: Mapping[str, Any]) -> Pair:
        """The base pair of a configuration."""
        return str(changes.get("topology", self.sides[0])), str(
            changes.get("workload", self.sides[1])
        )

    def key_of(self, changes: Changes) -> str:
        """What a configuration is stored under."""
        return key_of(self.hashes[self.pair_of(changes)], changes)


def read_bases(grid: Grid, sets: Iterable[str] = ()) -> Bases:
    """Parse every base pair of a grid.

    Raises
    ------
    InputError
        All faults of the bases, or one side is not given.
    """
    values: dict[str, dict[str, Any]] = {}
    for side, given in zip(SIDES, (grid.topology, grid.workload), strict=True):
        found = {str(c[side]): c[side] for c in _side_points(grid, side)}
        if not found and given in ("", {}):
            message = f"names no {side}; write {side}: NAME, or give it before the options"
            raise InputError.single(grid.name or "sweep", message)
        values[side] = found or {_label(given): given}
    pairs = {
        (t_name, w_name): prepare(topology, workload, sets)
        for t_name, topology in values["topology"].items()
        for w_name, workload in values["workload"].items()
    }
    hashes = {}
    for pair, prepared in pairs.items():
        loaded = prepared.loaded()
        hashes[pair] = inputs_hash(loaded.topology, loaded.workload)
    first = next(iter(pairs))
    return Bases(pairs, hashes, first)


def _side_points(grid: Grid, side: str) -> Iterator[Changes]:
    for axis in grid.axes:
        if side in axis.keys:
            at = axis.keys.index(side)
            yield from ({side: point[at]} for point in axis.points)


def _label(given: Any) -> str:
    return str(given.get("name", "inline")) if isinstance(given, Mapping) else str(given)


def check_keys(grid: Grid, bases: Bases) -> None:
    """Refuse keys that no file has, however deep: a slip would make every row a failed one.

    A value that is wrong for its key, or contradicts others, is the fault of its rows alone; so is
    a key that its own section has in another form only, unless neither the first configuration nor
    the last has it.
    """
    from sim.inputs.overrides import route, setting

    faults: list[Fault] = []
    first = next(iter(grid.points()), {})
    settings = []
    for key, value in first.items():
        if key not in SIDES:
            try:
                settings.append(setting(key, value))
            except InputError as error:
                faults.extend(error.faults)
    route(settings, faults)
    if not faults and first:
        last = _unknown(bases, grid.point(len(grid) - 1))
        faults = [fault for path, fault in _unknown(bases, first).items() if path in last]
    if faults:
        raise InputError(faults)


def _unknown(bases: Bases, changes: Changes) -> dict[str, Fault]:
    """Keys of a configuration that its files do not have, by their paths."""
    own = {key: value for key, value in changes.items() if key not in SIDES}
    try:
        bases.pairs[bases.pair_of(changes)].vary(own).loaded()
    except InputError as error:
        return {fault.path: fault for fault in error.faults if fault.unknown_key}
    return {}
