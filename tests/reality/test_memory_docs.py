"""The tables of docs/memory.md are what the tool says now."""

from pathlib import Path

import pytest

from sim.inputs.loader import load
from sim.memory.bound import solve
from sim.memory.report import memory

TEXT = (Path(__file__).parents[2] / "docs" / "memory.md").read_text()
LOCAL = ["loss=fused-linear", "gradient_accumulation=1", "sequence_length=4096"]


def rows(head):
    """Cells of the table that begins with `head`."""
    lines = TEXT[TEXT.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


METHODS = rows("| GPUs | method | needs a GPU")


@pytest.mark.parametrize("row", METHODS, ids=[f"{r[0]} {r[1]}" for r in METHODS])
def test_methods(row):
    gpus, method, need, fits, why = row[:5]
    machine = "a100-x1" if gpus == "1" else "dgx-a100"
    sets = ["micro_batch=1", "sequence_length=4096"]
    if int(gpus) > 8:
        sets.append(f"nodes={int(gpus) // 8}")
    loaded = load(machine, f"llama3-70b-{method}", sets)
    report = memory(loaded.topology, loaded.workload)
    assert f"{report.needed_bytes / 2**30:.1f} GiB" == need
    assert report.verdict.word == fits
    assert why.startswith(report.dominating)


@pytest.mark.parametrize(
    ("machine", "what", "sets"),
    [
        ("dgx-h100", "", []),
        ("dgx-h100", "context parallel 8", ["parallelism.context_parallel=8"]),
        ("h100-x1", "all state on the host", ["parallelism.offload=all"]),
    ],
)
def test_longest_context(machine, what, sets):
    loaded = load(machine, "llama3-8b-32k", [*LOCAL, *sets])
    gpus = str(loaded.topology.world_size)
    table = rows("| GPUs | method | with |")
    said = next(r[3:5] for r in table if r[:3] == [gpus, "full", what] and r[3] != "none")
    found = solve(loaded.topology, loaded.workload, "sequence_length")
    assert [f"{found.value:,}", f"{found.sure:,}" if found.sure else ""] == said


EDGE = rows("| sequence | must live |")


def test_edge():
    """A job through capacity: memory, verdict, and a time a token that neither jumps nor falls."""
    loaded = load(
        "dgx-a100", "llama3-8b-sft",
        ["parallelism={strategy: fsdp1}", "micro_batch=1", "gradient_accumulation=1"],
    )  # fmt: skip
    for row in EDGE:
        job = loaded.workload.model_copy(update={"sequence_length": int(row[0].replace(",", ""))})
        verdict = memory(loaded.topology, job).verdict
        shown = [f"{verdict.needed_bytes / 2**30:.1f} GiB", verdict.word]
        assert shown == [row[1], row[3]]
    times = [float(row[6]) for row in EDGE]
    assert times == sorted(times)
