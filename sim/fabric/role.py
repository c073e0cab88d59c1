"""What a rank is: its GPU and host, the pipeline stage it runs and its share of a block."""

from __future__ import annotations

from sim.inputs.gpu import Gpu
from sim.inputs.topology import Cpu, Storage
from sim.records import NamedTuple


class Host(NamedTuple):
    """The node around a GPU, as far as a rank's own work draws on it."""

    gpus: int  # that share it
    cpu: Cpu
    storage: Storage


class Share(NamedTuple):
    """Part of a block's work that a rank does: one of so many equal parts."""

    tensor: int = 1
    context: int = 1
    expert: int = 1


class Role(NamedTuple):
    """What ranks have in common that run the same plan at the same cost.

    Ranks of one role may still differ in links, and so in the class they are folded into.
    """

    gpu: Gpu
    host: Host
    stage: int = 0
    share: Share = Share()


class Roles(NamedTuple):
    """The roles on a machine, in order of first appearance, and which one each rank has."""

    roles: tuple[Role, ...]
    of: tuple[int, ...]  # (n_ranks,) index into `roles`
