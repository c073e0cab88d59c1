"""What a frozen copy of the model takes of a GPU beside the one that is trained."""

from __future__ import annotations

from collections.abc import Callable

from sim.blocks.modules import ModelTree
from sim.blocks.parameters import tree_of
from sim.inputs.reference import reference_of
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.memory.ledger import Ledger
from sim.mesh import Mesh
from sim.strategies.allocations import Allocations
from sim.strategies.fsdp_memory import FsdpMemory
from sim.strategies.terms import REFERENCE, SHARDED, TERMS

Walk = Callable[[Workload, ModelTree, Mesh], Ledger]


def with_reference(ledger: Ledger, workload: Workload, mesh: Mesh, walk: Walk) -> Ledger:
    """A rank's memory with the reference's copy, which is there all the time.

    Notes
    -----
    Its weights as the strategy keeps a model's, and what FSDP leaves gathered after a forward that
    no backward follows: the root unless that is resharded too, or all where nothing is. What its
    pass allocates is less than the backward that follows, and gone by then: not counted.

    Source: PyTorch, _runtime_utils.py, `_post_forward_reshard` ("Do not free the root's parameters
    in the post-forward"); _fsdp_state.py, `_lazy_init` (``post_forward_mesh_info = None``).
    """
    if workload.reference != "copy":
        return ledger
    job = reference_of(workload)
    tree = tree_of(job)
    size = walk(job, tree, mesh).peaks["init"].terms[TERMS[SHARDED].name]
    ranks, strategy = mesh.size("fsdp"), strategy_of(job)
    if strategy.fsdp_version and ranks > 1 and not strategy.replicates(job.parallelism):
        size += FsdpMemory(job, tree, ranks, len(tree.layers), Allocations([])).left_gathered
    return ledger.beside(TERMS[REFERENCE], size)
