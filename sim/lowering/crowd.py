"""A step of many ranks as a crowd: what is the same for ranks of a kind is written once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sim.lowering.costs import Priced
from sim.lowering.lower import written
from sim.lowering.lowered import Lowered, RankView
from sim.lowering.parts import F8, I4, I8, NO_FLIGHTS, Classes, Flights
from sim.lowering.runs import Ground, Played
from sim.lowering.wires import wire_costs, wires_of
from sim.program import Timeline
from sim.program.crowd import ClassKind, Crowd, stride_of
from sim.records import NamedTuple


class Gathering(NamedTuple):
    """A crowd and what its ops are."""

    crowd: Crowd
    ground: Ground
    played: Sequence[Played]
    classes: Classes
    flights: Flights
    kinds: tuple[Lowered, ...]  # a class of each kind alone

    def of(self, some: I8, timeline: Timeline) -> tuple[Lowered, Timeline]:
        """Some classes, ascending, and all that is on the wire, as if nobody else were there."""
        lowered = written(self.ground, self.played, self.classes, self.flights, some)
        stride, split = self.crowd.stride, self.crowd.split
        kinds = self.crowd.kind[some].tolist()
        sizes = [self.kinds[kind].plan_op.size for kind in kinds]
        begin = (some * stride).tolist()
        factor = np.ones(lowered.plan_op.size)
        at = 0
        for kind, size, pace in zip(kinds, sizes, self.crowd.pace[some].tolist(), strict=True):
            factor[at : at + size][self.crowd.kinds[kind].paced] = pace
            at += size
        lowered = lowered.slower(factor)

        def cut(times: F8) -> F8:
            own = [times[at : at + size] for at, size in zip(begin, sizes, strict=True)]
            return np.concatenate([*own, times[split:]])

        return lowered, timeline._replace(start=cut(timeline.start), end=cut(timeline.end))

    def each(self, timeline: Timeline) -> Iterator[tuple[Lowered, Timeline, RankView]]:
        """Every class by itself, without what is on the wire, and how it ran."""
        begin = 0
        for kind, pace in zip(self.crowd.kind.tolist(), self.crowd.pace.tolist(), strict=True):
            lowered = self.kinds[kind]
            end = begin + lowered.plan_op.size
            if pace != 1.0:
                lowered = lowered.slower(np.where(self.crowd.kinds[kind].paced, pace, 1.0))
            own = timeline._replace(
                start=timeline.start[begin:end].copy(), end=timeline.end[begin:end].copy()
            )
            yield lowered, own, lowered.views[0]
            begin += self.crowd.stride

    def latest(self, timeline: Timeline) -> I8:
        """The class whose kernels end last, and the first on each kind of GPU, ascending."""
        last = np.array([kind.views[0].compute.stop - 1 for kind in self.kinds])
        ends = timeline.end[np.arange(self.crowd.kind.size) * self.crowd.stride
                            + last[self.crowd.kind]]  # fmt: skip
        gpus: dict[str, int] = {}
        for c, role in enumerate(self.classes.role.tolist()):
            gpus.setdefault(self.ground.parts[role].role.gpu.name, c)
        return np.unique([int(ends.argmax()), *gpus.values()])


def gathers(priced: Priced) -> bool:
    """Whether a step may be one: ranks without stages, and without copies to and from hosts."""
    plans_apart = any(part.plan.stages > 1 for part in priced.parts)
    flights, classes = priced.flights, priced.compiled.classes
    stepped = any(wire.team.steps > 1 for wire in flights.wires)
    one_by_one = len(classes.ranks) > 1 and bool((classes.multiplicity == 1).all())
    return one_by_one and classes.local.shape[1] == 1 and not (plans_apart or stepped)


def gathered(priced: Priced) -> Gathering:
    """A step that `gathers`, with every rank's own lanes.

    Parameters
    ----------
    priced : Priced
        What runs and what it costs.
    """
    classes, flights = priced.compiled.classes, priced.flights
    ground = Ground(priced.parts, classes, flights)
    played = ground.played()
    _, first, kind = np.unique(
        np.stack([classes.role, ground.curve_begin], axis=1), axis=0, return_index=True,
        return_inverse=True,
    )  # fmt: skip
    kind = kind.ravel()
    alone = tuple(
        written(ground, played, classes, NO_FLIGHTS, np.array([c])) for c in first.tolist()
    )
    kinds = []
    for c, lowered in zip(first.tolist(), alone, strict=True):
        role = int(classes.role[c])
        own = flights.ops[:, role]
        paced = np.zeros(lowered.plan_op.size, dtype=np.bool_)
        paced[lowered.kernels(lowered.views[0])] = True
        arrive = np.sort(played[role].layout.first[own[own >= 0]])
        kinds.append(ClassKind(lowered.program, arrive, paced))
    stride = stride_of(kinds)
    n_classes = classes.role.size
    split = n_classes * stride
    wires = wires_of(ground, played, flights, classes.role, np.arange(n_classes) * stride, split)
    wire = np.full((n_classes, max(one.arrive.size for one in kinds)), -1, dtype=np.int32)
    at, op = np.divmod(wires.arrive, stride)
    for i, one in enumerate(kinds):
        mine = np.flatnonzero(kind[at] == i)
        wire[at[mine], np.searchsorted(one.arrive, op[mine])] = wires.waits[mine] - split
    ptr, resource, amount, route = _routes(ground, classes, kind, alone)
    costs, draws = wire_costs(flights), wires.draws
    crowd = Crowd(
        kinds=tuple(kinds),
        kind=kind,
        pace=np.ones(n_classes),
        wire=wire,
        route=route,
        wire_lane=wires.lane.astype(np.int32),
        wire_latency=costs.latency[wires.entry],
        wire_work=costs.work[wires.entry],
        wire_bound=costs.bound[wires.entry],
        wire_route=(ptr.size - 1 + wires.route).astype(np.int32),
        demand_ptr=np.concatenate((ptr, ptr[-1] + draws.ptr[1:])).astype(np.int32),
        demand_resource=np.concatenate((resource, draws.resource)).astype(np.int32),
        demand_amount=np.concatenate((amount, draws.amount)),
        capacity=classes.capacity,
        hold_capacity=classes.sms,
    )
    return Gathering(crowd, ground, played, classes, flights, alone)


def _routes(
    ground: Ground, classes: Classes, kind: I8, alone: Sequence[Lowered]
) -> tuple[I8, I8, F8, I4]:
    """Demand table of classes, kind by kind, and where each one's routes begin."""
    counts, resources, amounts = [], [], []
    begin, route = 0, np.zeros(kind.size, dtype=np.int32)
    for i, one in enumerate(alone):
        mine = np.flatnonzero(kind == i)
        rows = ground.parts[int(classes.role[mine[0]])].rows
        own = np.diff(one.program.demand_ptr)
        times = mine.size if rows.demand_local.size else 1
        counts.append(np.tile(own, times))
        resources.append(classes.local[mine][:, rows.demand_local].ravel())
        amounts.append((rows.demand_amount * classes.scale[mine][:, rows.demand_local]).ravel())
        route[mine] = begin + np.arange(mine.size) * (own.size if times > 1 else 0)
        begin += times * own.size
    ptr = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
    return ptr, np.concatenate(resources), np.concatenate(amounts), route
