"""Processes that answer requests, each one at a time; one that takes too long is ended."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sim import files

_CONTEXT = multiprocessing.get_context("spawn")
_LONGEST = 600  # requests that one process answers before a fresh one takes its place


class Busy(Exception):
    """Too many wait already."""


class Workers:
    """A few processes behind a queue.

    Parameters
    ----------
    count : int
        Processes; each holds a core while it simulates.
    limit_s : float
        Longest time of a request, waiting in the queue not counted. [s]
    waiting : int
        Requests that may wait.
    """

    def __init__(self, count: int, limit_s: float, waiting: int) -> None:
        self._count, self._limit_s, self._most = count, limit_s, waiting
        self._free: asyncio.Queue[_ServeWorker] = asyncio.Queue()
        self._all: list[_ServeWorker] = []
        self._waiting = 0
        self._threads = ThreadPoolExecutor(2 * count, thread_name_prefix="worker")
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start them all, where they are not yet; they are warm when this returns."""
        async with self._starting:
            if self._all:
                return
            self._all = [_ServeWorker() for _ in range(self._count)]
            try:
                await asyncio.gather(*(self._in_thread(w.ready) for w in self._all))
            except BaseException:  # the next that asks tries again
                for worker in self._all:
                    worker.end()
                self._all = []
                raise
            for worker in self._all:
                self._free.put_nowait(worker)

    async def stop(self) -> None:
        """End them all."""
        for worker in self._all:
            worker.end()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, verb: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and JSON of an answer.

        Raises
        ------
        Busy
            As many wait as may.
        """
        if self._waiting >= self._most:
            raise Busy
        self._waiting += 1
        try:
            await self.start()
            worker = await self._free.get()
        finally:
            self._waiting -= 1
        try:
            found: tuple[int, bytes] | None = await self._in_thread(
                worker.ask, verb, body, self._limit_s
            )
            if found is None or worker.answered >= _LONGEST:
                worker = await self._fresh(worker)
            if found is None:
                text = f"took longer than {self._limit_s:g} s"
                return 503, json.dumps({"faults": [{"path": "", "message": text}]}).encode()
            return found
        finally:
            self._free.put_nowait(worker)

    async def _fresh(self, old: _ServeWorker) -> _ServeWorker:
        old.end()
        new = _ServeWorker()
        self._all[self._all.index(old)] = new
        await self._in_thread(new.ready)
        return new

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class _ServeWorker:
    """A process and the pipe to it."""

    def __init__(self) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process: BaseProcess = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.answered = 0

    def ready(self) -> None:
        """Wait until it has said that it is warm."""
        self._pipe.recv()

    def ask(self, verb: str, body: dict[str, Any], limit_s: float) -> tuple[int, bytes] | None:
        """Its answer; None where it took too long or is gone."""
        try:
            self._pipe.send((verb, body))
            if not self._pipe.poll(limit_s):
                return None
            self.answered += 1
            found: tuple[int, bytes] = self._pipe.recv()
        except (EOFError, OSError):
            return None
        return found

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join(1.0)
        self._pipe.close()


def _serve(pipe: Connection) -> None:
    """Answer until the pipe is closed; reads no file but those that ship."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends us
    sys.stdin = None  # nobody's
    from sim.documents import dumps, plain
    from sim.inputs import catalogue
    from sim.serve.answers import answer, warm

    warm()
    shipped = (catalogue.folders(kind) for kind in ("topologies", "workloads"))
    files.seal((Path(files.__file__).parent, *(folder for found in shipped for folder in found)))
    with suppress(EOFError, OSError):  # the server has gone
        pipe.send("warm")
        while True:
            verb, body = pipe.recv()
            try:
                status, found = answer(verb, body)
            except Exception as error:  # an error of ours: the page says so, and we go on
                status, found = 500, {"faults": [{"path": "", "message": type(error).__name__}]}
            pipe.send((status, dumps(plain(found), None, compact=True).encode()))
