"""Price a plan: every op of it as rows of cost, every collective as what it draws on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.blocks.kernels import Kernel
from sim.blocks.unroll import Templates, unroll
from sim.blocks.update import (
    clip_kernels,
    copy_kernel,
    host_update_bytes,
    optimizer_kernels,
    shard_of,
)
from sim.cost.collectives import CollectiveCost, demand_of, plan_collective
from sim.cost.gemm import MEMORY_SATURATION
from sim.cost.host import HostModel, agreement_s, host_model, launch_stack, pace_of
from sim.cost.host_update import host_rate, update_s
from sim.cost.kernel_cost import CostModel, cost_model
from sim.cost.nccl.communicator import ASKED, LATEST, Nccl
from sim.fabric.fabric import Fabric
from sim.fabric.role import Role
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload
from sim.lowering.classes import Compiled, Key, compile_classes
from sim.lowering.flights import flights_of, stage_of
from sim.lowering.parts import (
    CATEGORIES,
    HOST_SYNC_S,
    NO_FLIGHTS,
    Flights,
    Part,
    Rows,
    Wire,
    roles_of,
)
from sim.lowering.table import distinct, total_bytes
from sim.lowering.teams import Draw
from sim.mesh import Groups, Pairs
from sim.strategies.exchanges import COPYING
from sim.strategies.pipeline_play import messages_in
from sim.strategies.plan import COLLECTIVE, HOST, SEGMENT, Plan, PlanOp, runs

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]

_CATEGORY = {name: i for i, name in enumerate(CATEGORIES)}
#: copies between GPUs of a node without NCCL, as its copy engines' path has them
_COPIES = Nccl(".".join(map(str, LATEST)), ASKED[-1])
_MESSAGES = ("send", "send_recv")  # between two ranks, on which nobody agrees first
_HOST_LINK = {"h2d": "to_device", "d2h": "to_host"}
_OWNED = ("optimizer", "clip")  # segments over what a rank owns, not over tokens
_STORAGE = {"nvme_read": "read", "nvme_write": "write"}
LAUNCH_S = 6e-6  # one launch from C++; facts: event 5.96 us (superbenchmark baseline)


class Name(NamedTuple):
    """What settles the cost of a collective on a machine."""

    collective: str
    group: str
    total: float  # as nccl-tests counts them [B]
    stage: int  # whose ranks they are; -1 where ranks of several stages take part


class Priced(NamedTuple):
    """What `lower` needs: a part for each role, and who plays it."""

    parts: tuple[Part, ...]
    flights: Flights
    compiled: Compiled
    collectives: dict[Name, CollectiveCost]
    fallbacks: tuple[str, ...]
    models: tuple[CostModel, ...]  # of the kernels of each part

    @property
    def algorithms(self) -> dict[str, tuple[str, ...]]:
        """What NCCL takes for the collectives of a kind, from the smallest to the largest."""
        found: dict[str, dict[str, None]] = {}
        for name, cost in sorted(self.collectives.items(), key=lambda item: item[0].total):
            if cost.channels:
                taken = f"{cost.algorithm} {cost.protocol} {cost.channels} ch"
                found.setdefault(name.collective, {})[taken] = None
        return {collective: tuple(taken) for collective, taken in found.items()}

    def cost_of(self, plan: Plan, op: PlanOp) -> CollectiveCost:
        """What a collective of a plan was priced at."""
        return self.collectives[name_of(plan, op)]


def segment_kernels(
    workload: Workload, plan: Plan, templates: Templates, op: PlanOp
) -> tuple[Kernel, ...]:
    """Kernels of a plan op that computes, those of modules that it leaves out among them."""
    if op.name in _OWNED:
        shard = shard_of(workload, plan.owned_numel, plan.owned_tensors)
        return clip_kernels(shard) if op.name == "clip" else optimizer_kernels(workload, shard)
    layers = templates.layer_kinds
    kind = "root" if op.block < 0 else "embedding"
    if op.block > 0:
        kind = layers[op.block - 1] if op.block <= len(layers) else "head"
    return templates.of(kind, op.name)


class _Block(NamedTuple):
    """Rows of kernels, as a table collects them."""

    columns: F8  # (11, n) of `Rows` up to `waits`, and numbers of demands
    local: I4
    amount: F8

    @property
    def size(self) -> int:
        """Rows."""
        return int(self.columns.shape[1])


class _Table:
    """Rows being collected: single ones stand first, then blocks of kernels."""

    def __init__(self) -> None:
        self.columns: list[tuple[float | int | bool, ...]] = []
        self.demands: list[tuple[tuple[int, float], ...]] = []
        self.blocks: list[_Block] = []
        self.in_blocks = 0

    def take(self, other: _Table) -> tuple[int, int]:
        """Append the rows of another, single ones or a block: the first one's index (see `run`)."""
        if other.blocks:
            return self.block(*other.blocks), other.in_blocks
        first = len(self.columns)
        self.columns += other.columns
        self.demands += other.demands
        return first, len(other.columns)

    def add(
        self,
        *,
        latency_s: float = 0.0,
        work: float = 0.0,
        bound: float = float("inf"),
        weight: float = 1.0,
        curve: int = -1,
        hold: int = 0,
        host_s: float = 0.0,
        category: int = _CATEGORY["collective"],
        alone_s: float = 0.0,
        waits: bool = False,
        demands: tuple[tuple[int, float], ...] = (),
    ) -> None:
        """Append one row."""
        self.columns.append(
            (
                latency_s, work, bound, weight, curve, hold, host_s, category, alone_s, waits,
                len(demands),
            )
        )  # fmt: skip
        self.demands.append(demands)

    def block(self, rows: _Block) -> int:
        """Append rows of kernels and return the first one's index, -1 less it: see `run`."""
        self.blocks.append(rows)
        first = self.in_blocks
        self.in_blocks += rows.size
        return -1 - first

    def rows(self, curves: F8) -> Rows:
        """All rows as columns."""
        flat = [pair for demand in self.demands for pair in demand]
        own = np.array(self.columns, dtype=float).reshape(-1, 11).T
        c = np.concatenate([own, *(block.columns for block in self.blocks)], axis=1)
        local = np.array([k for k, _ in flat], dtype=np.int32)
        amount = np.array([a for _, a in flat], dtype=float)
        ptr = np.zeros(c.shape[1] + 1, dtype=np.int32)
        np.cumsum(c[10], out=ptr[1:], dtype=np.int32)
        return Rows(
            latency_s=c[0], work=c[1], bound=c[2], weight=c[3], curve=c[4].astype(np.int32),
            hold=c[5].astype(np.int32), host_s=c[6], category=c[7].astype(np.int8), alone_s=c[8],
            waits=c[9] > 0.0, demand_ptr=ptr,
            demand_local=np.concatenate([local, *(block.local for block in self.blocks)]),
            demand_amount=np.concatenate([amount, *(block.amount for block in self.blocks)]),
            curves=curves,
        )  # fmt: skip


