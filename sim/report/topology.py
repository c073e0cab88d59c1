"""A machine as text."""

from __future__ import annotations

from sim import units
from sim.fabric.describe import MachineDescription


def text(facts: MachineDescription) -> str:
    """Laid out for a terminal."""
    lines = [f"{facts.name}: {facts.gpus} GPUs in {facts.nodes} nodes", ""]
    lines += facts.tree
    names, cells = facts.matrix.names, facts.matrix.classes
    short = [n.removeprefix("n0/") for n in names]
    width = max(map(len, [*short, "NV18"])) + 1
    lines += ["", " " * width + "".join(n.rjust(width) for n in short)]
    for name, row in zip(short, cells, strict=True):
        lines.append(name.ljust(width) + "".join(c.rjust(width) for c in row))
    if facts.gpus > sum(n.rpartition("/")[2].startswith("gpu") for n in names):
        lines.append("(equal nodes once; between nodes all paths are NET)")
    lines += ["", "links, each way".ljust(32) + "count    effective          raw"]
    for link in facts.links:
        label = f"{link.between} {link.kind}"
        if link.links:
            label += f" x{link.links}"
        effective = units.show(link.bytes_per_s, "B/s")
        raw = units.show(link.raw_bytes_per_s, "B/s")
        lines.append(f"{label:<32}{link.count:>5g} {effective:>12} {raw:>12}")
    rings = facts.rings
    lines += ["", f"bisection        {units.show(facts.bisection_bytes_per_s, 'B/s')} one way"]
    if rings.bus_bytes_per_s is not None:
        bus = units.show(rings.bus_bytes_per_s, "B/s")
        lines.append(f"ring bandwidth   {bus} over {rings.count} rings, limit {rings.limit}")
    lines.append(f"rank classes     {len(facts.rank_classes)}")
    for ranks in facts.rank_classes[:8]:
        few = ", ".join(map(str, ranks[:12])) + (", ..." if len(ranks) > 12 else "")
        lines.append(f"  {len(ranks)} alike: {few}")
    return "\n".join(lines)
