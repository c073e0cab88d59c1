"""DistributedDataParallel: whole models, gradients all-reduced in buckets as they become ready.

Follows torch's reducer (`reducer.cpp`, `distributed.py`). Buckets are those of the second iteration
on, filled in the order in which gradients arrive: a bucket closes once it holds at least its limit,
1 MiB for the first and ``bucket_cap_mb`` for the others. They are reduced strictly in that order.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sim.blocks.flops import checkpointed_layers
from sim.blocks.modules import Block, ModelTree, Module, Parameter
from sim.errors import InputError
from sim.inputs.strategy import Strategy, register
from sim.inputs.trainer import reductions, trainer_of
from sim.inputs.workload import Parallelism, Workload
from sim.mesh import Mesh
from sim.records import NamedTuple
from sim.strategies.activation_copies import copies_of
from sim.strategies.plan import Plan
from sim.strategies.recorder import Recorder
from sim.strategies.replicated_memory import Gathered, ReplicatedMemory
from sim.strategies.tail import clip_and_step, loss_all_reduce, step_within
from sim.strategies.units import SOURCE, dtypes, input_grads, is_matrix, trainable, tree_blocks
from sim.units import DTYPE_BYTES, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

#: torch.distributed._DEFAULT_FIRST_BUCKET_BYTES, used unless the user sets a cap
_FIRST_BUCKET = 1.0 * MIB
_DEFAULT_CAP = 25.0


class _Gradient(NamedTuple):
    """When a parameter's gradient is there: after the backward of a module of a block."""

    block: int
    module: str
    numel: int


def buckets(sizes: list[float], first: float, cap: float) -> list[list[int]]:
    """Assign gradients to buckets in order of arrival.

    Parameters
    ----------
    sizes : list of float
        Bytes of each gradient, in order of arrival. [B]
    first, cap : float
        A bucket closes when it holds at least so much: the first one, and the others. [B]

    Returns
    -------
    list of list of int
        Indices into `sizes` by bucket.
    """
    closed: list[list[int]] = []
    current: list[int] = []
    held = 0.0
    for i, size in enumerate(sizes):
        current.append(i)
        held += size
        if held >= (cap if closed else first):
            closed.append(current)
            current, held = [], 0.0
    return [*closed, current] if current else closed


