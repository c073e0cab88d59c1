"""What is golden of a compiled program and of a report: their structure, not their times.

Times move whenever a constant is fitted anew; the ops, the bytes, the order of collectives and the
document's keys may move only on purpose. `python -m tests.golden.regenerate` writes the files anew,
and the diff is reviewed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from sim import simulate
from sim.blocks.parameters import build_tree
from sim.documents import flatten
from sim.fabric import compile_fabric
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.inputs.workload import Workload
from sim.lowering.costs import price
from sim.lowering.lower import lower
from sim.lowering.parts import CATEGORIES
from sim.memory.report import memory
from sim.report.formats import rendered
from sim.report.run import view
from sim.result.result import Result
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE, Plan

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs.json"
REPORTS = HERE / "reports.json"
ROOT = HERE.parents[1]
NEWER = ("stack.torch=2.7", "stack.cuda=12.8", "stack.nccl=2.26")

# Every shipped workload over a network; machines of every kind with one workload.
EXAMPLES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    *(
        ("dgx-h100", path.stem, ("nodes=2",))
        for path in sorted((ROOT / "workloads").glob("*.yaml"))
    ),
    ("a100-x1", "mistral-7b-lora", ()),
    ("dgx-b200", "mistral-7b-full", NEWER),
    ("gcp-a2-megagpu-16g", "llama3-8b-sft", ()),
    ("mixed-pairs", "llama3-8b-lora", ()),
    ("pcie5-h100-8", "mpt-7b-pretrain", ("parallelism=ddp",)),
)
SHOWN = (
    ("dgx-h100", "llama3-8b-sft"),
    ("dgx-a100", "llama3-70b-full"),
    ("aws-p4d", "mistral-7b-lora"),
)


def name(topology: str, workload: str, sets: tuple[str, ...] = ()) -> str:
    """An example as one key."""
    return " ".join((topology, workload, *sets))


def program_summary(topology: str, workload: str, sets: tuple[str, ...]) -> dict[str, Any]:
    """Device ops by category, lanes, edges, collectives in order and memory of one example."""
    loaded = load(topology, workload, sets)
    job = _three_micro_steps(loaded.workload)
    fabric = compile_fabric(loaded.topology)
    tree = build_tree(job.model, job.method)
    plan = build_plan(job, tree, mesh_of(loaded.topology, job))
    priced = price([plan], job, fabric, "folded")
    lowered = lower(priced.parts, priced.compiled.classes, priced.flights)
    counts = Counter(CATEGORIES[i] for i in lowered.category.tolist())
    del counts["host"]  # launches that nothing waits for are put together, which depends on times
    report = memory(loaded.topology, loaded.workload)
    return {
        "ops": dict(sorted(counts.items())),
        "lanes": sorted({op.stream for op in plan.ops}),
        "classes": len(lowered.views),
        "edges": _edges(plan),
        **_collectives(plan),
        "memory": {key: _six(value) for key, value in sorted(report.terms.items())},
        "peak": _six(report.peak_reserved_bytes),
    }


def _three_micro_steps(workload: Workload) -> Workload:
    """As many as are simulated; the middle one stands for the rest."""
    few = min(workload.gradient_accumulation, 3)
    return workload.model_copy(update={"gradient_accumulation": few})


def _edges(plan: Plan) -> dict[str, Any]:
    rows = [(i, *op.deps, -1, op.host_after) for i, op in enumerate(plan.ops)]
    return {"count": sum(len(row) - 3 for row in rows), "digest": _digest(rows)}


def _collectives(plan: Plan) -> dict[str, Any]:
    rows = [
        (op.collective, op.phase, op.unit, op.bytes_in, op.bytes_out, op.dtype,
         plan.groups[op.group].size)
        for op in plan.ops
        if op.kind == COLLECTIVE
    ]  # fmt: skip
    kinds: dict[str, dict[str, float]] = {}
    for row in rows:
        kind = kinds.setdefault(row[0], {"count": 0, "bytes": 0.0})
        kind["count"] += 1
        kind["bytes"] += max(row[3], row[4])
    return {"collectives": dict(sorted(kinds.items())), "collectives_in_order": _digest(rows)}


def _digest(rows: Any) -> str:
    return sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _six(value: float) -> float:
    return float(np.format_float_scientific(value, precision=5))


def report_summary(topology: str, workload: str) -> dict[str, Any]:
    """The keys of the document, and the headings and labels of the report."""
    result = simulate(topology, workload)
    return {"keys": document_keys(result), "labels": masked(rendered(view(result), "table"))}


def document_keys(result: Result) -> list[str]:
    """Dotted keys of the result, but for those under which kernels or collectives stand."""
    keys = flatten(result.to_dict())
    of_step = r"step\.(breakdown|overlap_slowdown_kernels|exposed|collectives)"
    varying = rf"({of_step}|memory\.by_\w+|provenance|topology|workload)"
    return sorted({re.sub(rf"^{varying}\..*", r"\1.*", key) for key in keys})


def masked(text: str) -> list[str]:
    """The report's headings and labels, up to a number: what stands two spaces from the left."""
    labels = (re.match(r"  ([A-Z][^\s\d]*(?: [^\s\d]+)*)", line) for line in text.splitlines())
    return [label.group(1) for label in labels if label]
