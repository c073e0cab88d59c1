"""`scaling-sim mcp`: four tools for an assistant, over standard input and output."""

from __future__ import annotations

import os
import signal
import sys
from io import StringIO
from typing import TYPE_CHECKING, Any

import click

from sim.choices import PROMPT_GPUS
from sim.commands.output import unheard
from sim.errors import InputError, ScalingSimError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp.server.fastmcp import FastMCP
    from mcp.types import Tool

_ABOUT = (
    "Predicts distributed training on GPU clusters. topology: a machine's name such as dgx-h100; "
    "workload: a job's name such as llama3-8b-lora, or a trainer's file; settings: KEY=VALUE."
)
_COMPARED = 32  # machines: an answer within a second or two
_FAULTS = 3  # told at once: of a file that is none of ours no more is repeated


@click.command("mcp")
def command() -> None:
    """Serve run, memory, size and compare to an assistant (Model Context Protocol, stdio).

    Needs the extra: pip install "scaling-sim[mcp]"
    """
    if sys.stdin is None or sys.stdout is None:
        message = "an assistant talks over standard input and output, of which one is closed"
        raise InputError.single(command.name or "", message)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ended)
    _keep_to_ourselves()
    try:
        server().run("stdio")
    except BaseExceptionGroup as found:
        if found.split(BrokenPipeError)[1] is not None:
            raise
        unheard(BrokenPipeError())  # the assistant has gone


def _keep_to_ourselves() -> None:
    """Move what the assistant says away from where a job called ``-`` or /dev/stdin is read."""
    said = os.dup(sys.stdin.fileno())
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    sys.stdin = os.fdopen(said, encoding="utf-8")


def _ended(number: int, frame: object) -> None:
    """End at once: a thread waits for the next line of standard input, and would be waited for."""
    os._exit(128 + number)


def server() -> FastMCP:
    """The server, with its four tools.

    Raises
    ------
    InputError
        The ``mcp`` package is not there.
    """
    import sim

    try:
        from mcp.server.fastmcp import FastMCP
    except ImportError:
        message = 'needs the mcp package: pip install "scaling-sim[mcp]"'
        raise InputError.single(command.name or "", message) from None

    class Door(FastMCP):
        """Arguments that no tool takes are faults, lest the answer is of another job."""

        async def list_tools(self) -> list[Tool]:
            tools: list[Tool] = await super().list_tools()
            for tool in tools:
                tool.inputSchema["additionalProperties"] = False
            return tools

        async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
            taken = {t.name: t.inputSchema["properties"] for t in await self.list_tools()}
            unknown = [key for key in arguments if key not in taken.get(name, arguments)]
            if unknown:
                message = f"takes no {', '.join(unknown)}; it takes {', '.join(taken[name])}"
                raise InputError.single(name, message)
            heard, sys.stdin = sys.stdin, StringIO()
            try:
                return await super().call_tool(name, arguments)
            finally:
                sys.stdin = heard

    found = Door("scaling-sim", instructions=_ABOUT, log_level="WARNING")
    found._mcp_server.version = sim.__version__  # else a client is told that of the mcp package
    for tool in (run, memory, size, compare):
        found.add_tool(tool)
    return found


def run(topology: str, workload: str, settings: list[str] | str | None = None) -> str:
    """Whether a job fits on a machine, its step time, throughput, bottleneck, time and cost."""
    import sim
    from sim.report import brief

    return _said(lambda: brief.run(
        sim.simulate(topology, workload, overrides=settings or (), scaling=False, fixes=False)
    ))  # fmt: skip


def memory(topology: str, workload: str, settings: list[str] | str | None = None) -> str:
    """Memory a GPU of a job on a machine, and what would save some."""
    import sim
    from sim.report import brief

    return _said(lambda: brief.memory(sim.memory_of(topology, workload, overrides=settings or ())))


def size(
    workload: str, deadline: str | None = None, budget: str | float | None = None,
    max_gpus: int = PROMPT_GPUS, gpu: list[str] | str | None = None,
) -> str:  # fmt: skip
    """The cheapest cluster that does a job by a deadline (48h) or within a budget (500 USD)."""
    import sim
    from sim.report import brief

    if isinstance(budget, int | float):
        budget = f"{budget} USD"
    return _said(lambda: brief.size(
        sim.size(workload, deadline=deadline, budget=budget, max_gpus=max_gpus,
                 gpu=gpu or ())
    ))  # fmt: skip


def compare(topologies: list[str], workload: str, settings: list[str] | str | None = None) -> str:
    """Machines side by side for a job, and why they differ."""
    import sim
    from sim.report import brief

    if len(topologies) > _COMPARED:
        message = f"compares at most {_COMPARED} machines at once, not {len(topologies):,}"
        return f"not answered:\n{InputError.single('compare', message)}"
    return _said(lambda: brief.compare(
        sim.compare(topologies, workload, overrides=settings or ())
    ))  # fmt: skip


def _said(answer: Callable[[], str]) -> str:
    """An answer; faults of the input are one too, so that the assistant can mend them."""
    try:
        return answer()
    except InputError as error:
        few = error.faults[:_FAULTS]
        more = len(error.faults) - len(few)
        return f"not answered:\n{InputError(few)}"[:1500] + (f"\nand {more} more" if more else "")
    except ScalingSimError as error:
        return f"not answered:\n{error}"[:1500]
