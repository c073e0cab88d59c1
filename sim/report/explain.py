"""`scaling-sim explain` as text, JSON, CSV or Markdown."""

from __future__ import annotations

from sim.report.quantities import count, duration, gib
from sim.result.explain import PARTS, MethodComparison, MethodCost


def formatted(found: MethodComparison, form: str) -> str:
    """Any of the formats that the verb offers."""
    if form == "json":
        return found.to_json()
    costs = found.methods
    rows = _rows(costs)
    if form == "csv":
        return "\n".join(",".join(row) for row in rows)
    if form == "md":
        rule = "|" + "---|" * len(rows[0])
        body = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([body[0], rule, *body[1:]])
    width = max(len(row[0]) for row in rows)
    lines = [found.title, ""]
    for row in rows:
        lines.append(f"  {row[0]:<{width}}" + "".join(f"{cell:>14}" for cell in row[1:]))
    return "\n".join([*lines, "", *_answer(costs)])


def _rows(costs: tuple[MethodCost, ...]) -> list[list[str]]:
    rows = [["seconds of a step", *(c.name for c in costs)]]
    for part in PARTS:
        if any(abs(c.parts[part]) >= 5e-5 for c in costs):
            rows.append([part, *(f"{c.parts[part]:.3f}" for c in costs)])
    rows.append(["step", *(f"{c.step_s:.3f}" for c in costs)])
    rows.append(["gathered a GPU [GB]", *(f"{c.gathered_bytes / 1e9:.1f}" for c in costs)])
    rows.append(["reduced a GPU [GB]", *(f"{c.reduced_bytes / 1e9:.2f}" for c in costs)])
    rows.append(["memory a GPU", *(gib(c.memory_bytes) for c in costs)])
    rows.append(["trainable", *(count(c.trainable) for c in costs)])
    return rows


def _answer(costs: tuple[MethodCost, ...]) -> list[str]:
    full = costs[0]
    lines = []
    for cost in costs[1:]:
        ratio = full.step_s / cost.step_s
        word = "as fast as" if abs(ratio - 1) < 0.005 else f"{ratio:.2f} x as fast as"
        lines.append(f"  {cost.name} is {word} the full fine-tune ({duration(cost.step_s)} a step)")
        change = {part: cost.parts[part] - full.parts[part] for part in PARTS}
        gone = sorted((v, k) for k, v in change.items() if v < -0.005 * full.step_s)
        more = sorted(((v, k) for k, v in change.items() if v > 0.005 * full.step_s), reverse=True)
        for word, found in (("saves", gone), ("adds", more)):
            if found:
                text = ", ".join(f"{name} {duration(abs(value))}" for value, name in found)
                lines.append(f"    {word}: {text}")
        stays = sum(
            full.parts[part]
            for part in ("forward products", "recomputed products", "input gradients", "attention")
        )
        lines.append(
            f"    stays: products of the frozen base and attention, {duration(stays)}; "
            f"{cost.gathered_bytes / 1e9:.1f} of {full.gathered_bytes / 1e9:.1f} GB gathered"
        )
    return lines