def name_of(plan: Plan, op: PlanOp) -> Name:
    """The name of a plan's collective."""
    return Name(op.collective, op.group, total_bytes(op), stage_of(plan, op.group))


def price(
    plans: Sequence[Plan],
    workload: Workload,
    fabric: Fabric,
    level: str = "folded",
    speed: F8 | None = None,
    capacity: F8 | None = None,
    prices: Prices | None = None,
) -> Priced:
    """Cost every op of a step on a machine.

    Parameters
    ----------
    plans : sequence of Plan
        The step, a plan for each pipeline stage.
    workload : Workload
        Shapes, dtypes and stack.
    fabric : Fabric
        The machine.
    level : str
        ``folded``, ``ranks`` or ``steps``.
    speed : (n_ranks,) float64, optional
        Relative kernel speed of each rank; 1 if left out.
    capacity : (n_resources,) float64, optional
        Capacities of resources where some are slower than the machine's; not at ``folded``.
    prices : Prices, optional
        Of other steps of the job, to be shared.
    """
    step = _Step(plans, workload, fabric, level, speed, capacity)
    known = {} if prices is None else prices.of
    parts = []
    for i, role in enumerate(step.roles.roles):
        key = i, id(step.compiled)
        if key not in known:
            known[key] = _Pricing(step, i, role)
        parts.append(known[key])
    run = [kernel for kernels in step.templates.kernels.values() for kernel in kernels]
    return Priced(
        parts=tuple(part.run(step) for part in parts),
        flights=step.flights(),
        compiled=step.compiled,
        collectives=step.costs,
        fallbacks=tuple(dict.fromkeys(text for p in parts for text in p.model.fallbacks_of(run))),
        models=tuple(part.model for part in parts),
    )


