"""`scaling-sim config`: every key of both files, its value, and where that came from."""

from __future__ import annotations

import click

from sim.commands.options import Answer, answered, pair


@click.command("config")
@pair
@answered()
def command(topology: str, workload: str, overrides: tuple[str, ...]) -> Answer:
    """Every key of TOPOLOGY and WORKLOAD: its value, and where that came from.

    Example: config dgx-h100 llama3-8b-lora --set nodes=2
    """
    import sim

    found = sim.config(topology, workload, overrides=overrides)
    from sim.report.config import view

    return view(found)
