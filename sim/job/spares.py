"""How long a job waits for broken nodes, and runs on fewer, in closed form.

Nodes break while the job runs and are away for a while; while it waits none break. A job that needs
all its nodes and has S spares is then an Erlang loss system with S + 1 places: it waits with the
probability that all are taken, which depends on the mean time away alone.

Sources: Erlang's formula B and its insensitivity (Takacs 1969); classes that take several places
by the recursion of Kaufman 1981 and Roberts 1981, which is exact for nodes that break one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sim.job.spec import JobSpec
from sim.records import NamedTuple

#: of the time away, when the count of nodes away bends: at once, or by and by where it is drawn
_BENDS = {False: (1.0,), True: (1.0, 2.5, 6.0)}
_UNLIKELY = 1e-20  # of the likeliest number of nodes
_HUGE = 1e200  # weights are scaled down before they overflow


class Standing(NamedTuple):
    """A job among its spares, in the long run.

    Attributes
    ----------
    running : float
        Share of the time in which there are nodes enough to run.
    pace : float
        Speed while it runs, of that on all nodes.
    stood_by : float
        Share of failures that find a spare for the node lost.
    regains_hz : float
        How often a running job starts again since a node is back. [1/s]
    """

    running: float = 1.0
    pace: float = 1.0
    stood_by: float = 1.0
    regains_hz: float = 0.0


class _Loss(NamedTuple):
    """Nodes that go together: how often, how many, how long. [1/s, s]"""

    rate: float
    nodes: int
    away_s: float
    drawn: bool = False  # exponential, as long in the mean


def standing(spec: JobSpec, busy_s: float) -> Standing:
    """What spares, repairs and fewer nodes leave of a job's time.

    Parameters
    ----------
    spec : JobSpec
        The job; with no number of spares nothing is waited for.
    busy_s : float
        How long it trains: at its start no node is away. [s]
    """
    if spec.spares is None:
        return Standing()
    losses = [loss for loss in _losses(spec) if loss.rate > 0.0 and loss.away_s > 0.0]
    found = _mean_standing(spec, losses, busy_s, busy_s)
    # fewer nodes and waiting make it longer, so that more of it has nodes away
    return _mean_standing(spec, losses, busy_s, busy_s / found.pace / found.running)


def _mean_standing(
    spec: JobSpec, losses: Sequence[_Loss], busy_s: float, wall_s: float
) -> Standing:
    """The mean over a time from the start, with so much work in it on all nodes. [s]"""
    waits = pace = stood_by = regains_hz = 0.0
    for share, at_s in _moments(losses, busy_s, wall_s):
        found = _standing_at(spec, losses, at_s)
        waits += share * (1.0 / found.running - 1.0)
        pace += share * found.pace
        stood_by += share * found.stood_by
        regains_hz += share * found.regains_hz
    return Standing(1.0 / (1.0 + waits), pace, stood_by, regains_hz)


def _moments(
    losses: Sequence[_Loss], busy_s: float, wall_s: float
) -> Iterator[tuple[float, float]]:
    """Shares of a job, and when in it: as long as the slowest repair from its start, and after. [s]

    Two points of Gauss's rule in each piece without a bend where ever more nodes are away, one of
    what stays as it is. Until a repair ends nodes go with the work that is done: what waits or is
    slow loses none.
    """
    longest_s = max((_BENDS[loss.drawn][-1] * loss.away_s for loss in losses), default=0.0)
    if not (longest_s and busy_s):
        yield 1.0, wall_s
        return
    early = min(1.0, longest_s / wall_s)
    bends = {times * loss.away_s / busy_s for loss in losses for times in _BENDS[loss.drawn]}
    ends = [0.0, *sorted(bend for bend in bends if bend < early), early]
    for begin, end in pairwise(ends):
        for place in (0.5 - math.sqrt(1.0 / 12.0), 0.5 + math.sqrt(1.0 / 12.0)):
            yield (end - begin) / 2.0, (begin + place * (end - begin)) * busy_s
    if early < 1.0:
        yield 1.0 - early, (1.0 + early) / 2.0 * wall_s


def _standing_at(spec: JobSpec, losses: Sequence[_Loss], at_s: float) -> Standing:
    """The same of a moment so long after the start, of which it runs. [s]"""
    spares = spec.spares or 0
    most = spares + spec.nodes - (spec.least_nodes or spec.nodes)  # away while it runs
    kinds = [(loss, _mean_away(loss, at_s)) for loss in losses]
    away = _while_running(spec, kinds, most, at_s)
    total = sum(away)
    singles = _repaired_and_reclaimed(losses, at_s)
    alone = _while_running(spec, [(one.loss, one.mean) for one in singles], most, at_s)
    waits = 0.0
    if singles:
        first_s = _first_back_s(spec, singles, most, at_s)
        waits = away[most] * sum(one.loss.rate for one in singles) * first_s
    for loss in losses:
        if loss.nodes > 1:
            for n in range(max(0, most - loss.nodes + 1), most + 1):
                odds = min(1.0, alone[n] / away[n]) if away[n] else 1.0
                waits += loss.rate * away[n] * _room_s(loss, n, most, odds, singles, at_s)
    slowed = sum((n - spares) * away[n] for n in range(spares + 1, most + 1))
    regains_hz = sum(
        mean / loss.away_s * sum(away[max(spares + 1 - loss.nodes, 0) : most + 1 - loss.nodes])
        for loss, mean in kinds
        if loss.nodes <= most
    )
    return Standing(
        running=total / (total + waits),
        pace=1.0 - slowed / spec.nodes / total,
        stood_by=sum(away[:spares]) / total,
        regains_hz=regains_hz / total,
    )


def _stays(loss: _Loss, at_s: float) -> bool:
    """Whether none of a kind can be back yet."""
    return at_s < loss.away_s and not loss.drawn


def _losses(spec: JobSpec) -> Iterator[_Loss]:
    yield _Loss(spec.repair_share / spec.mtbf_s, 1, spec.repair_s)
    yield _Loss(1.0 / spec.preemption_s, 1, spec.preemption_wait_s, drawn=True)
    for domain in spec.domains:
        yield _Loss(1.0 / domain.mtbf_s, domain.nodes, domain.repair_s)


class _Single(NamedTuple):
    """Nodes that go one at a time, and how many of them are away in the mean."""

    loss: _Loss
    mean: float


def _repaired_and_reclaimed(losses: Sequence[_Loss], at_s: float) -> list[_Single]:
    """Nodes that go one at a time: those repaired, for their mean time, and those reclaimed."""
    found = []
    for drawn in (False, True):
        mine = [loss for loss in losses if loss.nodes == 1 and loss.drawn == drawn]
        if mine:
            rate = sum(loss.rate for loss in mine)
            away_s = sum(loss.rate * loss.away_s for loss in mine) / rate
            one = _Loss(rate, 1, away_s, drawn)
            found.append(_Single(one, _mean_away(one, at_s)))
    return found


def _first_back_s(spec: JobSpec, kinds: Sequence[_Single], most: int, at_s: float) -> float:
    """Until the first is back of one more node than `most`, which has just gone; in the mean. [s]

    Notes
    -----
    In a long job it is sum(rate away_s) / sum(rate) / (`most` + 1), as Erlang's formula has it.
    """
    if len(kinds) == 1:
        return 1.0 / _back_hz(kinds[0].loss, most + 1, at_s)
    one, other = (single.loss for single in kinds)
    times = waited = 0.0
    mine, theirs = (_away([(each.loss, each.mean)], most) for each in kinds)
    if _stays(one, at_s):
        mine, upto = _longer(spec, mine), _upto(theirs)
        theirs = np.divide(theirs, upto, out=np.ones(most + 1), where=upto > 0.0).tolist()
    for i in range(most + 1):
        odds = mine[i] * theirs[most - i]
        for loss, gone in ((one, i + 1), (other, i)):
            back_hz = _back_hz(one, gone, at_s) + _back_hz(other, most + 1 - gone, at_s)
            times += odds * loss.rate
            waited += odds * loss.rate / back_hz
    return waited / times if times else 0.0  # so many are never away


def _room_s(
    loss: _Loss, away: int, most: int, odds: float, singles: Sequence[_Single], at_s: float
) -> float:
    """Until there are nodes enough, from when nodes go together while so many are away. [s]

    Parameters
    ----------
    loss : _Loss
        What has just gone.
    away, most : int
        Away before, and how many may be.
    odds : float
        That all of those went one at a time.
    singles : sequence of _Single
        Nodes that do.
    at_s : float
        Since the start. [s]

    Notes
    -----
    Of n that are back at even distances the k-th is back after k / (n + 1) of a repair. Of r that
    went together before the first to go is the first to be back: r / (r + 1) of its time is over.
    """
    missing = away + loss.nodes - most
    racks = away // loss.nodes
    together_s = loss.away_s - min(at_s, loss.away_s) * racks / (racks + 1)
    if missing > away or not singles:
        return together_s
    lost = sum(single.mean for single in singles)
    alone_s = sum(single.mean * single.loss.away_s for single in singles) / lost
    alone_s *= missing / (away + 1)
    return odds * min(alone_s, together_s) + (1.0 - odds) * together_s


def _back_hz(loss: _Loss, away: int, at_s: float) -> float:
    """How soon the first of so many nodes is back, of which the last has just gone. [1/s]

    Repairs take all the same time, so that the first to go is the first to be back; before any is
    back the others went at uniform draws since the start.
    """
    if not away or loss.drawn:
        return away / loss.away_s
    since_s = min(at_s, loss.away_s) * (away - 1) / away
    return 1.0 / (loss.away_s - since_s)


def _while_running(
    spec: JobSpec, kinds: Sequence[tuple[_Loss, float]], most: int, at_s: float
) -> list[float]:
    """Weights of 0 ... `most` nodes that are away while the job runs.

    Notes
    -----
    A loss system while nodes come back. Those that cannot be back yet went with the work that is
    done, whatever else was away: beside so many of them the others are a system of the places that
    are left, and on fewer nodes the job is longer in a state that ends with its work alone.
    """
    parts = [[kind for kind in kinds if _stays(kind[0], at_s) == stays] for stays in (True, False)]
    stay, back = _longer(spec, _away(parts[0], most)), _away(parts[1], most)
    if not (parts[0] and parts[1]):
        return stay if parts[0] else back
    upto = _upto(back)[::-1]
    shares = np.divide(stay, max(stay) * upto, out=np.zeros(most + 1), where=upto > 0.0)
    found = np.zeros(2 * most + 2)
    likely = [np.flatnonzero(each > _UNLIKELY * max(each)) for each in (shares, np.array(back))]
    (i, j), (k, m) = ((int(each[0]), int(each[-1]) + 1) for each in likely)
    found[i + k : j + m - 1] = np.convolve(shares[i:j], back[k:m])
    weights: list[float] = found[: most + 1].tolist()
    return weights


def _upto(weights: Sequence[float]) -> npt.NDArray[np.float64]:
    """Sums of weights up to each; nothing is left where all of them are beside the last ones."""
    sums = np.cumsum(weights)
    return np.where(sums > 1e-250, sums, 0.0)


def _longer(spec: JobSpec, stay: Sequence[float]) -> list[float]:
    """Weights of nodes that stay away, by the work that is done, as weights of time."""
    missing = (max(0, n - (spec.spares or 0)) for n in range(len(stay)))
    return [weight * spec.nodes / (spec.nodes - m) for weight, m in zip(stay, missing, strict=True)]


def _away(kinds: Sequence[tuple[_Loss, float]], most: int) -> list[float]:
    """Weights of 0 ... `most` nodes that are away while the job runs."""
    weights = [1.0]
    for lost in range(1, most + 1):
        found = sum(
            mean * loss.nodes * weights[lost - loss.nodes]
            for loss, mean in kinds
            if loss.nodes <= lost
        )
        weights.append(found / lost)
        if weights[-1] > _HUGE:
            weights = [weight / _HUGE for weight in weights]
    return weights


def _mean_away(loss: _Loss, at_s: float) -> float:
    """Events of a kind that last at a moment, of a job that begins with none."""
    if loss.drawn:
        return loss.rate * loss.away_s * -math.expm1(-at_s / loss.away_s)
    return loss.rate * min(at_s, loss.away_s)