class Prices:
    """What ops cost in steps of one job that differ in blocks and micro-steps alone."""

    def __init__(self) -> None:
        self.of: dict[tuple[int, int], _Pricing] = {}  # by role, and the classes of ranks


_Kept = tuple[
    tuple[dict[Name, CollectiveCost], Compiled], Fabric, Sequence[Plan]
]  # fmt: skip
MAX_KEPT = 8  # of a plan


class _Step:
    """What all roles share: plans, their collectives, and classes of ranks."""

    def __init__(
        self,
        plans: Sequence[Plan],
        workload: Workload,
        fabric: Fabric,
        level: str,
        speed: F8 | None,
        capacity: F8 | None,
    ) -> None:
        self.plans, self.workload, self.fabric = plans, workload, fabric
        self.roles = roles_of(fabric, len(plans))
        self.templates: Templates = unroll(workload)
        self.distinct = [distinct(plan, self.templates.layer_kinds) for plan in plans]
        self.costs, self.compiled = self._compiled(level, speed, capacity)
        self.single = len(self.compiled.classes.ranks) == 1
        self._lanes: dict[tuple[str, int, int, bool], int] = {}
        self._n_lanes = 0

    def _compiled(
        self, level: str, speed: F8 | None, capacity: F8 | None
    ) -> tuple[dict[Name, CollectiveCost], Compiled]:
        """What collectives cost, and classes of ranks: the same for all jobs of these plans."""
        nccl = Nccl.of(self.workload.stack)
        pace = b"" if speed is None else speed.tobytes()
        key = (level, nccl, pace, id(self.fabric), *map(id, self.plans))
        kept: dict[object, _Kept] = self.plans[0].derived.setdefault("collectives", {})
        if capacity is not None or key not in kept:
            costs: dict[Name, CollectiveCost] = {}
            found = costs, self._compile(costs, nccl, level, pace, speed, capacity)
            if capacity is not None:
                return found
            if len(kept) >= MAX_KEPT:
                kept.clear()
            kept[key] = (found, self.fabric, self.plans)  # held, so that the ids stay theirs
        return kept[key][0]

    def _compile(
        self, costs: dict[Name, CollectiveCost], nccl: Nccl, level: str, pace: bytes,
        speed: F8 | None, capacity: F8 | None,
    ) -> Compiled:  # fmt: skip
        kinds: dict[Key, _Kind] = {}
        copies = False
        for plan, same in zip(self.plans, self.distinct, strict=True):
            for op in same.ops:
                if op.kind != COLLECTIVE:
                    copies = copies or op.name in _HOST_LINK
                    continue
                name = name_of(plan, op)
                if name in costs:
                    continue
                where = (plan.groups[op.group], plan.stage, plan.stages)
                by = _COPIES if op.group == COPYING else nccl
                cost = costs[name] = _cost(self.fabric, op.collective, where, name.total, by)
                if cost.limit_resource >= 0:
                    key = key_of(name, cost)
                    kinds.setdefault(key, (key, where))
        draws = tuple(kinds.values())
        if capacity is None:
            return _classes(self.fabric, level, draws, len(self.plans), copies, pace)
        return compile_classes(
            self.fabric, level, _draws(self.fabric, draws), self.roles, copies=copies, speed=speed,
            capacity=capacity,
        )  # fmt: skip

    def flights(self) -> Flights:
        """Every collective on the wire; none where all ranks are one class."""
        if self.single:
            return NO_FLIGHTS
        return flights_of(self.plans, [role.stage for role in self.roles.roles], self._wire)

    def _wire(self, plan: Plan, op: PlanOp) -> Wire | None:
        """What a collective is on the wire; None if it is on none."""
        name = name_of(plan, op)
        cost = self.costs[name]
        team = self.compiled.teams.get(key_of(name, cost))
        if team is None:
            return None
        lane = self._lanes.setdefault(
            (op.comm, name.stage, team.n_wires, team.steps > 1), self._n_lanes
        )
        self._n_lanes = max(self._n_lanes, lane + team.n_wires)
        return Wire(op.comm, team, lane, cost.latency_s, cost.work, cost.bound_bytes_per_s)


