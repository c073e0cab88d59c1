"""A grid from what a command line says: a file, or two names and axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.study.axes import Grid, checked, from_options, read_grid


def grid_of(
    arguments: Sequence[Any],
    varied: Sequence[str] = (),
    zipped: bool = False,
    where: Sequence[str] = (),
    required: Sequence[str] = (),
    pareto: str | None = None,
) -> Grid:
    """The grid that arguments and options describe together.

    Parameters
    ----------
    arguments : sequence
        A sweep file or a Grid, or topology and workload.
    varied, zipped, where, required, pareto
        Added to the file's own.

    Raises
    ------
    InputError
        Unreadable, or nothing to vary.
    """
    if len(arguments) == 1:
        given = arguments[0]
        grid = given if isinstance(given, Grid) else read_grid(Path(given))
    elif len(arguments) == 2:
        grid = Grid("sweep", arguments[0], arguments[1])
    else:
        message = "give a sweep file, or a topology and a workload with --vary KEY=A,B"
        raise InputError([Fault("sweep", None, None, "", message)])
    axes = (*grid.axes, *from_options(varied, zipped))
    keys = [k for axis in axes for k in axis.keys]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError([Fault("--vary", None, None, key, "is varied twice")])
    if not axes:
        raise InputError.single(grid.name, "nothing to vary; write axes, or --vary KEY=A,B")
    traded = tuple(p.strip() for p in pareto.split(",")) if pareto else grid.pareto
    whole = replace(
        grid, axes=axes, where=(*grid.where, *where), require=(*grid.require, *required),
        pareto=traded,
    )  # fmt: skip
    return checked(whole, grid.name)
