"""A plan as columns: what pricing and lowering read of its ops, worked out once a plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from sim.records import NamedTuple
from sim.strategies.copied import Copy
from sim.strategies.plan import COLLECTIVE, Like, Plan, PlanOp
from sim.strategies.traced import filled, varies

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

#: copies over the host link: the side of the node's links that each draws on
HOST_LINK = {"h2d": "to_device", "d2h": "to_host"}


class PlanTable(NamedTuple):
    """Columns over the ops of a plan, (P,) each, and its edges."""

    kind: I8
    streams: tuple[str, ...]  # the host, then others in order of first appearance
    stream_id: I8  # index into `streams`
    micro_step: I8
    dep_on: I8  # (n_deps,) earlier op
    dep_of: I8  # (n_deps,) op that waits for it
    host_after: I8
    fifo: I8  # (n, 2) successive collectives of one communicator
    collectives: I8  # (n_comm,) which ops they are
    comm_kind: tuple[str, ...]
    comm_label: tuple[str, ...]
    host_link: I8  # (n_copies,) which ops are copies over it, on whatever stream


class Each(NamedTuple):
    """Ops that were recorded, and which of them each op of a plan is, but for its place."""

    of: I8  # (P,) index into `ops`
    ops: Sequence[PlanOp]  # in order of first appearance
    at: I8  # (n recorded,) where each of them stands


class Distinct(NamedTuple):
    """Ops that cost the same, found once."""

    of: I8  # (P,) index into `ops`
    ops: tuple[PlanOp, ...]  # one of each, in order of first appearance
    keys: tuple[object, ...]  # what each is known by, in other plans of the job too


def table_of(plan: Plan) -> PlanTable:
    """The plan's columns, one table for plans alike."""
    plan = plan.first
    found: PlanTable | None = plan.derived.get("table")
    if found is None:
        found = plan.derived["table"] = _table(plan)
    return found


def comm_bytes_of(plan: Plan) -> F8:
    """Bytes of each collective as nccl-tests counts them, in the order of `collectives`. [B]"""
    found: F8 | None = plan.derived.get("comm bytes")
    if found is None:
        which = table_of(plan).collectives
        if plan.like is None:
            each = each_of(plan)
            sizes = np.array([total_bytes(op) for op in each.ops], dtype=float)
            found = sizes[each.of[which]]
        else:
            found = _bytes_of(plan.like, which)
        plan.derived["comm bytes"] = found
    return found


def _bytes_of(like: Like, which: I8) -> F8:
    """The same of a plan that is like others; `which` of its ops are collectives."""
    known: tuple[list[PlanOp], I8] | None = like.derived.get("collectives")
    if known is None:
        ops = [like.ops[i] for i in which.tolist()]
        sizes = [(op.bytes_in, op.bytes_out) for op in ops]
        place = {size: i for i, size in enumerate(dict.fromkeys(sizes))}
        of = np.array([place[size] for size in sizes], dtype=np.int64)
        known = like.derived["collectives"] = [ops[i] for i in _firsts(of)], of
    ops, of = known
    return np.array([total_bytes(filled(op, like.values)) for op in ops], dtype=float)[of]


def _firsts(of: I8) -> list[int]:
    """Where each number from 0 on stands first."""
    found: list[int] = np.unique(of, return_index=True)[1].tolist()
    return found


def each_of(plan: Plan) -> Each:
    """The plan's ops without copies."""
    found: Each | None = plan.derived.get("each")
    if found is None:
        ops = plan.issued
        of = at = np.arange(len(ops))
        if plan.copies:
            own = np.ones(of.size, dtype=bool)
            for copy in plan.copies:
                of[copy.at : copy.at + copy.size] = of[copy.source : copy.source + copy.size]
                own[copy.at : copy.at + copy.size] = False
            at = np.flatnonzero(own)
            ops = [ops[i] for i in at.tolist()]
            of = (np.cumsum(own) - 1)[of]
        found = plan.derived["each"] = Each(of, ops, at)
    return found


