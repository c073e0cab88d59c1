"""Local worker processes: they take chunks, compute each together where that can be, and may die.

A chunk has few configurations at first, then what takes about two seconds: that much of each worker
is lost to an interrupt.

A worker that ends without answering is replaced, and what it had is given out again one by one; the
configuration it was at then counts an attempt, and after `ATTEMPTS` of them it becomes a failed
row. If the parent is killed, its pipes close and the workers end.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from sim.errors import EngineError, InputError
from sim.malloc import keep_large_blocks, seldom_collected
from sim.records import NamedTuple

ATTEMPTS = 3
#: what is computed together takes about so long: an interrupt loses no more of each worker [s]
AT_ONCE_S = 2.0
FIRST_CHUNK = 4  # tasks, before it is known how long they take
HOPELESS = 30  # deaths in a row after which no worker can be expected to live
CHUNK = 8
_MAIN = "__main__"
_SOURCE = "processes"  # the argument that a fault is about


class Task(NamedTuple):
    """One configuration: where it stands in the sweep and what the work function takes."""

    place: int
    payload: Any


class TaskOutcome(NamedTuple):
    """What came of a task."""

    place: int
    status: str  # ok | invalid | failed
    value: Any
    error: str
    attempts: int
    seconds: float


TaskWork = Callable[[Any, Any], Any]  # (context, payload) -> value; must be importable by workers
#: (context, payloads) -> a value or what went wrong for each; likewise
Many = Callable[[Any, Sequence[Any]], Sequence[Any]]


def answered(work: TaskWork, context: Any, task: Task, attempts: int = 1) -> TaskOutcome:
    """Compute one task; an exception becomes an answer."""
    began = time.perf_counter()
    try:
        value = work(context, task.payload)
    except Exception as fault:  # a fault of the model is a row of the sweep, not its end
        value = fault
    return _outcome(task, value, attempts, time.perf_counter() - began)


def answered_together(
    work: TaskWork, many: Many | None, context: Any, tasks: Sequence[Task], attempts: int = 1
) -> Iterator[TaskOutcome]:
    """Compute tasks in one call of `many`; one by one where there is none, or it raises."""
    if many is not None and len(tasks) > 1:
        began = time.perf_counter()
        try:
            values = many(context, [task.payload for task in tasks])
        except Exception:  # of one of them, or of computing them together
            values = None
        if values is not None:
            each = (time.perf_counter() - began) / len(tasks)
            for task, value in zip(tasks, values, strict=True):
                yield _outcome(task, value, attempts, each)
            return
    for task in tasks:
        yield answered(work, context, task, attempts)


def _outcome(task: Task, value: Any, attempts: int, seconds: float) -> TaskOutcome:
    status, error = "ok", ""
    if isinstance(value, InputError):
        status, error, value = "invalid", str(value), None
    elif isinstance(value, Exception):
        status, error, value = "failed", f"{type(value).__name__}: {value}", None
    return TaskOutcome(task.place, status, value, error, attempts, seconds)


class ChunkSize:
    """How many tasks to compute together: few at first, then what takes about `AT_ONCE_S`.

    Parameters
    ----------
    most : int
        However quick they are.

    Attributes
    ----------
    now : int
        Tasks of the next chunk.
    """

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self.now = min(FIRST_CHUNK, self._most)

    def took(self, answers: Sequence[TaskOutcome]) -> None:
        """Some were computed: others may be twice as many, if that takes no longer than it may."""
        seconds = sum(answer.seconds for answer in answers)
        fit = int(len(answers) * AT_ONCE_S / seconds) if seconds > 0.0 else self._most
        self.now = max(1, min(self._most, 2 * self.now, fit))


def run_here(
    work: TaskWork, context: Any, tasks: Iterable[Task], many: Many | None = None, chunk: int = 1
) -> Iterator[TaskOutcome]:
    """Compute in this process, at most so many at once."""
    source, chunk_size = iter(tasks), ChunkSize(chunk)
    with seldom_collected():
        while together := list(itertools.islice(source, chunk_size.now)):
            found = []
            for answer in answered_together(work, many, context, together):
                found.append(answer)
                yield answer
            chunk_size.took(found)


@dataclass(slots=True)
class _PoolWorker:
    process: BaseProcess
    pipe: Connection
    pending: deque[Task] = field(default_factory=deque)
    together: set[int] = field(default_factory=set)  # places of those that it computes with others


@contextmanager
def _without_script() -> Iterator[None]:
    """Keep new processes from running the caller's script again, which has no guard against it."""
    script = sys.modules[_MAIN]
    kept: dict[str, Any] = {
        name: vars(script)[name] for name in ("__file__", "__spec__") if name in vars(script)
    }
    vars(script).pop("__file__", None)
    vars(script)["__spec__"] = None
    try:
        yield
    finally:
        vars(script).update(kept)


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
    many : callable, optional
        See `answered_together`.
    chunk : int
        Tasks sent at once, and computed together, at most; a worker has one chunk at a time.
    """

    def __init__(
        self,
        work: TaskWork,
        context: Any,
        processes: int,
        many: Many | None = None,
        chunk: int = CHUNK,
    ) -> None:
        self._work, self._many, self._context, self._chunk = work, many, context, ChunkSize(chunk)
        self._spawn = multiprocessing.get_context("spawn")
        self._count = max(1, processes)
        self._workers: list[_PoolWorker] = []
        self._attempts: dict[int, int] = {}
        self._deaths_in_a_row = 0
        self.restarts = 0

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskOutcome]:
        """Answers as they come, in no order."""
        source = iter(tasks)
        again: deque[Task] = deque()
        try:
            for _ in range(self._count):
                worker = self._another()
                self._feed(worker, again, source)
                if not worker.pending:
                    break
            while any(w.pending for w in self._workers):
                ready = wait([w.pipe for w in self._workers])
                for worker in [w for w in self._workers if w.pipe in ready]:
                    try:
                        answers = worker.pipe.recv()
                    except (EOFError, OSError):
                        failed = self._bury(worker, again)
                        if failed is not None:
                            yield failed
                        self._feed(self._another(), again, source)
                        continue
                    for answer in answers:
                        worker.pending.popleft()
                        worker.together.discard(answer.place)
                    self._deaths_in_a_row = 0
                    self._chunk.took(answers)
                    self._feed(worker, again, source)
                    for answer in answers:
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

    def _another(self) -> _PoolWorker:
        """A new worker; one of those that live where the system starts no more."""
        try:
            return self._start()
        except OSError as error:
            if self._workers:
                return self._workers[0]
            message = (
                f"no worker process can be started: {error.strerror}; one process (-j 1) computes "
                "without"
            )
            raise InputError.single(_SOURCE, message) from None

    def _start(self) -> _PoolWorker:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=_serve, args=(theirs, self._work, self._many, self._context), daemon=True
        )
        own = self._work.__module__ == _MAIN
        with theirs, nullcontext() if own else _without_script():
            process.start()
        worker = _PoolWorker(process, ours)
        self._workers.append(worker)
        return worker

    def _feed(self, worker: _PoolWorker, again: deque[Task], source: Iterator[Task]) -> None:
        """Send a worker its next chunk; what a dead one had goes one by one."""
        if len(worker.pending) > self._chunk.now:
            return
        chunks = [[again.popleft()] for _ in range(min(len(again), self._chunk.now))]
        if not chunks:
            fresh = list(itertools.islice(source, self._chunk.now))
            if not fresh:
                return
            chunks = [fresh]
            if self._many is not None and len(fresh) > 1:
                worker.together.update(task.place for task in fresh)
        for chunk in chunks:
            worker.pending.extend(chunk)
            with suppress(OSError):  # it died: its pipe reports the end, its tasks are taken back
                worker.pipe.send(chunk)

    def _bury(self, worker: _PoolWorker, again: deque[Task]) -> TaskOutcome | None:
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
        if suspect.place in worker.together:  # any of them
            again.extend(worker.pending)
            return None
        attempts = self._attempts[suspect.place] = self._attempts.get(suspect.place, 0) + 1
        if attempts < ATTEMPTS:
            again.extend(worker.pending)
            return None
        again.extend(list(worker.pending)[1:])
        code = worker.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        message = f"its worker ended {attempts} times ({how})"
        return TaskOutcome(suspect.place, "failed", None, message, attempts, 0.0)


def _serve(pipe: Connection, work: TaskWork, many: Many | None, context: Any) -> None:
    """A worker's life: chunks in, answers out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    keep_large_blocks()
    with seldom_collected():
        try:
            while True:
                tasks = pipe.recv()
                answers = answered_together(work, many, context, tasks)
                if many is not None:
                    pipe.send(list(answers))
                    continue
                for answer in answers:
                    pipe.send([answer])
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone, and with it whoever could read more
