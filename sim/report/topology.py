"""A machine: its tree, path classes as nvidia-smi topo -m, links, bisection, rank classes."""

from __future__ import annotations

from sim import units
from sim.fabric.describe import LinkClass, MachineDescription
from sim.quantities import counted
from sim.report.view import Cell, Column, Fact, Facts, Lines, Row, Table, View, ViewPart, left


def view(found: MachineDescription) -> View:
    """What `scaling-sim topo show` says."""
    names, cells = found.matrix.names, found.matrix.classes
    short = [name.removeprefix("n0/") for name in names]
    width = max(map(len, [*short, "NV18"])) + 1
    matrix = Table(
        [left(width=width), *(Column(name, width=width, before="") for name in short)],
        [[name, *row] for name, row in zip(short, cells, strict=True)],
        indent=0,
    )
    hidden = found.gpus > sum(n.rpartition("/")[2].startswith("gpu") for n in names)
    note = ["(equal nodes once; between nodes all paths are NET)"] if hidden else []
    columns = [
        left("links, each way", width=32), Column("count", before=""),
        Column("effective", width=12, before=" "), Column("raw", width=12, before=" "),
    ]  # fmt: skip
    parts: list[ViewPart] = [
        Lines(found.tree, indent=0, literal=True), matrix, Lines(note, indent=0, apart=False),
        Table(columns, [_link(link) for link in found.links], indent=0),
        Facts(_facts(found), indent=0, gap=3), Lines(_alike(found), list=True, apart=False),
    ]  # fmt: skip
    return View(
        f"{found.name}: {counted(found.gpus, 'GPU')} in {counted(found.nodes, 'node')}",
        parts,
        found,
    )


def _link(link: LinkClass) -> Row:
    bundle = f" x{link.links}" if link.links else ""
    return [
        f"{link.between} {link.kind}{bundle}", Cell(f"{link.count:g}", link.count),
        _rate(link.bytes_per_s), _rate(link.raw_bytes_per_s),
    ]  # fmt: skip


def _rate(rate: float) -> Cell:
    return Cell(units.show(rate, "B/s"), rate, "B/s")


def _facts(found: MachineDescription) -> list[Fact]:
    facts = [Fact("bisection", f"{units.show(found.bisection_bytes_per_s, 'B/s')} one way")]
    rings = found.rings
    if rings.bus_bytes_per_s is not None:
        bus = units.show(rings.bus_bytes_per_s, "B/s")
        text = f"{bus} over {rings.count} rings, limit {rings.limit}"
        facts.append(Fact("ring bandwidth", text))
    return [*facts, Fact("rank classes", str(len(found.rank_classes)))]


def _alike(found: MachineDescription) -> list[str]:
    return [
        f"{len(ranks)} alike: " + ", ".join(map(str, ranks[:12])) + (", ..." * (len(ranks) > 12))
        for ranks in found.rank_classes[:8]
    ]