def _table(plan: Plan) -> PlanTable:
    of, recorded, _ = each_of(plan)
    columns = dict(zip(PlanOp._fields, zip(*recorded, strict=True), strict=True))
    kind = np.array(columns["kind"], dtype=np.int64)[of]
    micro_step = np.array(columns["micro_step"], dtype=np.int64)[of]
    for copy in plan.copies:
        source = micro_step[copy.source : copy.source + copy.size]
        micro_step[copy.at : copy.at + copy.size] = source + copy.later
    dep_on, dep_of, host_after = _edges(plan, columns["deps"], columns["host_after"])
    collectives = np.flatnonzero(kind == COLLECTIVE)
    which = of[collectives]
    stream = columns["stream"]
    streams = ("host", *(s for s in dict.fromkeys(stream) if s != "host"))
    number = {name: i for i, name in enumerate(streams)}
    which_ops, steps = which.tolist(), micro_step[collectives].tolist()
    return PlanTable(
        kind=kind,
        streams=streams,
        stream_id=np.array([number[name] for name in stream], dtype=np.int64)[of],
        micro_step=micro_step,
        dep_on=dep_on,
        dep_of=dep_of,
        host_after=host_after,
        fifo=_in_turn(collectives, columns["comm"], which),
        collectives=collectives,
        comm_kind=tuple(map(columns["collective"].__getitem__, which_ops)),
        comm_label=tuple(labels_of(recorded, which_ops, steps)),
        host_link=np.flatnonzero(np.array([name in HOST_LINK for name in columns["name"]])[of]),
    )


def _in_turn(collectives: I8, comms: Sequence[str], which: I8) -> I8:
    """Successive collectives of one communicator, (n, 2)."""
    place = {name: i for i, name in enumerate(dict.fromkeys(comms))}
    comm = np.array([place[name] for name in comms], dtype=np.int64)[which]
    order = np.argsort(comm, kind="stable")
    same = np.flatnonzero(np.diff(comm[order]) == 0)
    return np.stack((collectives[order[same]], collectives[order[same + 1]]), axis=1)


def _edges(
    plan: Plan, deps: Sequence[tuple[int, ...]], host_after: Sequence[int]
) -> tuple[I8, I8, I8]:
    """What each op waits for: ops, those that wait for them, and what the host sees before each.

    `deps` and `host_after` are those of recorded ops.
    """
    of, _, own = each_of(plan)
    lengths = np.fromiter(map(len, deps), dtype=np.int64, count=len(deps))
    on = np.fromiter(chain.from_iterable(deps), dtype=np.int64, count=int(lengths.sum()))
    after = np.array(host_after, dtype=np.int64)
    to = np.repeat(own, lengths)
    seen = np.full(of.size, -1, dtype=np.int64)
    seen[own] = after
    begin, size = np.array([copy[1:3] for copy in plan.copies], dtype=np.int64).reshape(-1, 2).T
    whole = np.searchsorted(own, begin + size) - np.searchsorted(own, begin) == size
    first: list[Copy] = []  # of what was recorded, and then of what has copies in it
    then: list[Copy] = []
    for copy, recorded in zip(plan.copies, whole.tolist(), strict=True):
        (first if recorded else then).append(copy)
    for copies in (first, then):
        on, to = _copied(copies, on, to, seen)
    return on, to, seen


def _copied(copies: Sequence[Copy], on: I8, to: I8, seen: I8) -> tuple[I8, I8]:
    """Edges with those of copies, and what the host sees before ops of these put into `seen`."""
    all_on, all_to = [on], [to]
    sources: dict[tuple[object, ...], list[Copy]] = {}
    for copy in copies:
        sources.setdefault((copy.source, copy.size, copy.old), []).append(copy)
    for mine in sources.values():
        source = mine[0].source
        end = source + mine[0].size
        first, last = np.searchsorted(to, (source, end))
        after = seen[source:end]
        waits = np.flatnonzero(after >= 0)
        moved = _moved(mine, np.concatenate((on[first:last], after[waits])))
        at = np.array([copy.at for copy in mine])[:, None]
        all_on.append(moved[:, : last - first].ravel())
        all_to.append((to[first:last] - source + at).ravel())
        seen[(waits + at).ravel()] = moved[:, last - first :].ravel()
    if not sources:
        return on, to
    on, to = np.concatenate(all_on), np.concatenate(all_to)
    order = np.argsort(to, kind="stable")
    return on[order], to[order]


def _moved(copies: Sequence[Copy], ops: I8) -> I8:
    """What ops that a stretch refers to are to each copy of it, (copies, n)."""
    source, old = copies[0].source, list(copies[0].old)
    found: I8 = ops - source + np.array([copy.at for copy in copies])[:, None]
    for i in np.flatnonzero(ops < source).tolist():
        place = old.index(int(ops[i]))
        found[:, i] = [copy.new[place] for copy in copies]
    return found


