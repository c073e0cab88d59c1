"""Fine-tuning runs beside the model: errors by group, quickly, while a mechanism is being made.

    python bench/fit/finetune.py                          # all rows without flag
    python bench/fit/finetune.py --every 4                # every fourth: a few seconds
    python bench/fit/finetune.py --method lora --gpu a100-sxm --gpus 2-8 --model llama-3.1-8b
    python bench/fit/finetune.py --source fms-acceleration --rows
    python bench/fit/finetune.py --json /tmp/rows.json    # measured and predicted, row by row

The error is that of the speed: + is too fast. `--rows` lists rows, the worst first; `--flagged`
takes the flagged ones as well. For before and after, dump twice and give the first as `--before`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from pathlib import Path

from sim.calibration.validate_finetune import (
    GROUPS,
    machine_of,
    method_of,
    scaling,
)
from sim.calibration.validate_training import predict_all
from sim.published.finetune import finetune_rows


def tokens_of(row):
    """Tokens of a micro-step on one GPU."""
    return row.workload.sequence_length * row.workload.micro_batch


DIMENSIONS = {
    "method": method_of,
    "gpu": machine_of,
    "model": lambda r: r.workload.model.name,
    "gpus": lambda r: r.gpus,
    "tokens": lambda r: 2 ** round(math.log2(tokens_of(r))),
    "source": lambda r: r.group,
}


def chosen(args):
    """Rows that pass the filters."""
    low, _, high = args.gpus.partition("-")
    rows = []
    for row in finetune_rows():
        if row.status != "complete" and not args.flagged:
            continue
        named = ((args.method, method_of), (args.model, DIMENSIONS["model"]))
        if any(name and of(row) != name for name, of in named):
            continue
        if args.gpu and not machine_of(row).startswith(args.gpu):
            continue
        if args.source and row.group != args.source:
            continue
        if not int(low) <= row.gpus <= int(high or low):
            continue
        if not args.tokens[0] <= tokens_of(row) <= args.tokens[1]:
            continue
        rows.append(row)
    return rows[:: args.every]


def record(point):
    """A row as JSON: times of a micro-step in seconds."""
    row, w = point.row, point.row.workload
    measured = tokens_of(row) / row.tokens_per_s_per_gpu
    return {
        "id": row.id, "source": row.group, "model": w.model.name, "method": method_of(row),
        "gpu": machine_of(row), "gpus": row.gpus, "nodes": row.topology.nodes,
        "length": w.sequence_length, "micro_batch": w.micro_batch,
        "accumulation": w.gradient_accumulation, "note": row.note,
        "measured_s": measured, "predicted_s": measured / (1 + point.error),
        "error": point.error, "fits": point.memory.fits,
        "memory_share": point.memory.verdict.share,
        "measured_bytes": row.memory_bytes, "allocated_bytes": point.memory.peak_allocated_bytes,
    }  # fmt: skip


def line(name, errors, before=None):
    """Statistics of some errors as a line."""
    absolute = [abs(e) for e in errors]
    text = (
        f"{name:38} {len(errors):5d}  mean {100 * statistics.fmean(errors):+6.1f} "
        f"median {100 * statistics.median(errors):+6.1f}   |mean| "
        f"{100 * statistics.fmean(absolute):5.1f} |median| {100 * statistics.median(absolute):5.1f}"
    )
    if before:
        sizes = [abs(e) for e in before]
        text += f"   was {100 * statistics.fmean(sizes):.1f} / {100 * statistics.median(sizes):.1f}"
    print(text)


def main():
    """Print the table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", choices=["full", "lora", "gptq", "nf4"])
    parser.add_argument("--model", help="catalogue name")
    parser.add_argument("--gpu", help="a100-sxm, a100-pcie, l40s, h100-pcie")
    parser.add_argument("--gpus", default="1-1024", help="number of GPUs, 2 or 2-8")
    parser.add_argument(
        "--tokens", type=int, nargs=2, default=(0, 1 << 40), metavar=("LOW", "HIGH"),
        help="of a micro-step on one GPU",
    )  # fmt: skip
    parser.add_argument("--source", help="finetune, fms-acceleration, vectorlm, ms-swift")
    parser.add_argument("--every", type=int, default=1, help="of the rows, every so many")
    parser.add_argument("--flagged", action="store_true", help="flagged rows too")
    parser.add_argument("--rows", action="store_true", help="list single rows, the worst first")
    parser.add_argument("--json", type=Path, help="write rows there")
    parser.add_argument("--before", type=Path, help="JSON of an earlier call, to compare with")
    args = parser.parse_args()
    start = time.process_time()
    points = predict_all(chosen(args))
    records = [record(p) for p in points]
    before = (
        {r["id"]: r["error"] for r in json.loads(args.before.read_text())} if args.before else {}
    )

    def show(name, kept):
        if kept:
            was = [before[p.row.id] for p in kept if p.row.id in before]
            line(name, [p.error for p in kept], was)

    show("all", points)
    for name, of in GROUPS.items():
        show(name, [p for p in points if p.row.group == "finetune" and of(p.row)])
    for key, of in DIMENSIONS.items():
        values = defaultdict(list)
        for p in points:
            values[of(p.row)].append(p)
        for value, kept in sorted(values.items()) if len(values) > 1 else ():
            show(f"{key} {value}", kept)
    refused = sum(not p.memory.fits for p in points)
    print(f"said not to fit: {refused} of {len(points)} that ran ({refused / len(points):.1%})")
    groups = list(scaling(points))
    if groups:
        right = sum(g.right for g in groups)
        fewer = [g for g in groups if g.fewer]
        print(
            f"fastest number of GPUs right in {right} of {len(groups)} groups "
            f"({right / len(groups):.1%}); where fewer are faster, in "
            f"{sum(g.right for g in fewer)} of {len(fewer)}"
        )
    if args.rows:
        for r in sorted(records, key=lambda r: -abs(r["error"])):
            print(
                f"{r['id']:26} {r['model']:15} {r['method']:5} {r['gpu']:10} x{r['gpus']:<2} "
                f"{r['length']:5}x{r['micro_batch']:<3} measured {r['measured_s']:8.3f} s "
                f"predicted {r['predicted_s']:8.3f} s {100 * r['error']:+6.1f} % "
                f"{'' if r['fits'] else 'does not fit'} {r['memory_share']:.2f}"
            )
    if args.json:
        args.json.write_text(json.dumps(records, indent=0))
    print(f"{time.process_time() - start:.1f} s of CPU")


if __name__ == "__main__":
    main()
