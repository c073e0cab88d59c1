"""Price a plan: every op of it as rows of cost, every collective as what it draws on."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.blocks.kernels import Kernel
from sim.blocks.unroll import Templates, unroll
from sim.blocks.update import clip_kernels, copy_kernel, optimizer_kernels, shard_of
from sim.cost.collectives import CollectiveCost, demand_of, plan_collective
from sim.cost.constants import zero3_hook_s
from sim.cost.gemm import MEMORY_SATURATION
from sim.cost.host_update import host_rate, update_slowdown
from sim.cost.kernel_cost import CostModel, cost_model, launch_stack
from sim.fabric.fabric import Fabric
from sim.fabric.role import Role
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.lowering.classes import Compiled, Key, compile_classes
from sim.lowering.parts import B1, CATEGORIES, HOST_SYNC_S, Flight, Part, Rows, roles_of
from sim.lowering.table import distinct, table_of, total_bytes
from sim.lowering.teams import Draw
from sim.mesh import Groups
from sim.strategies.plan import COLLECTIVE, HOST, SEGMENT, Plan, PlanOp

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

_CATEGORY = {name: i for i, name in enumerate(CATEGORIES)}
_HOST_LINK = {"h2d": "to_device", "d2h": "to_host"}
_STORAGE = {"nvme_read": "read", "nvme_write": "write"}
LAUNCH_S = 6e-6  # one launch from C++; facts: event 5.96 us (superbenchmark baseline)


class Priced(NamedTuple):
    """What `lower` needs: a part for each role, and who plays it."""

    parts: tuple[Part, ...]
    flights: tuple[Flight, ...]
    compiled: Compiled
    collectives: dict[tuple[str, str, float], CollectiveCost]
    fallbacks: tuple[str, ...]


class _Block(NamedTuple):
    """Rows of some kernels in a row, as columns; the others are alike for all kernels."""

    seconds: F8
    curve: npt.NDArray[np.int32]
    host_s: F8
    category: npt.NDArray[np.int8]
    rate: F8  # of HBM [B/s]
    waits: B1


class _Table:
    """Rows being collected: single ones, and blocks of kernels."""

    def __init__(self) -> None:
        self.size = 0
        self.columns: list[tuple[float | int | bool, ...]] = []
        self.demands: list[tuple[tuple[int, float], ...]] = []
        self.parts: list[Rows] = []

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
    ) -> int:
        """Append one row and return its index."""
        self.columns.append(
            (latency_s, work, bound, weight, curve, hold, host_s, category, alone_s, waits)
        )
        self.demands.append(demands)
        self.size += 1
        return self.size - 1

    def kernels(self, block: _Block) -> int:
        """Append rows of kernels and return the first one's index."""
        self._flush()
        n = block.seconds.size
        reads = block.rate > 0.0
        # work in seconds alone, so that the rate is 1 alone and curves are relative
        ones = np.ones(n)
        self.parts.append(
            Rows(
                latency_s=np.zeros(n), work=block.seconds, bound=ones, weight=ones,
                curve=block.curve, hold=np.zeros(n, dtype=np.int32), host_s=block.host_s,
                category=block.category, alone_s=block.seconds, waits=block.waits,
                demand_ptr=reads.astype(np.int32),
                demand_local=np.zeros(int(reads.sum()), dtype=np.int32),
                demand_amount=block.rate[reads], curves=_NO_CURVES,
            )
        )  # fmt: skip
        self.size += n
        return self.size - n

    def _flush(self) -> None:
        if not self.columns:
            return
        c = list(zip(*self.columns, strict=True))
        flat = [pair for demand in self.demands for pair in demand]
        self.parts.append(
            Rows(
                latency_s=np.array(c[0]),
                work=np.array(c[1]),
                bound=np.array(c[2]),
                weight=np.array(c[3]),
                curve=np.array(c[4], dtype=np.int32),
                hold=np.array(c[5], dtype=np.int32),
                host_s=np.array(c[6]),
                category=np.array(c[7], dtype=np.int8),
                alone_s=np.array(c[8]),
                waits=np.array(c[9], dtype=np.bool_),
                demand_ptr=np.array([len(d) for d in self.demands], dtype=np.int32),
                demand_local=np.array([k for k, _ in flat], dtype=np.int32),
                demand_amount=np.array([a for _, a in flat], dtype=float),
                curves=_NO_CURVES,
            )
        )
        self.columns, self.demands = [], []

    def rows(self, curves: F8) -> Rows:
        """All rows as columns; parts hold numbers of demands where rows hold pointers."""
        self._flush()
        whole = Rows(*(np.concatenate(column) for column in zip(*self.parts, strict=True)))
        ptr = np.zeros(self.size + 1, dtype=np.int32)
        np.cumsum(whole.demand_ptr, out=ptr[1:])
        return whole._replace(demand_ptr=ptr, curves=curves)