class _DdpRun:
    """The CPU thread."""

    def __init__(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, recorder: type[Recorder]
    ) -> None:
        self.workload, self.mesh = workload, mesh
        knobs = self.knobs = workload.parallelism
        types = self.types = dtypes(workload)
        self.blocks = tree_blocks(tree)
        layers = len(tree.layers)
        self.recompute = (
            False, *checkpointed_layers(workload.activation_checkpointing, layers), False
        )  # fmt: skip
        self.copies = copies_of(workload, tree)
        self.within = workload.optimizer_in_backward
        self.grad_bytes = DTYPE_BYTES[types.master]
        narrow = DTYPE_BYTES[types.reduce] < self.grad_bytes
        self.wire = types.reduce if narrow else types.master  # narrower: a compression hook
        self.autocast = DTYPE_BYTES[types.compute] < self.grad_bytes
        arrivals, self.flows = _arrivals(self.blocks, input_grads(workload))
        limit = knobs.bucket_cap_mb * MIB
        first = _FIRST_BUCKET if knobs.bucket_cap_mb == _DEFAULT_CAP else limit
        sizes = [g.numel * self.grad_bytes for g in arrivals]
        self.closing: dict[tuple[int, str], list[tuple[int, float]]] = {}
        split = set()
        for number, members in enumerate(buckets(sizes, first, limit)):
            end = arrivals[members[-1]]
            numel = float(sum(arrivals[i].numel for i in members))
            self.closing.setdefault((end.block, end.module), []).append((number, numel))
            if end.module != _last_module(self.blocks[end.block]):
                split.add(end.block)
        self.split = split
        self.recorder = recorder({"world": mesh.groups("world")}, trainer_of(workload))
        # one GPU reduces nothing: no trainer wraps its model
        held = Gathered(buckets=sum(sizes) if mesh.world > 1 else 0.0)
        self.memory = ReplicatedMemory(workload, tree, 1, self.recorder.memory, held)
        plan = self.recorder.plan
        missing = tree.missing * [g.numel for g in arrivals if g.block == 1]
        plan.owned_numel = float(sum(g.numel for g in arrivals) + sum(missing))
        plan.owned_tensors = len(arrivals) + len(missing)
        # frozen weights are mostly stored in the compute dtype already
        frozen = DTYPE_BYTES[types.frozen] > DTYPE_BYTES[types.compute]
        self.learning = [_elements(b, _trainable) for b in self.blocks]
        cast = partial(_is_cast, types.quantised) if frozen else _trainable
        self.elements = [_elements(b, cast) for b in self.blocks]
        self.tensors = [
            sum(p.trainable for m in b.modules for p in m.parameters) for b in self.blocks
        ]

    def step(self) -> None:
        """All micro-steps of one optimizer step, then clipping and the optimizer."""
        r = self.recorder
        self.memory.start()
        micro_steps = self.workload.gradient_accumulation
        for micro, reduced in enumerate(reductions(self.workload, micro_steps)):
            r.start(micro)
            sync = reduced and self.mesh.world > 1
            self.memory.forward(sync)
            self.forward()
            self.backward(sync)
            self.memory.done()
        self.memory.step()
        loss_all_reduce(r, self.knobs, self.mesh)
        if self.within:
            r.read_loss()
        else:
            clip_and_step(r, self.knobs, self.grad_bytes, norm_bytes=0.0)
        r.end()

    def forward(self) -> None:
        """Forward of every block; under autocast weights are cast at each use."""
        for number in range(len(self.blocks)):
            self.memory.reach(number, forward=True)
            if self.copies:
                self.copies.enter(self.recorder, number, forward=True)
            self._cast(number, "forward", self.elements[number])
            self.recorder.segment("forward", "forward", number)

    def _cast(self, number: int, phase: str, numel: float) -> None:
        """Autocast: weights to the compute dtype, or gradients back. The embedding is looked up."""
        if self.autocast and number and numel:
            both = self.grad_bytes + DTYPE_BYTES[self.types.compute]
            self.recorder.kernel("compute", "cast", phase, both * numel, "", number)

    def _gradients(self, number: int) -> None:
        """Gradients of a block to the master dtype, and onto those of the micro-steps before."""
        self._cast(number, "backward", self.learning[number])
        if self.within:
            size = self.learning[number] * self.grad_bytes
            step_within(self.recorder, "compute", "", number, size, self.tensors[number])
        if self.recorder.micro_step and self.learning[number]:
            traffic = 3.0 * self.grad_bytes * self.learning[number]
            self.recorder.kernel("compute", "accumulate", "backward", traffic, "", number)

    def backward(self, sync: bool) -> None:
        """Backward, each closed bucket reduced beside it; at the end compute waits for all."""
        r = self.recorder
        reduced: list[tuple[int, float]] = []  # all-reduce op, elements
        for number in range(len(self.blocks) - 1, -1, -1):
            self.memory.reach(number, forward=False)
            if not self.flows[number]:
                continue
            block = self.blocks[number]
            if self.copies:
                self.copies.enter(r, number, forward=False)
            if self.recompute[number]:
                self._cast(number, "backward", self.elements[number])
                r.segment("recompute", "backward", number)
            if not sync or number not in self.split:
                r.segment("backward", "backward", number)
                self._gradients(number)
                names = list(reversed(block.forward_order)) if sync else []
                for name in names:
                    reduced += self._close(number, name)
                continue
            for name in reversed(block.forward_order):
                r.segment("backward", "backward", number, name)
                reduced += self._close(number, name)
            self._gradients(number)
        if not self.knobs.gradient_as_bucket_view:
            for op, numel in reduced:
                r.wait("compute", (op,))
                r.kernel("compute", "copy_back", "backward", 2 * numel * self.grad_bytes)
        r.wait_stream("compute", "all_reduce")

    def _close(self, number: int, module: str) -> list[tuple[int, float]]:
        """Copy a full bucket together, divide it by the world and all-reduce it."""
        r = self.recorder
        sent = DTYPE_BYTES[self.wire]
        issued = []
        for index, numel in self.closing.get((number, module), []):
            name = f"bucket.{index}"
            traffic = numel * (self.grad_bytes + sent)
            r.kernel("compute", "bucket", "backward", traffic, name, number)
            r.wait_stream("all_reduce", "compute")
            size = numel * sent
            op = r.collective(
                "all_reduce", "all_reduce", "backward", "world", size, size, self.wire, name,
                number,
            )  # fmt: skip
            issued.append((op, numel))
        return issued


