"""How much work a step is, reckoned before it is done, and what is refused as too much."""

from __future__ import annotations

import math

import numpy as np

from sim.errors import InputError
from sim.lowering.costs import Priced
from sim.lowering.crowd import gathers
from sim.lowering.parts import Flights
from sim.lowering.runs import hidden_launches
from sim.quantities import gib
from sim.step.variation import JITTER, REPLICAS, SLOW, Variation
from sim.units import GIB, KIB, MIB

#: of an op and what a run of it needs, where ranks have lanes of their own, as measured with
#: `python -m bench.ranks`: 128 to 165 [B]
OP_BYTES = 165
#: the same where ranks share their columns: 18 [B]
CROWD_OP_BYTES = 24
#: ops from which on they do: a second compiled engine is then worth its 12 s, once
CROWD_OPS = 2_000_000
#: of the plan of a pipeline, for each time that a rank plays one of its stages forwards or
#: backwards, as measured: 2,200 to 3,700 [B]
PLAY_BYTES = 3_700
#: of memory for a program and its run [B]; less where the machine has less to spare
MAX_BYTES = 4 * GIB
#: what any machine has to spare, so that it is not asked [B]
FREE_BYTES = 64 * MIB
#: steps of all rings of all ranks; ops and steps of all replicas
MAX_STEPS, MAX_DRAWN = 40_000_000, 1_000_000_000
#: ops of which no machine is short, as nearly all steps have them
SMALL = FREE_BYTES // OP_BYTES
#: times as many micro-batches of a rank's stages as ranks of a pipeline, above which a step's
#: size is reckoned from the fewest first
PROBED = 8
#: ops of a longer trial, beyond which one whose ranks go nearly in step will do; 10 s
LONG = 16_000_000


def crowded(priced: Priced) -> bool:
    """Whether ranks of a step are so many that they share their columns, and may."""
    if not gathers(priced) or ops_of(priced) < CROWD_OPS:
        return False
    from sim.engine.machine import checked

    return not checked()


def check_size(
    priced: Priced, level: str, variation: Variation, times: float = 1.0, crowd: bool = False,
    whole: bool = False, plan_bytes: float = 0.0,
) -> None:  # fmt: skip
    """Refuse a step whose program would be absurd, before it is made.

    Parameters
    ----------
    priced : Priced
        The step.
    level : str
        ``folded``, ``ranks`` or ``steps``.
    variation : Variation
        What makes ranks unequal, and how often it is to be run.
    times : float
        How much longer the step is than what was priced of it.
    crowd : bool
        Ranks that do the same share their columns.
    whole : bool
        Every micro-step was asked for.
    plan_bytes : float
        Of plans that are not made yet. [B]

    Raises
    ------
    InputError
        With the count, the limit and what would be possible.
    """
    ops, steps = times * ops_of(priced), int(times * _ring_steps(priced.flights))
    if ops < SMALL and not steps and variation.replicas == 1:
        return
    option, who = f"level {level}", f"{len(priced.compiled.classes.ranks):,} ranks one by one are"
    instead = "take fewer nodes, or level folded"
    if variation.needs_every_rank and level != "folded":
        option, instead = JITTER if variation.jitter else SLOW, "take fewer nodes"
    if level == "folded":  # stages of a pipeline, and how many micro-batches they play
        option, who = "gradient_accumulation", "all micro-batches of all stages one by one are"
        instead = "write fewer of them, fewer virtual_stages, or pipeline_schedule: 1f1b"
    if whole:
        option, who = "gradient_accumulation", "all micro-steps one by one are"
        instead = "write fewer; a trace without --stages can be cut to those that differ (--cut)"
    needed = ops * (CROWD_OP_BYTES if crowd else OP_BYTES) + plan_bytes
    if needed > (most := most_bytes(needed)):
        message = (
            f"{who} {ops:.2g} ops, which need {gib(needed)} of memory, more than {gib(most)}; "
            f"{instead}"
        )
        raise InputError.single(option, message)
    drawn = (ops + steps) * variation.replicas
    for named, count, limit, what, other in (
        (option, steps, MAX_STEPS, "steps of rings", "fewer nodes, or level ranks"),
        (REPLICAS, drawn, MAX_DRAWN, "ops in all replicas", "fewer replicas"),
    ):
        if count > limit:
            message = f"{who} {count:.2g} {what}, more than {limit:.2g}; take {other}"
            raise InputError.single(named, message)


def _ring_steps(flights: Flights) -> int:
    """Of all collectives on the wire. [1]"""
    if not flights.of.size:
        return 0
    each = [wire.team.n_wires * wire.team.steps for wire in flights.wires]
    return int(np.bincount(flights.of, minlength=len(each)) @ np.array(each, dtype=int))


def ops_of(priced: Priced) -> int:
    """Ops of a step's program on ranks and their hosts. [1]"""
    role = priced.compiled.classes.role
    if role.size == 1:
        return 2 * priced.parts[0].runs.rows
    total = 0
    for i, part in enumerate(priced.parts):
        launches = np.where(hidden_launches(part, 1.0), 1, part.row_count)
        total += int((role == i).sum()) * int((part.row_count + launches).sum())
    return total


def most_bytes(needed: float) -> float:
    """The most of memory that a verb takes here, of which it needs so much. [B]"""
    return MAX_BYTES if needed < FREE_BYTES else min(MAX_BYTES, spare_bytes())


def spare_bytes() -> float:
    """Memory that this process can still have; inf where nobody says. [B]

    What this machine can spare, as Linux reckons it, and what ``ulimit -v`` leaves of addresses.
    """
    return min(_said("/proc/meminfo", "MemAvailable:"), _addresses_left())


def _addresses_left() -> float:
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return math.inf
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    taken = _said("/proc/self/status", "VmSize:")
    return max(0.0, limit - taken) if math.isfinite(taken) else float(limit)


def _said(path: str, name: str) -> float:
    """What Linux says in KiB; inf where it does not. [B]"""
    try:
        with open(path, encoding="ascii") as lines:
            found = next((line for line in lines if line.startswith(name)), "")
    except OSError:
        return math.inf
    return KIB * float(found.split()[1]) if found else math.inf
