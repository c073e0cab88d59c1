"""What nccl-tests prints: standard output of any version, prefixed or interleaved, and ``-J`` JSON.

    for table in read_nccl_tests("log.txt"):
        table.op, table.ranks, [(p.size, p.time_s) for p in table.points]

A log says neither its operation nor, if its head was cut off, its ranks. The operation is taken
from the program's name, the file's name or the columns; the ranks from the list of devices, the
element counts, or the ratio of bus to algorithm bandwidth. Where they contradict each other the
table is refused with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import PurePath
from typing import Any, NamedTuple

from sim.cost.collectives import bus_factor
from sim.errors import InputError
from sim.interop.evidence import LAUNCHERS_TAG, MAX_TEXT, json_of, read_bytes, text_of
from sim.quantities import counted
from sim.units import DTYPE_BYTES

_DTYPES = {
    "int8": "int8", "uint8": "uint8", "char": "int8", "int32": "int32", "int": "int32",
    "uint32": "int32", "int64": "int64", "uint64": "int64", "half": "fp16", "float16": "fp16",
    "bfloat16": "bf16", "float": "fp32", "float32": "fp32", "double": "fp64", "float64": "fp64",
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "f8e4m3": "fp8", "f8e5m2": "fp8",
}  # fmt: skip
ELEMENT_BYTES = {name: DTYPE_BYTES[kind] for name, kind in _DTYPES.items()}
_TYPES = "|".join(sorted(ELEMENT_BYTES, key=len, reverse=True))
_NUMBER = r"\d{1,15}(?:\.\d{0,15})?(?:[eE][-+]?\d{1,3})?|[iI]nf|nan"
_CHECK = r"[-+0-9.eE]+|N/A|nan|inf"
_ROW = re.compile(
    rf"(?:^|\s)(?P<size>\d{{1,18}})\s+(?P<count>\d{{1,18}})\s+(?P<type>{_TYPES})"
    r"(?:\s+(?P<redop>sum|prod|max|min|avg|mulsum|none|all))?(?:\s+(?P<root>-?\d{1,9}))?"
    rf"\s+(?P<time>{_NUMBER})\s+(?P<alg>{_NUMBER})\s+(?P<bus>{_NUMBER})\s+(?P<check>{_CHECK})"
    rf"(?:\s+(?P<time2>{_NUMBER})\s+(?P<alg2>{_NUMBER})\s+(?P<bus2>{_NUMBER})\s+(?P<check2>{_CHECK}))?"
    r"(?:\s|$)"
)
_RATES = rf"\s+(?:{_NUMBER})\s+\d+\.\d\d\s+\d+\.\d\d\s+(?:{_CHECK})"
#: how a row begins and how it ends: a line that has either, and is none, holds what is left of one
_PIECE = re.compile(rf"(?:^|\s)\d{{1,18}}\s+\d{{1,18}}\s+(?:{_TYPES})\s|{_RATES}{_RATES}\s*$")
_TAG = re.compile(LAUNCHERS_TAG)
_DEVICE = re.compile(
    r"#\s+Rank\s+(\d{1,9})(?:\s+Group\s+\d+)?\s+Pid\s+\d+\s+on\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s+(.*)"
)
_LONGEST_TAG = 200
_HEAD = re.compile(r"#\s+size\s+count\s+type")
_NCCL = re.compile(r"NCCL version\s+(\d+\.\d+(?:\.\d+)?)")
_LIBRARY = re.compile(r"nccl-library=(\d{4,6})\b")
_PROGRAM = re.compile(
    r"(all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|broadcast|send_?recv|hypercube|reduce"
    r"|gather|scatter)_perf",
    re.IGNORECASE,
)
_NAMES = {
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
class _Draft:
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


def read_nccl_tests(path: str | PathLike[str], op: str = "") -> tuple[NcclTable, ...]:
    """Every table of a file.

    Parameters
    ----------
    path : path
        Standard output of nccl-tests, or what it wrote with ``-J``; gzip or plain.
    op : str
        The operation, where the file does not say.

    Raises
    ------
    InputError
        If it is no such file, or a table cannot be understood.
    """
    source = str(path)
    data = read_bytes(path, MAX_TEXT)
    text = text_of(data, source)
    if text.lstrip().startswith("{"):
        drafts = [_from_json(json_of(data, source), source)]
    else:
        drafts = _from_text(text)
    lost = [number for d in drafts if not d.rows for number in d.lost]
    drafts = [d for d in drafts if d.rows]
    if not drafts:
        message = "has no rows of nccl-tests (size, count, type, time, algbw, busbw, ...)"
        raise InputError.single(source, f"{message}; {_unread(lost)}" if lost else message)
    many = len(drafts) > 1
    return tuple(
        _finished(d, f"{source}#{i}" if many else source, path, op)
        for i, d in enumerate(drafts, start=1)
    )


# --- text ----------------------------------------------------------------------------------------


def _from_text(text: str) -> list[_Draft]:
    drafts = [_Draft(1)]
    untagged = _untagger(text)
    program, nccl, devices = "", "", dict[int, tuple[str, str]]()
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > 4096:
            continue
        bare = untagged(line)
        row = _ROW.search(line) or _ROW.search(bare)
        if row is not None and "NCCL INFO" not in line:
            if not drafts[-1].rows:  # a list of devices is of the table that follows it
                drafts[-1].devices, devices = devices, {}
                drafts[-1].program = drafts[-1].program or program
                drafts[-1].nccl = nccl
            _add(drafts[-1], row, number)
            continue
        if "#" not in line and (_PIECE.search(line) or _PIECE.search(bare)):
            drafts[-1].lost.append(number)
            continue
        device = _DEVICE.search(line) or _DEVICE.search(bare)
        if device is not None:
            rank = int(device[1])
            if rank == 0 or rank in devices:
                devices = {}
            devices[rank] = device[2], device[3].strip()
        elif _HEAD.search(bare):
            drafts.append(_Draft(number, program, counts_wrong="#wrong" in line))
        else:
            program = _program(line) or program
            nccl = _version(line) or nccl
    return drafts


def _unread(lost: list[int]) -> str:
    """Which lines hold rows that could not be read."""
    which = ", ".join([f"{number}" for number in lost[:5]] + ["..."] * (len(lost) > 5))
    return f"left out rows, or parts of them, that cannot be read: line {which}"


def _untagger(text: str) -> Callable[[str], str]:
    """What takes a launcher's tags out of a line: those of `_TAG`, and what stands before the head.

    The latter may stand inside lines too, as it is or with other numbers (a time, a process).
    """
    head = _HEAD.search(text)
    tag = text[text.rfind("\n", 0, head.start()) + 1 : head.start()] if head else ""
    if len(tag) > _LONGEST_TAG or not re.search(r"[^\s\d]", tag):
        return lambda line: _TAG.sub("", line)
    other = re.compile(re.sub(r"\d", lambda _: r"\d", re.escape(tag)))
    return lambda line: _TAG.sub("", other.sub("", line.replace(tag, "")))


def _add(draft: _Draft, row: re.Match[str], number: int) -> None:
    checks = (row["check"], row["check2"])
    if draft.counts_wrong and any(c not in (None, "0", "N/A") for c in checks):
        draft.wrong += 1
        return
    time, other = float(row["time"]), float(row["time2"] or "nan")
    point = NcclPoint(float(row["size"]), time * 1e-6, other * 1e-6, number)
    draft.redops.add(row["redop"] or "")
    draft.rows.append((point, int(row["count"]), row["type"], float(row["alg"]), float(row["bus"])))


def _program(line: str) -> str:
    found = _PROGRAM.findall(line)
    return _NAMES[found[-1].lower().replace("_", "")] if found else ""


def _version(line: str) -> str:
    found = _NCCL.search(line)
    if found:
        return found[1]
    library = _LIBRARY.search(line)
    return _version_of(int(library[1])) if library else ""


def _version_of(code: int) -> str:
    """22703 is 2.27.3; before 2.9, 2804 was 2.8.4."""
    if code >= 10000:
        return f"{code // 10000}.{code // 100 % 100}.{code % 100}"
    return f"{code // 1000}.{code // 100 % 10}.{code % 100}"


# --- JSON ----------------------------------------------------------------------------------------


def _from_json(document: Any, source: str) -> _Draft:
    """``-J``: rows with ``out_of_place`` and ``in_place``, keys in any of their spellings."""
    draft = _Draft(0)
    rows = _key(document, "results", "result", "rows")
    if not isinstance(rows, list):
        raise InputError.single(source, 'has no list "results", as nccl-tests -J writes')
    args = _key(document, "args", "argv", "command", "collective", "test")
    draft.program = _program_of(args)
    version = _key(document, "nccl_version", "nccl", "nccl_library")
    if isinstance(version, int) and version > 0:
        draft.nccl = _version_of(version)
    elif isinstance(version, str) and re.fullmatch(r"\d+\.\d+(\.\d+)?", version):
        draft.nccl = version
    devices = _key(document, "devices", "ranks")
    for i, device in enumerate(devices if isinstance(devices, list) else []):
        rank = _key(device, "rank")
        host = str(_key(device, "host", "hostname") or "")
        name = str(_key(device, "device_info", "device_name", "name") or "")
        draft.devices[rank if isinstance(rank, int) else i] = host, name
    for row in rows:
        _json_row(draft, row)
    return draft


def _json_row(draft: _Draft, row: Any) -> None:
    out, within = _key(row, "out_of_place"), _key(row, "in_place")
    size, count, kind = _key(row, "size"), _key(row, "count"), str(_key(row, "type") or "")
    numbers = [_number(_key(out, *names)) for names in (
        ("time", "time_us"), ("alg_bw", "algbw"), ("bus_bw", "busbw")
    )]  # fmt: skip
    if _number(size) is None or _number(count) is None or kind not in ELEMENT_BYTES:
        return
    time, alg, bus = numbers
    if time is None or alg is None or bus is None:
        return
    if any(_number(_key(part, "nwrong", "wrong")) or 0 for part in (out, within)):
        draft.wrong += 1
        return
    other = _number(_key(within, "time", "time_us"))
    draft.redops.add(str(_key(row, "redop") or ""))
    point = NcclPoint(float(size), time * 1e-6, math.nan if other is None else other * 1e-6, 0)
    draft.rows.append((point, int(count), kind, alg, bus))


def _key(table: Any, *names: str) -> Any:
    if isinstance(table, dict):
        for name in names:
            if name in table:
                return table[name]
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _program_of(args: Any) -> str:
    words = [str(a) for a in args] if isinstance(args, list) else [str(args or "")]
    return next((found for word in words for found in [_program(word)] if found), "")


# --- what a table is -----------------------------------------------------------------------------


def _finished(draft: _Draft, source: str, path: str | PathLike[str], wanted: str) -> NcclTable:
    notes = [f"{counted(draft.wrong, 'row')} with wrong results left out"] if draft.wrong else []
    notes += [_unread(draft.lost)] if draft.lost else []
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
    order = sorted(_NAMES, key=len, reverse=True)
    return next((_NAMES[name] for name in order if name in plain), "")


def _from_columns(
    draft: _Draft, rows: list[tuple[NcclPoint, int, str, float, float]], factor: float
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
    draft: _Draft, op: str, rows: list[tuple[NcclPoint, int, str, float, float]], factor: float,
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
