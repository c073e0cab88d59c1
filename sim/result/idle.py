"""Keys that somebody set for this run, and that change nothing in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.fabric import compile_fabric
from sim.inputs.base import Spec
from sim.inputs.notes import Message, Notes
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.step.step import step

#: keys of the ways between GPUs: whether one matters is known once NCCL's choices are
WAYS = (
    "node.pcie.p2p", "node.p2p_level", "node.nvlink.sharp", "node.nics.gpudirect",
    "node.nics.socket_threads", "node.cpu.interconnect", "network.sharp",
    "network.oversubscription", "network.placement", "network.routing", "network.tenants",
    "network.switch_latency",
)  # fmt: skip


def idle_keys(
    topology: Topology, workload: Workload, notes: Notes, step_s: float
) -> Iterator[Message]:
    """A warning for each way that was set on the command line and is not taken.

    Parameters
    ----------
    topology, workload : specs
        As run.
    notes : Notes
        Where values came from: what a file says of its machine is no wish.
    step_s : float
        Their step. [s]

    Notes
    -----
    A key is idle if its default gives the very same step.
    """
    for path in WAYS:
        if notes.origin(f"topology.{path}").kind != "override":
            continue
        other = _with_default(topology, path.split("."))
        if other is None or other == topology or step(other, workload).time_s != step_s:
            continue
        message = (
            f"{path} changes nothing in this step: no collective or copy is slower or faster for it"
        )
        hint = "leave it out"
        if path == "node.pcie.p2p" and (meet := compile_fabric(topology).meeting_place()):
            message = f"{path} changes nothing in this step: its GPUs meet {meet}"
            hint = "node.p2p_level is how far NCCL goes: LOC, PIX, ..., SYS (NCCL_P2P_LEVEL)"
        yield Message("idle-key", f"topology.{path}", message, hint)


def _with_default(spec: Any, keys: list[str]) -> Any:
    """A copy in which a key has its default; None where a part of the path is not there."""
    if not isinstance(spec, Spec):
        return None
    key, *rest = keys
    value: Any = type(spec).model_fields[key].default
    if rest:
        value = _with_default(getattr(spec, key), rest)
        if value is None:
            return None
    return spec.model_copy(update={key: value})
