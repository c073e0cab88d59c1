"""The device mesh: which rank does what, for every kind of parallelism at once.

Axes are ordered, outermost first, and the last varies fastest, so tensor-parallel groups are
neighbouring ranks and pipeline stages lie farthest apart. Experts see the same ranks in a second
view. Both are torchtitan's (``parallel_dims.py``); Megatron's default order nests the same way.
"""

from __future__ import annotations

from functools import lru_cache

from sim.mesh.groups import Groups
from sim.records import dataclass

#: pipeline stages, replicas, shards, parts of a sequence, parts of a matrix
AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
#: the same ranks as experts see them: `efsdp` shards an expert's weights, `ep` spreads experts
EXPERT_AXES = ("pp", "dp_replicate", "efsdp", "ep")
#: groups over several axes at once
FLATTENED = {
    "fsdp": ("dp_shard", "cp"),  # parameters are sharded over both
    "data": ("dp_replicate", "dp_shard"),  # ranks that read different sequences
    "loss": ("dp_replicate", "dp_shard", "cp"),  # ranks that hold different tokens
    "world": AXES,
}


@dataclass(frozen=True, slots=True)
class Mesh:
    """Sizes of every axis; groups and ranks come from them.

    Attributes
    ----------
    pp, dp_replicate, dp_shard, cp, tp : int
        Ranks along each axis of `AXES`. [1]
    ep : int
        Ranks that experts are spread over: a divisor of ``dp_shard * cp * tp``. [1]
    gpus_per_node : int, optional
        GPUs of one node; None where all ranks are in one. [1]

    Raises
    ------
    ValueError
        If a size is below 1 or `ep` or `gpus_per_node` divides nothing.
    """

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1
    gpus_per_node: int | None = None

    def __post_init__(self) -> None:
        for axis in (*AXES, "ep"):
            if getattr(self, axis) < 1:
                msg = f"{axis} of {getattr(self, axis)} is not at least 1"
                raise ValueError(msg)
        inner = self.dp_shard * self.cp * self.tp
        if inner % self.ep:
            msg = f"ep of {self.ep} does not divide dp_shard x cp x tp = {inner} ranks"
            raise ValueError(msg)
        if self.gpus_per_node is not None and (
            self.gpus_per_node < 1 or self.world % self.gpus_per_node
        ):
            msg = f"{self.world} ranks do not fill nodes of {self.gpus_per_node}"
            raise ValueError(msg)

    @property
    def efsdp(self) -> int:
        """Ranks that an expert's weights are sharded over."""
        return self.dp_shard * self.cp * self.tp // self.ep

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.pp * self.dp_replicate * self.dp_shard * self.cp * self.tp

    @property
    def data_parallel(self) -> int:
        """Ranks along the axes that read different sequences."""
        return self.dp_replicate * self.dp_shard

    def groups(self, *names: str) -> Groups:
        """Groups along axes (or flattened axes) taken together.

        Parameters
        ----------
        names : str
            Of `AXES`, of `EXPERT_AXES` or of `FLATTENED`; ``node`` is the ranks of one node.

        Raises
        ------
        ValueError
            If a name is unknown, or the two views are mixed.
        """
        return _groups(self, names)

    def size(self, *names: str) -> int:
        """Ranks in one group of `groups`."""
        return self.groups(*names).size


@lru_cache(maxsize=1024)
def _groups(mesh: Mesh, names: tuple[str, ...]) -> Groups:
    if names == ("node",):
        return mesh.groups("world").inner(mesh.gpus_per_node or mesh.world)
    axes = {axis for name in names for axis in FLATTENED.get(name, (name,))}
    view = AXES if axes <= set(AXES) else EXPERT_AXES
    strange = axes - set(view)
    if strange:
        msg = f"{', '.join(sorted(strange))}: not of the axes {', '.join(view)}"
        raise ValueError(msg)
    return Groups.along((getattr(mesh, axis), axis in axes) for axis in view)
