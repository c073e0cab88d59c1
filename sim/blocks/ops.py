"""Operations of a block as its description plays them, and what a checkpoint repeats of them.

A layer type is one file with one description: a function that registers its modules and puts its
operations on a `sim.blocks.tape.Tape` in forward order. An operation says at once which kernels it
runs, what autograd keeps, what it counts in FLOPs and what other ranks exchange for it. Parameters
(`parameters`), kernels (`unroll`), memory (`footprint`) and FLOPs (`flops`) are readings of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

from sim.blocks.kernels import Kernel
from sim.blocks.modules import Module, OpRole
from sim.records import NamedTuple


class When(Enum):
    """When an exchange runs: its module's kernels wait for it, run beside it, or precede it.

    In backward it may run beside a part of them: the gradients of inputs, or those of weights,
    which come after and wait for the former exchange.
    One that is LATE follows them, and one that is ALONG starts with them; both are waited for where
    an exchange of nothing (`joined`) stands.
    """

    BEFORE = "before"
    BESIDE = "beside"
    AFTER = "after"
    BESIDE_INPUTS = "beside inputs"
    BESIDE_WEIGHTS = "beside weights"
    LATE = "late"
    ALONG = "along"


class Exchange(NamedTuple):
    """Communication that an operation needs of the ranks along a mesh axis.

    Attributes
    ----------
    collective : str
        ``all_gather | reduce_scatter | all_reduce | all_to_all | send_recv``
    over : str
        Mesh axis, or `COPIES` or `BUFFERS` of ranks along one.
    sent, received : float
        Per rank. [B]
    when : When
        Against the kernels of the operation's module.
    backward : bool
        Whether it belongs to backward.
    dtype : str
        Of what is sent, "" for that of activations.
    phase : str
        What the plan calls it, "" for the phase of the kernels beside it.
    part : str
        Of the block, beside whose kernels it runs, "" for the operation's module.
    """

    collective: str
    over: str
    sent: float
    received: float
    when: When
    backward: bool = False
    dtype: str = ""
    phase: str = ""
    part: str = ""


#: of tensor-parallel ranks, into each other's memory by copy engines, as no collective
COPIES = "tp copies"
#: of tensor-parallel ranks, by kernels that read and write each other's buffers, as no collective
BUFFERS = "tp buffers"


def joined(over: str, when: When = When.BEFORE, backward: bool = True) -> Exchange:
    """Wait for what still is on the way along a mesh axis; in backward, unless said otherwise."""
    return Exchange("", over, 0.0, 0.0, when, backward)


class Map(NamedTuple):
    """A row of a kernel table: an element-wise kernel (or a run of them), no matrix product."""

    name: str
    bytes: float  # read and written [B]
    launches: int = 1
    access: str = ""  # default: one compiled kernel, or a plain stream
    kind: str = "elementwise"
    waits: bool = False  # the host waits for its end before it launches what follows
    part: str = ""  # of the block, where it is not that of the operation's module


class Op(NamedTuple):
    """One operation.

    Attributes
    ----------
    name, module : str
        What it computes, and the leaf module it belongs to.
    role : OpRole
        What it is.
    reads : tuple of int
        Tensors that receive a gradient, by number.
    makes : int
        The tensor it makes; -1 where autograd sees nothing (a sum of gradients, a metric).
    saves : tuple of int
        Tensors kept for its backward.
    forward, backward : tuple of Map or Kernel
        In the order they run; `kernels` makes them kernels, which memory need not pay for.
    flops : float
        Forward, by the convention of `sim.blocks.flops`. [1]
    gradients : int
        Products of that size in backward: 1 for the input, 1 for the weight or second input.
    weight_gradient : float
        Weight gradients it leaves. [B]
    product : bool
        A matrix product: it saves before it runs, and per-op checkpointing keeps every second one.
    weight : str
        When autograd is handed a product's weight, which is in memory anyway: ``before`` it runs,
        ``after`` it (AutoGPTQ's own function saves it then), "" never, for all that matters.
    dispatched : bool
        Of a product: torch's dispatcher sees it. A library's own function calls cuBLAS past it.
    kept_by_policy : bool
        Per-op checkpointing keeps its output (attention).
    passes : bool
        A sum: its gradient goes on to all inputs as it is.
    scratch, backward_scratch : float
        Alive only while it runs, forward or backward. [B]
    extra : float
        Saved beside its tensors: statistics, masks, log-sum-exp. [B]
    exchanges : tuple of Exchange
        Communication with the ranks that hold the rest.
    fused : bool
        A compiler merges its element-wise kernels with their neighbours.
    """

    name: str
    module: str
    role: OpRole
    reads: tuple[int, ...]
    makes: int
    saves: tuple[int, ...] = ()
    forward: tuple[Map | Kernel, ...] = ()
    backward: tuple[Map | Kernel, ...] = ()
    flops: float = 0.0
    gradients: int = 0
    weight_gradient: float = 0.0
    product: bool = False
    kept_by_policy: bool = False
    passes: bool = False
    scratch: float = 0.0
    backward_scratch: float = 0.0
    extra: float = 0.0
    exchanges: tuple[Exchange, ...] = ()
    fused: bool = False
    weight: str = ""
    dispatched: bool = True

    def kernels(self, direction: str, dtype: str) -> Iterator[Kernel]:
        """Kernels of ``forward`` or ``backward``, element-wise ones on `dtype`."""
        plain = "fused" if self.fused else "stream"
        for row in self.forward if direction == "forward" else self.backward:
            if isinstance(row, Map):
                name, traffic, launches, access, kind, waits, part = row
                yield Kernel(
                    name, part or self.module, kind, 0.0, traffic, (), dtype, direction, launches,
                    access or plain, self.role, waits,
                )  # fmt: skip
            else:
                yield row


def softcap(name: str, size: float, fused: bool) -> tuple[list[Map], list[Map]]:
    """Divide, tanh, multiply, forward and backward, of so many bytes; what tanh made is kept.

    Source: transformers 5.24, modeling_gemma2.py, `eager_attention_forward` and the model's head.
    """
    if fused:
        return [Map(name, 2 * size, 1, "fused")], [Map(name, 3 * size, 1, "fused")]
    return [Map(name, 6 * size, 3)], [Map(name, 7 * size, 3)]


class Description(NamedTuple):
    """A block as played: modules as forward runs them, operations, sizes of tensors (0: input).

    `order` names the modules and, between them, parts of a module that exchanges are around.
    """

    modules: tuple[Module, ...]
    ops: tuple[Op, ...]
    sizes: tuple[float, ...]
    order: tuple[str, ...]

    @property
    def saved_bytes(self) -> float:
        """What autograd keeps without checkpointing. [B]"""
        kept = {t for op in self.ops for t in op.saves}
        return sum(self.sizes[t] for t in kept) + sum(op.extra for op in self.ops)


def kept_outputs(ops: Sequence[Op]) -> set[int]:
    """Outputs that per-op checkpointing keeps: attention, and every matmul but each second one.

    Of `aten.mm`, which Transformer Engine's products are not: all of them run again.

    Source: torchtitan, ``_apply_op_sac``; Transformer Engine, cpp_extensions/gemm.py,
    ``general_gemm``, a function of C++ that is no operator of torch.
    """
    kept, count = set(), 0
    for op in ops:
        if op.product:
            count += op.dispatched
            if op.dispatched and count % 2:
                kept.add(op.makes)
        elif op.kept_by_policy:
            kept.add(op.makes)
    return kept


def recomputed(ops: Sequence[Op], per_op: bool, early_stop: bool) -> Iterator[tuple[Op, bool]]:
    """Operations that a checkpoint repeats in backward, and whether their result was kept.

    With `early_stop` it ends once the last saved tensor is there, a frozen weight too: a product
    saves its inputs before it runs, others that save their output or statistics must have run.

    Source: torch/utils/checkpoint.py, ``_recomputation_hook``; scripts/record_early_stop.py.
    """
    kept = kept_outputs(ops) if per_op else set()
    last = len(ops) - 1
    if early_stop:
        saving = (i for i, op in enumerate(ops) if op.saves or op.extra or op.weight)
        last = max(saving, default=-1)
        op = ops[last]
        once_run = not op.product and (op.extra or op.makes in op.saves)
        if not (op.weight == "after" or once_run):
            last -= 1
    for op in ops[: last + 1]:
        yield op, op.makes in kept
