"""What each constant that was set on whole runs does to fine-tuning rows, and on how many it rests.

    python bench/fit/ablation.py                 # print
    python bench/fit/ablation.py --write         # into docs/host.md, between its marks
    python bench/fit/ablation.py --only virtual  # constants whose name has that in it

Each constant in turn takes the value that it would have had if nobody had set it: nought, or that
of another machine. Beside the errors by group, mean / median of their size: how many rows of the
fine-tuning tables move by more than 1 % (fleets and models among them), and how many of the other
published runs. What rests on one fleet and one model is a guess about any other.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import marked
from host import moved
from training import forget

from sim.calibration.validate_finetune import GROUPS, machine_of
from sim.data import table
from sim.inputs.shares import batch_on
from sim.inputs.topology import Topology
from sim.published.finetune import finetune_rows
from sim.published.rows import MeasuredRow, training_rows
from sim.step.step import step

PAGE = Path(__file__).parents[2] / "docs" / "host.md"
MOVES = 0.01  # of a row's time
Path_ = tuple[str, ...]


class Ablation(NamedTuple):
    """A constant, and what it would be if nobody had set it."""

    name: str
    instead: str
    values: Mapping[Path_, float] = {}  # by data file and keys
    machine: Callable[[MeasuredRow], Topology] = lambda row: row.topology


def _faster(row: MeasuredRow) -> Topology:
    """Cores as fast as the constants' host."""
    return moved(row.topology, 1.0)


def _usual_sockets(row: MeasuredRow) -> Topology:
    """Sockets of L40S machines linked as such CPUs are."""
    if machine_of(row) != "l40s-pcie":
        return row.topology
    node = row.topology.node
    cpu = node.cpu.model_copy(update={"interconnect": None})
    return row.topology.model_copy(update={"node": node.model_copy(update={"cpu": cpu})})


def _prices(*names: str) -> dict[Path_, float]:
    return {("constants/host", "prices", name): 0.0 for name in names}


def _eager(*names: str) -> dict[Path_, float]:
    return {("constants/host", "eager", name): 0.0 for name in names}


def _trainer(name: str) -> dict[Path_, float]:
    return {("trainers", "huggingface", name): 0.0}


def _retry(kind: str, seconds: float) -> dict[Path_, float]:
    return {("constants/memory", "retry_s", kind): seconds}


ABLATIONS = (
    Ablation("launch of a kernel, forward", "0", _eager("forward_s")),
    Ablation("launch of a kernel, backward", "0", _eager("backward_s")),
    Ablation("hooks: Python, operators, streams", "0", _prices("python", "operators", "streams")),
    Ablation("issuing a collective", "0", _prices("collectives")),
    Ablation(
        "cores of a rank's other threads", "0",
        {("constants/host", "threads", "background_cores"): 0.0},
    ),
    Ablation("speed of cores beside A100 SXM 0.46", "1", machine=_faster),
    Ablation("sockets of L40S machines", "data sheet", machine=_usual_sockets),
    Ablation("Trainer, a micro-step", "0", _trainer("micro_step_s")),
    Ablation("Trainer, a step", "0", _trainer("step_s")),
    Ablation("Trainer, a sample", "0", _trainer("sample_s")),
    Ablation(
        "ranks' hosts differ by 1.8 ms a unit (A100)", "0.2",
        {("constants/variation", "unit_s", "a100"): 0.2e-3},
    ),
    Ablation("boards differ by 3 %", "0", {("constants/variation", "board", "share"): 0.0}),
    Ablation(
        "kernels slower beside collectives", "0",
        {("constants/kernels", "interference", "compute_loss"): 0.0},
    ),
    Ablation(
        "collectives over PCIe take 0.35 of the SMs", "0",
        {("constants/kernels", "interference", "bus_share"): 0.0},
    ),
    Ablation("a failed allocation, A100 18 ms", "4 ms", _retry("a100", 4e-3)),
    Ablation("a failed allocation, Hopper 4 ms", "18 ms", _retry("h100", 18e-3)),
    Ablation("a failed allocation, virtual 0.1 s", "18 ms", _retry("virtual", 18e-3)),
    Ablation(
        "holes that kept gradients leave", "0", {("constants/memory", "fragmentation_kept"): 0.0}
    ),
    Ablation("fragmentation", "0", {("constants/memory", "fragmentation"): 0.0}),
)  # fmt: skip


@contextmanager
def instead(values: Mapping[Path_, float]) -> Iterator[None]:
    """Some constants with other values."""
    kept: list[tuple[dict[str, Any], str, Any]] = []
    for (file, *keys, last), value in values.items():
        part = table(file)
        for key in keys:
            part = part[key]
        kept.append((part, last, part[last]))
        part[last] = value
    forget()
    try:
        yield
    finally:
        for part, last, value in kept:
            part[last] = value
        forget()


def times(rows: list[MeasuredRow], of: Callable[[MeasuredRow], Topology]) -> list[float]:
    """Step time of each row. [s]"""
    return [step(of(row), row.workload).time_s for row in rows]


def sizes(rows: list[MeasuredRow], predicted: list[float]) -> dict[str, str]:
    """Mean / median of |error of the speed| of each group. [%]"""
    errors = [
        100.0 * abs(batch_on(r.workload).tokens_per_rank / r.tokens_per_s_per_gpu / t - 1.0)
        for r, t in zip(rows, predicted, strict=True)
    ]
    found = {}
    groups: dict[str, Callable[[MeasuredRow], bool]] = {"all": lambda _: True, **GROUPS}
    for name, of in groups.items():
        mine = [e for r, e in zip(rows, errors, strict=True) if r.group == "finetune" and of(r)]
        found[name] = f"{statistics.fmean(mine):.1f} / {statistics.median(mine):.1f}"
    return found


def rests_on(rows: list[MeasuredRow], before: list[float], after: list[float]) -> tuple[str, str]:
    """Rows that move, and the fleets and models among them."""
    mine = [r for r, a, b in zip(rows, before, after, strict=True) if abs(b / a - 1.0) > MOVES]
    fleets = {machine_of(r) if r.group == "finetune" else r.group for r in mine}
    return str(len(mine)), f"{len(fleets)}, {len({r.workload.model.name for r in mine})}"


def rows_of_table(only: str) -> Iterator[list[str]]:
    """A row a constant."""
    tuning = [r for r in finetune_rows() if r.status == "complete"]
    others = [r for r in training_rows() if r.status == "complete" and r.tokens_per_s_per_gpu]

    def own(row: MeasuredRow) -> Topology:
        return row.topology

    before, elsewhere = times(tuning, own), times(others, own)
    whole = sizes(tuning, before)
    yield ["constant", "instead", *whole, "rows that move", "fleets, models", "other runs"]
    yield ["as shipped", "", *whole.values(), "", "", ""]
    for a in ABLATIONS:
        if only not in a.name:
            continue
        with instead(a.values):
            after, there = times(tuning, a.machine), times(others, own)
        moves, on = rests_on(tuning, before, after)
        yield [
            a.name, a.instead, *sizes(tuning, after).values(), moves, on,
            rests_on(others, elsewhere, there)[0],
        ]  # fmt: skip


def main() -> None:
    """Print the table or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="constants whose name has that in it")
    parser.add_argument("--write", action="store_true", help="into docs/host.md")
    args = parser.parse_args()
    head, *rows = rows_of_table(args.only)
    text = marked.table([head, ["---", "---", *["---:"] * (len(head) - 2)], *rows])
    sys.stdout.write(text + "\n")
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(marked.replaced(page, "ablation", text), encoding="utf-8")


if __name__ == "__main__":
    main()
