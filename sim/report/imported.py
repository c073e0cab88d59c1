"""`scaling-sim import`: what became of each key, and the workload file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sim.errors import brief
from sim.interop.imported import ImportedJob
from sim.report.view import Lines, Row, Table, View, ViewPart, left


def view(found: ImportedJob) -> View:
    """What `scaling-sim import` says: what became of the keys, and the file."""
    said = became(found)
    return View(said.title, [*said.sections, *written(found).sections], found)


def written(found: ImportedJob) -> View:
    """The workload file alone."""
    lines = found.yaml.rstrip().splitlines()
    return View("", [Lines(lines, indent=0, literal=True)], found)


def became(found: ImportedJob) -> View:
    """What became of each key."""
    took = [
        [_line(t["place"]), brief(": ".join(filter(None, (t["theirs"], t["value"])))),
         brief(f"{t['key']}: {t['ours']}")]
        for t in found.took
    ]  # fmt: skip
    assumed = [[f"{a['key']}: {a['ours']}", a["why"]] for a in found.assumed]
    matter = [a for a in found.aside if a["matters"]]
    aside = _grouped(a for a in found.aside if not a["matters"])
    sections: list[ViewPart] = [
        Table([left("line"), left("theirs"), left("ours", pad=False)], took, heading="  took"),
        Table([left("ours"), left("because", pad=False)], assumed,
              heading="  assumed, as no file says it"),
        Table([left("line"), left("theirs"), left("", pad=False)],
              [[_line(a["place"]), brief(a["theirs"]), brief(a["why"])] for a in matter],
              heading="  changes the run, and is not followed"),
        Table([left("because"), left("theirs", pad=False)], aside, heading="  ignored"),
        Lines(_said(found)),
    ]  # fmt: skip
    return View(f"{found.name}: {' and '.join(found.titles)}", sections, found)


def _grouped(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Keys by the reason that they count for nothing."""
    by: dict[str, list[str]] = {}
    for row in rows:
        by.setdefault(row["why"], []).append(brief(row["theirs"]))
    return [[why, ", ".join(dict.fromkeys(names))] for why, names in by.items()]


def _said(found: ImportedJob) -> list[str]:
    lines = []
    if found.gpus or found.nodes:
        nodes = f" on {found.nodes} nodes" if found.nodes and found.nodes > 1 else ""
        lines.append(f"for {found.gpus or '?'} GPUs{nodes}")
    if found.missing:
        lines.append(
            f"no file says {', '.join(found.missing)}: add --set KEY=VALUE, or name the file that "
            "does"
        )
    return lines


def _line(place: str) -> str:
    """Name and line of a file."""
    return ":".join(place.rpartition("/")[2].split(":")[:2])
