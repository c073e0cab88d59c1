"""Which ranks form the groups that a plan's collectives name.

The device mesh is PyTorch's: the last dimension varies fastest, so a shard group is contiguous
ranks (within a node where it fits) and a replicate group is strided across them.
"""

from __future__ import annotations

Group = tuple[int, ...]


def groups_of(name: str, size: int, world: int) -> tuple[Group, ...]:
    """All sister groups of one kind, which run their collectives at the same time.

    Parameters
    ----------
    name : str
        ``replicate`` is strided; ``shard``, ``hpz``, ``subgroup:k``, ``context`` and ``world``
        are contiguous.
    size : int
        Ranks per group.
    world : int
        Ranks in all; a multiple of `size`.

    Returns
    -------
    tuple of tuple of int
        ``world // size`` groups.

    Raises
    ------
    ValueError
        If `size` does not divide `world`.
    """
    if size < 1 or world % size:
        msg = f"groups of {size} do not divide {world} ranks"
        raise ValueError(msg)
    count = world // size
    if name == "replicate":
        return tuple(tuple(range(first, world, count)) for first in range(count))
    return tuple(tuple(range(g * size, (g + 1) * size)) for g in range(count))
