"""A step's memory as PyTorch's allocator snapshot, for https://pytorch.org/memory_viz.

What a plan allocates and frees, one event each, at the time at which the op that is issued next
starts on the GPU. A block's frames say what it is for, of which unit and in which phase. Live
bytes are those of `memory`. Addresses are the first that are free in a segment a pool: they show
what lives beside what, and say nothing of what the real allocator reserves.

Source: pytorch, torch/cuda/memory.py (``_snapshot``) and torch/cuda/_memory_viz.py.
"""

from __future__ import annotations

import pickle
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from sim.blocks.parameters import tree_of
from sim.inputs.workload import Workload
from sim.lowering.lowered import RankView
from sim.memory.ledger import quantities
from sim.records import NamedTuple
from sim.step.outcome import StepOutcome
from sim.step.spans import starts_of
from sim.strategies.columns import columns_of
from sim.strategies.plan import Plan
from sim.strategies.terms import INIT, MOMENTS, POOLS, TERMS
from sim.units import MIB

_BASE = 1 << 44  # of the first pool's addresses, and between two pools'
_ROUND = 512  # of a block, as the allocator has it [B]
_SEGMENT = int(2 * MIB)  # [B]
_PROTOCOL = 4  # of torch's own snapshots; the viewer reads no later one


class _BlockColumns(NamedTuple):
    address: int
    size: int
    frames: list[dict[str, Any]]


