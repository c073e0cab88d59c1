"""Write the tables of docs/host.md: mechanisms by size on five jobs, and a series by GPUs.

python scripts/host_tables.py           # print
python scripts/host_tables.py --write   # into the page, between its marks
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import marked

from sim.calibration.validate_finetune import machine_of, method_of
from sim.cost.host import host_model, known_calls
from sim.data import table
from sim.inputs.shares import batch_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.published.finetune import finetune_rows
from sim.published.rows import MeasuredRow, training_rows
from sim.step.kept import forget
from sim.step.step import step

PAGE = Path(__file__).parents[1] / "docs" / "host.md"
Job = tuple[Topology, Workload]


def finetune(method: str, gpus: int, length: int, micro_batch: int) -> MeasuredRow:
    """Llama-3.1-8B on A100 SXM, accumulation 4."""
    return next(
        r for r in finetune_rows()
        if r.workload.model.name == "llama-3.1-8b" and method_of(r) == method and r.gpus == gpus
        and machine_of(r).startswith("a100-sxm") and r.workload.gradient_accumulation == 4
        and (r.workload.sequence_length, r.workload.micro_batch) == (length, micro_batch)
    )  # fmt: skip


def published(name: str) -> MeasuredRow:
    """A row of the training table."""
    return next(r for r in training_rows() if r.id == name)


JOBS: Mapping[str, Callable[[], MeasuredRow]] = {
    "8B full, 4 x A100, 512 tokens": lambda: finetune("full", 4, 512, 1),
    "8B LoRA, 4 x A100, 512 tokens": lambda: finetune("lora", 4, 512, 1),
    "8B LoRA, 1 x A100, 512 tokens": lambda: finetune("lora", 1, 512, 1),
    "8B full, 8 x A100, 4,096 tokens": lambda: finetune("full", 8, 4096, 1),
    "Qwen-7B LoRA, 1 x A100, 256 tokens": lambda: published("qwen:7B-LoRA-256"),
}


@contextmanager
def without(group: str, *names: str) -> Iterator[None]:
    """Some of host.toml's numbers as nought."""
    part = table("constants/host")[group]
    kept = dict(part)
    part.update(dict.fromkeys(names or part, 0.0))
    _forget()
    try:
        yield
    finally:
        part.update(kept)
        _forget()


def _forget() -> None:
    for known in (known_calls, host_model):
        known.cache_clear()
    forget()


def seconds(job: Job) -> float:
    """Time of a micro-step, the optimizer's share in it. [s]"""
    return step(*job).time_s / job[1].gradient_accumulation


def _fast(job: Job) -> Job:
    node = job[0].node
    assert node is not None
    cpu = node.cpu.model_copy(update={"speed": 1.0})
    return job[0].model_copy(update={"node": node.model_copy(update={"cpu": cpu})}), job[1]


def _changed(**values: Any) -> Callable[[Job], Job]:
    return lambda job: (job[0], job[1].model_copy(update=values))


def _no_waits(job: Job) -> Job:
    return _changed(stack=job[1].stack.model_copy(update={"transformers": None}))(job)


def _one_unit(job: Job) -> Job:
    knobs = job[1].parallelism
    return _changed(parallelism=knobs.model_copy(update={"wrap": "block+root"}))(job)


def _same(job: Job) -> Job:
    return job


#: what is taken away: numbers of host.toml, and what changes in the job
MECHANISMS: Mapping[str, tuple[tuple[str, ...], Callable[[Job], Job]]] = {
    "launches of kernels": (("eager",), _same),
    "hooks: Python, operators, streams": (("prices", "python", "operators", "streams"), _same),
    "issuing collectives": (("prices", "collectives"), _same),
    "a unit for each adapter weight": ((), _one_unit),
    "waits for positions": ((), _no_waits),
    "the trainer, its waits": ((), _changed(trainer="none")),
    "cores slower than the constants' host": ((), _fast),
}


def mechanisms() -> Iterator[list[str]]:
    """A row a mechanism: by how much each job's micro-step shortens without it. [ms]"""
    rows = {name: make() for name, make in JOBS.items()}
    jobs = {name: (r.topology, r.workload) for name, r in rows.items()}
    whole = {name: seconds(job) for name, job in jobs.items()}
    yield ["a micro-step [ms]", *JOBS]
    measured = []
    for row in rows.values():
        w = row.workload
        tokens = batch_on(w).tokens_per_rank / w.gradient_accumulation
        measured.append(tokens / (row.tokens_per_s_per_gpu or 1.0))
    yield ["measured", *(f"{1e3 * t:.0f}" for t in measured)]
    yield ["predicted", *(f"{1e3 * t:.0f}" for t in whole.values())]
    for name, (numbers, change) in MECHANISMS.items():
        cells = []
        for job_name, job in jobs.items():
            if numbers:
                with without(*numbers):
                    less = seconds(change(job))
            else:
                less = seconds(change(job))
            cells.append(f"{1e3 * (less - whole[job_name]):+.0f}")
        yield [f"without {name}", *cells]


def series() -> Iterator[list[str]]:
    """Llama-3.1-8B, one sample of 512 tokens a GPU, by number of GPUs."""
    yield ["s a micro-step", "2 GPUs", "4 GPUs", "8 GPUs"]
    for method in ("full", "lora"):
        found = [finetune(method, gpus, 512, 1) for gpus in (2, 4, 8)]
        times = [512 / (r.tokens_per_s_per_gpu or 1.0) for r in found]
        yield [f"{method}, measured", *(f"{t:.2f}" for t in times)]
        ours = [seconds((r.topology, r.workload)) for r in found]
        yield [f"{method}, predicted", *(f"{t:.2f}" for t in ours)]


TABLES: Mapping[str, Callable[[], Iterator[list[str]]]] = {
    "mechanisms": mechanisms, "series": series,
}  # fmt: skip


def written(name: str) -> str:
    """A table in Markdown."""
    head, *rows = TABLES[name]()
    return marked.table([head, ["---", *["---:"] * (len(head) - 1)], *rows])


def main(argv: list[str]) -> None:
    """Print the tables or write them into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name in TABLES:
        table_text = written(name)
        text = marked.replaced(text, name, table_text)
        if "--write" not in argv:
            sys.stdout.write(table_text + "\n\n")
    if "--write" in argv:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
