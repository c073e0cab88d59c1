"""Tables of docs/memory.md: methods on a 70B, longest context of an 8B, a job through capacity.

python scripts/memory_tables.py methods
python scripts/memory_tables.py context
python scripts/memory_tables.py edge
python scripts/memory_tables.py --write     all of them into docs/memory.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from sim.errors import InfeasibleError
from sim.inputs.loader import Loaded, load
from sim.inputs.shares import batch_on
from sim.memory.bound import solve
from sim.memory.report import memory
from sim.quantities import gib, percent
from sim.result.trials import smaller
from sim.step.step import step

GPUS = {"A100": ("a100-x1", "dgx-a100"), "H100": ("h100-x1", "dgx-h100")}
PAGE = Path(__file__).parents[1] / "docs" / "memory.md"
EDGE = ("parallelism={strategy: fsdp1}", "micro_batch=1", "gradient_accumulation=1")
EDGE_LENGTHS = (
    24576, 28672, 30720, 30976, 31232, 31488, 31744, 32768, 34816, 35840, 36352, 36864, 38912,
)  # fmt: skip
LOCAL = ("loss=fused-linear", "gradient_accumulation=1")
HOST = (*LOCAL, "activation_checkpointing={full: {offload: true}}")
CONTEXTS = (
    ("h100-x1", "full", "", LOCAL),
    ("h100-x1", "full", "all state on the host", (*LOCAL, "parallelism.offload=all")),
    (
        "h100-x1", "full", "state and checkpointed inputs on the host",
        (*HOST, "parallelism.offload=all"),
    ),
    ("h100-x1", "LoRA", "", (*LOCAL, "method={lora: {rank: 16, targets: all-linear}}")),
    (
        "h100-x1", "LoRA", "checkpointed inputs on the host",
        (*HOST, "method={lora: {rank: 16, targets: all-linear}}"),
    ),
    ("h100-x1", "QLoRA", "", (*LOCAL, "method={qlora: {rank: 16, targets: all-linear}}")),
    ("dgx-h100", "full", "loss in chunks", ("gradient_accumulation=1",)),
    ("dgx-h100", "full", "", LOCAL),
    ("dgx-h100", "full", "checkpointed inputs on the host", HOST),
    ("dgx-h100", "full", "context parallel 8", (*LOCAL, "parallelism.context_parallel=8")),
    (
        "dgx-h100", "full", "context parallel 8, checkpointed inputs on the host",
        (*HOST, "parallelism.context_parallel=8"),
    ),
    (
        "dgx-h100", "full", "context parallel 8, inputs and state on the host",
        (*HOST, "parallelism.context_parallel=8", "parallelism.offload=all"),
    ),
)  # fmt: skip


def methods() -> Iterator[str]:
    """Llama-3-70B by method and number of GPUs: what it needs, why, and what would mend it."""
    yield "| GPUs | method | needs a GPU | 80 GB | largest at the peak | on A100 | on H100 |"
    yield "|---|---|---|---|---|---|---|"
    for gpus in (1, 8, 16, 64):
        sets = ["micro_batch=1", "sequence_length=4096"]
        if gpus > 8:
            sets.append(f"nodes={gpus // 8}")
        for method in ("full", "lora", "qlora"):
            remedies = []
            for one, node in GPUS.values():
                loaded = load(one if gpus == 1 else node, f"llama3-70b-{method}", sets)
                report = memory(loaded.topology, loaded.workload)
                remedies.append("" if report.fits else _remedy(loaded))
            why = f"{report.dominating}, {gib(report.terms.get(report.dominating, 0.0))}"
            yield (
                f"| {gpus} | {method} | {gib(report.needed_bytes)} "
                f"| {report.verdict.word} | {why} | {' | '.join(remedies)} |"
            )


def _remedy(loaded: Loaded) -> str:
    """Cheapest change with which the job fits."""
    best = smaller(loaded.topology, loaded.workload)[0]
    if best.fits:
        return f"{best.description}, time {percent(best.time_cost, 0, '+')}"
    offloaded = loaded.workload.parallelism.model_copy(update={"offload": "all"})
    job = loaded.workload.model_copy(update={"parallelism": offloaded})
    host = memory(loaded.topology, job)
    return (
        f"nothing: offloaded it needs {gib(host.host_bytes)} of the host's "
        f"{gib(host.host_capacity_bytes)}"
    )


def context() -> Iterator[str]:
    """Longest sequence of Llama-3.1-8B, full checkpointing, fused linear loss, and its speed."""
    yield (
        "| GPUs | method | with | longest context | without risk | largest there "
        "| tokens/s a GPU there |"
    )
    yield "|---|---|---|---|---|---|---|"
    for machine, method, what, sets in CONTEXTS:
        loaded = load(machine, "llama3-8b-32k", (*sets, "sequence_length=4096"))
        gpus = loaded.topology.world_size
        head = f"| {gpus} | {method} | {what} |"
        try:
            bound = solve(loaded.topology, loaded.workload, "sequence_length")
        except InfeasibleError as error:
            yield f"{head} none | none | {error} | |"
            continue
        job = loaded.workload.model_copy(update={"sequence_length": bound.value})
        seconds = step(loaded.topology, job).time_s
        rate = batch_on(job).tokens_per_rank / seconds
        largest = f"{bound.report.dominating}"
        sure = f"{bound.sure:,}" if bound.sure else ""
        yield f"{head} {bound.value:,} | {sure} | {largest} | {rate:,.0f} |"


def edge() -> Iterator[str]:
    """Llama-3.1-8B under FSDP1 on 8 A100s, longer and longer sequences: memory against time."""
    yield "| sequence | must live | reserved | of 79.0 GiB | likely to run | retries | us a token |"
    yield "|---|---|---|---|---|---|---|"
    loaded = load("dgx-a100", "llama3-8b-sft", EDGE)
    for length in EDGE_LENGTHS:
        job = loaded.workload.model_copy(update={"sequence_length": length})
        found = step(loaded.topology, job)
        verdict = found.memory.verdict
        pace = 1e6 * found.time_s / batch_on(job).tokens_per_rank
        yield (
            f"| {length:,} | {gib(verdict.needed_bytes)} | {gib(verdict.reserved_bytes)} "
            f"| {verdict.word} | {percent(verdict.probability, 0)} "
            f"| {percent(found.retries_s / found.time_s)} | {pace:.1f} |"
        )


TABLES = {"methods": methods, "context": context, "edge": edge}


def write() -> None:
    """Put every table into the page, in the place of the one that has its heading."""
    text = PAGE.read_text(encoding="utf-8")
    for table in TABLES.values():
        lines = list(table())
        begin = text.index(" | ".join(lines[0].split(" | ")[:3]))
        end = text.index("\n\n", begin)
        text = text[:begin] + "\n".join(lines) + text[end:]
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
        sys.exit()
    for wanted in sys.argv[1:] or TABLES:
        sys.stdout.writelines(f"{line}\n" for line in TABLES[wanted]())
        sys.stdout.write("\n")
