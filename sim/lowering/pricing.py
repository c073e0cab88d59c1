"""Prices of plan ops on one kind of rank, kept for all jobs for which they are the same.

Of a step's rows those of segments over tokens follow from a job's shapes; all others (copies,
collectives, the optimizer) are the same for jobs that differ in shapes, blocks or micro-steps, and
are worked out once for them.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import accumulate

import numpy as np

from sim.blocks.kernels import Kernel
from sim.blocks.muon import trained
from sim.blocks.optimizer import optimizer_of
from sim.blocks.unroll import Templates
from sim.blocks.update import (
    clip_kernels,
    copy_kernel,
    host_update_bytes,
    optimizer_kernels,
    shard_of,
    updated_bytes,
)
from sim.cost.collectives import CollectiveCost
from sim.cost.gemm import MEMORY_SATURATION
from sim.cost.host import agreement_s, host_model, launch_stack, pace_of
from sim.cost.host_update import host_rate, update_s
from sim.cost.kernel_cost import CostModel, cost_model
from sim.fabric.fabric import Fabric
from sim.fabric.held import goes_with_machines
from sim.fabric.role import Role
from sim.inputs.base import fields_but
from sim.inputs.reference import REFERENCE
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload
from sim.lowering.classes import Compiled
from sim.lowering.collectives import StepCollectives, key_of, name_of
from sim.lowering.parts import HOST_SYNC_S, I8, Part, RowRuns
from sim.lowering.rows import CATEGORY, RowBlock, RowTable, joined, runs_of
from sim.lowering.table import HOST_LINK, Distinct
from sim.lowering.templates import Segment, Segments, segments_of, template_rows
from sim.records import NamedTuple
from sim.shelf import Shelf
from sim.strategies.exchanges import DIRECT
from sim.strategies.messages import messages_in
from sim.strategies.plan import COLLECTIVE, HOST, OWNED, SEGMENT, Calls, Plan, PlanOp
from sim.strategies.tail import ALONE

_MESSAGES = ("send", "send_recv")  # between two ranks, on which nobody agrees first
#: kernels that move a value at a time: `torch.cat` of 2-byte values, which its wide loads leave out
#: (PyTorch 2.6, aten/src/ATen/native/cuda/Shape.cu, `parallel_cat`)
_ONE_BY_ONE = ("cat",)
_STORAGE = {"nvme_read": "read", "nvme_write": "write"}
LAUNCH_S = 6e-6  # one launch from C++; facts: event 5.96 us (superbenchmark baseline)

#: no op depends on these but through its bytes, its calls or the kernels of its template
_SHAPES = frozenset({
    "name", "model", "sequence_length", "micro_batch", "global_batch", "gradient_accumulation",
    "tokens", "steps", "samples", "epochs", "optimizer", "optimizer_rank",
    "optimizer_implementation", "attention", "attention_padding", "loss",
    "activation_checkpointing", "data", "checkpoint", "evaluation", "phases", "deadline", "sources",
    *REFERENCE,
})  # fmt: skip


def segment_kernels(
    workload: Workload, plan: Plan, templates: Templates, op: PlanOp
) -> tuple[Kernel, ...]:
    """Kernels of a plan op that computes, those of modules that it leaves out among them."""
    if op.name in OWNED:
        return _owned_kernels(workload, plan, op)
    return templates.of(_kind_of(templates.layer_kinds, op.block), op.name)


def _owned_kernels(workload: Workload, plan: Plan, op: PlanOp) -> tuple[Kernel, ...]:
    if one_by_one := int(dict(op.calls).get(ALONE, 0)):
        shard = shard_of(workload, op.bytes / updated_bytes(workload), 1)
        kernels = optimizer_kernels(workload, shard)
        return tuple(k._replace(launches=one_by_one * k.launches) for k in kernels)
    shard = shard_of(workload, plan.owned_numel, plan.owned_tensors)
    return clip_kernels(shard) if op.name == "clip" else optimizer_kernels(workload, shard)


def _kind_of(layers: tuple[str, ...], block: int) -> str:
    if block > 0:
        return layers[block - 1] if block <= len(layers) else "head"
    return "root" if block < 0 else "embedding"


class _Fixed(NamedTuple):
    """Rows of a plan's ops that no shape changes, and where those of the others go."""

    rows: RowBlock
    calls: list[tuple[int, Calls]]  # of the trainer before some rows: they are of so many samples
    segments: Segments  # over tokens
    runs: I8  # (D, 2) first row and rows of each distinct op; of those in `at` none yet
    at: I8  # which of the distinct ops the segments are
    same: Distinct  # held, so that its id stays its own


