"""A grid from what a command line says: a file, or two names and axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.errors import Fault, InputError
from sim.inputs.loader import prepare
from sim.inputs.strategy import strategy_of
from sim.study.axes import Axis, Grid, checked, from_options, read_grid
from sim.study.layouts import KEYS, LAYOUT, layouts

_HOW = "give a sweep file, or a topology and a workload with --vary KEY=A,B (Python: vary=[...])"


def grid_of(
    arguments: Sequence[Any],
    varied: Sequence[str] = (),
    zipped: bool = False,
    where: Sequence[str] = (),
    required: Sequence[str] = (),
    pareto: str | None = None,
    sets: Sequence[str] = (),
) -> Grid:
    """The grid that arguments and options describe together.

    Parameters
    ----------
    arguments : sequence
        A sweep file or a Grid, or topology and workload.
    varied, zipped, where, required, pareto
        Added to the file's own; of `varied`, ``layout`` is an axis over the ways to cut the model.
    sets : sequence of str
        Overrides of the bases, which say how many GPUs there are to cut it over.

    Raises
    ------
    InputError
        Unreadable, or nothing to vary.
    """
    if len(arguments) == 1:
        [given] = arguments
        if not isinstance(given, Grid | str | Path):
            message = f"{type(given).__name__} is no sweep file; {_HOW}"
            raise InputError([Fault("sweep", None, None, "", message)])
        grid = given if isinstance(given, Grid) else read_grid(Path(given))
    elif len(arguments) == 2:
        grid = Grid("sweep", arguments[0], arguments[1])
    else:
        raise InputError([Fault("sweep", None, None, "", _HOW)])
    axes = (*grid.axes, *from_options([v for v in varied if v.strip() != LAYOUT], zipped))
    if any(v.strip() == LAYOUT for v in varied):
        axes = (*axes, layout_axis(grid, axes, sets))
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


def layout_axis(grid: Grid, axes: Sequence[Axis], sets: Sequence[str] = ()) -> Axis:
    """The ways to cut a grid's job over its GPUs, those that the checks let pass.

    Where the grid varies the nodes, what goes on any of them.

    Raises
    ------
    InputError
        The grid names no single pair of topology and workload, or nothing passes.
    """
    if "" in (grid.topology, grid.workload):
        message = "needs one topology and one workload; an axis over either cannot stand beside it"
        raise InputError([Fault("--vary", None, None, LAYOUT, message)])
    base = prepare(grid.topology, grid.workload, sets)
    sized = [point for axis in axes if axis.keys == ("nodes",) for point in axis.points]
    sizes: list[dict[str, Any]] = [{"nodes": nodes} for (nodes,) in sized]
    points: dict[tuple[Any, ...], None] = {}
    for changes in sizes or [{}]:
        loaded = (base.vary(changes) if changes else base).loaded()
        topology, workload = loaded.topology, loaded.workload
        cuts = layouts(workload, strategy_of(workload), topology.gpus_per_node, topology.world_size)
        for cut in cuts:
            keyed = {f"parallelism.{key}": cut[key] for key in KEYS}
            try:
                base.vary({**changes, **keyed}).loaded()
            except InputError:
                continue
            points[tuple(keyed.values())] = None
    if not points:
        raise InputError([Fault("--vary", None, None, LAYOUT, "no way to cut the model goes")])
    return Axis(tuple(f"parallelism.{key}" for key in KEYS), tuple(points))
