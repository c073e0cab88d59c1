"""A run of nccl-tests: its rows, and what its log leaves unsaid, found from them.

A log says neither its operation nor, if its head was cut off, its ranks. The operation is taken
from the program's name, the file's name or the columns; the ranks from the list of devices, the
element counts, or the ratio of bus to algorithm bandwidth. Where they contradict each other the
table is refused with the reason.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from os import PathLike
from pathlib import PurePath

from sim.cost.collectives import bus_factor
from sim.errors import InputError
from sim.quantities import counted
from sim.records import NamedTuple
from sim.units import DTYPE_BYTES

_DTYPES = {
    "int8": "int8", "uint8": "uint8", "char": "int8", "int32": "int32", "int": "int32",
    "uint32": "int32", "int64": "int64", "uint64": "int64", "half": "fp16", "float16": "fp16",
    "bfloat16": "bf16", "float": "fp32", "float32": "fp32", "double": "fp64", "float64": "fp64",
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "f8e4m3": "fp8", "f8e5m2": "fp8",
}  # fmt: skip
ELEMENT_BYTES = {name: DTYPE_BYTES[kind] for name, kind in _DTYPES.items()}
#: operations by the letters of their names
NAMES = {
    "allreduce": "all_reduce", "allgather": "all_gather", "reducescatter": "reduce_scatter",
    "alltoall": "all_to_all", "broadcast": "broadcast", "sendrecv": "send_recv",
    "reduce": "reduce", "gather": "gather", "scatter": "scatter", "hypercube": "hypercube",
}  # fmt: skip
_ROUNDING = 0.02  # of bus over algorithm bandwidth, as printed
_DIGITS = 0.5  # GB/s with two decimals from which their ratio is known to that
_PER_RANK = ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter")
UNKNOWN = ("reduce", "gather", "scatter", "hypercube")  # operations the model does not have


class NcclPoint(NamedTuple):
    """One row."""

    size: float  # as nccl-tests counts: total bytes of all-gather and reduce-scatter [B]
    time_s: float  # out of place
    in_place_s: float  # nan if not given
    line: int  # 0 in JSON


@dataclass(slots=True)
class NcclTable:
    """One run of one nccl-tests program.

    Attributes
    ----------
    op, ranks : str, int
        Operation and size of the group.
    hosts : dict of str to int
        Ranks by host; empty where the log's head is missing.
    gpu, nccl : str
        As the log names them; empty where it does not.
    notes : list of str
        Rows left out, and how what the log lacks was found.
    """

    source: str
    op: str
    ranks: int
    points: list[NcclPoint]
    hosts: dict[str, int] = field(default_factory=dict)
    gpu: str = ""
    nccl: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Draft:
    """A table while it is read."""

    line: int
    program: str = ""
    devices: dict[int, tuple[str, str]] = field(default_factory=dict)
    rows: list[tuple[NcclPoint, int, str, float, float]] = field(default_factory=list)
    redops: set[str] = field(default_factory=set)
    counts_wrong: bool = False
    wrong: int = 0
    lost: list[int] = field(default_factory=list)  # lines that no row can be read from
    nccl: str = ""


def unread(lost: list[int]) -> str:
    """Which lines hold rows that could not be read."""
    which = ", ".join([f"{number}" for number in lost[:5]] + ["..."] * (len(lost) > 5))
    return f"left out rows, or parts of them, that cannot be read: line {which}"


def finished(draft: Draft, source: str, path: str | PathLike[str], wanted: str) -> NcclTable:
    """The table of what was read.

    Parameters
    ----------
    draft : Draft
        With rows.
    source : str
        What faults call it.
    path : path
        Its file, whose name may say the operation.
    wanted : str
        The operation that was asked for, "" where none was.

    Raises
    ------
    InputError
        If what it is cannot be found, or contradicts itself.
    """
    notes = [f"{counted(draft.wrong, 'row')} with wrong results left out"] if draft.wrong else []
    notes += [unread(draft.lost)] if draft.lost else []
    usable = [r for r in draft.rows if r[0].size > 0 and r[0].time_s > 0]
    usable = [r for r in usable if math.isfinite(r[0].time_s)]
    if not usable:
        raise InputError.single(source, "has no row of more than 0 bytes")
    factor = _factor(usable)
    op = wanted or draft.program or _from_name(path) or _from_columns(draft, usable, factor)
    if not op:
        message = "does not say which operation it measured; name it, e.g. all_gather=" + str(path)
        raise InputError.single(source, message)
    if op in UNKNOWN:
        raise InputError.single(source, f"measures {op}, which the model has not")
    ranks = _ranks(draft, op, usable, factor, source, notes)
    hosts: dict[str, int] = {}
    for host, _ in draft.devices.values():
        hosts[host] = hosts.get(host, 0) + 1
    gpu = next((name for _, name in draft.devices.values()), "")
    points = [r[0] for r in usable]
    return NcclTable(source, op, ranks, points, hosts, gpu, draft.nccl, notes)


def _factor(rows: list[tuple[NcclPoint, int, str, float, float]]) -> float:
    """Bus over algorithm bandwidth, from the row with the most digits; nan where that has few."""
    best = max(rows, key=lambda r: r[3] if math.isfinite(r[3]) else 0.0)
    return best[4] / best[3] if best[3] >= _DIGITS else math.nan


def _from_name(path: str | PathLike[str]) -> str:
    plain = re.sub(r"[^a-z]", "", PurePath(path).name.lower())
    order = sorted(NAMES, key=len, reverse=True)
    return next((NAMES[name] for name in order if name in plain), "")


def _from_columns(
    draft: Draft, rows: list[tuple[NcclPoint, int, str, float, float]], factor: float
) -> str:
    """The operation by its columns: reductions name one, and only some factors exceed 1."""
    reduces = bool(draft.redops - {"", "none"})
    per_rank = any(p.size > count * ELEMENT_BYTES[kind] for p, count, kind, _, _ in rows)
    if factor > 1.001:
        return "all_reduce"
    if reduces and factor < 0.999:
        return "reduce_scatter" if per_rank else "all_reduce"
    return ""


def _ranks(
    draft: Draft, op: str, rows: list[tuple[NcclPoint, int, str, float, float]], factor: float,
    source: str, notes: list[str],
) -> int:  # fmt: skip
    """Ranks of the group, from the devices, the counts or the ratio of the bandwidths."""
    listed = len(draft.devices)
    if listed > 1:
        expected = bus_factor(op, listed)
        if math.isfinite(factor) and abs(factor / expected - 1) > _ROUNDING:
            message = (
                f"its bus bandwidth is {factor:.3f} of the algorithm bandwidth; {op} over its "
                f"{listed} devices has {expected:.3f}: is it another operation?"
            )
            raise InputError.single(source, message)
        return listed
    inferred = _inferred(op, rows, factor)
    if not inferred or round(inferred) < 2:
        message = "does not say how many ranks took part: its head (# Rank 0 ...) is missing"
        raise InputError.single(source, message)
    exact = round(inferred)
    if exact > 16 and exact % 8 and abs(inferred - 8 * round(inferred / 8)) < 0.02 * inferred:
        exact = 8 * round(inferred / 8)  # three digits do not tell 127 from 128
    notes.append(f"{exact} ranks, from {'counts' if op in _PER_RANK else 'bus over algbw'}")
    return exact


def _inferred(
    op: str, rows: list[tuple[NcclPoint, int, str, float, float]], factor: float
) -> float:
    """Ranks that the figures speak of; 0 where they do not."""
    if op in _PER_RANK:
        ratios = [p.size / (c * ELEMENT_BYTES[kind]) for p, c, kind, _, _ in rows if c > 0]
        whole = [r for r in ratios if r > 1.5]
        if whole:
            return sorted(whole)[len(whole) // 2]
        return 1 / (1 - factor) if 0.4 < factor < 0.9999 else 0.0
    if op == "all_reduce":
        return 2 / (2 - factor) if 0.9 < factor < 1.9999 else 0.0
    return 0.0