class Pricing:
    """What ops cost ranks of a role.

    Parameters
    ----------
    role : Role
        Their GPU and the host around it.
    workload : Workload
        A job of theirs; others may differ from it in `_SHAPES`.
    fabric : Fabric
        The machine.
    compiled : Compiled
        Classes of its ranks.
    index : int
        Of the role.
    """

    def __init__(
        self, role: Role, workload: Workload, fabric: Fabric, compiled: Compiled, index: int
    ) -> None:
        self.role, self.compiled, self._fabric = role, compiled, fabric  # so that ids stay theirs
        known = fabric.topology.calibration
        self.model: CostModel = cost_model(role.gpu, known)
        self.host = host_model(
            launch_stack(workload.compile, workload.cuda_graphs),
            pace_of(role.host.cpu, role.host.gpus, known.host_launch if known else 1.0),
        )
        self.calls = self.host.calls
        classes = compiled.classes
        self.player = int(np.argmax(classes.role == index))  # a class that plays the part
        hbm = fabric.hbm(classes.ranks[self.player])
        self.hbm_capacity = float(fabric.capacity[hbm])
        self._known: dict[Hashable, RowTable] = {}  # rows of ops that are priced

    def part(
        self, step: StepCollectives, workload: Workload, templates: Templates
    ) -> tuple[Part, tuple[str, ...]]:
        """Rows for every plan op of a step, and what is costed with constants of something else."""
        plan = step.plans[self.role.stage]
        fixed = self._fixed_of(step, workload, templates.layer_kinds)
        own = trainer_of(workload).calls_s(workload.micro_batch)
        run = template_rows(
            self.model, self.host, self.hbm_capacity, fixed.segments, templates, own
        )  # fmt: skip
        key = (id(fixed), run.sizes)
        placed = _placed.find(key)
        if placed is None:
            placed = fixed, _placed_of(fixed, run.sizes)
            if step.kept:
                _placed.keep(key, placed)
        rows = joined((fixed.rows, run.block), self.model.curves())
        for row, calls in fixed.calls:
            rows.host_s[row] += self.host.trainer_s(calls, own)
        return Part(self.role, plan, rows, placed[1]), run.notes

    def _fixed_of(self, step: StepCollectives, w: Workload, layers: tuple[str, ...]) -> _Fixed:
        """Rows of a plan's ops but of segments over tokens, each distinct op priced once."""
        plan, same = step.plans[self.role.stage], step.distinct[self.role.stage]
        owned: tuple[Hashable, ...] = (
            plan.owned_numel, plan.owned_tensors, w.optimizer, w.optimizer_implementation,
        )  # fmt: skip
        if optimizer_of(w).by_matrix:  # a step of matrices is as long as their shapes make it
            owned = (*owned, w.optimizer_rank, trained(w.model, w.method))
        key = (id(self), id(same), owned)
        kept = _fixed.find(key)
        if kept is not None:
            return kept[1]
        whole = RowTable()
        segments, at, runs, calls = [], [], [], []
        for place, (op, alike) in enumerate(zip(same.ops, same.keys, strict=True)):
            if op.kind == SEGMENT and op.name not in OWNED:
                block = _kind_of(layers, op.block)
                calls_s, trainers = self._calls_s(op), self.host.of_trainer(op.calls)
                segments.append(Segment(block, op.name, op.module, calls_s, trainers))
                at.append(place)
                runs.append((0, 0))
                continue
            known: Hashable = (alike, owned if op.kind in (SEGMENT, HOST) else None)
            if op.name in _MESSAGES:
                known = (alike, op.unit)  # of so many tensors
            rows = self._known.get(known)
            if rows is None:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                rows = self._known[known] = RowTable()
                self._add(rows, op, plan, step, w)
            runs.append(whole.take(rows))
            if trainers := self.host.of_trainer(op.calls):
                calls.append((runs[-1][0], trainers))
        found = _Fixed(
            whole.block(), calls, segments_of(tuple(segments)),
            np.array(runs, dtype=np.int64).reshape(-1, 2),
            np.array(at, dtype=np.int64), same,
        )  # fmt: skip
        if step.kept:
            _fixed.keep(key, (self, found))
        return found

    def _calls_s(self, op: PlanOp) -> float:
        """CPU time of what goes before an op, but of its trainer's calls. [s]"""
        if not op.calls:
            return 0.0
        return sum([self.calls[name] * times for name, times in op.calls if name in self.calls])

    def _add(
        self, to: RowTable, op: PlanOp, plan: Plan, step: StepCollectives, workload: Workload
    ) -> None:
        """Price an op that is no segment over tokens."""
        if op.kind == SEGMENT:
            calls_s = self._calls_s(op)
            for kernel in _owned_kernels(workload, plan, op):
                kind = op.name if op.name == "optimizer" else kernel.kind  # Muon's have products
                self._kernel(to, kernel, kind, calls_s=calls_s)
                calls_s = 0.0
        elif op.kind == COLLECTIVE:
            self._collective(to, op, plan, step, workload)
        elif op.kind == HOST:
            to.add(host_s=self._host_work(op, workload), category=CATEGORY["host"])
        else:
            self._copy(to, op)

    def _kernel(
        self, to: RowTable, kernel: Kernel, kind: str, beside: bool = False, calls_s: float = 0.0
    ) -> None:
        """One kernel; one on a side stream takes SMs from those it runs beside."""
        cost = self.model.cost(kernel)
        rate = min(cost.hbm_bytes / cost.time_s, self.hbm_capacity)
        hold = round(MEMORY_SATURATION * self.role.gpu.sms) if beside else 0
        to.add(
            work=cost.time_s, bound=1.0, curve=self.model.curve_row(kernel, hold), hold=hold,
            host_s=self.host.launch_s(kernel) + calls_s, category=CATEGORY[kind],
            alone_s=cost.time_s, waits=kernel.waits, demands=((0, rate),) if rate > 0.0 else (),
        )  # fmt: skip

    def _copy(self, to: RowTable, op: PlanOp) -> None:
        direction = HOST_LINK.get(op.name)
        if op.name in _STORAGE:
            self._storage(to, op)
            return
        if direction is None:
            access = "strided" if op.name in _ONE_BY_ONE else "copy"
            kernel = copy_kernel(op.name, op.bytes, access=access)
            beside = op.stream != "compute"
            self._kernel(to, kernel, kernel.kind, beside, self._calls_s(op))
            return
        where: slice = getattr(self.compiled, direction)
        demands = tuple((k, 1.0) for k in range(where.start, where.stop))
        rate = float(self.compiled.copy_rates[self.player, int(direction == "to_host")])
        to.add(
            latency_s=LAUNCH_S, work=op.bytes, weight=rate,
            host_s=LAUNCH_S + self._calls_s(op),
            category=CATEGORY["copy"], alone_s=LAUNCH_S + op.bytes / rate, demands=demands,
        )  # fmt: skip

    def _storage(self, to: RowTable, op: PlanOp) -> None:
        """All GPUs of a node read or write at once, each at its share of the node's storage."""
        host = self.role.host
        rate = float(getattr(host.storage, _STORAGE[op.name])) / host.gpus
        to.add(
            latency_s=LAUNCH_S, work=op.bytes, bound=rate, weight=rate,
            host_s=LAUNCH_S + self._calls_s(op),
            category=CATEGORY["copy"], alone_s=LAUNCH_S + op.bytes / rate,
        )  # fmt: skip

    def _host_work(self, op: PlanOp, workload: Workload) -> float:
        """Passes over state in host memory, every rank of the node at the same time."""
        calls_s = self._calls_s(op)
        if op.bytes <= 0.0:
            return HOST_SYNC_S + calls_s
        host = self.role.host
        if op.name == "optimizer":
            elements = op.bytes / host_update_bytes(workload)
            took = update_s(workload, host.cpu, host.gpus, op.bytes, elements)
        else:  # a pageable copy is moved by the thread that asked for it
            threads = 1 if op.name == "stage" else workload.stack.omp_num_threads
            took = op.bytes / host_rate(host.cpu, host.gpus, threads)
        return HOST_SYNC_S + calls_s + took

    def _collective(
        self, to: RowTable, op: PlanOp, plan: Plan, step: StepCollectives, workload: Workload
    ) -> None:
        name, compiled = name_of(plan, op), self.compiled
        cost = step.costs[name]
        host_s = self.calls["c10d.collective"] + self._calls_s(op)
        stack = workload.stack
        messages = messages_in(op.unit)
        if op.name in _MESSAGES:
            host_s += messages * stack.message_time
        elif stack.distributed_debug == "detail" and op.group not in DIRECT:
            host_s += self.host.pace * agreement_s(cost.ranks, cost.nodes)
        spins = messages and cost.link == "nvlink"  # those of ring attention move all the time
        hold = (sms_spun if spins else sms_taken)(self.model, cost)
        if not step.single:
            to.add(hold=hold, host_s=host_s, alone_s=0.0)
            to.add()
            return
        orbits = compiled.orbits.get(key_of(name, cost))
        demands: tuple[tuple[int, float], ...] = ()
        if orbits is not None:
            resource, amount = orbits.demands.of(0)
            places = compiled.classes.local.shape[1] + resource
            demands = tuple(zip(places.tolist(), amount.tolist(), strict=True))
        moves = cost.work > 0.0 and orbits is not None
        to.add(
            latency_s=cost.latency_s,
            work=cost.work if moves else 0.0,
            bound=cost.bound_bytes_per_s if moves else float("inf"),
            weight=cost.bound_bytes_per_s if moves else 1.0,
            hold=hold, host_s=host_s, alone_s=cost.time_s, demands=demands,
        )  # fmt: skip


