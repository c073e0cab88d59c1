"""How much work a step is, reckoned before it is done, and what is refused as too much."""

from __future__ import annotations

import numpy as np

from sim.errors import InputError
from sim.lowering.costs import Priced

#: ops of one program: 160 bytes each, and some millions a second
MAX_OPS = 15_000_000
#: steps of all rings of all ranks; ops and steps of all replicas
MAX_STEPS, MAX_DRAWN = 40_000_000, 1_000_000_000


def check_size(priced: Priced, level: str, replicas: int) -> None:
    """Refuse a step whose program would be absurd, before it is made.

    Parameters
    ----------
    priced : Priced
        The step.
    level : str
        ``folded``, ``ranks`` or ``steps``.
    replicas : int
        How often it is to be run.

    Raises
    ------
    InputError
        With the count, the limit and what would be possible.
    """
    classes = priced.compiled.classes
    each = [int(part.row_count.sum()) for part in priced.parts]
    ops = sum(int((classes.role == i).sum()) * rows for i, rows in enumerate(each))
    flights = priced.flights
    each_wire = [wire.team.n_wires * wire.team.steps for wire in flights.wires]
    steps = int(np.bincount(flights.of, minlength=len(each_wire)) @ np.array(each_wire, dtype=int))
    for count, limit, what, instead in (
        (ops, MAX_OPS, "ops", "fewer nodes, or level folded"),
        (steps, MAX_STEPS, "steps of rings", "fewer nodes, or level ranks"),
        ((ops + steps) * replicas, MAX_DRAWN, "ops in all replicas", "fewer replicas"),
    ):
        if count > limit:
            message = (
                f"{len(classes.ranks):,} ranks one by one are {count:.2g} {what}, more than "
                f"{limit:.2g}; take {instead}"
            )
            option = f"level {level}"
            raise InputError.single(option, message)
