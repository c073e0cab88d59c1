"""A node with its network: devices in rows, links coloured by how full a ring keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx
import numpy as np
import numpy.typing as npt

from sim.fabric import Fabric
from sim.page.charts.canvas import Canvas, Chart, LegendKey
from sim.quantities import percent
from sim.records import NamedTuple
from sim.units import show

F8 = npt.NDArray[np.float64]

ROWS = ("spine", "leaf", "nic", "cpu", "pcie-switch", "gpu", "nvswitch")
_STEPS = (0.25, 0.5, 0.75, 0.995)  # upper ends of the shades of use
_TITLES = ("under 25 %", "25 to 50 %", "50 to 75 %", "75 to 99 %", "full")
_STEP, _BOX = 66.0, 26.0


class RingLoad(NamedTuple):
    """A machine while a ring over all its ranks runs at full speed.

    Attributes
    ----------
    fabric : Fabric
        As built.
    share : mapping of int to float
        What each link gives of its rate as built, where that is not all. [1]
    use : mapping of int to float
        Share of its rate that each resource gives to the ring. [1]
    bytes_per_s : float
        Of the ring. [B/s]
    tightest : str
        The link that holds it; empty where there is none.
    """

    fabric: Fabric
    share: Mapping[int, float]
    use: Mapping[int, float]
    bytes_per_s: float
    tightest: str

    @classmethod
    def of(cls, fabric: Fabric, capacity: F8 | None = None) -> RingLoad:
        """A machine, of whose links some may give less than they should."""
        given = fabric.capacity if capacity is None else capacity
        slow = np.flatnonzero(given != fabric.capacity)
        share = dict(zip(slow.tolist(), (given / fabric.capacity)[slow].tolist(), strict=True))
        load = fabric.rings(range(fabric.n_ranks)).load
        rate, limit = fabric.bandwidth(load, given), fabric.bottleneck(load, given)
        use = np.minimum(load.demand * rate / given[load.resource], 1.0)
        known = dict(zip(load.resource.tolist(), use.tolist(), strict=True))
        return cls(fabric, share, known, rate, fabric.name(limit) if limit >= 0 else "")


def machine_chart(found: RingLoad, editable: bool = False) -> Chart:
    """The first node of a machine and what joins it to others.

    Parameters
    ----------
    found : RingLoad
        The machine.
    editable : bool
        Parts carry their names, for a script that changes them.
    """
    fabric, use = found.fabric, found.use
    graph = fabric.graph()
    near = _near(graph)
    rows = [
        {"from": a, "to": b, "kind": d["kind"],
         "bytes_per_s": d["bandwidth"] * found.share.get(d["resource"], 1.0),
         "use": use.get(d["resource"], 0.0)}
        for a, b, d in graph.edges(data=True) if a in near and b in near
    ]  # fmt: skip
    used = sorted({_shade(row["use"]) for row in rows if row["use"] > 0.0})
    legend = [LegendKey(f"u{k}-key", _TITLES[k]) for k in used] + [
        LegendKey("u-key", "not on the ring")
    ]
    summary = "A node's devices and links" + (
        f"; the tightest link of a ring over all GPUs is {found.tightest}" if found.tightest else ""
    )
    more = fabric.n_nodes - 1
    note = "Use is that of each link's own rate while a ring over all GPUs runs at full speed."
    if more:
        note += f" One of {fabric.n_nodes} nodes is drawn."
    return Chart(
        "machine", "The machine", summary,
        lambda width: _drawn(width, graph, near, found, summary, editable), rows, legend, note,
    )  # fmt: skip


def _near(graph: nx.DiGraph[str]) -> dict[str, int]:
    """Row of every device of the first node, the switches at its NICs, and those beyond."""
    found = {
        name: ROWS.index(d["kind"]) for name, d in graph.nodes(data=True) if d.get("node") == 0
    }
    nics = [name for name, row in found.items() if ROWS[row] == "nic"]
    leaves = {b for a in nics for b in graph.successors(a) if graph.nodes[b]["kind"] == "switch"}
    beyond = {c for b in leaves for c in graph.successors(b) if graph.nodes[c]["kind"] == "switch"}
    found |= dict.fromkeys(sorted(leaves), 1)
    return found | dict.fromkeys(sorted(beyond - leaves), 0)


def _places(graph: nx.DiGraph[str], near: Mapping[str, int]) -> dict[str, float]:
    """Where a device stands in its row, 0 to 1: GPUs evenly, others above what they join."""
    places: dict[str, float] = {}
    by_row = [[name for name, r in near.items() if r == row] for row in range(len(ROWS))]
    for row in (5, 4, 3, 2, 1, 0, 6):
        names = by_row[row]
        for i, name in enumerate(names):
            below = [places[b] for b in graph.successors(name) if b in places and near[b] != row]
            even = (i + 0.5) / len(names)
            places[name] = even if row == 5 or not below else sum(below) / len(below)
        _apart(names, places)
    return places


def _apart(names: Sequence[str], places: dict[str, float]) -> None:
    """Devices that stand on one spot side by side."""
    alike: dict[float, list[str]] = {}
    for name in names:
        alike.setdefault(round(places[name], 4), []).append(name)
    room = 1.0 / max(len(names), 1)
    for place, group in alike.items():
        for i, name in enumerate(group):
            places[name] = place + room * (i - (len(group) - 1) / 2)


def _drawn(
    width: int, graph: nx.DiGraph[str], near: Mapping[str, int], found: RingLoad, label: str,
    editable: bool,
) -> str:  # fmt: skip
    present = sorted(set(near.values()))
    top = {row: 18 + _STEP * i for i, row in enumerate(present)}
    height = 36 + _STEP * len(present) - (_STEP - _BOX)
    c = Canvas(width, height, label, "group" if editable else "img")
    places = _places(graph, near)
    gpus = max(sum(1 for r in near.values() if ROWS[r] == "gpu"), 1)
    box = min(88.0, 0.9 * width / gpus)

    def at(name: str) -> tuple[float, float]:
        return width * min(max(places[name], box / 2 / width), 1 - box / 2 / width), top[near[name]]

    for a, b, d in graph.edges(data=True):
        if a in near and b in near and a < b:
            each = [e["resource"] for e in (d, graph.edges.get((b, a), d))]
            used = max(found.use.get(e, 0.0) for e in each)
            given = min(found.share.get(e, 1.0) for e in each)
            said = f"{a} to {b}: {show(given * d['bandwidth'], 'B/s')}, {percent(used, 0)} used"
            said += f", {percent(given, 0)} of what it should give" if given < 1.0 else ""
            mark = f"link u{_shade(used)}" if used > 0.0 else "link u-"
            mark += " slow" if given < 1.0 else ""
            told = {"link": f"{a}<>{b}", "share": f"{given:.6g}"} if editable else {}
            _link(c, at(a), at(b), near[a] == near[b], mark, said, told, width)
    for name, row in near.items():
        x, y = at(name)
        wide = ROWS[row] in ("nvswitch", "spine")
        half = 0.46 * width if wide else box / 2 - 2
        middle = width / 2 if wide else x
        known = {"device": name, "kind": ROWS[row]} if editable else {}
        if editable and ROWS[row] == "gpu":
            known["rank"] = str(graph.nodes[name]["rank"])
        c.rect(middle - half, y, 2 * half, _BOX, f"device {ROWS[row]}", name, 5, known)
        short = name.rpartition("/")[2].replace("pcie", "PCIe ").replace("leaf", "leaf ")
        c.text(middle, y + 17.5, short if len(short) * 6.6 < 2 * half else "", "t", "middle")
    return c.svg()


def _link(
    c: Canvas, a: tuple[float, float], b: tuple[float, float], level: bool, mark: str, title: str,
    data: Mapping[str, str], width: float,
) -> None:  # fmt: skip
    (x1, y1), (x2, y2) = a, b
    if level:  # devices of one row: an arc below them
        deep = y1 + _BOX + 6 + 26 * abs(x2 - x1) / width
        c.path(f"M{x1:.1f} {y1 + _BOX:.1f}Q{(x1 + x2) / 2:.1f} {deep:.1f} {x2:.1f} "
               f"{y2 + _BOX:.1f}", mark, title, data)  # fmt: skip
        return
    if y1 > y2:
        (x1, y1), (x2, y2) = b, a
    wide = "nvswitch" in title or "spine" in title
    x = x1 if "nvswitch" in title else x2  # a wide box is met where the other stands
    if wide:
        c.path(f"M{x:.1f} {y1 + _BOX:.1f}L{x:.1f} {y2:.1f}", mark, title, data)
    else:
        c.path(f"M{x1:.1f} {y1 + _BOX:.1f}L{x2:.1f} {y2:.1f}", mark, title, data)


def _shade(share: float) -> int:
    return sum(share > step for step in _STEPS)
