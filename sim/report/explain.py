"""`scaling-sim explain`: a method's step part by part, and what it saves and adds."""

from __future__ import annotations

from sim.quantities import count, duration, gib
from sim.report.view import Cell, Column, Lines, Row, Table, View, ViewPart, borrowed, left, warned
from sim.result.explain import PARTS, MethodComparison, MethodCost


def view(found: MethodComparison) -> View:
    """What `scaling-sim explain` says."""
    costs = found.methods
    columns = [left("seconds of a step"), *(Column(c.name, width=12) for c in costs)]
    sections: list[ViewPart] = [
        Table(columns, _rows(costs), indent=2),
        Lines([*_unfit(costs), *_answer(costs)]),
        warned(found.warnings),
        borrowed(found.borrowed),
    ]
    return View(found.title, sections, found)


def _rows(costs: tuple[MethodCost, ...]) -> list[Row]:
    rows: list[Row] = [
        [part, *(_seconds(c.parts[part]) for c in costs)]
        for part in PARTS
        if any(abs(c.parts[part]) >= 5e-5 for c in costs)
    ]
    rows.append(["step", *(_seconds(c.step_s) for c in costs)])
    if any(c.gathered_bytes for c in costs):
        moved = [Cell(_gb(c.gathered_bytes), c.gathered_bytes, "B") for c in costs]
        rows.append(["gathered a GPU [GB]", *moved])
    if any(c.reduced_bytes for c in costs):
        moved = [Cell(_gb(c.reduced_bytes, 2), c.reduced_bytes, "B") for c in costs]
        rows.append(["reduced a GPU [GB]", *moved])
    return [
        *rows,
        ["memory a GPU", *(Cell(gib(c.memory_bytes), c.memory_bytes, "B") for c in costs)],
        ["verdict", *(c.verdict for c in costs)],
        ["trainable", *(Cell(count(c.trainable), c.trainable) for c in costs)],
    ]


def _gb(size: float, digits: int = 1) -> str:
    return f"{size / 1e9:.{digits}f}"


def _seconds(value: float) -> Cell:
    return Cell(f"{value:.3f}", value, "s")


def _unfit(costs: tuple[MethodCost, ...]) -> list[str]:
    """Which do not fit, so that their seconds are of no run there is."""
    return [
        f"{c.name} {c.verdict} "
        + (
            f"({gib(c.memory_bytes)} of {gib(c.capacity_bytes)})"
            if c.memory_bytes > c.capacity_bytes
            else "on the host"
        )
        + ": its times are as if it just ran"
        for c in costs
        if not c.fits
    ]


def _answer(costs: tuple[MethodCost, ...]) -> list[str]:
    full = costs[0]
    lines = []
    for cost in costs[1:]:
        ratio = full.step_s / cost.step_s
        word = "as fast as" if abs(ratio - 1) < 0.005 else f"{ratio:.2f} x as fast as"
        lines.append(f"{cost.name} is {word} the full fine-tune ({duration(cost.step_s)} a step)")
        change = {part: cost.parts[part] - full.parts[part] for part in PARTS}
        gone = sorted((v, k) for k, v in change.items() if v < -0.005 * full.step_s)
        more = sorted(((v, k) for k, v in change.items() if v > 0.005 * full.step_s), reverse=True)
        for word, found in (("saves", gone), ("adds", more)):
            if found:
                text = ", ".join(f"{name} {duration(abs(value))}" for value, name in found)
                lines.append(f"  {word}: {text}")
        stays = sum(
            full.parts[part]
            for part in ("forward products", "recomputed products", "input gradients", "attention")
        )
        line = f"  stays: products of the frozen base and attention, {duration(stays)}"
        if full.gathered_bytes:
            line += f"; {_gb(cost.gathered_bytes)} of {_gb(full.gathered_bytes)} GB gathered"
        lines.append(line)
    return lines
