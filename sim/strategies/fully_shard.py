"""FSDP2 as a strategy: what it reads and allows, and the plans it builds from its hooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sim.blocks.modules import ModelTree
from sim.inputs.finding import Finding, fault
from sim.inputs.strategy import Strategy, Trial, register
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Parallelism, Workload
from sim.mesh import Mesh
from sim.strategies.activation_copies import copies_of
from sim.strategies.fsdp2 import Hooks, groups_of
from sim.strategies.fsdp2_layout import gathered_ahead, lay_out
from sim.strategies.fsdp_memory import FsdpMemory
from sim.strategies.plain_modules import Plain, PlainMemory, plain
from sim.strategies.plan import Plan
from sim.strategies.recorder import Recorder
from sim.strategies.repeat import Folding, remember, shortened
from sim.strategies.stage_play import build_stage
from sim.strategies.units import FSDP_KNOBS, dtypes, equal_layers, tree_blocks


def _recorded(
    workload: Workload, full: ModelTree, mesh: Mesh, edge: int, recorder: type[Recorder], steps: int
) -> Plan:  # fmt: skip
    tree = shortened(full, edge)
    extra = len(full.layers) - len(tree.layers)
    layout = lay_out(workload, tree, mesh.size("fsdp"), dtypes(workload))
    r = recorder(groups_of(workload, mesh), trainer_of(workload))
    folding = Folding(r, edge, extra)
    bare = plain(workload, mesh)
    memory = (PlainMemory if bare else FsdpMemory)(
        workload, full, mesh.size("fsdp"), len(tree.layers), r.memory
    )
    if recorder.quiet:
        pieces = [(piece.block, piece.output_grad) for piece in layout.pieces]
        remember(memory, folding, pieces, workload, steps)
        return folding.unfold(r.plan, full)
    blocks = dict(enumerate(tree_blocks(tree)))
    run = (Plain if bare else Hooks)(workload, mesh, layout, blocks, r, memory, folding)
    run.copies = copies_of(workload, tree)
    run.own(layout.units)
    run.own((unit for unit in layout.units if unit.block == 1), extra + full.missing)
    for _ in range(steps):
        run.step()
    return folding.unfold(r.plan, full)


def _edge(workload: Workload, tree: ModelTree) -> int:
    """Layers to record at either end before all in between are copies of one; 0: record all."""
    knobs = workload.parallelism
    layers = len(tree.layers)
    smaller = not isinstance(knobs.reshard_after_forward, bool)
    if knobs.wrap == "linear" or smaller or knobs.offload != "none":
        return 0
    if workload.activation_checkpointing.offload:
        return 0
    depth = knobs.backward_prefetch if isinstance(knobs.backward_prefetch, int) else 1
    edge = 2 + max(depth, gathered_ahead(knobs), knobs.reduce_scatter_max_input_buffers)
    if layers < 2 * edge + 3:
        return 0
    return edge if equal_layers(workload, tree) else 0


class Fsdp2(Strategy):
    """`fully_shard`."""

    name, title, feature, fsdp_version = "fsdp2", "FSDP2", "fsdp2", 2
    knobs = FSDP_KNOBS | {
        "reshard_after_forward", "root_reshard_after_forward", "separate_reduce_scatter_group",
        "reduce_scatter_max_input_buffers", "requires_all_reduce", "reshard_after_backward",
        "unshard_embedding_in_backward", "pin_memory",
    }  # fmt: skip
    instead: ClassVar = {"sharding_strategy": "fsdp2 says reshard_after_forward: false"}
    wraps = ("block+root", "torchtitan", "linear")
    offloads = ("all",)
    tools = frozenset({"accelerate", "axolotl", "deepspeed", "torchtitan"})
    family = ("fsdp2", "ddp")
    gathers_blocks = blocks_alike = casts_inputs = context_parallel = True
    tensor_parallel = pipeline_parallel = expert_parallel = True
    gathers_fp8 = "tensorwise"
    offloads_inputs = accumulates_on_host = traceable = True
    steps_in_backward = True

    def replicates(self, knobs: Parallelism) -> bool:
        """Never: shards are what it is for."""
        return False

    def counts_missing(self, knobs: Parallelism) -> bool:
        """Unless the root holds parts of layers, or the host waits for each one's gradients."""
        return knobs.wrap != "linear" and knobs.offload == "none"

    def zero_stage(self, knobs: Parallelism) -> int:
        """Parameters kept from forward to backward are ZeRO-2's."""
        return 2 if knobs.reshard_after_forward is False else 3

    def trainer(self, workload: Workload) -> str:
        """What it was written with; bf16 weights and moments are torchtune's way."""
        precision = workload.precision
        pure = precision.master == "bf16" and precision.kind != "fp32"
        return "torchtune" if pure else "torchtitan"

    def findings(self, workload: Workload) -> Iterator[Finding]:
        """Values that are FSDP1's."""
        p = workload.parallelism
        if p.backward_prefetch == "post":
            message = "fsdp2 takes pre or a number of groups"
            yield fault("prefetch-kind", "workload", "parallelism.backward_prefetch", message)

    def trials(self, nodes: int) -> Iterator[Trial]:
        """Sharded over all nodes, over one, over half as many and so on; parameters also kept.

        What offloads, or is a pipeline, has shards enough: it is cut as finely as it goes or least.
        """
        between = (1 << power for power in range(1, (nodes - 1).bit_length()))
        for replicate in dict.fromkeys((1, nodes, *(d for d in between if nodes % d == 0))):
            yield Trial({"replicate": replicate}, offload=replicate in (1, nodes))
            keep = {"replicate": replicate, "reshard_after_forward": False}
            yield Trial(keep, offload=False)

    def build(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, *, steps: int, cold: bool,
        recorder: type[Recorder],
    ) -> Plan:  # fmt: skip
        """One step (or several) of FSDP2.

        Arguments and answer are those of `Strategy.build`.

        Raises
        ------
        InputError
            If the knobs contradict the mesh.
        """
        return _recorded(workload, tree, mesh, _edge(workload, tree), recorder, steps)

    def build_stage(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, rank: int, *,
        recorder: type[Recorder],
    ) -> Plan:  # fmt: skip
        """One step of a pipeline rank."""
        return build_stage(workload, tree, mesh, rank, recorder)


register(Fsdp2())
