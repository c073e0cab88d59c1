"""What nccl-tests prints: standard output of any version, prefixed or interleaved, and ``-J`` JSON.

    for table in read_nccl_tests("log.txt"):
        table.op, table.ranks, [(p.size, p.time_s) for p in table.points]

What a table is of, beside its rows, is found by `sim.interop.nccl_table`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from os import PathLike
from typing import Any

from sim.errors import InputError
from sim.interop.evidence import LAUNCHERS_TAG, MAX_TEXT, json_of, read_bytes, text_of
from sim.interop.nccl_table import (
    ELEMENT_BYTES,
    NAMES,
    Draft,
    NcclPoint,
    NcclTable,
    finished,
    unread,
)

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
        raise InputError.single(source, f"{message}; {unread(lost)}" if lost else message)
    many = len(drafts) > 1
    return tuple(
        finished(d, f"{source}#{i}" if many else source, path, op)
        for i, d in enumerate(drafts, start=1)
    )


# --- text ----------------------------------------------------------------------------------------


def _from_text(text: str) -> list[Draft]:
    drafts = [Draft(1)]
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
            drafts.append(Draft(number, program, counts_wrong="#wrong" in line))
        else:
            program = _program(line) or program
            nccl = _version(line) or nccl
    return drafts


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


def _add(draft: Draft, row: re.Match[str], number: int) -> None:
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
    return NAMES[found[-1].lower().replace("_", "")] if found else ""


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


def _from_json(document: Any, source: str) -> Draft:
    """``-J``: rows with ``out_of_place`` and ``in_place``, keys in any of their spellings."""
    draft = Draft(0)
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


def _json_row(draft: Draft, row: Any) -> None:
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
