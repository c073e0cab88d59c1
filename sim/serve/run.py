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

import uvicorn

from sim.errors import InputError
from sim.serve.app import application

HOST = "127.0.0.1"
_SOURCE = "serve"


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
            log_config=None,  # its own asks standard output, which may be closed, for its colours
        ),
        lambda: tell(f"http://{HOST}:{port}/?token={token}\nCtrl-C stops it."),
    )  # fmt: skip
    with listening, suppress(KeyboardInterrupt):  # which uvicorn raises again once it has stopped
        server.run(sockets=[listening])
    if server.failed is not None:
        raise server.failed


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