_NO_CURVES: F8 = np.ones((0, 1))


def price(
    plan: Plan,
    workload: Workload,
    fabric: Fabric,
    level: str = "folded",
    speed: F8 | None = None,
    capacity: F8 | None = None,
) -> Priced:
    """Cost every op of a plan on a machine.

    Parameters
    ----------
    plan : Plan
        The step.
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
    """
    step = _Step(plan, workload, fabric, level, speed, capacity)
    parts = [_Pricing(step, i, role) for i, role in enumerate(roles_of(fabric).roles)]
    return Priced(
        parts=tuple(part.run() for part in parts),
        flights=step.flights(),
        compiled=step.compiled,
        collectives=step.costs,
        fallbacks=tuple(dict.fromkeys(text for p in parts for text in p.model.fallbacks)),
    )


class _Step:
    """What all roles share: the plan, its collectives, and classes of ranks."""

    def __init__(
        self,
        plan: Plan,
        workload: Workload,
        fabric: Fabric,
        level: str,
        speed: F8 | None,
        capacity: F8 | None,
    ) -> None:
        self.plan, self.workload, self.fabric = plan, workload, fabric
        self.templates: Templates = unroll(workload)
        self.distinct = distinct(plan, self.templates.layer_kinds)
        self.costs: dict[tuple[str, str, float], CollectiveCost] = {}
        self.compiled = self._compile(level, speed, capacity)
        self.single = len(self.compiled.classes.ranks) == 1
        self._lanes: dict[tuple[str, int, bool], int] = {}
        self._n_lanes = 0

    def _compile(self, level: str, speed: F8 | None, capacity: F8 | None) -> Compiled:
        kinds: dict[Key, tuple[Key, Groups]] = {}
        copies = False
        for op in self.distinct.ops:
            if op.kind != COLLECTIVE:
                copies = copies or op.name in _HOST_LINK
                continue
            name = (op.collective, op.group, total_bytes(op))
            if name in self.costs:
                continue
            groups = self.plan.groups[op.group]
            cost = self.costs[name] = _cost(
                self.fabric, op.collective, groups, name[2], self.workload.stack.nccl
            )
            if cost.demands:
                key = (op.collective, op.group, cost.algorithm)
                kinds.setdefault(key, (key, groups))
        draws = tuple(kinds.values())
        if capacity is None:
            pace = b"" if speed is None else speed.tobytes()
            return _classes(self.fabric, level, draws, copies, pace)
        return compile_classes(
            self.fabric, level, _draws(self.fabric, draws), copies=copies, speed=speed,
            capacity=capacity,
        )  # fmt: skip

    def cost_of(self, op: PlanOp) -> CollectiveCost:
        """Cost of a collective."""
        return self.costs[op.collective, op.group, total_bytes(op)]

    def flights(self) -> tuple[Flight, ...]:
        """Every collective on the wire; none where all ranks are one class."""
        if self.single:
            return ()
        ops = self.plan.ops
        found = [self._flight(i, ops[i]) for i in table_of(self.plan).collectives.tolist()]
        return tuple(flight for flight in found if flight is not None)

    def _flight(self, index: int, op: PlanOp) -> Flight | None:
        cost = self.cost_of(op)
        team = self.compiled.teams.get((op.collective, op.group, cost.algorithm))
        if team is None:
            return None
        lane = self._lanes.setdefault((op.comm, team.n_wires, team.steps > 1), self._n_lanes)
        self._n_lanes = max(self._n_lanes, lane + team.n_wires)
        return Flight(index, op.comm, team, lane, cost.latency_s, cost.work, cost.bound_bytes_per_s)


