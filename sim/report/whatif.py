"""What a collective gives on many variants of a machine, in one table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sim.fabric.compiled import compile_fabric
from sim.inputs.loader import load_topology
from sim.report.collectives import CSV_COLUMNS, Sweep, meaning_of, row_of, sweep, to_dict
from sim.study.axes import Axis, Study


class Variants(NamedTuple):
    """Sweeps over sizes, one for each variant."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    sweeps: tuple[Sweep, ...]


def variants(
    topology: str,
    axes: Sequence[Axis],
    overrides: Iterable[str],
    op: str,
    sizes: Sequence[int],
    nccl: str,
    ranks: int | None = None,
    algorithm: str | None = None,
    protocol: str | None = None,
) -> Variants:
    """Cost of an operation on every combination of the axes' values.

    Raises
    ------
    InputError
        If a variant is no machine.
    """
    study = Study("collective", topology, axes=tuple(axes))
    values, sweeps = [], []
    for changes in study.points():
        sets = [*overrides, *(f"{key}={value}" for key, value in changes.items())]
        fabric = compile_fabric(load_topology(topology, sets))
        sweeps.append(sweep(fabric, op, sizes, nccl, ranks, algorithm, protocol))
        values.append(tuple(_short(str(value)) for value in changes.values()))
    return Variants(study.keys, tuple(values), tuple(sweeps))


def _short(value: str) -> str:
    """``{kind: fat-tree, oversubscription: 4}`` without its braces."""
    return value.strip().removeprefix("{").removesuffix("}")


def rendered(found: Variants, form: str) -> str:
    """Text in one of the formats table, csv, json, md; one line for each variant and size."""
    if form == "json":
        return json.dumps(_to_dict(found), indent=2)
    lines = [
        (values, s, cost)
        for values, s in zip(found.values, found.sweeps, strict=True)
        for cost in s.costs
    ]
    if form == "csv":
        head = [*found.keys, *CSV_COLUMNS]
        cells = [[*(f'"{v}"' if "," in v else v for v in vs), *row_of(c)] for vs, _, c in lines]
        return "\n".join(",".join(row) for row in [head, *cells])
    head = [*found.keys, "GPUs", "size (B)", "time (us)", "busbw", "limit*", "algorithm",
            "held back by"]  # fmt: skip
    table = []
    for values, s, cost in lines:
        size, time, _, bus, algorithm, _, _, limit = row_of(cost)
        wire = f"{cost.limit_busbw_bytes_per_s / 1e9:.1f}"
        table.append([*values, str(s.ranks), size, time, bus, wire, algorithm, limit])
    numbers = range(len(found.keys), len(found.keys) + 5)
    if form == "md":
        rule = ["---:" if i in numbers else "---" for i in range(len(head))]
        return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *table])
    widths = [max(len(row[i]) for row in [head, *table]) for i in range(len(head))]
    text = [
        "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *table]
    ]
    first = found.sweeps[0]
    title = f"{first.fabric.topology.name}: {first.op}, NCCL {first.nccl}"
    note = (
        f"busbw, limit in GB/s (1e9). size: {meaning_of(first.op)}. "
        "limit*: busbw if the tightest link ran at its data-sheet rate."
    )
    return "\n".join([title, "", *text, "", note])


def _to_dict(found: Variants) -> dict[str, Any]:
    return {
        "schema": "scaling-sim/collective-variants/1",
        "variants": [
            {"changes": dict(zip(found.keys, values, strict=True)), **to_dict(s)}
            for values, s in zip(found.values, found.sweeps, strict=True)
        ],
    }
