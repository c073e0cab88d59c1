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

from sim.job.spec import JobSpec
from sim.records import NamedTuple

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
    most = spec.spares + spec.nodes - (spec.least_nodes or spec.nodes)  # away while it runs
    kinds = [(loss, _mean_away(loss, busy_s)) for loss in losses]
    away = _away(kinds, most)
    total = sum(away)
    singles = _repaired_and_reclaimed(losses, busy_s)
    lost = sum(single.mean for single in singles)
    back_hz = sum(one.mean / one.loss.away_s for one in singles) / lost if lost else 0.0
    waits = 0.0
    if singles:
        first_s = _first_back_s(singles, most + 1, busy_s)
        waits = away[most] * sum(one.loss.rate for one in singles) * first_s
    for loss in losses:
        if loss.nodes > 1:
            full = sum(away[max(0, most - loss.nodes + 1) :])
            hz = 1.0 / loss.away_s + max(0, most + 1 - loss.nodes) * back_hz
            waits += loss.rate * full / hz
    slowed = sum((n - spec.spares) * away[n] for n in range(spec.spares + 1, most + 1))
    regains_hz = sum(
        mean / loss.away_s * sum(away[max(spec.spares + 1 - loss.nodes, 0) : most + 1 - loss.nodes])
        for loss, mean in kinds
        if loss.nodes <= most
    )
    return Standing(
        running=total / (total + waits),
        pace=1.0 - slowed / spec.nodes / total,
        stood_by=sum(away[: spec.spares]) / total,
        regains_hz=regains_hz / total,
    )


def _losses(spec: JobSpec) -> Iterator[_Loss]:
    yield _Loss(spec.repair_share / spec.mtbf_s, 1, spec.repair_s)
    yield _Loss(1.0 / spec.preemption_s, 1, spec.preemption_wait_s, drawn=True)
    for domain in spec.domains:
        yield _Loss(1.0 / domain.mtbf_s, domain.nodes, domain.repair_s)


class _Single(NamedTuple):
    """Nodes that go one at a time, and how many of them are away in the mean."""

    loss: _Loss
    mean: float


def _repaired_and_reclaimed(losses: Sequence[_Loss], busy_s: float) -> list[_Single]:
    """Nodes that go one at a time: those repaired, for their mean time, and those reclaimed."""
    found = []
    for drawn in (False, True):
        mine = [loss for loss in losses if loss.nodes == 1 and loss.drawn == drawn]
        if mine:
            rate = sum(loss.rate for loss in mine)
            away_s = sum(loss.rate * loss.away_s for loss in mine) / rate
            one = _Loss(rate, 1, away_s, drawn)
            found.append(_Single(one, _mean_away(one, busy_s)))
    return found


def _first_back_s(kinds: Sequence[_Single], away: int, busy_s: float) -> float:
    """Until the first is back of so many nodes, of which the last has just gone; in the mean. [s]

    Notes
    -----
    Of two kinds j are of the first, with the odds of a binomial draw by how many of each are away,
    times how often a node of theirs goes. In a long job it is sum(rate away_s) / sum(rate) /
    `away`, as Erlang's formula has it.
    """
    if len(kinds) == 1:
        return 1.0 / _back_hz(kinds[0].loss, away, busy_s)
    (first, often), (second, seldom) = kinds
    share = often / (often + seldom)
    times = waited = 0.0
    for j in range(away + 1):
        ways = math.lgamma(away + 1) - math.lgamma(j + 1) - math.lgamma(away - j + 1)
        odds = math.exp(ways + j * math.log(share) + (away - j) * math.log1p(-share))
        odds *= j * first.rate / often + (away - j) * second.rate / seldom
        times += odds
        waited += odds / (_back_hz(first, j, busy_s) + _back_hz(second, away - j, busy_s))
    return waited / times


def _back_hz(loss: _Loss, away: int, busy_s: float) -> float:
    """How soon the first of so many nodes is back, of which the last has just gone. [1/s]

    Repairs take all the same time, so that the first to go is the first to be back: in a job
    shorter than one, by the mean spread of as many uniform draws sooner than the last.
    """
    if not away or loss.drawn:
        return away / loss.away_s
    short = min(1.0, busy_s / loss.away_s) * (away - 1) / (away + 1)
    long = max(0.0, 1.0 - loss.away_s / busy_s)
    return 1.0 / (loss.away_s * ((1.0 - short) * (1.0 - long) + long / away))


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


def _mean_away(loss: _Loss, busy_s: float) -> float:
    """Events of a kind that last, in the mean of a job that begins with none."""
    if busy_s < loss.away_s:
        return loss.rate * busy_s / 2.0
    return loss.rate * loss.away_s * (1.0 - loss.away_s / (2.0 * busy_s))