class _Pricing:
    """What one role's ops cost it."""

    def __init__(self, step: _Step, index: int, role: Role) -> None:
        self.step, self.role = step, role
        self.plan, self.workload, self.templates = step.plan, step.workload, step.templates
        known = step.fabric.topology.calibration
        self.model: CostModel = cost_model(
            role.gpu, launch_stack(self.workload.compile, self.workload.cuda_graphs), known
        )
        self.launch_s = LAUNCH_S * (known.host_launch if known else 1.0)
        # DeepSpeed's Python before and after every module that has parameters
        hooked = strategy_of(self.workload).hooks_modules
        self.hooks_s = 2 * zero3_hook_s() * (known.host_launch if known else 1.0) if hooked else 0.0
        self.table = _Table()
        classes = step.compiled.classes
        self.player = int(np.argmax(classes.role == index))  # a class that plays the part
        hbm = step.fabric.hbm(classes.ranks[self.player])
        self.hbm_capacity = float(step.fabric.capacity[hbm])

    def run(self) -> Part:
        """Rows for every plan op, each distinct op priced once."""
        same = self.step.distinct
        runs = np.array([self._rows_of(op) for op in same.ops], dtype=np.int64).reshape(-1, 2)
        rows = self.table.rows(self.model.curves())
        return Part(self.role, self.plan, rows, runs[same.of, 0], runs[same.of, 1])

    def _kind(self, block: int) -> str:
        layers = self.templates.layer_kinds
        if block <= 0:
            return "embedding" if block == 0 else "root"
        return layers[block - 1] if block <= len(layers) else "head"

    def _rows_of(self, op: PlanOp) -> tuple[int, int]:
        if op.kind == SEGMENT:
            kernels = self._segment(op)
            if op.name in ("optimizer", "clip"):
                return min([self._kernel(kernel) for kernel in kernels]), len(kernels)
            return self._kernels(kernels, op.module)
        if op.kind == COLLECTIVE:
            return self._collective(op)
        if op.kind == HOST:
            return self.table.add(host_s=self._host_work(op), category=_CATEGORY["host"]), 1
        return self._copy(op)

    def _segment(self, op: PlanOp) -> tuple[Kernel, ...]:
        if op.name in ("optimizer", "clip"):
            shard = shard_of(self.workload, self.plan.owned_numel, self.plan.owned_tensors)
            if op.name == "clip":
                return clip_kernels(shard)
            return optimizer_kernels(self.workload, shard)
        return self.templates.of(self._kind(op.block), op.name)

    def _kernels(self, kernels: tuple[Kernel, ...], module: str) -> tuple[int, int]:
        block = _block(self.model, kernels, module, self.hbm_capacity)
        n = block.seconds.size
        if n == 0:
            return self.table.add(category=_CATEGORY["elementwise"]), 1
        if self.hooks_s:
            host_s = block.host_s.copy()
            host_s[0] += self.hooks_s
            block = block._replace(host_s=host_s)
        return self.table.kernels(block), n

    def _kernel(self, kernel: Kernel, beside: bool = False) -> int:
        """Row of one kernel; one on a side stream takes SMs from those it runs beside."""
        cost = self.model.cost(kernel)
        rate = min(cost.hbm_bytes / cost.time_s, self.hbm_capacity)
        return self.table.add(
            work=cost.time_s, bound=1.0, curve=self.model.curve_row(kernel),
            hold=round(MEMORY_SATURATION * self.role.gpu.sms) if beside else 0,
            host_s=self.model.host_seconds(kernel), category=_CATEGORY[kernel.kind],
            alone_s=cost.time_s, waits=kernel.waits, demands=((0, rate),) if rate > 0.0 else (),
        )  # fmt: skip

    def _copy(self, op: PlanOp) -> tuple[int, int]:
        direction = _HOST_LINK.get(op.name)
        if op.name in _STORAGE:
            return self._storage(op), 1
        if direction is None:
            kernel = copy_kernel(op.name, op.bytes)
            return self._kernel(kernel, beside=op.stream != "compute"), 1
        where: slice = getattr(self.step.compiled, direction)
        demands = tuple((k, 1.0) for k in range(where.start, where.stop))
        classes, me = self.step.compiled.classes, self.player
        rates = classes.capacity[classes.local[me, where]] / classes.scale[me, where]
        rate = float(rates.min())
        row = self.table.add(
            latency_s=LAUNCH_S, work=op.bytes, weight=rate, host_s=LAUNCH_S,
            category=_CATEGORY["copy"], alone_s=LAUNCH_S + op.bytes / rate, demands=demands,
        )  # fmt: skip
        return row, 1

    def _storage(self, op: PlanOp) -> int:
        """All GPUs of a node read or write at once, each at its share of the node's storage."""
        host = self.role.host
        rate = float(getattr(host.storage, _STORAGE[op.name])) / host.gpus
        return self.table.add(
            latency_s=LAUNCH_S, work=op.bytes, bound=rate, weight=rate, host_s=LAUNCH_S,
            category=_CATEGORY["copy"], alone_s=LAUNCH_S + op.bytes / rate,
        )  # fmt: skip

    def _host_work(self, op: PlanOp) -> float:
        """Passes over state in host memory, every rank of the node at the same time."""
        if op.bytes <= 0.0:
            return HOST_SYNC_S
        host = self.role.host
        rate = host_rate(host.cpu, host.gpus, self.workload.stack.omp_num_threads)
        slow = update_slowdown(self.workload) if op.name == "optimizer" else 1.0
        return HOST_SYNC_S + slow * op.bytes / rate

    def _collective(self, op: PlanOp) -> tuple[int, int]:
        cost, compiled = self.step.cost_of(op), self.step.compiled
        if not self.step.single:
            first = self.table.add(hold=cost.channels, host_s=self.launch_s, alone_s=0.0)
            self.table.add()
            return first, 2
        orbits = compiled.orbits.get((op.collective, op.group, cost.algorithm), ())
        demands: tuple[tuple[int, float], ...] = ()
        if orbits:
            base = compiled.classes.local.shape[1]
            demands = tuple(
                (base + r, a) for r, a in zip(orbits[0].resource, orbits[0].amount, strict=True)
            )
        moves = cost.work > 0.0 and bool(orbits)
        row = self.table.add(
            latency_s=cost.latency_s,
            work=cost.work if moves else 0.0,
            bound=cost.bound_bytes_per_s if moves else float("inf"),
            weight=cost.bound_bytes_per_s if moves else 1.0,
            hold=cost.channels, host_s=self.launch_s, alone_s=cost.time_s, demands=demands,
        )  # fmt: skip
        return row, 1


