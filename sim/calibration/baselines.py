"""What simple methods say of the fine-tuning runs, on the same rows with the same ones left out.

A roofline with one fitted efficiency per GPU and method is made here. A gradient-boosted regressor
needs scikit-learn, which only developers have: `scripts/baselines.py` trains it and writes what it
says of each row to `sim/data/measured/boosted.json`.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections.abc import Callable, Sequence

from sim.blocks.flops import token_flops
from sim.blocks.parameters import count_parameters
from sim.calibration.cross_validation import cross_validate_finetune
from sim.calibration.validate_finetune import (
    GROUPS,
    machine_of,
    method_of,
    shape_of,
    validate_finetune,
)
from sim.data import DATA
from sim.published.finetune import table_rows
from sim.published.rows import MeasuredRow
from sim.records import NamedTuple

BOOSTED = DATA / "measured" / "boosted.json"
FOLDS = 5
#: which rows are predicted together, by what is fitted to all others; "rows": a fifth of them
SPLITS: dict[str, Callable[[int, MeasuredRow], str]] = {
    "rows": lambda i, row: str(i % FOLDS),
    "models": lambda i, row: shape_of(row),
    "GPU kinds": lambda i, row: machine_of(row),
}
_HALF = 2.0  # bytes of a number on a link
_PCIE_LANE = {3: 0.985e9, 4: 1.97e9, 5: 3.94e9}  # [B/s]
_NVLINK = 25e9  # a link in one direction, generations 2 to 4 [B/s]


def compared_rows() -> tuple[MeasuredRow, ...]:
    """Rows of the table without flag."""
    return tuple(row for row in table_rows() if row.status == "complete")


def link_bytes_per_s(row: MeasuredRow) -> float:
    """What a data sheet says a GPU sends to its neighbour. [B/s]"""
    node = row.topology.groups[0].node
    if node.nvlink:
        return _NVLINK * node.nvlink.links_per_gpu
    return _PCIE_LANE[node.pcie.generation] * node.pcie.lanes


def roof_s(row: MeasuredRow) -> float:
    """Seconds a token takes at the data sheet's rates, whichever of three is slowest."""
    w, gpu = row.workload, row.topology.first_gpu
    count = count_parameters(w.model, w.method)
    tokens = w.sequence_length * w.micro_batch
    peak = gpu.peak_bf16 or gpu.peak_fp16 or 0.0
    weights = count.total * _HALF
    gathered = (2 + count.trainable / count.total / w.gradient_accumulation) * weights
    return max(
        token_flops(w, "causal").hardware / peak,
        3 * weights / tokens / gpu.memory_bandwidth,
        gathered * (row.gpus - 1) / row.gpus / tokens / link_bytes_per_s(row),
    )


def roofline(rows: Sequence[MeasuredRow], split: str) -> tuple[float, ...]:
    """Errors of the roofline's speed: its efficiency is the median of the rows not left out.

    A GPU of which there is no other row takes the efficiency of its method on all others.
    """
    groups = [SPLITS[split](i, row) for i, row in enumerate(rows)]
    shares = [roof_s(row) * (row.tokens_per_s_per_gpu or 0.0) for row in rows]

    @functools.cache
    def efficiency(group: str, gpu: str, method: str) -> float:
        kept = [
            (row, share)
            for row, share, g in zip(rows, shares, groups, strict=True)
            if g != group and method_of(row) == method
        ]
        mine = [share for row, share in kept if machine_of(row) == gpu]
        return statistics.median(mine or [share for _, share in kept] or shares)

    return tuple(
        efficiency(group, machine_of(row), method_of(row)) / share - 1
        for row, share, group in zip(rows, shares, groups, strict=True)
    )


@functools.cache
def boosted(split: str) -> dict[str, float]:
    """Errors of the regressor's speed by row, as `scripts/baselines.py` found them."""
    known = json.loads(BOOSTED.read_text(encoding="utf-8"))
    return {key: math.expm1(value) for key, value in known["splits"][split].items()}


class MethodErrors(NamedTuple):
    """Errors of three methods over a group of rows. [mean |error|, median |error|]"""

    group: str
    rows: int
    ours: tuple[float, float]
    roofline: tuple[float, float]
    boosted: tuple[float, float]


def comparison(split: str) -> tuple[MethodErrors, ...]:
    """The model, the roofline and the regressor by group of `GROUPS`, "all" first.

    Parameters
    ----------
    split : str
        A key of `SPLITS`; nothing of the model is fitted to a fifth of the rows, so that of "rows"
        it is the model as it ships.
    """
    rows = compared_rows()
    if split == "rows":
        ours = {p.row.id: p.error for p in validate_finetune().table}
    else:
        ours = {x.point.row.id: x.error for x in cross_validate_finetune(split)}
    methods = (
        [ours[row.id] for row in rows], roofline(rows, split),
        [boosted(split)[row.id] for row in rows],
    )  # fmt: skip
    out = []
    for name, chosen in (("all", None), *GROUPS.items()):
        which = [i for i, row in enumerate(rows) if chosen is None or chosen(row)]
        sizes = [[abs(errors[i]) for i in which] for errors in methods]
        figures = [(statistics.fmean(found), statistics.median(found)) for found in sizes]
        out.append(MethodErrors(name, len(which), *figures))
    return tuple(out)


def features(row: MeasuredRow) -> list[float]:
    """What anybody would give a regressor: logarithms of sizes and rates, and what kind it is."""
    w, gpu, node = row.workload, row.topology.first_gpu, row.topology.groups[0].node
    count = count_parameters(w.model, w.method)
    sizes = (
        count.total, count.trainable, w.model.hidden_size, w.model.layers, w.model.kv_heads,
        w.model.ffn_size, w.model.vocab_size, w.sequence_length, w.micro_batch,
        w.sequence_length * w.micro_batch, row.gpus, w.gradient_accumulation,
        gpu.peak_bf16 or 0.0, gpu.memory_bandwidth, gpu.memory, link_bytes_per_s(row),
        token_flops(w, "causal").hardware, roof_s(row),
    )  # fmt: skip
    kinds = ("full", "lora", "gptq")
    return [
        *(math.log(max(size, 1e-30)) for size in sizes),
        *(float(method_of(row) == kind) for kind in kinds), float(node.nvlink is not None),
    ]  # fmt: skip
