"""Write the tables of docs/axes.md and docs/schedules.md that compare layouts of one job.

python scripts/layout_tables.py                  print all of them
python scripts/layout_tables.py 70b              one of them: 70b, 405b, long, experts
python scripts/layout_tables.py --write [70b]    into the page, between its marks
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import marked

import sim
from sim.quantities import gib, percent
from sim.result.result import Result
from sim.step.shares import bubble_s

DOCS = Path(__file__).parents[1] / "docs"
TORCHTITAN = ("parallelism.strategy=fsdp2", "parallelism.wrap=torchtitan")


class Layout(NamedTuple):
    """A row: what it is called, and the keys that make it."""

    name: str
    micro_steps: int
    sets: tuple[str, ...]
    cells: tuple[str, ...] = ()  # before the name


class Table(NamedTuple):
    """Layouts of one job on one machine."""

    page: str
    machine: str
    job: str
    sets: tuple[str, ...]
    columns: tuple[str, ...]
    layouts: tuple[Layout, ...]
    cells: tuple[str, ...] = ()  # heads of the columns before the name


def axes(**degrees: int | str) -> tuple[str, ...]:
    """Keys of `parallelism`."""
    return tuple(f"parallelism.{key}={value}" for key, value in degrees.items())


def _interleaved(**degrees: int) -> tuple[str, ...]:
    return axes(pipeline_schedule="interleaved-1f1b", virtual_stages=2, **degrees)


def _experts(gpus: int, sequences: int, name: str, *sets: str) -> Layout:
    sets = (f"nodes={gpus // 8}", f"micro_batch={sequences}", *sets)
    return Layout(name, 1, sets, (str(gpus), str(sequences)))


_DEGREES = {n: axes(expert_parallel=n) for n in (1, 4, 8, 16)}
TABLES: Mapping[str, Table] = {
    "70b": Table(
        "axes.md", "dgx-h100", "llama3-70b-full",
        ("nodes=8", "sequence_length=8192", "micro_batch=1", "loss=chunked", *TORCHTITAN),
        ("micro-steps", "step", "MFU", "needs", "exposed", "bubble"),
        (
            Layout("FSDP2 over 64", 4, ()),
            Layout("HSDP: 2 x FSDP2 over 32", 4, axes(replicate=2)),
            Layout("TP 8, FSDP2 over 8", 32, axes(tensor_parallel=8)),
            Layout("PP 4 interleaved, FSDP2 over 16", 16, _interleaved(pipeline_parallel=4)),
            Layout("TP 8, PP 4 interleaved, FSDP2 over 2", 128,
                   _interleaved(tensor_parallel=8, pipeline_parallel=4)),
        ),
    ),
    "405b": Table(
        "axes.md", "dgx-h100", "llama3-405b-54-days",
        ("nodes=64", "parallelism.context_parallel=1", *TORCHTITAN),
        ("micro-steps", "step", "MFU", "needs", "exposed", "bubble"),
        (
            Layout("FSDP2 over 512", 1, ()),
            Layout("CP 8, FSDP2 over 512", 8, axes(context_parallel=8)),
            Layout("TP 8, FSDP2 over 64", 8, axes(tensor_parallel=8)),
            Layout("TP 8, PP 4, FSDP2 over 16", 32, axes(tensor_parallel=8, pipeline_parallel=4)),
            Layout("TP 8, PP 8, FSDP2 over 8", 64, axes(tensor_parallel=8, pipeline_parallel=8)),
            Layout("TP 8, PP 16, FSDP2 over 4", 128, axes(tensor_parallel=8, pipeline_parallel=16)),
            Layout("TP 8, PP 16 interleaved, FSDP2 over 4", 128,
                   _interleaved(tensor_parallel=8, pipeline_parallel=16)),
        ),
    ),
    "long": Table(
        "axes.md", "dgx-h100", "llama3-70b-full",
        ("nodes=8", "sequence_length=131072", "micro_batch=1", "loss=chunked", *TORCHTITAN),
        ("micro-steps", "step", "MFU", "needs", "exposed"),
        (
            Layout("FSDP2 over 64", 1, ()),
            Layout("CP 4", 4, axes(context_parallel=4)),
            Layout("CP 8, ring", 8, axes(context_parallel=8)),
            Layout("CP 8, keys and values gathered", 8,
                   axes(context_parallel=8, context_parallel_kind="all-gather")),
            Layout("CP 8, ulysses", 8, axes(context_parallel=8, context_parallel_kind="ulysses")),
            Layout("CP 8, ring without load balance", 8,
                   axes(context_parallel=8, context_parallel_load_balance="false")),
            Layout("CP 16, ring, over two nodes", 16, axes(context_parallel=16)),
            Layout("TP 8", 8, axes(tensor_parallel=8)),
            Layout("TP 8, CP 8", 64, axes(tensor_parallel=8, context_parallel=8)),
        ),
    ),
    "experts": Table(
        "schedules.md", "dgx-h100", "llama3-70b-full",
        ("model=qwen3-30b-a3b", "sequence_length=4096", "compile=true", "loss=chunked",
         *TORCHTITAN),
        ("step", "tokens/s/GPU", "MFU", "needs", "exposed", "of it all-to-all"),
        (
            _experts(8, 2, "EP 1", *_DEGREES[1]),
            _experts(8, 2, "EP 4", *_DEGREES[4]),
            _experts(8, 2, "EP 8", *_DEGREES[8]),
            _experts(8, 2, "EP 8, `imbalance: 1.5`", *_DEGREES[8], "routing.imbalance=1.5"),
            _experts(8, 1, "EP 1", *_DEGREES[1]),
            _experts(8, 1, "EP 8", *_DEGREES[8]),
            _experts(16, 2, "EP 1", *_DEGREES[1]),
            _experts(16, 2, "EP 4", *_DEGREES[4]),
            _experts(16, 2, "EP 8", *_DEGREES[8]),
            _experts(16, 2, "EP 8, `reduce_scatter_max_input_buffers: 2`",
                     *axes(expert_parallel=8, reduce_scatter_max_input_buffers=2)),
            _experts(16, 2, "EP 8, `replicate: 2`", *axes(expert_parallel=8, replicate=2)),
            _experts(16, 2, "EP 16", *_DEGREES[16]),
            _experts(16, 2, "EP 16, `expert_dispatch: deepep`",
                     *axes(expert_parallel=16, expert_dispatch="deepep")),
        ),
        ("GPUs", "sequences"),
    ),
}  # fmt: skip


def result_of(table: Table, layout: Layout) -> Result:
    """The run of a row."""
    steps = f"gradient_accumulation={layout.micro_steps}"
    return sim.simulate(table.machine, table.job, overrides=[*table.sets, steps, *layout.sets])


def cell(result: Result, layout: Layout, column: str) -> str:
    """What a column says of a run."""
    step = result.step
    if column == "micro-steps":
        return str(layout.micro_steps)
    if column == "step":
        return f"{step.time_s:.{1 if step.time_s >= 10 else 2}f} s"
    if column == "tokens/s/GPU":
        return f"{result.throughput.tokens_per_s_per_gpu:,.0f}"
    if column == "MFU":
        return percent(result.throughput.mfu, 1)
    if column == "needs":
        word = result.memory.verdict
        return gib(result.memory.needed_bytes) + {"fits": ""}.get(word, f", {word}")
    if column == "exposed":
        return percent(step.exposed_communication_s / step.time_s, 1)
    if column == "bubble":
        part = bubble_s(result.ranks) / step.time_s
    else:
        part = sum(s for what, s in step.exposed.items() if "all_to_all" in what) / step.time_s
    return percent(part, 1) if part else ""


def written(name: str) -> str:
    """A table in Markdown."""
    table = TABLES[name]
    lines = [
        [*table.cells, "layout", *table.columns],
        [*["---:"] * len(table.cells), "---", *["---:"] * len(table.columns)],
    ]
    for layout in table.layouts:
        result = result_of(table, layout)
        found = [cell(result, layout, column) for column in table.columns]
        lines.append([*layout.cells, layout.name, *found])
    return marked.table(lines)


def main(argv: list[str]) -> None:
    """Print the tables or write them into their pages."""
    for name in [a for a in argv if a in TABLES] or TABLES:
        text = written(name)
        if "--write" not in argv:
            sys.stdout.write(f"{name}\n\n{text}\n\n")
            continue
        page = DOCS / TABLES[name].page
        before = page.read_text(encoding="utf-8")
        page.write_text(marked.replaced(before, name, text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