_blocks: dict[tuple[int, int, str], tuple[CostModel, tuple[Kernel, ...], _Block]] = {}
MAX_BLOCKS = 4096


def _block(model: CostModel, kernels: tuple[Kernel, ...], module: str, hbm: float) -> _Block:
    """Columns of a template's kernels, or of those of one of its modules."""
    key = (id(model), id(kernels), module)
    found = _blocks.get(key)
    if found is not None:
        return found[2]
    own = tuple(k for k in kernels if k.module == module) if module else kernels
    costs = model.costs(own)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.minimum(costs.hbm_bytes / costs.time_s, hbm)
    block = _Block(
        seconds=costs.time_s,
        curve=costs.curve,
        host_s=costs.host_s,
        category=np.array([_CATEGORY[k.kind] for k in own], dtype=np.int8),
        rate=rate,
        waits=np.array([k.waits for k in own], dtype=np.bool_),
    )
    if len(_blocks) >= MAX_BLOCKS:
        _blocks.clear()
    _blocks[key] = (model, kernels, block)  # held, so that the ids stay theirs
    return block


@lru_cache(maxsize=16384)
def _cost(
    fabric: Fabric, collective: str, groups: Groups, total: float, nccl: str
) -> CollectiveCost:
    """Cost of a collective of all sister groups at once."""
    sisters = groups.all()
    return plan_collective(fabric, collective, sisters[0], total, nccl, concurrent_groups=sisters)


def _draws(fabric: Fabric, kinds: tuple[tuple[Key, Groups], ...]) -> dict[Key, list[Draw]]:
    """What a byte of each kind of collective costs, group by group; the same for every size."""
    found: dict[Key, list[Draw]] = {}
    for key, groups in kinds:
        collective, _, algorithm = key
        each = found[key] = []
        for group in groups.all():
            demand = demand_of(fabric, group, collective, algorithm)
            each.append(Draw(group, demand.resource, demand.amount))
    return found


@lru_cache(maxsize=512)
def _classes(
    fabric: Fabric, level: str, kinds: tuple[tuple[Key, Groups], ...], copies: bool,
    speed: bytes,
) -> Compiled:  # fmt: skip
    """Classes of ranks and resources; they depend on the kinds of collective, not on sizes."""
    pace = np.frombuffer(speed) if speed else None
    return compile_classes(fabric, level, _draws(fabric, kinds), copies=copies, speed=pace)
