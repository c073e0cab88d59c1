"""5: the machine, its links coloured by use."""

from __future__ import annotations

from collections.abc import Sequence

from sim.page.charts.machine import RingLoad, machine_chart
from sim.page.model import Case, Dossier, PageSection, Piece
from sim.units import show


def section(dossier: Dossier) -> PageSection | None:
    """The machines that were looked at."""
    return drawn(dossier.cases)


def drawn(cases: Sequence[Case], editable: bool = False) -> PageSection | None:
    """The machines of some cases, each once; `editable`: a script changes parts of the last."""
    fabrics = {
        c.fabric.topology.name: (c.fabric, c.capacity) for c in cases if c.fabric is not None
    }
    if not fabrics:
        return None
    parts: list[Piece] = []
    said = []
    for name, (fabric, capacity) in fabrics.items():
        found = RingLoad.of(fabric, capacity)
        chart = machine_chart(found, editable and name == list(fabrics)[-1])
        several = len(fabrics) > 1
        parts.append(chart._replace(title=name, name=f"machine-{name}") if several else chart)
        if found.tightest:
            rate = show(found.bytes_per_s, "B/s")
            said.append(
                f"{'On ' + name + ' a' if several else 'A'} ring over all {fabric.n_ranks} GPUs "
                f"gives {rate}; {found.tightest} is what holds it."
            )
    lead = " ".join(said) or "One GPU: nothing to communicate with."
    return PageSection("machine", "The machine", lead, parts)
