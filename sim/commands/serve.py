"""`scaling-sim serve`: the live page on this machine."""

from __future__ import annotations

import sys

import click

from sim.commands.output import unheard
from sim.errors import InputError

_SOURCE = "serve"


@click.command("serve")
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True,
              help="0 takes a free one.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Processes that simulate.")  # fmt: skip
@click.option("--limit", type=click.FloatRange(0.1, 600.0), default=5.0, show_default=True,
              help="Longest time of a request, in seconds; of a search, twelve times.")  # fmt: skip
def command(port: int, workers: int, limit: float) -> None:
    """Serve the live page: change a job and see at once what it does.

    To this machine alone, to whoever has the address that is printed. Ctrl-C stops it. Needs the
    extra `serve`: pip install scaling-sim[serve].
    """
    try:
        from sim.serve.run import serve
    except ModuleNotFoundError as error:
        message = f"needs {error.name}; install the extra: pip install 'scaling-sim[serve]'"
        raise InputError.single(_SOURCE, message) from None
    if sys.stdout is None:
        message = "standard output is closed, and the address is printed there"
        raise InputError.single(_SOURCE, message)
    serve(port, workers, limit, _tell)


def _tell(text: str) -> None:
    try:
        click.echo(text)
    except OSError as error:
        unheard(error)
        raise click.exceptions.Exit(0) from None  # nobody has read the address