class _Pricing:
    """What one role's ops cost it."""

    def __init__(self, step: _Step, index: int, role: Role) -> None:
        self.role = role
        self._take(step)
        known = step.fabric.topology.calibration
        self.model: CostModel = cost_model(role.gpu, known)
        self.host = host_model(
            launch_stack(self.workload.compile, self.workload.cuda_graphs),
            pace_of(role.host.cpu, role.host.gpus, known.host_launch if known else 1.0),
        )
        own = trainer_of(self.workload).calls_s(self.workload.micro_batch)
        self.calls = {**self.host.calls, **{k: self.host.pace * v for k, v in own.items()}}
        self.table = _Table()  # of the op that is being priced
        self.known: dict[object, _Table] = {}  # of those that are
        classes = step.compiled.classes
        self.player = int(np.argmax(classes.role == index))  # a class that plays the part
        hbm = step.fabric.hbm(classes.ranks[self.player])
        self.hbm_capacity = float(step.fabric.capacity[hbm])

    def _take(self, step: _Step) -> None:
        self.step, self.workload, self.templates = step, step.workload, step.templates
        self.plan, self.distinct = step.plans[self.role.stage], step.distinct[self.role.stage]

    def run(self, step: _Step) -> Part:
        """Rows for every plan op of a step, each distinct op priced once."""
        self._take(step)
        same, whole = self.distinct, _Table()
        owned = self.plan.owned_numel, self.plan.owned_tensors
        found = []
        for op, alike in zip(same.ops, same.keys, strict=True):
            key = (alike, owned) if op.name in _OWNED else alike
            own = self.known.get(key)
            if own is None:
                own = self.known[key] = self.table = _Table()
                self._add(op)
            found.append(whole.take(own))
        runs = np.array(found, dtype=np.int64).reshape(-1, 2)
        blocks = runs[:, 0] < 0  # they stand after the single rows, of which there are all now
        runs[blocks, 0] = len(whole.columns) - 1 - runs[blocks, 0]
        rows = whole.rows(self.model.curves())
        return Part(self.role, self.plan, rows, runs[same.of, 0], runs[same.of, 1])

    def _calls_s(self, op: PlanOp) -> float:
        """CPU time of what goes before an op. [s]"""
        return sum([self.calls[name] * times for name, times in op.calls]) if op.calls else 0.0

    def _add(self, op: PlanOp) -> None:
        """Price an op."""
        if op.kind == SEGMENT:
            kernels = segment_kernels(self.workload, self.plan, self.templates, op)
            calls_s = self._calls_s(op)
            if op.name in _OWNED:
                for kernel in kernels:
                    self._kernel(kernel, calls_s=calls_s)
                    calls_s = 0.0
            else:
                self._kernels(kernels, op.module, calls_s)
        elif op.kind == COLLECTIVE:
            self._collective(op)
        elif op.kind == HOST:
            self.table.add(host_s=self._host_work(op), category=_CATEGORY["host"])
        else:
            self._copy(op)

    def _kernels(self, kernels: tuple[Kernel, ...], module: str, calls_s: float) -> None:
        block = _block(self.model, self.host, kernels, module, self.hbm_capacity, calls_s)
        if block.size:
            self.table.block(block)
        else:
            self.table.add(host_s=calls_s, category=_CATEGORY["elementwise"])

    def _kernel(self, kernel: Kernel, beside: bool = False, calls_s: float = 0.0) -> None:
        """One kernel; one on a side stream takes SMs from those it runs beside."""
        cost = self.model.cost(kernel)
        rate = min(cost.hbm_bytes / cost.time_s, self.hbm_capacity)
        self.table.add(
            work=cost.time_s, bound=1.0, curve=self.model.curve_row(kernel),
            hold=round(MEMORY_SATURATION * self.role.gpu.sms) if beside else 0,
            host_s=self.host.launch_s(kernel) + calls_s, category=_CATEGORY[kernel.kind],
            alone_s=cost.time_s, waits=kernel.waits, demands=((0, rate),) if rate > 0.0 else (),
        )  # fmt: skip

    def _copy(self, op: PlanOp) -> None:
        direction = _HOST_LINK.get(op.name)
        if op.name in _STORAGE:
            self._storage(op)
            return
        if direction is None:
            kernel = copy_kernel(op.name, op.bytes)
            self._kernel(kernel, beside=op.stream != "compute", calls_s=self._calls_s(op))
            return
        where: slice = getattr(self.step.compiled, direction)
        demands = tuple((k, 1.0) for k in range(where.start, where.stop))
        classes, me = self.step.compiled.classes, self.player
        rates = classes.capacity[classes.local[me, where]] / classes.scale[me, where]
        rate = float(rates.min())
        self.table.add(
            latency_s=LAUNCH_S, work=op.bytes, weight=rate,
            host_s=LAUNCH_S + self._calls_s(op),
            category=_CATEGORY["copy"], alone_s=LAUNCH_S + op.bytes / rate, demands=demands,
        )  # fmt: skip

    def _storage(self, op: PlanOp) -> None:
        """All GPUs of a node read or write at once, each at its share of the node's storage."""
        host = self.role.host
        rate = float(getattr(host.storage, _STORAGE[op.name])) / host.gpus
        self.table.add(
            latency_s=LAUNCH_S, work=op.bytes, bound=rate, weight=rate,
            host_s=LAUNCH_S + self._calls_s(op),
            category=_CATEGORY["copy"], alone_s=LAUNCH_S + op.bytes / rate,
        )  # fmt: skip

    def _host_work(self, op: PlanOp) -> float:
        """Passes over state in host memory, every rank of the node at the same time."""
        calls_s = self._calls_s(op)
        if op.bytes <= 0.0:
            return HOST_SYNC_S + calls_s
        host = self.role.host
        if op.name == "optimizer":
            elements = op.bytes / host_update_bytes(self.workload)
            took = update_s(self.workload, host.cpu, host.gpus, op.bytes, elements)
        else:
            threads = self.workload.stack.omp_num_threads
            took = op.bytes / host_rate(host.cpu, host.gpus, threads)
        return HOST_SYNC_S + calls_s + took

    def _sms(self, cost: CollectiveCost) -> int:
        """SMs whose loss kernels beside a collective feel: its channels', more off NVLink."""
        constants, sms = self.model.constants, self.role.gpu.sms
        weight = constants.network_channel if cost.nodes > 1 else 1.0
        taken = weight * cost.channels
        if taken and cost.link != "nvlink":
            taken = max(taken, constants.bus_share * sms)
        return min(round(taken), sms)

    def _collective(self, op: PlanOp) -> None:
        name, compiled = name_of(self.plan, op), self.step.compiled
        cost = self.step.costs[name]
        host_s = self.calls["c10d.collective"] + self._calls_s(op)
        stack = self.workload.stack
        if op.name in _MESSAGES:
            host_s += messages_in(op.unit) * stack.message_time
        elif stack.distributed_debug == "detail" and op.group != COPYING:
            host_s += self.host.pace * agreement_s(cost.ranks, cost.nodes)
        if not self.step.single:
            self.table.add(hold=self._sms(cost), host_s=host_s, alone_s=0.0)
            self.table.add()
            return
        orbits = compiled.orbits.get(key_of(name, cost), ())
        demands: tuple[tuple[int, float], ...] = ()
        if orbits:
            base = compiled.classes.local.shape[1]
            demands = tuple(
                (base + r, a) for r, a in zip(orbits[0].resource, orbits[0].amount, strict=True)
            )
        moves = cost.work > 0.0 and bool(orbits)
        self.table.add(
            latency_s=cost.latency_s,
            work=cost.work if moves else 0.0,
            bound=cost.bound_bytes_per_s if moves else float("inf"),
            weight=cost.bound_bytes_per_s if moves else 1.0,
            hold=self._sms(cost), host_s=host_s, alone_s=cost.time_s, demands=demands,
        )  # fmt: skip


