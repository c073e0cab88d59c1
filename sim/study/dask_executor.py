"""Workers of Dask: a `LocalCluster` of our own, or a scheduler that runs already.

A Dask task costs about 1.6 ms, so each carries a chunk of configurations. A chunk whose worker
dies is given to another by Dask; one that kills every worker it meets is split, so that only the
configuration at fault becomes a failed row.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any

from sim.errors import Fault, InputError
from sim.study.executors import (
    ATTEMPTS,
    ChunkSize,
    Many,
    Task,
    TaskOutcome,
    TaskWork,
    answered_together,
)

CHUNK = 32  # at most
AHEAD = 4  # chunks a worker that are submitted ahead
CONNECT_S = 10.0


class DaskPool:
    """Workers of a Dask cluster.

    Parameters
    ----------
    work : callable
        ``work(context, payload)``; its module must be importable by the workers.
    context : object
        Given to every worker; picklable.
    workers : int
        Processes of an embedded `LocalCluster`; ignored with a scheduler.
    scheduler : str, optional
        Address, such as ``tcp://10.0.0.1:8786``.
    many : callable, optional
        See `sim.study.executors.answered_together`.

    Raises
    ------
    InputError
        Dask is not installed, or the scheduler does not answer.
    """

    def __init__(
        self, work: TaskWork, context: Any, workers: int = 2, scheduler: str | None = None,
        many: Many | None = None,
    ) -> None:  # fmt: skip
        try:
            distributed: Any = import_module("distributed")  # its functions have no types
        except ImportError:
            message = "needs Dask: pip install 'scaling-sim[distributed]'"
            raise InputError.single("--scheduler" if scheduler else "--workers", message) from None
        self._work, self._many, self._context = work, many, pickle.dumps(context)
        self._distributed = distributed
        self._cluster = None
        if scheduler is None:
            self._cluster = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0",
                silence_logs=50,
            )  # fmt: skip
        try:
            self.client = distributed.Client(self._cluster or scheduler, timeout=CONNECT_S)
        except (OSError, TimeoutError, ValueError) as error:
            message = f"no Dask scheduler answers at {scheduler}: {error}"
            raise InputError([Fault("--scheduler", None, None, "", message)]) from None

    def run(self, tasks: Iterable[Task]) -> Iterator[TaskOutcome]:
        """Answers as chunks finish, in no order."""
        source, size = iter(tasks), ChunkSize(CHUNK)
        chunks: dict[Any, tuple[Task, ...]] = {}
        attempts: dict[Any, int] = {}

        def submit(chunk: tuple[Task, ...], attempt: int) -> Any:
            future = self.client.submit(
                _compute, self._work, self._many, self._context, chunk, attempt, pure=False
            )
            chunks[future.key], attempts[future.key] = chunk, attempt
            return future

        threads = sum(self.client.nthreads().values()) or 1
        first = [
            submit(chunk, 1)
            for chunk in itertools.islice(_chunks(source, size), AHEAD * threads)
        ]  # fmt: skip
        completed = self._distributed.as_completed(first)
        try:
            for future in completed:
                chunk, attempt = chunks.pop(future.key), attempts.pop(future.key)
                if future.status == "finished":
                    answers = future.result()
                    size.took(answers)
                    yield from answers
                elif len(chunk) > 1:
                    for task in chunk:
                        completed.add(submit((task,), attempt))
                elif attempt < ATTEMPTS and future.status == "cancelled":
                    completed.add(submit(chunk, attempt + 1))
                else:
                    message = f"{type(future.exception()).__name__}: its workers ended"
                    yield TaskOutcome(chunk[0].place, "failed", None, message, attempt, 0.0)
                following = next(_chunks(source, size), None)
                if following:
                    completed.add(submit(following, 1))
        finally:
            self.close()

    def close(self) -> None:
        """Leave the cluster; end it if it is our own."""
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()


def _chunks(source: Iterator[Task], size: ChunkSize) -> Iterator[tuple[Task, ...]]:
    while chunk := tuple(itertools.islice(source, size.now)):
        yield chunk


@lru_cache(maxsize=2)
def _unpickled(context: bytes) -> Any:
    return pickle.loads(context)


def _compute(
    work: TaskWork, many: Many | None, context: bytes, chunk: tuple[Task, ...], attempt: int
) -> list[TaskOutcome]:
    return list(answered_together(work, many, _unpickled(context), chunk, attempt))
