"""A workload's blocks as the kernels that really run, one template per kind of block and phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from sim.blocks.flops import checkpointed_layers
from sim.blocks.from_workload import early_stop, setting_of
from sim.blocks.kernels import Kernel
from sim.blocks.layer import EMBEDDING, HEAD, BlockKind, block_kinds, describe, layer_kinds
from sim.blocks.modules import OpRole
from sim.blocks.ops import Description, Exchange, recomputed
from sim.blocks.setting import Setting
from sim.inputs.model import Model
from sim.inputs.workload import Checkpointing, Workload

PHASES = ("forward", "recompute", "backward")
#: of a backward that is split, as zero-bubble pipelines do
PARTS = ("input", "weight")


@dataclass(frozen=True, slots=True, eq=False)
class Templates:
    """Kernels by (kind of block, phase), in the order they run.

    Attributes
    ----------
    kernels : mapping of (str, str) to tuple of Kernel
        Kind is a `Block.kind` ("layer", "layer.sliding", "embedding", "head"); phase is
        ``forward | recompute | backward``. A recompute list is what backward repeats first where
        its block is checkpointed (empty where nothing is).
    layer_kinds : tuple of str
        Kind of each layer.
    checkpointed : tuple of bool
        Which layers recompute.
    tokens : int
        Per rank and micro-step, the context-parallel share.
    """

    kernels: Mapping[tuple[str, str], tuple[Kernel, ...]]
    layer_kinds: tuple[str, ...]
    checkpointed: tuple[bool, ...]
    tokens: int

    def of(self, kind: str, phase: str) -> tuple[Kernel, ...]:
        """Kernels of one template; backward's for inputs and for weights alone have names too."""
        if phase in PARTS:
            return _part(self.kernels[kind, "backward"], phase == "weight")
        return self.kernels[kind, phase]

    def runs(self) -> dict[tuple[str, str], int]:
        """How often a micro-step on one rank runs each template, those alone that it runs."""
        blocks = [("embedding", False), ("head", False)]
        blocks += zip(self.layer_kinds, self.checkpointed, strict=True)
        return {
            (kind, phase): times
            for (kind, again), times in Counter(blocks).items()
            for phase in PHASES
            if phase != "recompute" or again
        }

    def flops(self, phase: str) -> float:
        """GEMM and attention FLOPs of one micro-step's phase on one rank. [1]"""
        return sum(
            times * sum(k.flops for k in self.kernels[kind, name])
            for (kind, name), times in self.runs().items()
            if name == phase
        )


def unroll(workload: Workload) -> Templates:
    """Unroll a workload into kernels.

    Parameters
    ----------
    workload : Workload
        Only model, method, shapes and stack matter; strategy and cluster do not.

    Returns
    -------
    Templates
        Cached: workloads whose blocks are alike give the same object.
    """
    policy, early = workload.activation_checkpointing, early_stop(workload)
    return _unrolled(setting_of(workload), workload.model, policy, early)


@lru_cache(maxsize=256)
def _unrolled(setting: Setting, model: Model, policy: Checkpointing, early: bool) -> Templates:
    kinds = layer_kinds(model, setting.method, setting.bf16_ends)
    layer = (policy.kind, early)
    kernels: dict[tuple[str, str], tuple[Kernel, ...]] = {}
    for kind in dict.fromkeys(kinds):
        kernels.update(_block(setting, kind, *layer))
    for kind in (EMBEDDING, HEAD):
        kernels.update(_block(setting, kind, "none", False))
    again = checkpointed_layers(policy, len(kinds))
    return Templates(kernels, tuple(k.key for k in kinds), again, setting.tokens)


@lru_cache(maxsize=2048)
def _block(
    setting: Setting, kind: BlockKind, policy: str, early: bool
) -> Mapping[tuple[str, str], tuple[Kernel, ...]]:
    """Templates of one kind of block, shared by all jobs that run it alike."""
    ops, dtype = describe(setting, kind).ops, setting.dtype
    forward, backward = _passes(setting, kind)
    repeated: list[Kernel] = []
    if policy != "none" and kind.state != "passive":
        for op, kept in recomputed(ops, policy == "selective-op", early):
            if kept and op.role is OpRole.ATTENTION and not op.product:
                continue  # one call, with all that it runs
            # what is kept spares the product (or the copy to the host), not the casts around it
            again = op.kernels("forward", dtype)
            repeated += [k for k in again if not (kept and (k.kind == "gemm" or k.waits))]
    return {
        (kind.key, "forward"): forward,
        (kind.key, "recompute"): tuple(repeated),
        (kind.key, "backward"): backward,
    }


@lru_cache(maxsize=1024)
def _passes(setting: Setting, kind: BlockKind) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
    """Forward and backward, whatever is checkpointed."""
    ops, dtype = describe(setting, kind).ops, setting.dtype
    back = () if kind.state == "passive" else ops
    return (
        tuple(k for op in ops for k in op.kernels("forward", dtype)),
        tuple(k for op in reversed(back) for k in op.kernels("backward", dtype)),
    )


@lru_cache(maxsize=64)
def _part(kernels: tuple[Kernel, ...], weights: bool) -> tuple[Kernel, ...]:
    return tuple(k for k in kernels if (k.direction == "wgrad") == weights)


@lru_cache(maxsize=1024)
def exchanges(workload: Workload, kind: str, phase: str) -> Mapping[str, tuple[Exchange, ...]]:
    """What a kind of block needs of ranks that share it, by the module (or part) that asks.

    Parameters
    ----------
    workload : Workload
        Shapes, parallelism and checkpointing.
    kind : str
        Of the block.
    phase : str
        One of `PHASES`. A recompute needs again what forward did, up to where it stops, unless the
        result was kept. Weight gradients need nothing.
    """
    if phase == "weight":
        return {}
    ops = _described(workload, kind).ops
    backward = phase == "backward"
    if phase == "recompute":
        per_op = workload.activation_checkpointing.kind == "selective-op"
        run = recomputed(ops, per_op, early_stop(workload))
        ops = tuple(op for op, kept in run if not kept)
    found: dict[str, tuple[Exchange, ...]] = {}
    for op in reversed(ops) if backward else ops:
        for x in op.exchanges:
            if x.backward == backward:
                where = x.part or op.module
                found[where] = (*found.get(where, ()), x)
    return found


def order_of(workload: Workload, kind: str, module: str = "") -> tuple[str, ...]:
    """Modules of a kind of block, and parts of them, as forward runs them.

    Parameters
    ----------
    kind : str
        Of the block.
    module : str
        This one alone, with the parts that follow it; "" for all.
    """
    block = _described(workload, kind)
    if not module:
        return block.order
    first, modules = block.order.index(module), {m.name for m in block.modules}
    parts = takewhile(lambda name: name not in modules, block.order[first + 1 :])
    return (module, *parts)


def _described(workload: Workload, kind: str) -> Description:
    setting = setting_of(workload)
    return describe(setting, block_kinds(workload.model, workload.method, setting.bf16_ends)[kind])
