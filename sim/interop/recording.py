"""What one pass over the events of a profiled step keeps of them, as columns.

A kernel belongs to the phase in which the host launched it: within the optimizer's step or after
the last backward of a step, on a thread of the autograd engine, or before. Our own traces say so
among a kernel's arguments.

Source: the profiler's own marks, pytorch/kineto `tb_plugin` and torch/autograd/profiler.py
(``ProfilerStep#``, ``autograd::engine::evaluate_function``, ``Optimizer.step#``, ``correlation``).
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from sim.interop.gpu_work import B1, F8, I8, Numbered, Work, by_number
from sim.interop.kineto import Stream, collective_of, complete, kind_of, operation_of
from sim.records import NamedTuple

PHASES = ("forward", "backward", "update")
STEP = "ProfilerStep#"
_OPTIMIZER = "Optimizer.step#"
_BACKWARD = "autograd::engine::evaluate_function"
_LAUNCHES = frozenset({"cuda_runtime", "cuda_driver", "hip_runtime"})
_ON_GPU = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
_OURS = {
    "forward": "forward", "recompute": "backward", "backward": "backward", "clip": "update",
    "optimizer": "update", "trainer": "update",
}  # fmt: skip
_NONE, UNSIZED = -1, -2  # no collective; one that does not say its size
_INT64 = range(-(2**63), 2**63)

Times = dict[int, "array[float]"]  # thread -> start and end of one after the other [s]
Sizes = tuple[str, int, float]  # as `collective_of`


class Collectives(NamedTuple):
    """Collectives among some work: which of `keys` each is, -1 of other work, -2 unsized. (n,)"""

    key: I8
    seconds: F8
    keys: list[Sizes]


class Recording:
    """What ran on GPUs, what launched it, and when the host did what.

    Parameters
    ----------
    events : iterable
        As `sim.interop.trace_file.read_trace` gives them.
    """

    def __init__(self, events: Iterable[Any]) -> None:
        self._streams, self._names, self._words = (
            Numbered[Stream](),
            Numbered[str](),
            Numbered[str](),
        )
        self._keys = Numbered[Sizes]()
        self._threads = Numbered[Stream]()
        self._times, self._numbers = array("d"), array("q")  # of what ran: two, and six each
        self._launched = array("q"), array("q"), array("d")  # correlation, thread, start
        marks: dict[str, tuple[float, float]] = {}
        backward: Times = defaultdict(lambda: array("d"))
        updates: Times = defaultdict(lambda: array("d"))
        leading: set[int] = set()
        for thread, name, category, start, duration, arguments in complete(events):
            if category in _ON_GPU:
                self._take(thread, name, category, start, duration, arguments)
            elif category in _LAUNCHES:
                number = arguments.get("correlation")
                if isinstance(number, int) and number in _INT64:
                    self._launched[0].append(number)
                    self._launched[1].append(self._threads[thread])
                    self._launched[2].append(start)
            elif name.startswith(_BACKWARD):
                backward[self._threads[thread]].extend((start, start + duration))
            elif category == "user_annotation" and name.startswith(STEP):
                marks.setdefault(name, (start, start + duration))
                leading.add(self._threads[thread])
            elif category == "user_annotation" and name.startswith(_OPTIMIZER):
                updates[self._threads[thread]].extend((start, start + duration))
                leading.add(self._threads[thread])
        self.marks = sorted(marks.values())
        self._begins = np.array([start for start, _ in self.marks])
        self._engine = frozenset(backward) - leading  # threads that do nothing but backward
        self._backward = {thread: _pairs(times) for thread, times in backward.items()}
        self._updates = {thread: _pairs(times) for thread, times in updates.items()}
        # step -> end of its last backward; what is in no step comes last
        self._last = np.full(len(self.marks) + 2, -np.inf)
        for found in self._backward.values():
            np.maximum.at(self._last, self._step(found[:, 0]), found[:, 1])
        self._last[np.isneginf(self._last)] = np.inf

    @property
    def launches(self) -> int:
        """How many the host has."""
        return len(self._launched[0])

    def _take(
        self, stream: Stream, name: str, category: str, start: float, duration: float,
        arguments: dict[str, Any],
    ) -> None:  # fmt: skip
        """Keep a kernel or a copy."""
        said = arguments.get("phase")
        phase = _OURS.get(said, "") if isinstance(said, str) else ""
        kind = kind_of(name, arguments) if category == "kernel" else "copy"
        size = _NONE
        if kind == "collective":
            key = collective_of(arguments)
            size = UNSIZED if key is None else self._keys[key]
            phase = key[0] if key else operation_of(name, arguments)
        number = arguments.get("correlation")
        self._times.extend((start, duration))
        self._numbers.extend((
            self._streams[stream], self._names[name], self._words[kind], self._words[phase], size,
            number if isinstance(number, int) and number in _INT64 else -1,
        ))  # fmt: skip

    def work(self) -> tuple[Work, Collectives]:
        """What ran on GPUs in the steps, and which of it are collectives of which size."""
        start, seconds = np.array(self._times).reshape(-1, 2).T
        stream, name, kind, phase, size, number = np.array(self._numbers).reshape(-1, 6).T
        launch = _last_of(np.array(self._launched[0]), number)
        has = launch >= 0
        begun = start.copy()
        begun[has] = np.array(self._launched[2])[launch[has]]
        untold = np.flatnonzero(
            has & (phase == self._words[""]) & (kind != self._words["collective"])
        )
        thread = np.array(self._launched[1])[launch[untold]]
        phase[untold] = self._phase(thread, begun[untold])
        inside = self._step(begun) >= 0
        kept = Work(
            tuple(self._streams), tuple(self._names), tuple(self._words),
            stream, start, start + seconds, kind, name, phase,
        )  # fmt: skip
        return kept.where(inside), Collectives(size[inside], seconds[inside], list(self._keys))

    def _step(self, time: F8) -> I8:
        """Which step instants of the host are in; 0 where none are marked, -1 outside."""
        if not self.marks:
            return np.zeros(time.size, np.int64)
        at = np.searchsorted(self._begins, time, "right") - 1
        at[(at == len(self.marks) - 1) & (time > self.marks[-1][1])] = -1
        return at

    def _phase(self, thread: I8, time: F8) -> I8:
        """Phases, as numbers of words, of what threads launch at instants."""
        none, *numbers = (self._words[phase] for phase in ("", *PHASES))
        if not self._backward:
            return np.full(time.size, none)
        forward, backward, update = numbers
        found = np.where(time > self._last[self._step(time)], update, forward)
        for which, mine in by_number(thread):
            at = time[mine]
            back = np.full(at.size, which in self._engine) | _within(self._backward.get(which), at)
            found[mine[back]] = backward
            found[mine[_within(self._updates.get(which), at)]] = update
        return found


def _pairs(times: array[float]) -> F8:
    """Start and end of each, by start and then by end. (n, 2)"""
    found = np.array(times).reshape(-1, 2)
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def _within(times: F8 | None, at: F8) -> B1:
    """Whether one of some that do not overlap, by start, holds an instant. (n,)"""
    if times is None:
        return np.zeros(at.size, np.bool_)
    last = np.searchsorted(times[:, 0], at, "right") - 1
    held: B1 = (last >= 0) & (at <= times[last, 1])
    return held


def _last_of(numbers: I8, wanted: I8) -> I8:
    """Where each number that is wanted stands last among some; -1 where it does not. (n,)"""
    if not numbers.size:
        return np.full(wanted.size, -1)
    order = np.argsort(numbers, kind="stable")
    at = order[np.searchsorted(numbers, wanted, "right", sorter=order) - 1]
    at[numbers[at] != wanted] = -1
    return at
