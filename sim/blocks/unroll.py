"""A workload's blocks as the kernels that really run, one template per kind of block and phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from sim.blocks.flops import checkpointed
from sim.blocks.head import embedding, head
from sim.blocks.kernels import Kernel
from sim.blocks.layer import Shape, decoder_layer
from sim.blocks.linear import LinearStyle
from sim.blocks.tree import adapted, layer_kind
from sim.inputs.model import Model
from sim.inputs.shares import batch_on
from sim.inputs.versions import version
from sim.inputs.workload import Workload, fields_but

PHASES = ("forward", "recompute", "backward")


@dataclass(frozen=True, slots=True, eq=False)
class Templates:
    """Kernels by (kind of block, phase), in the order they run.

    Attributes
    ----------
    kernels : mapping of (str, str) to tuple of Kernel
        Kind is a `Block.kind` ("layer", "layer.sliding", "embedding", "head"); phase is
        ``forward | recompute | backward``. Saved bytes are those of a block without
        checkpointing; a recompute list is what backward repeats first where its block is
        checkpointed (empty where nothing is).
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
        """Kernels of one template."""
        return self.kernels[kind, phase]

    def flops(self, phase: str) -> float:
        """GEMM and attention FLOPs of one micro-step's phase on one rank. [1]"""
        total = 0.0
        for kind, again in [
            ("embedding", False),
            *zip(self.layer_kinds, self.checkpointed, strict=True),
            ("head", False),
        ]:
            if phase != "recompute" or again:
                total += sum(k.flops for k in self.kernels[kind, phase])
        return total


def rank_shape(workload: Workload) -> Shape:
    """Sizes of one rank's micro-batch; context parallelism splits each sequence."""
    batch = batch_on(workload)
    return Shape(
        tokens=batch.local_tokens,
        sequences=workload.micro_batch,
        length=batch.local_length,
        keys=workload.sequence_length,
    )


@lru_cache(maxsize=256)
def unroll(workload: Workload) -> Templates:
    """Unroll a workload into kernels.

    Parameters
    ----------
    workload : Workload
        Only model, method, shapes and stack matter; strategy and cluster do not.

    Returns
    -------
    Templates
        Cached: equal workloads give the same object.
    """
    shape = rank_shape(workload)
    style = LinearStyle.of(workload, adapted(workload.model, workload.method))
    model = workload.model
    layer_kinds = tuple(layer_kind(model, i) for i in range(model.layers))
    kernels: dict[tuple[str, str], tuple[Kernel, ...]] = {}
    for kind in (*dict.fromkeys(layer_kinds), "embedding", "head"):
        kernels.update(_block(workload, kind, style, shape))
    return Templates(kernels, layer_kinds, checkpointed_layers(workload), shape.tokens)


_blocks: dict[tuple[object, ...], dict[tuple[str, str], tuple[Kernel, ...]]] = {}
MAX_BLOCKS = 1024
_NO_MATTER = frozenset((
    "name", "model", "gradient_accumulation", "global_batch", "tokens", "steps", "samples",
    "epochs", "optimizer", "optimizer_implementation", "parallelism", "data", "checkpoint",
    "evaluation", "sources",
))  # fmt: skip


def _block(
    workload: Workload, kind: str, style: LinearStyle, shape: Shape
) -> Mapping[tuple[str, str], tuple[Kernel, ...]]:
    """Templates of one kind of block, shared by all jobs that run it alike."""
    # neither the number of layers nor strategy, batches or the update change a block's kernels
    key = (_one_layer(workload.model), kind, style, shape, *fields_but(workload, _NO_MATTER))
    found = _blocks.get(key)
    if found is not None:
        return found
    if kind == "embedding":
        tape = embedding(workload, shape)
    elif kind == "head":
        tape = head(workload, style, shape)
    else:
        tape = decoder_layer(workload, kind, style, shape)
    in_layer = kind not in ("embedding", "head")
    if len(_blocks) >= MAX_BLOCKS:
        _blocks.clear()
    found = _blocks[key] = {
        (kind, "forward"): tuple(tape.forward),
        (kind, "recompute"): _recompute(workload, tape.forward) if in_layer else (),
        (kind, "backward"): tape.backward(),
    }
    return found


@lru_cache(maxsize=256)
def _one_layer(model: Model) -> Model:
    return model.model_copy(update={"layers": 1})


def checkpointed_layers(workload: Workload) -> tuple[bool, ...]:
    """Which layers are checkpointed."""
    n = workload.model.layers
    return tuple(checkpointed(workload.activation_checkpointing, i, n) for i in range(n))


def early_stop(workload: Workload) -> bool:
    """Whether recompute ends with the last saved tensor (non-reentrant, PyTorch 2.1 and newer)."""
    new = version(workload.stack.torch) >= (2, 1)
    return new and not workload.activation_checkpointing.reentrant


def _recompute(workload: Workload, forward: list[Kernel]) -> tuple[Kernel, ...]:
    kind = workload.activation_checkpointing.kind
    if kind == "none":
        return ()
    kernels = list(forward)
    if kind == "selective-op":
        kernels = _unsaved(kernels)
    if early_stop(workload):
        # the last linear saves its inputs before it runs, so recompute ends there
        last = max((i for i, k in enumerate(kernels) if k.kind == "gemm"), default=len(kernels) - 1)
        if kind == "full" or kernels[last].name == "w2":
            kernels = kernels[:last]
    return tuple(kernels)


def _unsaved(forward: list[Kernel]) -> list[Kernel]:
    """Drop what TorchTitan's selective policy saves: attention, and every other product."""
    kept, products = [], 0
    for kernel in forward:
        if kernel.kind == "attention":
            continue
        if kernel.kind == "gemm":
            products += 1
            if products % 2:
                continue
        kept.append(kernel)
    return kept