_BlockKey = tuple[int, int, int, str, float, float]
_blocks: dict[_BlockKey, tuple[CostModel, HostModel, tuple[Kernel, ...], _Block]] = {}
MAX_BLOCKS = 4096


def _block(
    model: CostModel, host: HostModel, kernels: tuple[Kernel, ...], module: str, hbm: float,
    calls_s: float,
) -> _Block:  # fmt: skip
    """Rows of a template's kernels, or of those of one of its modules; before the first, calls."""
    key = (id(model), id(host), id(kernels), module, hbm, calls_s)
    found = _blocks.get(key)
    if found is not None:
        return found[-1]
    own = tuple(k for k in kernels if runs(module, k.module)) if module else kernels
    costs, n = model.costs(own), len(own)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.minimum(costs.hbm_bytes / costs.time_s, hbm)
    reads = rate > 0.0
    host_s = np.array([host.launch_s(k) for k in own], dtype=float)
    host_s[:1] += calls_s
    columns = np.zeros((11, n))
    # work in seconds alone, so that the rate is 1 alone and curves are relative
    columns[1] = columns[8] = costs.time_s
    columns[2:4] = 1.0
    columns[4], columns[6] = costs.curve, host_s
    columns[7] = [_CATEGORY[k.kind] for k in own]
    columns[9], columns[10] = [k.waits for k in own], reads
    block = _Block(columns, np.zeros(int(reads.sum()), dtype=np.int32), rate[reads])
    if len(_blocks) >= MAX_BLOCKS:
        _blocks.clear()
    _blocks[key] = (model, host, kernels, block)  # held, so that the ids stay theirs
    return block


