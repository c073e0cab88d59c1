"""What launchers take for themselves: torchrun, accelerate launch, deepspeed and srun."""

from __future__ import annotations

import re

from sim.inputs.tree import Leaf
from sim.interop.trainers import accelerate
from sim.interop.trainers.keys import AUTO, Keys

#: a node of deepspeed's ``--include``, and the slots that are named on it
_NODE = re.compile(r"[\w.-]+:(\d+(?:,\d+)*)")
_OF_NODES = ("num_nodes", "nnodes", "nodes", "num_machines")


def elastic(launch: Keys) -> None:
    """What torchrun calls how many: MIN:MAX nodes, as many processes as there are GPUs.

    Source: torch/distributed/run.py, `parse_min_max_nnodes` and `determine_local_world_size`.
    """
    entries = launch.branch.entries
    if span := re.fullmatch(r"(\d+):(\d+)", launch.text("nnodes")):
        place, said = launch.place("nnodes"), launch.text("nnodes")
        known = span[1] if span[1] == span[2] else AUTO
        entries["nnodes"] = Leaf(known, place)
        if known == AUTO:
            launch.job.skip(place, "nnodes", f"{said}: as many nodes as come", True)
    for name in ("nproc_per_node", "nproc-per-node"):
        if launch.text(name).lower() == "gpu":
            entries[name] = Leaf(AUTO, launch.place(name))


def included(launch: Keys) -> None:
    """How many nodes, and GPUs of each, deepspeed's ``--include`` names.

    Source: deepspeed/launcher/runner.py, `parse_resource_filter`:
    ``worker-0:0,1@worker-1:0,1``; a node without slots takes part with all that it has.
    """
    if not (said := launch.text("include")):
        return
    nodes = [_NODE.fullmatch(node) for node in said.split("@")]
    slots = {len(set(node[1].split(","))) for node in nodes if node}
    if None in nodes or len(slots) > 1:
        launch.matters(f"{said}: how many GPUs of each node that is, say by --set", "include")
        return
    place = launch.place("include")
    for name, count in (("num_gpus", slots.pop()), ("num_nodes", len(nodes))):
        launch.branch.entries.setdefault(name, Leaf(str(count), place))


def settle(launch: Keys) -> None:
    """Take what else launchers are told, so that no trainer's reader is asked of it."""
    launch.put_count("stack.omp_num_threads", "num_cpu_threads_per_process")
    accelerate.compiler(launch)
    if launch.has("hostfile") and not (launch.has(*_OF_NODES) or launch.has("include")):
        launch.matters("its nodes are not read: say how many by --set nodes=", "hostfile")
    if "openrlhf" in launch.text("module"):
        launch.seen.discard("module")  # by which its reader knows the trainer
    launch.settle("launchers")
