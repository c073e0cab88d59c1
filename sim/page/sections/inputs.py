"""8: what went in, so that the same comes out: command, files, keys, hash."""

from __future__ import annotations

from collections.abc import Iterator

from sim.page.model import Dossier, Folded, PageSection, Piece, TextSource
from sim.report.view import Fact, Facts, Figures, Table, left


def section(dossier: Dossier) -> PageSection:
    """The inputs."""
    parts: list[Piece] = []
    if dossier.command:
        parts.append(TextSource("Command", dossier.command, open=True))
    facts = [Fact("document", dossier.view.document.schema)]
    for case in dossier.cases:
        name = f" of {case.label}" if case.label else ""
        facts.append(Fact(f"inputs{name}", f"SHA-256 {case.result.inputs_hash}"))
    if dossier.first is not None:
        facts.append(Fact("scaling-sim", dossier.first.result.model_version))
    parts.append(Facts(facts))
    parts += [TextSource(name, text, name) for name, text in dossier.files]
    parts += _keys(dossier)
    parts += [part for part in dossier.view.filled if isinstance(part, Figures)]
    lead = "The same inputs give the same bytes."
    return PageSection("inputs", "What went in", lead, parts)


def _keys(dossier: Dossier) -> Iterator[Folded]:
    """Every key of the first case; of the others those that differ from it."""
    columns = [left("key"), left("value"), left("from"), left("place")]
    known: dict[str, str] = {}
    for case in dossier.cases:
        if case.keys is None:
            continue
        head = f"{case.label}: keys that differ" if known else "Every key, and where it is from"
        rows = [
            [
                k.path,
                k.value,
                k.origin.kind,
                k.origin.place.rpartition("/")[2],
            ]  # a page is handed on
            for k in case.keys.keys
            if known.get(k.path) != k.value
        ]
        known = known or {k.path: k.value for k in case.keys.keys}
        yield Folded(head, [Table(columns, rows)])
