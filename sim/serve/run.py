"""Starting the server on a port of the loopback, and stopping it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sim.errors import InputError
from sim.serve.app import application

HOST = "127.0.0.1"
_SOURCE = "serve"
HEAD_S = 5.0  # longest time that the head of a request takes to come [s]


def serve(port: int, workers: int, limit_s: float, tell: Callable[[str], None]) -> None:
    """Serve until it is interrupted.

    Parameters
    ----------
    port : int
        0 takes a free one.
    workers : int
        Processes that simulate.
    limit_s : float
        Longest time of a request. [s]
    tell : callable
        Is told the address, once; what it raises ends the server, and is raised again.

    Raises
    ------
    InputError
        The port is taken.
    """
    # asyncio sends at once on sockets that say TCP; others hold a body until its head has been
    # acknowledged, which the other side puts off for 40 ms
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        message = f"port {port}: {error.strerror}; name another with --port, or 0"
        raise InputError.single(_SOURCE, message, "--port") from None
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
    server = _Server(
        uvicorn.Config(
            application(token, hosts, workers, limit_s), log_level="warning", access_log=False,
            server_header=False, date_header=False, timeout_keep_alive=5,
            timeout_graceful_shutdown=3, limit_concurrency=512, backlog=512, lifespan="on",
            http=_Connection,
            log_config=None,  # its own asks standard output, which may be closed, for its colours
        ),
        lambda: tell(f"http://{HOST}:{port}/?token={token}\nCtrl-C stops it."),
    )  # fmt: skip
    with listening, suppress(KeyboardInterrupt):  # which uvicorn raises again once it has stopped
        server.run(sockets=[listening])
    if server.failed is not None:
        raise server.failed


class _Connection(H11Protocol):
    """Ends where the head of a request is begun, or never, and not ended: each holds a place."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._late: asyncio.TimerHandle | None = None
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._late is not None:
            self._late.cancel()

    def _wait(self) -> None:
        """Wait for the rest of a head, from its first byte on."""
        if self.conn.their_state is h11.IDLE:
            self._late = self._late or self.loop.call_later(HEAD_S, self._end)
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self) -> None:
        self.transport.close()


class _Server(uvicorn.Server):
    """Says where it is, once it is there."""

    def __init__(self, config: uvicorn.Config, tell: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = tell
        self.failed: Exception | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        try:
            self._tell()
        except Exception as error:  # it stops as after Ctrl-C: an error here would leave it half up
            self.failed = error
            asyncio.get_running_loop().call_soon(setattr, self, "should_exit", True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.started:  # nothing is served yet, and threads wait for workers to be warm
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(128 + sig)
        super().handle_exit(sig, frame)
