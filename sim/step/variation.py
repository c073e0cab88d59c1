"""What differs from rank to rank and from step to step: jitter, slow GPUs, slow links.

Jitter draws every rank's pace from the law of `sim.step.straggle`, which without it is taken in
closed form; draws follow from the seed and the number of the replica. It replaces the spread of a
calibration (`slowest_gpu`), which stands for the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from sim.choices import WrittenShare, share_of
from sim.errors import InputError
from sim.fabric.fabric import Fabric
from sim.fabric.role import Role
from sim.lowering.lowered import Lowered
from sim.records import NamedTuple, dataclass
from sim.step.breakdown import Breakdown
from sim.step.intervals import F8
from sim.step.slowest import Ranks
from sim.units import whole

#: options, as errors name them
JITTER, SLOW, REPLICAS = "--jitter", "--slow", "--replicas"
_LEVEL, _SEED = "--level", "--seed"
Progress = Callable[[int, int], None]  # (done, in all)


def silent(done: int, in_all: int) -> None:
    """Progress that nobody asked to be told of."""


Stop = Callable[[], bool]
"""Whether to end with what was found."""


def never() -> bool:
    """Whether a search is to be stopped that nobody stops."""
    return False


LARGEST_JITTER = 1.0


class Slow(NamedTuple):
    """A GPU or link that gives less than it should."""

    kind: str  # rank | link
    name: str
    factor: float  # of its speed or bandwidth


@dataclass(frozen=True, slots=True)
class Variation:
    """What to vary, and how often.

    Attributes
    ----------
    jitter : float
        Standard deviation of a rank's compute time, over its mean.
    slow : tuple of Slow
        Stragglers.
    seed : int
        Of the draws.
    replicas : int
        Steps to simulate, each with its own draws.
    """

    jitter: float = 0.0
    slow: tuple[Slow, ...] = ()
    seed: int = 0
    replicas: int = 1

    @property
    def needs_every_rank(self) -> bool:
        """Whether ranks stop being equal."""
        return bool(self.slow) or self.jitter > 0.0

    def level(self, asked: str | None) -> str:
        """Level of detail: every rank where ranks differ, unless asked otherwise.

        Raises
        ------
        InputError
            If equal ranks were asked for and are not equal.
        """
        if asked == "folded" and self.needs_every_rank:
            message = "equal ranks are simulated once, and jitter or a slow part makes them unequal"
            raise InputError.single(_LEVEL, f"{message}; use ranks or steps", "folded")
        return asked or ("ranks" if self.needs_every_rank else "folded")


def read_variation(
    jitter: WrittenShare, slow: Iterable[str], seed: int, replicas: int
) -> Variation:
    """Read ``5%``, ``rank:3=0.9`` and ``link:NAME=0.5``.

    Raises
    ------
    InputError
        For what can't be read or makes no sense.
    """
    if replicas < 1:
        raise InputError.single(REPLICAS, f"{replicas} is not at least 1")
    if replicas > 1 and not _share(jitter):
        message = f"replicas differ by their jitter; say how much with {JITTER}, such as 5%"
        raise InputError.single(REPLICAS, message)
    if seed < 0:
        raise InputError.single(_SEED, f"{seed} is negative")
    if seed and not _share(jitter):
        message = f"nothing is drawn without jitter; say how much with {JITTER}, such as 5%"
        raise InputError.single(_SEED, message)
    return Variation(_share(jitter), tuple(_slow(text) for text in slow), seed, replicas)


def _share(jitter: WrittenShare) -> float:
    try:
        value = share_of(jitter)
    except ValueError:
        raise InputError.single(JITTER, "cannot read it; write 5% or 0.05", str(jitter)) from None
    if not 0.0 <= value <= LARGEST_JITTER:
        raise InputError.single(JITTER, "is not between 0 and 100%", str(jitter))
    return value


def _slow(text: str) -> Slow:
    what, _, number = text.rpartition("=")
    kind, _, name = what.partition(":")
    if kind not in ("rank", "link") or not name:
        raise InputError.single(SLOW, "cannot read it; write rank:3=0.9 or link:NAME=0.5", text)
    try:
        factor = float(number)
    except ValueError:
        raise InputError.single(SLOW, f"{number!r} is not a number", text) from None
    if not 0.0 < factor <= 1.0:
        raise InputError.single(SLOW, f"{number} is not above 0 and at most 1", text)
    return Slow(kind, name, factor)


def speeds(variation: Variation, fabric: Fabric) -> F8 | None:
    """Relative kernel speed of every rank, or None where all are whole.

    Raises
    ------
    InputError
        For a rank that is not there.
    """
    slow = [s for s in variation.slow if s.kind == "rank"]
    if not slow:
        return None
    speed = np.ones(fabric.n_ranks)
    for _, name, factor in slow:
        rank = whole(name)
        if rank is None or rank >= fabric.n_ranks:
            message = f"there are ranks 0 to {fabric.n_ranks - 1}"
            raise InputError.single(SLOW, message, f"rank:{name}")
        speed[rank] *= factor
    return speed


def capacities(variation: Variation, fabric: Fabric) -> F8 | None:
    """Capacity of every resource, or None where all are whole; ``A<>B`` names both directions.

    Raises
    ------
    InputError
        For a link that is not there, with the nearest names.
    """
    slow = [s for s in variation.slow if s.kind == "link"]
    if not slow:
        return None
    capacity = fabric.capacity.copy()
    for _, name, factor in slow:
        ends = name.split("<>")
        ways = [">".join(ends), ">".join(ends[::-1])] if len(ends) == 2 else [name]
        for way in ways:
            try:
                capacity[fabric.index(way)] *= factor
            except KeyError:
                from difflib import get_close_matches

                near = get_close_matches(way, fabric.names, 3) or fabric.names[:3]
                message = f"no such link or resource; near are {', '.join(near)}"
                raise InputError.single(SLOW, message, f"link:{name}") from None
    return capacity


def jittered(lowered: Lowered, ranks: Mapping[Role, Ranks], seed: int, replica: int) -> Lowered:
    """The same step where each rank has a pace of its own.

    Parameters
    ----------
    lowered : Lowered
        At a level with every rank's own lanes.
    ranks : mapping
        By how much ranks of each role differ.
    seed, replica : int
        Equal ones give equal draws.
    """
    factor = np.ones(lowered.plan_op.size)
    drawn = paces(ranks, [view.role for view in lowered.views], seed, replica)
    for view, mine in zip(lowered.views, drawn.tolist(), strict=True):
        factor[lowered.kernels(view)] = mine
    return lowered.slower(factor)


def paces(ranks: Mapping[Role, Ranks], roles: Sequence[Role], seed: int, replica: int) -> F8:
    """What each rank's kernels take of their time, (ranks,), by its role. [1]"""
    drawn = np.random.default_rng([seed, replica]).standard_normal(len(roles))
    found = (ranks[role].lateness(z) for role, z in zip(roles, drawn.tolist(), strict=True))
    return np.fromiter(found, dtype=float, count=len(roles))


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of step times over replicas. [s]"""

    p10: float
    p50: float
    p90: float
    mean: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Spread:
    """By how much ranks differ, what else was varied, and the step times that came of it."""

    level: str
    jitter: float  # standard deviation of a rank's compute time, over its mean
    slow: tuple[str, ...]
    seed: int
    replicas: int  # steps that were simulated; 0: quantiles of the law itself
    ranks: int  # alike, and waiting for each other
    waiting_s: float  # of the step, what a mean rank waits for the slowest
    step_time_s: Quantiles


def spread(variation: Variation, level: str, times_s: F8, waiting_s: float, ranks: int) -> Spread:
    """Distribution of step time over replicas, (n,) float64. [s]"""
    p10, p50, p90 = np.quantile(times_s, (0.1, 0.5, 0.9)).tolist()
    mean, least, most = float(times_s.mean()), float(times_s.min()), float(times_s.max())
    return Spread(
        level=level,
        jitter=variation.jitter,
        slow=tuple(f"{s.kind}:{s.name}={s.factor:g}" for s in variation.slow),
        seed=variation.seed,
        replicas=variation.replicas,
        ranks=ranks,
        waiting_s=waiting_s,
        step_time_s=Quantiles(p10, p50, p90, mean, least, most),
    )


def usual_ranks(breakdown: Breakdown, ranks: int) -> Ranks:
    """Ranks as different as they usually are."""
    own = breakdown.compute_s - breakdown.waiting_s
    usual = breakdown.deviation_s / own if own > 0.0 else 0.0
    return Ranks(ranks, usual, usual)


def usual_spread(breakdown: Breakdown, ranks: int) -> Spread:
    """Distribution of step time over machines whose ranks differ as they usually do.

    Notes
    -----
    T + own (f_q - f), own the kernels' time, f_q and f what the slowest of the ranks takes of it at
    quantile q and in the mean; least and most are at 1 and 99 %. No schedule hides more, and one
    whose step is communication hides some.
    """
    alike = usual_ranks(breakdown, ranks)
    own = breakdown.compute_s - breakdown.waiting_s
    p1, p10, p50, p90, p99 = (
        breakdown.time_s + own * (alike.slowdown_at(q) - alike.slowdown)
        for q in (0.01, 0.1, 0.5, 0.9, 0.99)
    )
    return Spread(
        "folded", alike.deviation, (), 0, 0, ranks, own * alike.slowdown * alike.wait,
        Quantiles(p10, p50, p90, breakdown.time_s, p1, p99),
    )  # fmt: skip