def _elements(block: Block, counts: Callable[[Module, Parameter], bool]) -> float:
    """Elements of those of a block's parameters that count."""
    return float(sum(p.numel for m in block.modules for p in m.parameters if counts(m, p)))


def _trainable(module: Module, parameter: Parameter) -> bool:
    return parameter.trainable


def _is_cast(quantised: bool, module: Module, parameter: Parameter) -> bool:
    """Whether autocast casts a parameter where frozen ones are wide: what is of 4 bits is not."""
    return parameter.trainable or not (quantised and is_matrix(module, parameter))


def _last_module(block: Block) -> str:
    """The module whose backward ends the block's."""
    return block.forward_order[0]


def _arrivals(blocks: tuple[Block, ...], wanted: bool) -> tuple[list[_Gradient], list[bool]]:
    """Gradients in order of arrival, and which blocks run a backward at all.

    Above a table whose output is `wanted` to have a gradient all do, frozen or not.
    """
    flows = [trainable(blocks[0])]
    learning = flows[0] or wanted
    for block in blocks[1:]:
        learning = learning or trainable(block)
        flows.append(learning)
    arrivals = []
    for number in range(len(blocks) - 1, -1, -1):
        by_name = {m.name: m for m in blocks[number].modules}
        for name in reversed(blocks[number].forward_order):
            if name in by_name:
                arrivals += [
                    _Gradient(number, name, p.numel)
                    for p in reversed(by_name[name].parameters)
                    if p.trainable
                ]
    return arrivals, flows


class Ddp(Strategy):
    """`DistributedDataParallel`."""

    name, title = "ddp", "DDP"
    knobs = frozenset({"reduce_dtype", "gradient_sync", "bucket_cap_mb", "gradient_as_bucket_view"})
    tools = frozenset({"accelerate", "axolotl", "deepspeed", "torchtitan"})
    family = ("fsdp2", "ddp")
    shards_more = "fsdp2"
    shards = False
    offloads_inputs = traceable = ordered_by_sizes = blocks_alike_alone = True

    def counts_missing(self, knobs: Parallelism) -> bool:
        """Always: blocks are missing on one GPU alone, which has no buckets."""
        return True

    def build(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, *, steps: int, cold: bool,
        recorder: type[Recorder],
    ) -> Plan:  # fmt: skip
        """Steady-state steps of DDP.

        Arguments and answer are those of `Strategy.build`.

        Raises
        ------
        InputError
            If offload is asked for, which DDP has none of.
        """
        if workload.parallelism.offload != "none":
            message = "ddp keeps everything on the GPU; fsdp2 and zero1 to zero3 offload"
            raise InputError.single(SOURCE, message, "parallelism.offload")
        run = _DdpRun(workload, tree, mesh, recorder)
        for _ in range(steps):
            run.step()
        return run.recorder.plan


class Single(Ddp):
    """A plain training loop on one GPU: nothing is wrapped, bucketed or reduced."""

    name, title = "single", "one GPU"
    knobs = frozenset()
    family = ("single", "fsdp2")
    spreads_as = "fsdp2"
    tools = frozenset({"accelerate", "axolotl"})
    steps_in_backward = True
    measured_as = "ddp"  # which on one GPU is the same


register(Ddp())
register(Single())
