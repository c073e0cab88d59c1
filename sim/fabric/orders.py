"""In which order rings visit the ranks of one node.

NVSwitch makes every order equal; NVLink meshes are covered by Hamiltonian cycles, found greedily on
what earlier rings left over; PCIe trees are walked nearest neighbour first.
"""

from __future__ import annotations

from typing import cast

from sim.fabric import paths
from sim.fabric.shape import Shape

_MAX_CYCLES = 24  # per node; a mesh of 8 has 7 link-disjoint directed ones
_SEARCH_STEPS = 20_000  # backtracking steps before a further cycle is given up


def local_orders(shape: Shape, group: tuple[int, ...]) -> list[list[int]]:
    """Cyclic orders of local ranks inside a node, one per ring."""
    key = ("orders", group)
    found = shape.memo.get(key)
    if found is None:
        found = shape.memo[key] = _find_orders(shape, group)
    return cast("list[list[int]]", found)


def _find_orders(shape: Shape, group: tuple[int, ...]) -> list[list[int]]:
    if len(group) == 2 or paths.switched(shape, group):
        return [list(group)]
    return _nvlink_cycles(shape, group) or [_nearest_neighbour(shape, group)]


def _nvlink_cycles(shape: Shape, group: tuple[int, ...]) -> list[list[int]]:
    """Hamiltonian cycles over NVLinks, each taking one link of every hop it makes."""
    left: dict[tuple[int, int], int] = {}
    for a in group:
        for b in group:
            if a != b:
                links = paths.nvlink_links(shape, shape.gpus[a], shape.gpus[b])
                if links is not None and len(links) == 1:
                    left[a, b] = max(1, shape.links[links[0]].links)
    cycles: list[list[int]] = []
    while len(cycles) < _MAX_CYCLES:
        cycle = _hamiltonian(group, left)
        if cycle is None:
            break
        cycles.append(cycle)
        for hop in zip(cycle, cycle[1:] + cycle[:1], strict=True):
            left[hop] -= 1
    return cycles


def _hamiltonian(group: tuple[int, ...], left: dict[tuple[int, int], int]) -> list[int] | None:
    start, size = group[0], len(group)
    reach = {g: [b for b in group if left.get((g, b), 0) > 0] for g in group}
    if any(not r for r in reach.values()):
        return None
    for a, near in reach.items():
        # most links left first, then the next in order: keeps what remains regular
        ranked = sorted((-left[a, b], (group.index(b) - group.index(a)) % size, b) for b in near)
        reach[a] = [b for _, _, b in ranked]
    path, choices = [start], [iter(reach[start])]
    on_path = {start}
    for _ in range(_SEARCH_STEPS):
        step = next((b for b in choices[-1] if b not in on_path), None)
        if step is None:
            choices.pop()
            on_path.discard(path.pop())
            if not path:
                return None
            continue
        path.append(step)
        on_path.add(step)
        choices.append(iter(reach[step]))
        if len(path) == size:
            if start in reach[step]:
                return path
            choices[-1] = iter(())
    return None


def _nearest_neighbour(shape: Shape, group: tuple[int, ...]) -> list[int]:
    order, rest = [group[0]], list(group[1:])
    while rest:
        here = order[-1]

        def cost(b: int, here: int = here) -> tuple[int, float, int]:
            way = paths.gpu_way(shape, here, b)
            rate = min(shape.links[i].capacity for i, _ in way.loads if i < len(shape.links))
            return paths.CLASSES.index(way.path), -rate, (b - here) % len(shape.gpus)

        order.append(min(rest, key=cost))
        rest.remove(order[-1])
    return order
