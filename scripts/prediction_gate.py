"""Does another state of the code predict what this one does?  5,000 and more jobs, every figure.

    python scripts/prediction_gate.py write FILE          # what this checkout predicts
    python scripts/prediction_gate.py compare OLD NEW     # two such files
    python scripts/prediction_gate.py against main        # a commit and the working tree
    python scripts/prediction_gate.py against main --every 10       # of the structures each tenth

The jobs are drawn once and for all over what is supported: every shipped machine and workload, with
changes of size, shape, strategy, axes, method, precision, offload and stack. `against` checks the
commit out beside, predicts with both states at a time and compares. A figure that differs by more
than one part in a billion, a verdict that differs and an answer that is lost make it exit with 1;
a job that was refused and is answered now is counted only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
SAME = 1e-9  # of a figure
TINY = 1e-12  # what is this small is a difference of equals
SHOWN = 12

#: of the shipped machines some need a newer stack than the shipped workloads name
STACKS: tuple[tuple[str, ...], ...] = (
    (), ("stack.torch=2.7", "stack.cuda=12.8", "stack.nccl=2.26"),
)  # fmt: skip
#: values of `parallelism`; None: as the workload has it
LAYOUTS: list[dict[str, Any] | None] = [
    None,
    {"reshard_after_forward": False},
    {"reshard_after_forward": 2},
    {"replicate": 2},
    {"reduce_dtype": "bf16"},
    {"forward_prefetch": 1, "backward_prefetch": 2},
    {"wrap": "torchtitan"},
    {"wrap": "linear"},
    {"offload": "all"},
    {"gradient_sync": "last"},
    {"strategy": "fsdp1"},
    {"strategy": "fsdp1", "sharding_strategy": "shard-grad-op"},
    {"strategy": "fsdp1", "backward_prefetch": "post"},
    {"strategy": "fsdp1", "offload": "all"},
    {"strategy": "ddp"},
    {"strategy": "ddp", "bucket_cap_mb": 100, "gradient_as_bucket_view": True},
    {"strategy": "zero1"},
    {"strategy": "zero2"},
    {"strategy": "zero2", "offload": "optimizer"},
    {"strategy": "zero3"},
    {"strategy": "zero3", "stage3_prefetch_bucket_size": 0},
    {"strategy": "zero3", "offload": "all"},
    {"strategy": "zero3", "zero_quantized_weights": True},
]
SPLIT: list[dict[str, Any]] = [  # sequences, matrices or layers over ranks
    {"context_parallel": 2},
    {"context_parallel": 4, "context_parallel_kind": "all-gather"},
    {"context_parallel": 2, "context_parallel_kind": "ulysses"},
    {"tensor_parallel": 2},
    {"tensor_parallel": 8, "sequence_parallel": False},
    {"tensor_parallel": 4, "loss_parallel": False},
    {"tensor_parallel": 2, "context_parallel": 2},
    {"pipeline_parallel": 2, "pipeline_schedule": "gpipe"},
    {"pipeline_parallel": 2, "pipeline_schedule": "interleaved-1f1b"},
]
METHODS: list[dict[str, Any]] = [
    {},
    {},
    {"method": "full"},
    {"method": {"kind": "lora", "rank": 16}},
    {"method": {"kind": "lora", "rank": 64, "targets": ["q", "v"]}},
    {"method": {"kind": "qlora", "rank": 16}},
]
REST: list[dict[str, Any]] = [
    {"precision": "fp32", "attention": "sdpa"},
    {"precision": {"kind": "fp8", "recipe": "tensorwise"}, "compile": True},
    {"precision": {"kind": "bf16", "master": "bf16"}},
    {"compile": True},
    {"attention": "sdpa"},
    {"attention": "eager"},
    {"loss": "fused-linear"},
    {"loss": "chunked"},
    {"fused_kernels": "all"},
    {"optimizer": "adamw-8bit"},
    {"optimizer": "sgd", "optimizer_implementation": "foreach"},
    {"stack.expandable_segments": True},
    {"trainer": "huggingface"},
    {"modelling": "torchtitan"},
    {"data": {"packing": False, "sequence_lengths": {"mean": 700}}},
    {"data": {"packing": "padding-free", "mean_length": 600}},
    {"evaluation": {"every": 100, "tokens": 1e6}},
    {"checkpoint": {"mode": "full"}},
]
WORKLOADS = 7  # drawn for a machine, each with one structure
SHAPES = 30  # of a structure: quick to predict, its plan and program being known
#: parts of a result that say no more than others do, or are no predictions
PROSE = frozenset((
    "schema", "inputs_hash", "model_version", "topology", "workload", "scaling", "warnings",
    "assumptions", "provenance", "explanation", "comparable_rows", "variation",
))  # fmt: skip
WORDS = (".fits", ".verdict", ".kind")
#: marks in the names of machines that know no FP8, and of workloads that want it, or many GPUs
AMPERE, HOPPER = ("a100", "-p4", "-a2-"), ("fp8", "128k", "405b")
CHECKPOINTING = (
    "none", "full", {"selective": "op"}, {"selective": 2}, {"kind": "full", "offload": True},
)  # fmt: skip


class Job(NamedTuple):
    """One of the jobs: names of the catalogue, and what is set."""

    topology: str
    workload: str
    changes: dict[str, Any]

    def __str__(self) -> str:
        sets = (
            f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in self.changes.items()
        )
        return " ".join((self.topology, self.workload, *sets))


def jobs(every: int = 1) -> Iterator[Job]:
    """The jobs, always the same; of the structures each `every`-th."""
    draw = random.Random(14)
    files = [sorted((ROOT / kind).glob("*.yaml")) for kind in ("topologies", "workloads")]
    structures = 0
    for machine in files[0]:
        text = machine.read_text(encoding="utf-8")
        several = "nics:" in text and not any(
            f"\n{key}:" in text for key in ("node_groups", "graph")
        )
        small = not several or any(mark in machine.stem for mark in AMPERE)
        fitting = [w for w in files[1] if not (small and any(mark in w.stem for mark in HOPPER))]
        for work in draw.sample(fitting, WORKLOADS):
            structure = _structure(draw)
            shapes = [structure | s for s in _shapes(draw, several, "mpt" in work.stem)]
            if structures % every == 0:
                yield from (Job(machine.stem, work.stem, changes) for changes in shapes)
            structures += 1


def _structure(draw: random.Random) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if draw.random() < 0.7:
        changes["activation_checkpointing"] = draw.choice(CHECKPOINTING)
    if draw.random() < 0.2:
        changes |= {"parallelism": draw.choice(SPLIT), "method": "full"}
    else:
        layout = draw.choice(LAYOUTS)
        changes |= draw.choice(METHODS) | ({} if layout is None else {"parallelism": layout})
    if draw.random() < 0.5:
        changes |= draw.choice(REST)
    return changes


def _shapes(draw: random.Random, several: bool, short: bool) -> Iterator[dict[str, Any]]:
    lengths = (512, 1024, 2048) if short else (1024, 2048, 4096, 8192, 16384)
    nodes = draw.sample((1, 2, 3, 4, 8, 16, 32), 2) if several else []
    accumulation = draw.choice((2, 2, 4, 8))
    for _ in range(SHAPES):
        yield {
            "sequence_length": draw.choice(lengths),
            "micro_batch": draw.choice((1, 2, 3, 4)),
            "gradient_accumulation": accumulation,
        } | ({"nodes": draw.choice(nodes)} if nodes else {})


def predict(out: Path, every: int) -> None:
    """Write a line of JSON a job, null where it is refused.

    The first shape of a structure is a whole `run` with its job over time, the others are what a
    sweep stores.
    """
    import sim.engine.compiled  # noqa: F401  # "auto" takes it once it is there
    from sim.errors import ScalingSimError
    from sim.inputs.loader import Prepared, prepare
    from sim.result.predict import predict
    from sim.study.measures import measures

    def base(pair: tuple[str, str]) -> Prepared | None:
        for stack in STACKS:
            try:
                return prepare(*pair, stack)
            except ScalingSimError:
                continue
        return None

    def predicted(prepared: Prepared, job: Job, whole: bool) -> dict[str, float | str] | None:
        try:
            topology, workload, notes = prepared.vary(job.changes).loaded()
            if whole:
                full = predict(topology, workload, notes, scaling=False, fixes=False)
                return figures(full.to_dict())
            return figures(measures(topology, workload))
        except ScalingSimError:
            return None

    with out.open("w", encoding="utf-8") as file:
        for pair, group in itertools.groupby(jobs(every), key=lambda job: job[:2]):
            prepared = base(pair)
            for place, job in enumerate(group):
                found = predicted(prepared, job, place == 0) if prepared else None
                file.write(json.dumps(found) + "\n")


def figures(tree: Any, path: str = "") -> dict[str, float | str]:
    """Numbers and verdicts of a result by their dotted paths; prose and echoes of inputs aside."""
    if isinstance(tree, dict):
        parts = [(f"{path}.{key}", value) for key, value in tree.items() if key not in PROSE]
    elif isinstance(tree, list):
        parts = [(f"{path}.{i}", value) for i, value in enumerate(tree)]
    elif isinstance(tree, bool | str):
        return {path: str(tree)} if path.endswith(WORDS) else {}
    else:
        return {path: float(tree)} if tree is not None else {}
    return {k: v for part, value in parts for k, v in figures(value, part).items()}


def compare(old: Path, new: Path, every: int) -> int:
    """Print how the second file differs from the first; 1 where a prediction moved or is lost."""
    counts: Counter[str] = Counter()
    by_figure: Counter[str] = Counter()
    largest: dict[str, float] = {}
    shown: list[tuple[float, str]] = []
    with old.open(encoding="utf-8") as before, new.open(encoding="utf-8") as after:
        for job, a, b in zip(jobs(every), before, after, strict=True):
            x, y = json.loads(a), json.loads(b)
            if x is None or y is None:
                both = "refused by both" if x is y else "answered now" if x is None else "lost"
                counts[both] += 1
                if both == "lost":
                    shown.append((math.inf, f"{job}: refused now"))
                continue
            counts["compared"] += 1
            moved = {k: d for k in sorted({*x, *y}) if (d := _difference(x.get(k), y.get(k)))}
            if moved:
                counts["moved"] += 1
                by_figure.update(moved.keys())
                largest |= {k: max(d, largest.get(k, 0.0)) for k, d in moved.items()}
                worst = max(moved, key=lambda k: (k == ".step.time_s", moved[k]))
                shown.append((moved[worst], f"{job}: {worst} {x.get(worst)} -> {y.get(worst)}"))
    out = sys.stdout.write
    out(", ".join(f"{counts[kind]} {kind}" for kind in KINDS_OF_ROW) + "\n")
    for name, times in by_figure.most_common(SHOWN):
        out(f"  {name} moved in {times} jobs, by {largest[name]:.2g} at most\n")
    for _, text in sorted(shown, key=lambda row: -row[0])[:SHOWN]:
        out(f"  {text}\n")
    return 1 if shown else 0


KINDS_OF_ROW = ("compared", "moved", "lost", "answered now", "refused by both")


def _difference(a: float | str | None, b: float | str | None) -> float:
    """Share by which two figures differ; 0 where that is rounding, infinite where one is a word."""
    if not (isinstance(a, float) and isinstance(b, float)):
        return 0.0 if a == b else math.inf
    if a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= TINY:
        return 0.0
    found = abs(a - b) / max(abs(a), abs(b))
    return found if not found <= SAME else 0.0


def against(revision: str, every: int) -> int:
    """Predict with a commit and with this working tree, at the same time, and compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree, before, after = folder / "tree", folder / "before", folder / "after"
        git = ("git", "-C", str(ROOT))
        subprocess.run([*git, "worktree", "add", "--detach", "--quiet", tree, revision], check=True)
        try:
            runs = [_started(root, out, every) for root, out in ((tree, before), (ROOT, after))]
            codes = [run.wait() for run in runs]
            if any(codes):
                sys.exit("a state of the code fails, see above")
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", tree], check=True)
        return compare(before, after, every)


def _started(root: Path, out: Path, every: int) -> subprocess.Popen[bytes]:
    """This file, predicting with the package under `root`."""
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
    return subprocess.Popen(
        [sys.executable, __file__, "write", str(out), "--every", str(every)], env=environment
    )


def main() -> int:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("write").add_argument("file", type=Path)
    both = verbs.add_parser("compare")
    both.add_argument("old", type=Path)
    both.add_argument("new", type=Path)
    verbs.add_parser("against").add_argument("revision")
    for verb in verbs.choices.values():
        verb.add_argument("--every", type=int, default=1, help="of the structures each N-th")
    options = parser.parse_args()
    if options.verb == "write":
        predict(options.file, options.every)
        return 0
    if options.verb == "compare":
        return compare(options.old, options.new, options.every)
    return against(options.revision, options.every)


if __name__ == "__main__":
    sys.exit(main())