_Where = tuple[Groups | Pairs, int, int]
"""Groups, and the stage out of how many whose ranks they hold."""
_Kind = tuple[Key, _Where]


def key_of(name: Name, cost: CollectiveCost) -> Key:
    """What decides a collective's demands per byte."""
    return name.collective, f"{name.group} {name.stage}", cost.algorithm


@lru_cache(maxsize=16384)
def _cost(
    fabric: Fabric, collective: str, where: _Where, total: float, nccl: Nccl
) -> CollectiveCost:
    """Cost of a collective of all sister groups at once."""
    groups, *stage = where
    sisters = groups.within(*stage)
    return plan_collective(fabric, collective, sisters[0], total, nccl, concurrent_groups=sisters)


def _draws(fabric: Fabric, kinds: tuple[_Kind, ...]) -> dict[Key, list[Draw]]:
    """What a byte of each kind of collective costs, group by group; the same for every size."""
    found: dict[Key, list[Draw]] = {}
    for key, (groups, *stage) in kinds:
        collective, _, algorithm = key
        each = found[key] = []
        for group in groups.within(*stage):
            demand = demand_of(fabric, group, collective, algorithm)
            each.append(Draw(group, demand.resource, demand.amount))
    return found


@lru_cache(maxsize=512)
def _classes(
    fabric: Fabric, level: str, kinds: tuple[_Kind, ...], stages: int, copies: bool, speed: bytes,
) -> Compiled:  # fmt: skip
    """Classes of ranks and resources; they depend on the kinds of collective, not on sizes."""
    pace = np.frombuffer(speed) if speed else None
    roles, draws = roles_of(fabric, stages), _draws(fabric, kinds)
    return compile_classes(fabric, level, draws, roles, copies=copies, speed=pace)
