"""Print the tables of docs/memory.md: methods on a 70B model, and the longest context of an 8B.

python scripts/memory_tables.py methods
python scripts/memory_tables.py context
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sim.errors import InfeasibleError
from sim.inputs.loader import Loaded, load
from sim.inputs.shares import batch_on
from sim.memory.bound import solve
from sim.memory.report import memory
from sim.quantities import gib
from sim.result.trials import smaller
from sim.step.step import step

GPUS = {"A100": ("a100-x1", "dgx-a100"), "H100": ("h100-x1", "dgx-h100")}
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
    ("dgx-h100", "full", "loss as PyTorch computes it", ("gradient_accumulation=1",)),
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
    yield "| GPUs | method | needs a GPU | fits 80 GB | largest at the peak | on A100 | on H100 |"
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
                f"| {gpus} | {method} | {gib(report.peak_reserved_bytes)} "
                f"| {'yes' if report.fits else 'no'} | {why} | {' | '.join(remedies)} |"
            )


def _remedy(loaded: Loaded) -> str:
    """Cheapest change with which the job fits."""
    best = smaller(loaded.topology, loaded.workload)[0]
    if best.fits:
        return f"{best.description}, time {100 * best.time_cost:+.0f} %"
    offloaded = loaded.workload.parallelism.model_copy(update={"offload": "all"})
    job = loaded.workload.model_copy(update={"parallelism": offloaded})
    host = memory(loaded.topology, job)
    return (
        f"nothing: offloaded it needs {gib(host.host_bytes)} of the host's "
        f"{gib(host.host_capacity_bytes)}"
    )


def context() -> Iterator[str]:
    """Longest sequence of Llama-3.1-8B, full checkpointing, fused linear loss, and its speed."""
    yield "| GPUs | method | with | longest context | largest there | tokens/s a GPU there |"
    yield "|---|---|---|---|---|---|"
    for machine, method, what, sets in CONTEXTS:
        loaded = load(machine, "llama3-8b-32k", (*sets, "sequence_length=4096"))
        gpus = loaded.topology.world_size
        head = f"| {gpus} | {method} | {what} |"
        try:
            bound = solve(loaded.topology, loaded.workload, "sequence_length")
        except InfeasibleError as error:
            yield f"{head} none | {error} | |"
            continue
        job = loaded.workload.model_copy(update={"sequence_length": bound.value})
        seconds = step(loaded.topology, job).time_s
        rate = batch_on(job).tokens_per_rank / seconds
        largest = f"{bound.report.dominating}"
        yield f"{head} {bound.value:,} | {largest} | {rate:,.0f} |"


if __name__ == "__main__":
    tables = {"methods": methods, "context": context}
    for wanted in sys.argv[1:] or tables:
        sys.stdout.writelines(f"{line}\n" for line in tables[wanted]())
        sys.stdout.write("\n")