def total_bytes(op: PlanOp) -> float:
    """Bytes as nccl-tests counts them: all shards of an all-gather or reduce-scatter. [B]"""
    return max(op.bytes_in, op.bytes_out)


def distinct(plan: Plan, layer_kinds: tuple[str, ...]) -> Distinct:
    """Group ops that cost the same.

    Parameters
    ----------
    plan : Plan
        Its ops.
    layer_kinds : tuple of str
        Kind of each block of the model: blocks of a kind have equal kernels.
    """
    found: Distinct | None = plan.derived.get(layer_kinds)
    if found is None:
        if plan.like is None:
            each = each_of(plan)
            same = _distinct(each.ops, layer_kinds)
            found = same._replace(of=same.of[each.of])
        else:
            found = _distinct_like(plan.like, layer_kinds)
        plan.derived[layer_kinds] = found
    return found


def _distinct_like(like: Like, layer_kinds: tuple[str, ...]) -> Distinct:
    """Distinct ops of a plan that is like others: those of all, with its own numbers."""
    values = like.values
    known: tuple[Distinct, list[int]] | None = like.derived.get(layer_kinds)
    if known is None:
        all_ = _distinct(like.ops, layer_kinds)
        varied = [i for i, op in enumerate(all_.ops) if varies(op)]
        known = like.derived[layer_kinds] = all_, varied
    same, varied = known
    ops, keys = list(same.ops), list(same.keys)
    for i in varied:
        ops[i], keys[i] = filled(ops[i], values), filled(keys[i], values)
    first = dict.fromkeys(keys)
    if len(first) == len(keys):
        return Distinct(same.of, tuple(ops), tuple(keys))
    # some that differ in others are the same here
    place = {key: i for i, key in enumerate(first)}
    of = np.array([place[key] for key in keys], dtype=np.int64)
    return Distinct(of[same.of], tuple([ops[i] for i in _firsts(of)]), tuple(first))


def _distinct(ops: Sequence[PlanOp], layer_kinds: tuple[str, ...]) -> Distinct:
    """As `distinct`, of recorded ops."""
    kinds = ("embedding", *layer_kinds, "head", "root")  # the root's block number is -1
    seen: dict[tuple[object, ...], int] = {}
    first: list[PlanOp] = []
    of = []
    for op in ops:
        (
            kind, stream, name, _, block, module, _, _, _, collective, group, bytes_in, bytes_out,
            _, _, traffic, _, calls,
        ) = op  # fmt: skip
        if kind == COLLECTIVE:
            key: tuple[object, ...] = (collective, group, bytes_in, bytes_out, calls)
        else:
            key = (kind, name, kinds[block], module, traffic, stream, calls)
        index = seen.get(key)
        if index is None:
            index = seen[key] = len(first)
            first.append(op)
        of.append(index)
    return Distinct(np.array(of, dtype=np.int64), tuple(first), tuple(seen))


def labels_of(ops: Sequence[PlanOp], which: Sequence[int], micro_steps: Sequence[int]) -> list[str]:
    """Name each collective by kind and place: the first and the last of a micro-step stand out.

    Parameters
    ----------
    ops : sequence of PlanOp
        Recorded ones.
    which, micro_steps : sequence of int
        Of each collective: which of `ops` it is, and its micro-step.
    """
    used = {i: ops[i] for i in which}
    inside = {i: op.group == op.stream for i, op in used.items()}  # of a block: no parameters
    names = {
        i: f"{op.group} {op.collective} {op.phase}" if inside[i] else f"{op.collective} {op.phase}"
        for i, op in used.items()
    }
    labels = list(map(names.__getitem__, which))
    first: dict[int, int] = {}  # of each micro-step
    last: dict[int, int] = {}
    gathers = {i for i, op in used.items() if op.collective == "all_gather" and not inside[i]}
    scatters = {i for i, op in used.items() if op.collective == "reduce_scatter" and not inside[i]}
    for i in [i for i, op in enumerate(which) if op in gathers or op in scatters]:
        if which[i] in scatters:
            last[micro_steps[i]] = i
        elif ops[which[i]].phase != "backward":  # in a pipeline some micro-steps have no other
            first.setdefault(micro_steps[i], i)
    for i in first.values():
        labels[i] = "first all_gather"
    for i in last.values():
        labels[i] = "last reduce_scatter"
    return labels
