"""Published fine-tuning runs as topologies and workloads.

Most stand in a table: `sim/data/measured/finetune.toml` says once what ran, a row of `finetune.csv`
which of it. Rows of equal jobs share one topology and one workload.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from typing import Any

from sim.data import DATA, table
from sim.inputs.loader import Prepared, prepare
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.published.rows import MeasuredRow, read_rows

TABLE = "measured/finetune"
CORES_PER_GPU = 2  # as the jobs asked for


@cache
def finetune_rows() -> tuple[MeasuredRow, ...]:
    """All fine-tuning runs: those of the table, then those written out one by one."""
    return (*table_rows(), *read_rows(DATA / f"{TABLE}.jsonl"))


@cache
def table_rows() -> tuple[MeasuredRow, ...]:
    """Rows of the shipped table."""
    return tuple(map(table_row, range(1, len(table_records()) + 1)))


def table_row(number: int) -> MeasuredRow:
    """A row of the shipped table, the first of which is 1."""
    return _row(number, table_records()[number - 1], table(TABLE))


@cache
def table_records() -> tuple[dict[str, str], ...]:
    """The shipped table as it stands, a mapping of its columns a run."""
    with (DATA / f"{TABLE}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _row(index: int, row: Mapping[str, str], about: Mapping[str, Any]) -> MeasuredRow:
    flag = row["flag"]
    gpus = int(row["gpus"])
    topology, workload = _job(
        row["model"], row["method"], row["gpu"], gpus, int(row["nodes"]), row["campaign"],
        flag.removeprefix("network-") if flag.startswith("network-") else "",
        int(row["length"]), int(row["batch"]) // gpus,
    )  # fmt: skip
    return MeasuredRow(
        id=f"finetune:{index}",
        source=about["source"],
        topology=topology,
        workload=workload,
        gpus=gpus,
        tokens_per_s_per_gpu=float(row["tokens_per_s"]) / gpus,
        memory_bytes=None,
        status="anomaly" if flag else "complete",
        note=about["flags"][flag] if flag else "",
    )


@cache
def _job(
    model: str, method: str, gpu: str, gpus: int, nodes: int, campaign: str, network: str,
    length: int, micro_batch: int,
) -> tuple[Topology, Workload]:  # fmt: skip
    """What ran: equal arguments give the same objects.

    One of each kind is checked when it is read; that all of the table are sound is held by a test.
    """
    kind = _prepared(model, method, gpu, gpus, nodes, campaign, network).loaded()
    sizes = {"sequence_length": length, "micro_batch": micro_batch}
    return kind.topology, kind.workload.model_copy(update=sizes)


@cache
def _prepared(
    model: str, method: str, gpu: str, gpus: int, nodes: int, campaign: str, network: str
) -> Prepared:
    about = table(TABLE)
    several = "several" if gpus > 1 else "one"
    kind = dict(about["methods"][method])
    workload = merged(
        about["workload"], about["gpus"][several], about["campaigns"][campaign],
        {key: value for key, value in kind.items() if key not in ("one", "several")},
        kind.get(several, {}), {"model": model, "sequence_length": 512},
        about["models"][model].get(method, {}),
    )  # fmt: skip
    local = gpus // nodes
    node: dict[str, Any] = {"gpus": local, "cpu": {"cores": CORES_PER_GPU * local}}
    if network:
        node |= about["networks"][network]
    pair = about["pairs"].get(gpu, {}) if local == 2 else {}
    topology = merged(about["machines"][gpu], pair, {"nodes": nodes, "node": node})
    if local == 1:
        topology["node"].pop("nvlink", None)
    topology["node"]["pcie"]["gpus_per_switch"] = min(
        local, topology["node"]["pcie"]["gpus_per_switch"]
    )
    return prepare(topology, workload)


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings laid over each other, key by key; later ones win."""
    out: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            under = out.get(key)
            if isinstance(value, Mapping):
                value = merged(under if isinstance(under, Mapping) else {}, value)
            out[key] = value
    return out
