"""Efficiency of a ring over nodes, ours beside measurements: table and plot for docs/network.md.

    python -m bench.network_scaling [--svg docs/network-scaling.svg]

Measured: bus bandwidth over the rate of a node's NICs, A100 and H100 machines of 8 GPUs and 8
RoCE NICs (aliyun/SimAI, astra-sim-alibabacloud/inputs/ratio, kept in
`sim/data/measured/network_efficiency.csv`).
The source names neither operation nor protocol. Ours: all-gather, as NCCL chooses.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from importlib.resources import files
from pathlib import Path

from sim.cost.collectives import plan_collective
from sim.fabric import compile_fabric
from sim.inputs.loader import load_topology

MACHINES = {"dgx-a100": 200e9, "dgx-h100": 400e9}  # B/s of a node's NICs
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2")
WIDTH, HEIGHT, LEFT, TOP = 720, 400, 60, 20


def measured() -> dict[int, dict[int, float]]:
    """Efficiency by bytes and nodes."""
    text = files("sim.data").joinpath("measured/network_efficiency.csv").read_text("utf-8")
    found: dict[int, dict[int, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        found.setdefault(int(row["bytes"]), {})[int(row["nodes"])] = float(row["efficiency"])
    return found


def ours(machine: str, size: int, nodes: int, protocol: str | None = None) -> float:
    """Bus bandwidth of an all-gather by ring over the rate of a node's NICs."""
    fabric = compile_fabric(load_topology(machine, [f"nodes={nodes}"]))
    cost = plan_collective(
        fabric, "all_gather", range(fabric.n_ranks), size, algorithm="ring", protocol=protocol
    )
    return cost.busbw_bytes_per_s / MACHINES[machine]


def name(size: int) -> str:
    """``64 MiB``."""
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


def table(rows: dict[int, dict[int, float]]) -> str:
    """Measured / ours on A100 / ours on H100, in Markdown."""
    nodes = list(next(iter(rows.values())))
    lines = ["| bytes | " + " | ".join(f"{n} nodes" for n in nodes) + " |"]
    lines.append("|---" * (len(nodes) + 1) + "|")
    for size, row in rows.items():
        cells = [
            f"{row[n]:.2f} / {ours('dgx-a100', size, n):.2f} / {ours('dgx-h100', size, n):.2f}"
            for n in nodes
        ]
        lines.append(f"| {name(size)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: dict[int, dict[int, float]]) -> str:
    """SVG: dots are measured, bands span our A100 and H100."""
    nodes = list(next(iter(rows.values())))

    def x(n: float) -> float:
        share = (math.log2(n) - math.log2(nodes[0])) / math.log2(nodes[-1] / nodes[0])
        return LEFT + share * (WIDTH - LEFT - 110)

    def y(share: float) -> float:
        return TOP + (1.0 - share) * (HEIGHT - TOP - 50)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        out.append(
            f'<line x1="{LEFT}" x2="{x(nodes[-1]):.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            'stroke="#ddd"/>'
        )
        out.append(
            f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.1f}</text>'
        )
    for n in nodes:
        out.append(f'<text x="{x(n):.1f}" y="{HEIGHT - 32}" text-anchor="middle">{n}</text>')
    middle = (LEFT + x(nodes[-1])) / 2
    out.append(f'<text x="{middle:.1f}" y="{HEIGHT - 10}" text-anchor="middle">nodes of 8</text>')
    out.append(f'<text x="{LEFT}" y="{TOP - 6}">bus bandwidth / NIC rate</text>')
    for (size, row), colour in zip(rows.items(), COLOURS, strict=True):
        sides = [[(x(n), y(ours(machine, size, n))) for n in nodes] for machine in MACHINES]
        around = " ".join(f"{a:.1f},{b:.1f}" for a, b in [*sides[0], *reversed(sides[1])])
        out.append(f'<polygon points="{around}" fill="{colour}" opacity="0.35"/>')
        for n, share in row.items():
            out.append(f'<circle cx="{x(n):.1f}" cy="{y(share):.1f}" r="3.5" fill="{colour}"/>')
    for i, (size, colour) in enumerate(reversed(list(zip(rows, COLOURS, strict=True)))):
        at = TOP + 14 + 18 * i
        out.append(f'<circle cx="{WIDTH - 92}" cy="{at - 4}" r="5" fill="{colour}"/>')
        out.append(f'<text x="{WIDTH - 82}" y="{at}">{name(size)}</text>')
    for i, words in enumerate(("dots: measured", "bands: ours,", "A100 to H100")):
        out.append(f'<text x="{WIDTH - 96}" y="{TOP + 140 + 16 * i}">{words}</text>')
    return "\n".join([*out, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    rows = measured()
    sys.stdout.write("measured / ours on DGX A100 / ours on DGX H100\n\n" + table(rows) + "\n")
    if options.svg is not None:
        options.svg.write_text(plot(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
