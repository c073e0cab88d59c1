"""How long a job waits for broken nodes, and runs on fewer, in closed form.

Nodes break while the job runs and are away for a while; while it waits none break. A job that needs
all its nodes and has S spares is then an Erlang loss system with S + 1 places: it waits with the
probability that all are taken, which depends on the mean time away alone.

Sources: Erlang's formula B and its insensitivity (Takacs 1969); classes that take several places
by the recursion of Kaufman 1981 and Roberts 1981, which is exact for nodes that break one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    singles = [loss for loss in losses if loss.nodes == 1]
    most = spec.spares + spec.nodes - (spec.least_nodes or spec.nodes)  # away while it runs
    away = _away(losses, most, busy_s)
    total = sum(away)
    rate = sum(loss.rate for loss in singles)
    mean_s = sum(loss.rate * loss.away_s for loss in singles) / rate if rate else 0.0
    waits = sum(
        loss.rate * sum(away[max(0, most - loss.nodes + 1) :]) * _wait_s(loss, most, mean_s)
        for loss in losses
    )
    fewer = [(lost - spec.spares, weight) for lost, weight in enumerate(away) if lost > spec.spares]
    slowed = sum(missing * weight for missing, weight in fewer) / spec.nodes
    back = sum((missing + spec.spares) * weight for missing, weight in fewer)
    return Standing(
        running=total / (total + waits),
        pace=1.0 - slowed / total,
        stood_by=sum(away[: spec.spares]) / total,
        regains_hz=back / mean_s / total if mean_s else 0.0,
    )


def _losses(spec: JobSpec) -> Iterator[_Loss]:
    yield _Loss(spec.repair_share / spec.mtbf_s, 1, spec.repair_s)
    yield _Loss(1.0 / spec.preemption_s, 1, spec.preemption_wait_s)
    for domain in spec.domains:
        yield _Loss(1.0 / domain.mtbf_s, domain.nodes, domain.repair_s)


def _wait_s(loss: _Loss, most: int, mean_s: float) -> float:
    """Until few enough are away again: the first of them to come back will do, or the lost. [s]"""
    if loss.nodes > most:
        return loss.away_s
    return min(loss.away_s, mean_s or loss.away_s) / (most + 1.0 - (loss.nodes - 1.0))


def _away(losses: list[_Loss], most: int, busy_s: float) -> list[float]:
    """Weights of 0 ... `most` nodes that are away while the job runs."""
    weights = [1.0]
    offered = [(_mean_away(loss, busy_s), loss.nodes) for loss in losses]
    for lost in range(1, most + 1):
        found = sum(
            mean * nodes * weights[lost - nodes] for mean, nodes in offered if nodes <= lost
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