class _Pool:
    """Addresses of one of the allocator's pools: the first gap that is large enough."""

    def __init__(self, base: int) -> None:
        self.base = self.top = base
        self.gaps: list[tuple[int, int]] = []  # start and end, ascending
        self.blocks: dict[int, _BlockColumns] = {}

    def take(self, size: int, frames: list[dict[str, Any]]) -> _BlockColumns:
        room = -(-size // _ROUND) * _ROUND
        for i, (start, end) in enumerate(self.gaps):
            if end - start >= room:
                self.gaps[i : i + 1] = [(start + room, end)] if end - start > room else []
                break
        else:
            start, self.top = self.top, self.top + room
        self.blocks[start] = block = _BlockColumns(start, size, frames)
        return block

    def give(self, block: _BlockColumns) -> None:
        del self.blocks[block.address]
        insort(self.gaps, (block.address, block.address + -(-block.size // _ROUND) * _ROUND))
        joined: list[tuple[int, int]] = []
        for start, end in self.gaps:
            if joined and joined[-1][1] == start:
                joined[-1] = joined[-1][0], end
            else:
                joined.append((start, end))
        self.gaps = joined

    def segment(self, device: int, stream: int) -> dict[str, Any]:
        """The pool as one segment, its blocks and what is free between them."""
        live = sum(block.size for block in self.blocks.values())
        total = -(-(self.top - self.base) // _SEGMENT) * _SEGMENT
        blocks, at = [], self.base
        for block in sorted(self.blocks.values()):
            if block.address > at:
                blocks.append(_piece(at, block.address - at, 0, "inactive", []))
            room = -(-block.size // _ROUND) * _ROUND
            blocks.append(_piece(block.address, room, block.size, "active_allocated", block.frames))
            at = block.address + room
        if at < self.base + total:
            blocks.append(_piece(at, self.base + total - at, 0, "inactive", []))
        held = sum(b["size"] for b in blocks if b["state"] == "active_allocated")
        return {
            "device": device, "address": self.base, "total_size": total, "allocated_size": held,
            "active_size": held, "requested_size": live, "stream": stream,
            "segment_type": "large", "segment_pool_id": (0, 0), "is_expandable": True,
            "frames": [], "blocks": blocks,
        }  # fmt: skip


def _piece(
    address: int, size: int, requested: int, state: str, frames: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "address": address, "size": size, "requested_size": requested, "state": state,
        "frames": frames,
    }  # fmt: skip


def memory_snapshot(
    outcome: StepOutcome, views: Sequence[RankView], workload: Workload
) -> dict[str, Any]:
    """Allocations of a step as ``torch.cuda.memory._snapshot()`` gives them.

    Parameters
    ----------
    outcome : StepOutcome
        What was run.
    views : sequence of RankView
        Ranks (classes) that are shown, a device each.
    """
    segments, traces = [], []
    for device, view in enumerate(views):
        pools = {name: _Pool(_BASE * (i + 1)) for i, name in enumerate(POOLS)}
        events = list(_events(outcome, view, workload, pools))
        found = [
            pool.segment(device, POOLS.index(name)) for name, pool in pools.items()
            if pool.top > pool.base
        ]  # fmt: skip
        whole = [
            _event("segment_alloc", s["address"], s["total_size"], s["stream"], 0, [])
            for s in found
        ]
        segments += found
        traces.append([*whole, *events])
    return {
        "segments": segments, "device_traces": traces, "allocator_settings": {},
        "external_annotations": [],
    }  # fmt: skip


def pickled(snapshot: dict[str, Any]) -> bytes:
    """A snapshot as the viewer takes it."""
    return pickle.dumps(snapshot, protocol=_PROTOCOL)


def _event(
    action: str, address: int, size: int, stream: int, time_us: int, frames: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "action": action, "addr": address, "size": size, "stream": stream, "time_us": time_us,
        "frames": frames,
    }  # fmt: skip


def _events(
    outcome: StepOutcome, view: RankView, workload: Workload, pools: dict[str, _Pool]
) -> Iterator[dict[str, Any]]:
    """Allocations and frees in order; at one instant what is freed goes first."""
    memory = view.plan.memory
    columns = columns_of(memory)
    sizes = quantities(memory, workload, tree_of(workload))
    bytes_of = np.rint(columns.coefficient * sizes[columns.quantity]).astype(np.int64)
    times = np.rint(1e6 * starts_of(outcome, view)[columns.before]).astype(np.int64).tolist()
    live: dict[int, list[_BlockColumns]] = defaultdict(list)
    rows = zip(columns.instant.tolist(), columns.term.tolist(), bytes_of.tolist(), strict=True)
    for instant, found in groupby(rows, key=itemgetter(0)):
        changes: dict[int, list[int]] = defaultdict(list)
        for _, term, size in found:
            changes[term].append(size)
        taken = []
        for term, each in changes.items():
            freed, allocated = _settled(each, sum(block.size for block in live[term]))
            pool = TERMS[term].pool
            where = live[term], pools[pool], POOLS.index(pool), times[instant]
            for size in freed:
                yield from _given(size, *where)
            taken += [(size, term, where) for size in allocated]
        for size, term, where in taken:
            frames = _frames(view.plan, int(columns.before[instant]),
                             int(columns.moment[instant]), TERMS[term].name)  # fmt: skip
            yield from _taken(size, frames, *where)


def _settled(changes: list[int], live: int) -> tuple[list[int], list[int]]:
    """What is freed of what lives, and allocated; what a plan takes back at once never lives."""
    allocated = sorted(size for size in changes if size > 0)
    freed = [-size for size in changes if size < 0]
    short = sum(freed) - live
    while short > 0 and freed:
        lost = min(short, freed[-1])
        freed[-1] -= lost
        short -= lost
        if not freed[-1]:
            freed.pop()
        while lost and allocated:
            least = min(lost, allocated[-1])
            allocated[-1] -= least
            lost -= least
            if not allocated[-1]:
                allocated.pop()
    return freed, allocated


def _taken(
    size: int, frames: list[dict[str, Any]], live: list[_BlockColumns], pool: _Pool, stream: int,
    time_us: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    block = pool.take(size, frames)
    live.append(block)
    yield _event("alloc", block.address, block.size, stream, time_us, frames)


def _given(
    size: int, live: list[_BlockColumns], pool: _Pool, stream: int, time_us: int
) -> Iterator[dict[str, Any]]:
    """Free the newest block of a size; where none has it, newest ones, and what is left stays."""
    while size > 0 and live:
        at = next((i for i in range(len(live) - 1, -1, -1) if abs(live[i].size - size) < 2), -1)
        block = live.pop(at)
        pool.give(block)
        for action in ("free_requested", "free_completed"):
            yield _event(action, block.address, block.size, stream, time_us, block.frames)
        rest = block.size - size
        size -= block.size
        if rest > 1:
            yield from _taken(rest, block.frames, live, pool, stream, time_us)


def _frames(plan: Plan, at: int, moment: int, term: str) -> list[dict[str, Any]]:
    """What a block is for, and which op of the plan is issued next."""
    found = [{"name": term, "filename": MOMENTS[moment], "line": 0}]
    if moment != INIT and at < len(plan.ops):
        op = plan.ops[at]
        unit = op.unit or (f"block {op.block}" if op.block >= 0 else "root")
        found.append({"name": op.name, "filename": f"{op.phase} {unit}", "line": op.micro_step})
    return found
