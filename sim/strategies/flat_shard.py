"""FSDP1 as a strategy: what it reads and allows, and the plans it builds from its handles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from sim.blocks.modules import ModelTree
from sim.inputs.finding import Finding, fault, warning
from sim.inputs.notes import Message
from sim.inputs.strategy import Strategy, register
from sim.inputs.trainer import reduces_each, trainer_of
from sim.inputs.workload import Parallelism, Workload
from sim.mesh import Mesh
from sim.strategies.fsdp1 import Fsdp1Run, groups_of
from sim.strategies.fsdp1_checkpoints import kept_inputs
from sim.strategies.fsdp1_layout import lay_out
from sim.strategies.fsdp_memory import FsdpMemory
from sim.strategies.plan import Plan
from sim.strategies.recorder import Quiet, Recorder
from sim.strategies.repeat import Folding, remember, shortened
from sim.strategies.units import FSDP_KNOBS, SHARD, Unit, dtypes, equal_layers

#: layers to record at either end: outlives the free events left from the step before, and prefetch
_EDGE = 6
#: of allocations alone, which hooks tell of block by block: a block knows its neighbours
_EDGE_OF_ALLOCATIONS = 2


def _edge(workload: Workload, tree: ModelTree, quiet: bool) -> int:
    """Layers to record at either end before all in between are copies of one; 0: record all."""
    knobs = workload.parallelism
    edge = _EDGE_OF_ALLOCATIONS if quiet else _EDGE
    if len(tree.layers) < 2 * edge + 3 or workload.activation_checkpointing.offload:
        return 0
    if not quiet and (knobs.wrap != "block+root" or knobs.offload != "none"):
        return 0
    return edge if equal_layers(workload, tree) else 0


def _owned(units: Sequence[Unit], ranks: int, again: int) -> tuple[float, int]:
    """Trained elements and tensors that a rank updates, the first layer's `again` times more.

    Equation: of a flat parameter of t tensors a rank has something of (t + n - 1)/n on average: n
    equal parts of t tensors one after another, n - 1 of which are cut.
    """
    numel = cut = 0
    for unit in units:
        times = 1 + again if unit.block == 1 else 1
        numel += times * unit.grad_numel
        if unit.grad_tensors:
            cut += times * (unit.grad_tensors + ranks - 1)
    return numel / ranks, round(cut / ranks)


class _Unheard:
    """The memory of a step that is played to learn: nobody asks for it."""

    def _nothing(self, *_: object, **__: object) -> None:
        """Whatever it is told."""

    start = step = forward = backward = done = reach = _nothing


def _recorded(
    workload: Workload, full: ModelTree, mesh: Mesh, edge: int, recorder: type[Recorder],
    steps: int, cold: bool,
) -> Plan:  # fmt: skip
    """Steps, after what a run learns in its first one unless it is to start cold."""
    knobs, trainer = workload.parallelism, trainer_of(workload)
    tree, groups = shortened(full, edge), groups_of(workload, mesh)
    extra = len(full.layers) - len(tree.layers)
    ranks = groups[SHARD].size
    layout = lay_out(workload, tree, ranks, dtypes(workload))
    parts = ranks if knobs.sharding_strategy != "no-shard" else 1
    r = recorder(dict(groups), trainer)
    folding = Folding(r, edge, extra)
    memory = FsdpMemory(workload, full, parts, len(tree.layers), r.memory)
    missing = extra + full.missing
    r.plan.owned_numel, r.plan.owned_tensors = _owned(layout.units, parts, missing)
    r.plan.optimizer_on_host = knobs.offload != "none"
    if recorder.quiet:
        pieces = [(block, True) for block in dict.fromkeys(piece.block for piece in layout.pieces)]
        remember(memory, folding, pieces, workload, steps)
        return folding.unfold(r.plan, full)
    run = Fsdp1Run(workload, mesh, tree, layout, len(tree.layers) + missing)
    micro_steps = workload.gradient_accumulation
    if steps == 1 and not cold:
        unheard = Quiet(dict(groups), trainer)
        run.listen(unheard, _Unheard(), Folding(unheard, edge, extra))
        few = 1 + bool(knobs.forward_prefetch)  # whose order the first one teaches
        run.step(min(few, micro_steps))
    run.listen(r, memory, folding)
    for _ in range(steps):
        run.step(micro_steps)
    return folding.unfold(r.plan, full)


class Fsdp1(Strategy):
    """`FullyShardedDataParallel`."""

    name, title, fsdp_version = "fsdp1", "FSDP1", 1
    knobs = FSDP_KNOBS | {"limit_all_gathers", "use_orig_params", "sharding_strategy"}
    instead: ClassVar = {"reshard_after_forward": "fsdp1 says sharding_strategy: shard-grad-op"}
    wraps = ("block+root", "peft")
    offloads = ("all",)
    tools = frozenset({"accelerate", "axolotl", "deepspeed"})
    family = ("fsdp1", "ddp")
    gathers_blocks = blocks_alike = record_streams = offloads_inputs = traceable = True

    def replicates(self, knobs: Parallelism) -> bool:
        """Where it is told not to shard."""
        return knobs.sharding_strategy == "no-shard"

    def counts_missing(self, knobs: Parallelism) -> bool:
        """Always."""
        return True

    def zero_stage(self, knobs: Parallelism) -> int:
        """Stages by the names of its own."""
        return {"no-shard": 0, "shard-grad-op": 2, "full-shard": 3}[knobs.sharding_strategy]

    def findings(self, workload: Workload) -> Iterator[Finding]:
        """Values that are FSDP2's, and what FSDP1 computes wrongly."""
        knobs = workload.parallelism
        if (
            knobs.offload != "none"
            and workload.gradient_accumulation > 1
            and reduces_each(workload)
        ):
            # "FSDP will use the newly-reduced gradient instead of accumulating with any existing
            # gradient", says PyTorch's documentation; runs with it were published all the same
            message = "fsdp1 with offload loses gradients that it accumulates outside no_sync()"
            hint = "write gradient_sync: last, gradient_accumulation: 1, or fsdp2"
            yield warning("offload-sync", "workload", "parallelism.gradient_sync", message, hint)
        if isinstance(knobs.backward_prefetch, int):
            message = "fsdp1 takes pre, post or none"
            yield fault("prefetch-kind", "workload", "parallelism.backward_prefetch", message)
        trainer = trainer_of(workload)
        blocks = knobs.wrap == "block+root"
        if workload.method.frozen and blocks and not knobs.use_orig_params:
            message = "a block of frozen and trainable parameters makes no flat parameter of one"
            hint = "set use_orig_params: true or wrap: peft"
            path = "parallelism.use_orig_params"
            yield fault("flat-mixes", "workload", path, message, hint)
        if workload.method.adapted and blocks and trainer.wraps_adapters:
            message = f"{trainer.title} makes a unit of each adapter weight (PEFT's wrap policy)"
            hint = "write wrap: peft, or trainer: none if you wrap blocks yourself"
            yield warning("peft-wrap", "workload", "parallelism.wrap", message, hint)

    def memory_warnings(self, workload: Workload, tree: ModelTree, mesh: Mesh) -> Iterator[Message]:
        """What frozen weights do."""
        yield from kept_inputs(workload)

    def build(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, *, steps: int, cold: bool,
        recorder: type[Recorder],
    ) -> Plan:  # fmt: skip
        """One steady-state step of FSDP1, or the first `steps` steps of a run.

        Arguments and answer are those of `Strategy.build`; `cold` means that nothing is known of
        the forward order and no free event is left over. Implied by ``steps > 1``.

        Raises
        ------
        InputError
            If knobs contradict each other, or FSDP1 refuses them.
        """
        edge = _edge(workload, tree, recorder.quiet)
        return _recorded(workload, tree, mesh, edge, recorder, steps, cold)


register(Fsdp1())
