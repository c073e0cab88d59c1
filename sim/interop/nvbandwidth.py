"""What NVIDIA's nvbandwidth prints, and SuperBench's gpu_copy: copy rates between host and GPUs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from os import PathLike

from sim.errors import InputError
from sim.interop.evidence import read_bytes, text_of

_MAX_BYTES = 16_000_000  # it prints kilobytes; these are read in 3 s
_RUNNING = re.compile(r"^Running (\w+?)\.?$")
_MATRIX = re.compile(r"bandwidth \(GB/s\)")
_ROW = re.compile(r"^\s*\d+((?:\s+(?:\d+\.\d+|N/A))+)\s*$")
_COPY = re.compile(
    r"^(cpu|gpu)\d*_to_(cpu|gpu)\d*_(?:(?:read|write)_)?by_(sm|dma)\S*\s+(\d+\.\d+)$"
)
_DEVICE = re.compile(r"^Device \d+: (.+?)(?: \([0-9a-fA-F:.]+\))?$")
_TO_DEVICE, _TO_HOST, _BETWEEN = "host_to_device", "device_to_host", "device_to_device"
_TESTS = {
    "host_to_device_memcpy_ce": _TO_DEVICE,
    "device_to_host_memcpy_ce": _TO_HOST,
    "device_to_device_memcpy_read_ce": _BETWEEN,
    "device_to_device_memcpy_write_ce": _BETWEEN,
}


@dataclass(slots=True)
class CopyRates:
    """Rates by copy engine, one direction at a time, one copy at a time. [B/s]"""

    source: str
    gpu: str
    rates: dict[str, list[float]] = field(default_factory=dict)

    def median(self, way: str) -> float:
        """Median of ``host_to_device | device_to_host | device_to_device``; nan if not measured."""
        found = sorted(self.rates.get(way, ()))
        return found[len(found) // 2] if found else math.nan


def read_nvbandwidth(path: str | PathLike[str]) -> CopyRates:
    """Read a log.

    Raises
    ------
    InputError
        If it has none of the copies the model knows.
    """
    source = str(path)
    out = CopyRates(source, "")
    test = ""
    inside = False
    for line in text_of(read_bytes(path, _MAX_BYTES), source).splitlines():
        plain = line.strip()
        if len(plain) > 4096:
            continue
        running, device = _RUNNING.match(plain), _DEVICE.match(plain)
        copy, row = _COPY.match(plain), _ROW.match(line)
        if running:
            test, inside = _TESTS.get(running[1], ""), False
        elif device:
            out.gpu = out.gpu or device[1]
        elif _MATRIX.search(plain):
            inside = True
        elif plain.startswith("SUM"):
            inside = False
        elif test and inside and row:
            found = [float(v) * 1e9 for v in row[1].split() if v != "N/A"]
            out.rates.setdefault(test, []).extend(v for v in found if v > 0)
        elif copy and copy[3] == "dma":
            _add_copy(out, plain, copy)
    if not any(out.rates.values()):
        message = "has no copy rates of nvbandwidth (host_to_device_memcpy_ce, ...) or gpu_copy"
        raise InputError.single(source, message)
    return out


def _add_copy(out: CopyRates, line: str, copy: re.Match[str]) -> None:
    way = {("cpu", "gpu"): _TO_DEVICE, ("gpu", "cpu"): _TO_HOST, ("gpu", "gpu"): _BETWEEN}.get(
        (copy[1], copy[2])
    )
    ends = re.findall(r"gpu(\d+)", line)
    if way is None or (way == _BETWEEN and (len(ends) < 2 or ends[0] == ends[1])):
        return  # a copy inside one GPU says nothing about links
    if float(copy[4]) > 0:
        out.rates.setdefault(way, []).append(float(copy[4]) * 1e9)
