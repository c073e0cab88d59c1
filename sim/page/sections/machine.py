"""5: the machine, its links coloured by use."""

from __future__ import annotations

from collections.abc import Sequence

from sim.page.charts.machine import machine_chart
from sim.page.model import Case, Dossier, PageSection, Piece
from sim.units import show


def section(dossier: Dossier) -> PageSection | None:
    """The machines that were looked at."""
    return drawn(dossier.cases)


def drawn(cases: Sequence[Case]) -> PageSection | None:
    """The machines of some cases, each once."""
    fabrics = {c.fabric.topology.name: c.fabric for c in cases if c.fabric is not None}
    if not fabrics:
        return None
    parts: list[Piece] = []
    said = []
    for name, fabric in fabrics.items():
        chart = machine_chart(fabric)
        several = len(fabrics) > 1
        parts.append(chart._replace(title=name, name=f"machine-{name}") if several else chart)
        rings = fabric.rings(range(fabric.n_ranks))
        limit = fabric.bottleneck(rings.load)
        if limit >= 0:
            rate = show(fabric.bandwidth(rings.load), "B/s")
            said.append(
                f"{'On ' + name + ' a' if several else 'A'} ring over all {fabric.n_ranks} GPUs "
                f"gives {rate}; {fabric.name(limit)} is what holds it."
            )
    lead = " ".join(said) or "One GPU: nothing to communicate with."
    return PageSection("machine", "The machine", lead, parts)
