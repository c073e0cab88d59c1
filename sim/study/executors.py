"""Local worker processes: they take chunks, answer one by one, and may die.

A worker that ends without answering is replaced and what it had is given out again; the
configuration it was at counts an attempt, and after `ATTEMPTS` of them it becomes a failed row. If
the parent is killed, its pipes close and the workers end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from sim.errors import EngineError, InputError, ScalingSimError

ATTEMPTS = 3
HOPELESS = 30  # deaths in a row after which no worker can be expected to live
CHUNK = 8  # configurations sent at once; two chunks are kept at a worker


class Task(NamedTuple):
    """One configuration: where it stands in the sweep and what the work function takes."""

    place: int
    payload: Any


class Outcome(NamedTuple):
    """What came of a task."""

    place: int
    status: str  # ok | invalid | failed
    value: Any
    error: str
    attempts: int
    seconds: float


Work = Callable[[Any, Any], Any]  # (context, payload) -> value; must be importable by workers


def answered(work: Work, context: Any, task: Task, attempts: int = 1) -> Outcome:
    """Compute one task; an exception becomes an answer."""
    began = time.perf_counter()
    status, value, error = "ok", None, ""
    try:
        value = work(context, task.payload)
    except InputError as fault:
        status, error = "invalid", str(fault)
    except ScalingSimError as fault:
        status, error = "failed", f"{type(fault).__name__}: {fault}"
    except Exception as fault:  # a fault of the model is a row of the sweep, not its end
        status, error = "failed", f"{type(fault).__name__}: {fault}"
    return Outcome(task.place, status, value, error, attempts, time.perf_counter() - began)


def run_here(work: Work, context: Any, tasks: Iterable[Task]) -> Iterator[Outcome]:
    """Compute in this process."""
    for task in tasks:
        yield answered(work, context, task)


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    pending: deque[Task] = field(default_factory=deque)


class LocalPool:
    """Worker processes on this machine.

    Parameters
    ----------
    work : callable
        ``work(context, payload)``, a function of an importable module.
    context : object
        Given once to every worker; picklable.
    processes : int
        How many.
    """

    def __init__(self, work: Work, context: Any, processes: int) -> None:
        self._work, self._context = work, context
        self._spawn = multiprocessing.get_context("spawn")
        self._count = max(1, processes)
        self._workers: list[_Worker] = []
        self._attempts: dict[int, int] = {}
        self._deaths_in_a_row = 0
        self.restarts = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers alive."""
        return [w.process.pid for w in self._workers if w.process.pid is not None]

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Answers as they come, in no order."""
        source = iter(tasks)
        again: deque[Task] = deque()
        try:
            for _ in range(self._count):
                worker = self._start()
                self._feed(worker, again, source)
                if not worker.pending:
                    break
            while any(w.pending for w in self._workers):
                ready = wait([w.pipe for w in self._workers])
                for worker in [w for w in self._workers if w.pipe in ready]:
                    try:
                        answer = worker.pipe.recv()
                    except (EOFError, OSError):
                        failed = self._bury(worker, again)
                        if failed is not None:
                            yield failed
                        self._feed(self._start(), again, source)
                        continue
                    worker.pending.popleft()
                    self._deaths_in_a_row = 0
                    self._feed(worker, again, source)
                    yield answer._replace(attempts=1 + self._attempts.get(answer.place, 0))
        finally:
            self.close()

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def _start(self) -> _Worker:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=_serve, args=(theirs, self._work, self._context), daemon=True
        )
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _feed(self, worker: _Worker, again: deque[Task], source: Iterator[Task]) -> None:
        """Keep between one and two chunks at a worker."""
        if len(worker.pending) > CHUNK:
            return
        chunk: list[Task] = []
        while again and len(chunk) < CHUNK:
            chunk.append(again.popleft())
        for task in source:
            chunk.append(task)
            if len(chunk) >= CHUNK:
                break
        if not chunk:
            return
        worker.pending.extend(chunk)
        with suppress(OSError):  # it died: its pipe reports the end, and its tasks are taken back
            worker.pipe.send(chunk)

    def _bury(self, worker: _Worker, again: deque[Task]) -> Outcome | None:
        """Take a dead worker's tasks back; the one it was at may have had its last attempt."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join(5.0)
        self.restarts += 1
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > HOPELESS:
            message = f"{HOPELESS} worker processes ended in a row without an answer"
            raise EngineError(message)
        if not worker.pending:
            return None
        suspect = worker.pending[0]
        attempts = self._attempts[suspect.place] = self._attempts.get(suspect.place, 0) + 1
        if attempts < ATTEMPTS:
            again.extend(worker.pending)
            return None
        again.extend(list(worker.pending)[1:])
        code = worker.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        message = f"its worker ended {attempts} times ({how})"
        return Outcome(suspect.place, "failed", None, message, attempts, 0.0)


def _serve(pipe: Connection, work: Work, context: Any) -> None:
    """A worker's life: chunks in, answers out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    try:
        while True:
            for task in pipe.recv():
                pipe.send(answered(work, context, task))
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone, and with it whoever could read more