def sms_taken(model: CostModel, cost: CollectiveCost) -> int:
    """SMs whose loss kernels beside a collective feel: its channels', more off NVLink."""
    constants, sms = model.constants, model.gpu.sms
    weight = constants.network_channel if cost.nodes > 1 else 1.0
    taken = weight * cost.channels
    if taken and cost.link != "nvlink":
        taken = max(taken, constants.bus_share * sms)
    return min(round(taken), sms)


def sms_spun(model: CostModel, cost: CollectiveCost) -> int:
    """SMs whose loss kernels beside a message between stages feel.

    It waits for its peer most of its time. Blocks of its channels poll a flag meanwhile: they take
    their SMs and nothing of what kernels share (L2, queues, power), which `compute_loss` stands
    for, and no proxy is at work (`network_channel`). What it moves it demands of HBM and links.

    Source: NCCL, src/device/prims_simple.h, `waitPeer`.
    """
    taken = cost.channels / (1.0 + model.constants.compute_loss)
    return max(round(taken), cost.channels > 0)


def _placed_of(fixed: _Fixed, sizes: tuple[int, ...]) -> RowRuns:
    """Runs of a plan's ops, of which the segments have so many rows."""
    runs, fewer, of = fixed.runs.copy(), fixed.rows.columns.shape[1], fixed.same.of
    runs[fixed.at, 0] = list(accumulate(sizes, initial=fewer))[:-1]
    runs[fixed.at, 1] = sizes
    return runs_of(runs[of, 0], runs[of, 1])


