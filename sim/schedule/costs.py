"""Price a plan: every op of it as rows of cost, every collective as what it draws on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.cost.collectives import CollectiveCost, demand_of, plan_collective
from sim.cost.gemm import MEMORY_SATURATION
from sim.cost.host_update import host_rate, update_slowdown
from sim.cost.kernel_cost import CostModel, cost_model, launch_stack
from sim.fabric.compiled import Fabric
from sim.model.kernels import Kernel
from sim.model.unroll import Templates, unroll
from sim.model.update import clip_kernels, copy_kernel, optimizer_kernels, shard_of
from sim.schedule.groups import groups_of
from sim.schedule.lower import CATEGORIES, Flight, Rows
from sim.schedule.machine import Compiled, Key, compile_machine
from sim.schedule.plan import COLLECTIVE, HOST, SEGMENT, Plan, PlanOp
from sim.schedule.teams import Draw
from sim.spec.topology import Cpu, Storage
from sim.spec.workload import Workload

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

_CATEGORY = {name: i for i, name in enumerate(CATEGORIES)}
_HOST_LINK = {"h2d": "to_device", "d2h": "to_host"}
_STORAGE = {"nvme_read": "read", "nvme_write": "write"}
HOST_SYNC_S = 5e-6  # cudaEventSynchronize after the event has happened: CUDA driver, order of
LAUNCH_S = 6e-6  # one launch from C++; facts: event 5.96 us (superbenchmark baseline)


class Priced(NamedTuple):
    """What `lower` needs beside the plan."""

    rows: Rows
    row_start: I8
    row_count: I8
    flights: tuple[Flight, ...]
    compiled: Compiled
    collectives: dict[tuple[str, str, float], CollectiveCost]
    fallbacks: tuple[str, ...]


class _Table:
    """Rows being collected."""

    def __init__(self) -> None:
        self.columns: list[tuple[float | int | bool, ...]] = []
        self.demands: list[tuple[tuple[int, float], ...]] = []

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
        recompute: bool = False,
        demands: tuple[tuple[int, float], ...] = (),
    ) -> int:
        """Append one row and return its index."""
        self.columns.append(
            (latency_s, work, bound, weight, curve, hold, host_s, category, alone_s, recompute)
        )
        self.demands.append(demands)
        return len(self.columns) - 1

    def rows(self, curves: F8) -> Rows:
        """All rows as columns."""
        c = list(zip(*self.columns, strict=True))
        lengths = [len(d) for d in self.demands]
        ptr = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=ptr[1:])
        flat = [pair for demand in self.demands for pair in demand]
        return Rows(
            latency_s=np.array(c[0]),
            work=np.array(c[1]),
            bound=np.array(c[2]),
            weight=np.array(c[3]),
            curve=np.array(c[4], dtype=np.int32),
            hold=np.array(c[5], dtype=np.int32),
            host_s=np.array(c[6]),
            category=np.array(c[7], dtype=np.int8),
            alone_s=np.array(c[8]),
            recompute=np.array(c[9], dtype=bool),
            demand_ptr=ptr,
            demand_local=np.array([k for k, _ in flat], dtype=np.int32),
            demand_amount=np.array([a for _, a in flat]),
            curves=curves,
        )


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
    return _Pricing(plan, workload, fabric, level, speed, capacity).run()


class _Pricing:
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
        self.model: CostModel = cost_model(
            fabric.gpu(0), launch_stack(workload.compile, workload.cuda_graphs),
            fabric.topology.calibration,
        )  # fmt: skip
        known = fabric.topology.calibration
        self.launch_s = LAUNCH_S * (known.host_launch if known else 1.0)
        self.templates: Templates = unroll(workload)
        self.table = _Table()
        self.hbm_capacity = float(fabric.capacity[fabric.hbm(0)])
        self.costs: dict[tuple[str, str, float], CollectiveCost] = {}
        self.compiled = self._compile(level, speed, capacity)
        self.single = len(self.compiled.machine.ranks) == 1
        self.lanes: dict[tuple[str, int, int], int] = {}
        self.n_lanes = 0

    def run(self) -> Priced:
        """Rows for every plan op, each distinct op priced once."""
        runs: dict[tuple[object, ...], tuple[int, int]] = {}
        starts, counts, flights = [], [], []
        for index, op in enumerate(self.plan.ops):
            key: tuple[object, ...]
            if op.kind == SEGMENT:
                key = (op.name, self._kind(op.block), op.module)
            elif op.kind == COLLECTIVE:
                key = (op.collective, op.group, _total_bytes(op))
            else:
                key = (op.kind, op.name, op.bytes, op.stream)
            found = runs.get(key)
            if found is None:
                found = runs[key] = self._rows_of(op)
            starts.append(found[0])
            counts.append(found[1])
            if op.kind == COLLECTIVE and not self.single:
                flight = self._flight(index, op)
                if flight is not None:
                    flights.append(flight)
        return Priced(
            rows=self.table.rows(self.model.curves()),
            row_start=np.array(starts, dtype=np.int64),
            row_count=np.array(counts, dtype=np.int64),
            flights=tuple(flights),
            compiled=self.compiled,
            collectives=self.costs,
            fallbacks=self.model.fallbacks,
        )

    def _kind(self, block: int) -> str:
        layers = self.templates.layer_kinds
        if block <= 0:
            return "embedding" if block == 0 else "root"
        return layers[block - 1] if block <= len(layers) else "head"

    def _rows_of(self, op: PlanOp) -> tuple[int, int]:
        if op.kind == SEGMENT:
            return self._kernels(self._segment(op), op.name == "recompute")
        if op.kind == COLLECTIVE:
            return self._collective(op)
        if op.kind == HOST:
            return self.table.add(host_s=self._host_work(op), category=_CATEGORY["host"]), 1
        return self._copy(op)

    def _segment(self, op: PlanOp) -> Sequence[Kernel]:
        if op.name in ("optimizer", "clip"):
            shard = shard_of(self.workload, self.plan.owned_numel, self.plan.owned_tensors)
            if op.name == "clip":
                return clip_kernels(shard)
            return optimizer_kernels(self.workload, shard)
        kernels = self.templates.of(self._kind(op.block), op.name)
        if op.module:
            return [k for k in kernels if k.module == op.module]
        return kernels

    def _kernels(
        self, kernels: Sequence[Kernel], recompute: bool, beside: bool = False
    ) -> tuple[int, int]:
        """Rows of kernels; those of a side stream take SMs from the ones they run beside."""
        hold = round(MEMORY_SATURATION * self.fabric.gpu(0).sms) if beside else 0
        first = len(self.table.columns)
        if not kernels:
            return self.table.add(category=_CATEGORY["elementwise"]), 1
        costs = self.model.costs(kernels)
        columns = zip(
            kernels, costs.time_s.tolist(), costs.hbm_bytes.tolist(), costs.host_s.tolist(),
            costs.curve.tolist(), strict=True,
        )  # fmt: skip
        for kernel, seconds, hbm, host_s, curve in columns:
            # work in seconds alone, so that the rate is 1 alone and curves are relative
            rate = min(hbm / seconds, self.hbm_capacity)
            self.table.add(
                work=seconds, bound=1.0, curve=curve, host_s=host_s, hold=hold,
                category=_CATEGORY[kernel.kind], alone_s=seconds, recompute=recompute,
                demands=((0, rate),) if rate > 0.0 else (),
            )  # fmt: skip
        return first, len(kernels)

    def _copy(self, op: PlanOp) -> tuple[int, int]:
        direction = _HOST_LINK.get(op.name)
        if op.name in _STORAGE:
            return self._storage(op), 1
        if direction is None:
            beside = op.stream != "compute"
            return self._kernels([copy_kernel(op.name, op.bytes)], recompute=False, beside=beside)
        where: slice = getattr(self.compiled, direction)
        demands = tuple((k, 1.0) for k in range(where.start, where.stop))
        machine = self.compiled.machine
        rates = machine.capacity[machine.local[0, where]] / machine.scale[0, where]
        rate = float(rates.min())
        row = self.table.add(
            latency_s=LAUNCH_S, work=op.bytes, weight=rate, host_s=LAUNCH_S,
            category=_CATEGORY["copy"], alone_s=LAUNCH_S + op.bytes / rate, demands=demands,
        )  # fmt: skip
        return row, 1

    def _storage(self, op: PlanOp) -> int:
        """All GPUs of a node read or write at once, each at its share of the node's storage."""
        node = self.fabric.topology.node
        storage = node.storage if node else Storage()
        rate = float(getattr(storage, _STORAGE[op.name])) / (node.gpus if node else 1)
        return self.table.add(
            latency_s=LAUNCH_S, work=op.bytes, bound=rate, weight=rate, host_s=LAUNCH_S,
            category=_CATEGORY["copy"], alone_s=LAUNCH_S + op.bytes / rate,
        )  # fmt: skip

    def _host_work(self, op: PlanOp) -> float:
        """Passes over state in host memory, every rank of the node at the same time."""
        if op.bytes <= 0.0:
            return HOST_SYNC_S
        node = self.fabric.topology.node
        cpu = node.cpu if node else Cpu()
        ranks = node.gpus if node else (self.fabric.n_ranks // self.fabric.n_nodes)
        rate = host_rate(cpu, ranks, self.workload.stack.omp_num_threads)
        slow = update_slowdown(self.workload) if op.name == "optimizer" else 1.0
        return HOST_SYNC_S + slow * op.bytes / rate

    # collectives ---------------------------------------------------------------------------

    def _groups(self, name: str) -> tuple[tuple[int, ...], ...]:
        return groups_of(name, self.plan.groups[name], self.fabric.n_ranks)

    def _compile(self, level: str, speed: F8 | None, capacity: F8 | None) -> Compiled:
        draws: dict[Key, list[Draw]] = {}
        copies = False
        for op in self.plan.ops:
            if op.kind != COLLECTIVE:
                copies = copies or op.name in _HOST_LINK
                continue
            name = (op.collective, op.group, _total_bytes(op))
            if name in self.costs:
                continue
            groups = self._groups(op.group)
            cost = plan_collective(
                self.fabric, op.collective, groups[0], name[2], self.workload.stack.nccl,
                concurrent_groups=groups,
            )  # fmt: skip
            self.costs[name] = cost
            key = (op.collective, op.group, cost.algorithm)
            if key not in draws and cost.demands:
                draws[key] = [self._draw(op.collective, group, cost) for group in groups]
        return compile_machine(
            self.fabric, level, draws, copies=copies, speed=speed, capacity=capacity
        )

    def _draw(self, collective: str, group: tuple[int, ...], chosen: CollectiveCost) -> Draw:
        own = demand_of(self.fabric, group, collective, chosen.algorithm)
        return Draw(group, own.resource, own.amount)

    def _collective(self, op: PlanOp) -> tuple[int, int]:
        cost = self.costs[op.collective, op.group, _total_bytes(op)]
        if not self.single:
            first = self.table.add(hold=cost.channels, host_s=self.launch_s, alone_s=0.0)
            self.table.add()
            return first, 2
        orbits = self.compiled.orbits.get((op.collective, op.group, cost.algorithm), ())
        demands: tuple[tuple[int, float], ...] = ()
        if orbits:
            base = self.compiled.machine.local.shape[1]
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

    def _flight(self, index: int, op: PlanOp) -> Flight | None:
        cost = self.costs[op.collective, op.group, _total_bytes(op)]
        team = self.compiled.teams.get((op.collective, op.group, cost.algorithm))
        if team is None:
            return None
        lane = self.lanes.setdefault((op.comm, team.n_wires, team.steps), self.n_lanes)
        self.n_lanes = max(self.n_lanes, lane + team.n_wires)
        return Flight(index, team, lane, cost.latency_s, cost.work, cost.bound_bytes_per_s)


def _total_bytes(op: PlanOp) -> float:
    """Bytes as nccl-tests counts them: all shards of an all-gather or reduce-scatter."""
    return max(op.bytes_in, op.bytes_out)
