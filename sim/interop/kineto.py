"""PyTorch profiler (Kineto) traces: kernel time by kind and collectives with their bytes.

Needed is little: kernels (``cat: kernel``) with names and durations. The number of steps comes from
``ProfilerStep#`` annotations, sizes of collectives from the arguments that newer versions write on
NCCL kernels. A collective's kernel waits for its slowest rank, so the least time of each size is
kept beside the median.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from os import PathLike
from typing import TYPE_CHECKING, Any

from sim.errors import InputError
from sim.interop.trace_file import EVENTS, NO_EVENTS, read_trace
from sim.records import NamedTuple
from sim.units import DTYPE_BYTES

if TYPE_CHECKING:
    from sim.step.variation import Progress

NO_KERNELS = "has no GPU kernels: was it recorded with ProfilerActivity.CUDA, and not cut off?"
_GEMM = re.compile(r"cutlass|(?<!fb)gemm|xmma|nvjet|wgmma|cublas", re.IGNORECASE)
_ATTENTION = re.compile(r"flash|fmha|attention|attn|softmax_.*dropout", re.IGNORECASE)
_OPTIMIZER = re.compile(r"multi_tensor_apply|fused_?adam|adamw?_kernel", re.IGNORECASE)
_NCCL = re.compile(r"^nccl(?:Dev)?Kernel_(\w+)", re.IGNORECASE)
_OPERATIONS = {
    "allreduce": "all_reduce", "allgather": "all_gather", "allgatherbase": "all_gather",
    "allgatherintotensor": "all_gather", "reducescatter": "reduce_scatter",
    "reducescatterbase": "reduce_scatter", "reducescattertensor": "reduce_scatter",
    "alltoall": "all_to_all", "alltoallv": "all_to_all", "alltoallbase": "all_to_all",
    "broadcast": "broadcast", "allreducecoalesced": "all_reduce",
    "allgatherintotensorcoalesced": "all_gather", "reducescattertensorcoalesced": "reduce_scatter",
}  # fmt: skip
_DTYPES = {
    "float": "fp32", "double": "fp64", "half": "fp16", "bfloat16": "bf16", "int": "int32",
    "long": "int64", "char": "int8", "byte": "uint8", "bool": "uint8", "short": "int16",
    "float8e4m3fn": "fp8", "float8e5m2": "fp8",
}  # fmt: skip


Stream = tuple[str, str]  # process and thread of a trace


class TracedCollective(NamedTuple):
    """All collectives of one kind and size."""

    op: str
    group_size: int
    size: float  # total bytes, as nccl-tests counts [B]
    calls: int
    least_s: float
    median_s: float


@dataclass(slots=True)
class KinetoTrace:
    """What a trace says.

    Attributes
    ----------
    steps : int
        Training steps in it; 0 if it marks none.
    step_s : float
        From the start of a step to that of the next; nan if fewer than two are marked. [s]
    kinds : dict of str to float
        GPU time by kind: gemm, attention, optimizer and other of the stream that multiplies most
        (copies and casts beside it are none of the model's kernels), collective of all. [s]
    pace : float
        How much longer its kernels are than a usual rank's; 1 but in a trace of our own.
    collectives : list of TracedCollective
        Those whose kernels carry their size.
    """

    source: str
    gpu: str
    world_size: int
    nccl: str
    steps: int
    step_s: float
    kinds: dict[str, float]
    kernels: int
    collectives: list[TracedCollective]
    notes: list[str] = field(default_factory=list)
    pace: float = 1.0

    def per_step(self, kind: str) -> float:
        """GPU time of a kind in one step of a usual rank; nan where steps are not marked. [s]"""
        return self.kinds.get(kind, 0.0) / self.steps / self.pace if self.steps else math.nan


def read_kineto(path: str | PathLike[str], progress: Progress | None = None) -> KinetoTrace:
    """Read a trace, ``.json`` or ``.json.gz``.

    Parameters
    ----------
    path : path
        As ``torch.profiler`` exports it, of one rank.
    progress : callable, optional
        As for `read_trace`.

    Raises
    ------
    InputError
        If it is no such trace, has no GPU kernels, or is broken or too large.
    """
    source = str(path)
    head, events = read_trace(path, progress)
    by_stream: dict[Stream, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    sized: dict[tuple[str, int, float], list[float]] = defaultdict(list)
    kernels = unsized = 0
    starts: dict[str, float] = {}
    for stream, name, category, start, duration, arguments in complete(events):
        if category == "kernel":
            kernels += 1
            kind = kind_of(name, arguments)
            by_stream[stream][kind] += duration
            if kind == "collective":
                key = collective_of(arguments)
                if key is None:
                    unsized += 1
                else:
                    sized[key].append(duration)
        elif category == "user_annotation" and name.startswith("ProfilerStep#"):
            starts.setdefault(name, start)
    if not kernels:
        raise InputError.single(source, NO_KERNELS)
    begun = sorted(starts.values())
    step_s = (begun[-1] - begun[0]) / (len(begun) - 1) if len(begun) > 1 else math.nan
    notes = [f"{unsized} collectives without their size left out"] if unsized else []
    if not begun:
        notes.append("no ProfilerStep marks: kernel time per step is not known")
    info = distributed(head)
    return KinetoTrace(
        source=source,
        gpu=device_of(head),
        world_size=world_of(head),
        nccl=str(info.get("nccl_version") or ""),
        steps=len(begun),
        step_s=step_s,
        kinds=_kinds(by_stream),
        pace=_pace(head),
        kernels=kernels,
        collectives=[
            TracedCollective(*key, len(times), min(times), statistics.median(times))
            for key, times in sorted(sized.items())
        ],
        notes=notes,
    )


def distributed(head: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the profiler says of the ranks."""
    found = head.get("distributedInfo")
    return found if isinstance(found, Mapping) else {}


def world_of(head: Mapping[str, Any]) -> int:
    """Ranks of the job; 1 where the profiler does not say."""
    return _count(distributed(head).get("world_size")) or 1


def events_of(document: Any, source: str) -> tuple[Mapping[str, Any], list[Any]]:
    """What `read_trace` gives, of a trace that was read already.

    Raises
    ------
    InputError
        It is no such trace.
    """
    events = document.get(EVENTS) if isinstance(document, dict) else document
    if not isinstance(events, list):
        raise InputError.single(source, NO_EVENTS)
    return document if isinstance(document, dict) else {}, events


def _kinds(by_stream: Mapping[Stream, Mapping[str, float]]) -> dict[str, float]:
    """Kinds of the stream that multiplies most, or where none does is busiest; all collectives."""
    main = max(
        by_stream.values(),
        key=lambda kinds: (
            kinds.get("gemm", 0.0),
            sum(s for kind, s in kinds.items() if kind != "collective"),
        ),
    )
    collective = sum(kinds.get("collective", 0.0) for kinds in by_stream.values())
    return {**main, **({"collective": collective} if collective else {})}


def _pace(head: Mapping[str, Any]) -> float:
    found = head.get("pace")
    known = isinstance(found, int | float) and math.isfinite(found) and 1.0 <= found < 2.0
    return float(found) if known and found is not None else 1.0


def kind_of(name: str, arguments: Mapping[str, Any] | None = None) -> str:
    """Kind of a kernel by its name: gemm, attention, optimizer, collective or other.

    A trace of ``scaling-sim trace`` says it among the arguments.
    """
    found = _named_kind(name)
    said = (arguments or {}).get("kind")
    if isinstance(said, str) and found != "collective":
        return said if said in ("gemm", "attention", "optimizer") else "other"
    return found


@lru_cache(4096)
def _named_kind(name: str) -> str:
    if _NCCL.match(name):
        return "collective"
    if _ATTENTION.search(name):
        return "attention"
    if _GEMM.search(name):
        return "gemm"
    return "optimizer" if _OPTIMIZER.search(name) else "other"


def complete(
    events: Iterable[Any],
) -> Iterator[tuple[Stream, str, str, float, float, dict[str, Any]]]:
    """Complete events: stream, name, category, start and duration [s], arguments."""
    for event in events:
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        name, category = event.get("name"), event.get("cat")
        start, duration = _seconds(event.get("ts")), _seconds(event.get("dur"))
        if not isinstance(name, str) or not isinstance(category, str):
            continue
        if start is None or duration is None or duration < 0:
            continue
        arguments = event.get("args")
        yield (
            (str(event.get("pid")), str(event.get("tid"))),
            name,
            category.lower(),
            start,
            duration,
            arguments if isinstance(arguments, dict) else {},
        )


def _seconds(value: Any) -> float | None:
    """Microseconds, as a number or (some exporters) as text."""
    try:
        found = float(value) * 1e-6
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _count(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**15:
        return value
    return 0


def collective_of(arguments: Mapping[str, Any]) -> tuple[str, int, float] | None:
    """Operation, group and total bytes of an NCCL kernel; None if it does not carry them."""
    op = _operation(str(arguments.get("Collective name", "")))
    group = _count(arguments.get("Group size"))
    elements = max(
        _count(arguments.get("In msg nelems")), _count(arguments.get("Out msg nelems"))
    )  # fmt: skip
    dtype = re.sub(r"[^a-z0-9]", "", str(arguments.get("dtype", "")).lower())
    width = DTYPE_BYTES.get(_DTYPES.get(dtype, ""), 0)
    if op is None or group < 2 or not elements or not width:
        return None
    return op, group, float(elements * width)


def operation_of(name: str, arguments: Mapping[str, Any]) -> str:
    """Operation of an NCCL kernel, from its arguments or its name."""
    match = _NCCL.match(name)
    named = match[1].partition("_")[0] if match else ""
    said = _operation(str(arguments.get("Collective name", ""))) or _operation(named)
    return said or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", named).lower()


def _operation(said: str) -> str | None:
    return _OPERATIONS.get(re.sub(r"[^a-z]", "", said.lower()))


def device_of(head: Mapping[str, Any]) -> str:
    """The GPU's name; empty where the trace does not say."""
    devices = head.get("deviceProperties")
    if isinstance(devices, list) and devices and isinstance(devices[0], dict):
        return str(devices[0].get("name", ""))
    return ""
