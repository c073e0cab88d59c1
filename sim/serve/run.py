"""Starting the server on a port of the loopback, and stopping it."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress

import click
import uvicorn

from sim.errors import InputError
from sim.serve.app import application

HOST = "127.0.0.1"
_SOURCE = "serve"


def serve(port: int, workers: int, limit_s: float) -> None:
    """Serve until it is interrupted.

    Parameters
    ----------
    port : int
        0 takes a free one.
    workers : int
        Processes that simulate.
    limit_s : float
        Longest time of a request. [s]

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
        ),
        f"http://{HOST}:{port}/?token={token}",
    )  # fmt: skip
    with listening, suppress(KeyboardInterrupt):  # which uvicorn raises again once it has stopped
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Says where it is, once it is there."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            click.echo(f"{self._address}\nCtrl-C stops it.")