_pricings: dict[Hashable, Pricing] = {}
MAX_PRICINGS, MAX_KNOWN = 256, 4096  # that are kept; ops of each
MAX_OPS = 2_000_000  # of plans, at 10 B and at 16 B: a plan has a few ops a layer, or 150
# what a key names by its id is held beside the value
_fixed = Shelf[tuple[Pricing, _Fixed]](MAX_OPS, lambda kept: kept[1].same.of.size)
_placed = Shelf[tuple[_Fixed, RowRuns]](MAX_OPS, lambda kept: kept[1].start.size)


def forget() -> None:
    """Forget all prices: for who changes a table of constants while the program runs."""
    for kept in (_pricings, _fixed, _placed):
        kept.clear()


goes_with_machines(forget)


def pricing_of(step: StepCollectives, workload: Workload, role: Role, index: int) -> Pricing:
    """What ops cost ranks of a role in a job, kept where classes of ranks are."""
    key = (role, index, id(step.fabric), id(step.compiled), *fields_but(workload, _SHAPES))
    found = _pricings.get(key)
    if found is None:
        found = Pricing(role, workload, step.fabric, step.compiled, index)
        if step.kept:
            if len(_pricings) >= MAX_PRICINGS:
                forget()
            _pricings[key] = found
    return found
