"""Published layouts of data, tensor and pipeline parallelism as topologies and workloads.

`sim/data/measured/mesh.toml` says once what ran, a row of `mesh.csv` on which ranks. What the
source does not print is read off a row's memory and off which group of rows it is of, not off its
speed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from sim.data import DATA, table
from sim.inputs.loader import Loaded, load
from sim.memory.report import memory
from sim.published.finetune import merged
from sim.published.rows import MeasuredRow

TABLE = "measured/mesh"
GB = 1e9
#: a row is at odds with others from this many times their time of a slot
AT_ODDS = 2.0
#: of (model, nodes) one cell in three is kept out of every fit
MODELS, NODES = ("1B", "3B", "8B", "80B"), (1, 2, 4, 8, 16, 32, 64)


class MeasuredLayout(NamedTuple):
    """A row of the table."""

    model: str
    nodes: int
    dp: int
    pp: int
    tp: int
    zero: int
    micro_batch: int
    accumulation: int
    tokens_per_s_per_gpu: float | None
    memory_gb: float | None
    ran: bool

    @property
    def cell(self) -> str:
        """Model and number of nodes."""
        return f"{self.model}, {self.nodes} nodes"

    @property
    def held(self) -> bool:
        """Whether its cell is kept out of fits."""
        return (NODES.index(self.nodes) + MODELS.index(self.model)) % 3 == 2

    @property
    def slot_s(self) -> float:
        """Measured time of one of the M + p - 1 slots of a step. [s]"""
        length: int = table(TABLE)["workload"]["sequence_length"]
        tokens = length * self.micro_batch * self.accumulation
        ranks = self.tp * self.pp
        step = tokens / ((self.tokens_per_s_per_gpu or 0.0) * ranks)
        return step / (self.accumulation + self.pp - 1)

    @property
    def id(self) -> str:
        """A name."""
        return (
            f"mesh:{self.model}-n{self.nodes}-dp{self.dp}-tp{self.tp}-pp{self.pp}-z{self.zero}"
            f"-mb{self.micro_batch}"
        )


@cache
def layouts() -> tuple[MeasuredLayout, ...]:
    """All rows of the shipped table whose batch is the one that the source states."""
    sequences = table(TABLE)["sequences"]
    with (DATA / f"{TABLE}.csv").open(encoding="utf-8", newline="") as file:
        found = [_layout(row) for row in csv.DictReader(file)]
    return tuple(r for r in found if r.dp * r.micro_batch * r.accumulation == sequences)


def _layout(row: Mapping[str, str]) -> MeasuredLayout:
    def figure(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    nodes, dp, pp, tp, zero, micro, accumulation = (
        int(row[name])
        for name in ("nodes", "dp", "pp", "tp", "zero_stage", "micro_batch", "accumulation")
    )
    return MeasuredLayout(
        row["model"], nodes, dp, pp, tp, zero, micro, accumulation,
        figure("tokens_per_s_per_gpu"), figure("memory_gb"), row["ran"] == "yes",
    )  # fmt: skip


def at_odds(rows: Iterable[MeasuredLayout]) -> frozenset[MeasuredLayout]:
    """Rows that others of the table contradict.

    A micro-batch on the same stages and tensor-parallel ranks takes no longer than a larger one
    does anywhere, among runs whose messages wait as among others: a row whose slot takes `AT_ODDS`
    times that is slow for another reason than its layout. Most such rows take 0.7 to 1.2 s a slot,
    whatever its work. No speed is predicted for it.
    """
    alike: dict[tuple[str, int, int, bool], list[MeasuredLayout]] = {}
    for row in rows:
        if row.ran:
            alike.setdefault((row.model, row.pp, row.tp, messages_wait(row)), []).append(row)
    return frozenset(
        row
        for group in alike.values()
        for row in group
        if row.slot_s > AT_ODDS * min(o.slot_s for o in group if o.micro_batch >= row.micro_batch)
    )


@cache
def messages_wait(row: MeasuredLayout) -> bool:
    """Whether a row's run is one in which each message of a pipeline holds up the CPU.

    Runs over nodes are of two kinds. Where what tensor-parallel ranks gather weighs, those whose
    messages wait took the memory of layers that gather it again, the others that of layers that
    keep it: `[messages_wait]` of the data says from which share on it is kept, of which rows their
    memory tells, of which others all that it tells of are alike, and what no other run took.
    """
    waits = table(TABLE)["messages_wait"]
    if row.pp == 1 or row.nodes == 1:
        return False
    if row.nodes in waits["nodes"] or row.tp in waits["tensor_parallel"]:
        return True
    if row.memory_gb is not None and row.memory_gb > waits["memory_gb"]:
        return True
    return (kept := kept_share(row)) is not None and kept < waits["kept"]


def kept_share(row: MeasuredLayout) -> float | None:
    """Of what tensor-parallel ranks gather for a step, how much its memory says was kept. [1]

    None where memory does not tell: too little is gathered, the pipeline waits for its gradients
    with all of it (two stages), or no memory is printed.
    """
    waits = table(TABLE)["messages_wait"]
    if row.memory_gb is None or row.pp < waits["stages"] or row.micro_batch < waits["micro_batch"]:
        return None
    again, kept = (_gathering(row, style) for style in ("megatron", "nanotron"))
    if kept - again < waits["weight"] * again:
        return None
    return (row.memory_gb * GB - again) / (kept - again)


def _gathering(row: MeasuredLayout, style: str) -> float:
    """Memory of a row in which inputs are gathered again (`megatron`) or kept. [B]"""
    loaded = _loaded(row, {"parallelism": {"tensor_parallel_style": style}})
    return memory(loaded.topology, loaded.workload).peak_allocated_bytes


@cache
def _odd() -> frozenset[MeasuredLayout]:
    return at_odds(layouts())


@cache
def measured(row: MeasuredLayout) -> MeasuredRow:
    """A row as a user would have written it."""
    about: dict[str, Any] = table(TABLE)
    over_nodes = about["pipeline_over_nodes"] if row.pp > 1 and row.nodes > 1 else {}
    waits = {"stack": about["messages_wait"]["stack"]} if messages_wait(row) else {}
    loaded = _loaded(row, over_nodes, waits)
    gb = None if row.memory_gb is None else row.memory_gb * GB
    return MeasuredRow(
        row.id, about["source"], loaded.topology, loaded.workload, loaded.topology.world_size,
        row.tokens_per_s_per_gpu, gb, "anomaly" if row in _odd() else "complete",
        "", ran=row.ran,
    )  # fmt: skip


def _loaded(row: MeasuredLayout, *more: Mapping[str, Any]) -> Loaded:
    """Its topology and workload, with more of the workload's keys."""
    about: dict[str, Any] = table(TABLE)
    shape = merged(about["model"], about["models"][row.model], {"name": row.model})
    shape |= {"kv_heads": shape["heads"], "head_dim": shape["hidden_size"] // shape["heads"]}
    ranks = {"tensor_parallel": row.tp, "pipeline_parallel": row.pp}
    workload = merged(
        about["workload"],
        {"model": shape, "micro_batch": row.micro_batch, "gradient_accumulation": row.accumulation},
        {"parallelism": merged(about["zero"][str(row.zero)], ranks)},
        *more,
    )
    machine = about["machine"]
    sets = [f"nodes={row.nodes}", f"network.switch_latency={machine['switch_latency']}"]
    return load(machine["topology"], workload, sets)
