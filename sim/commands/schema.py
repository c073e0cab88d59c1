"""`scaling-sim schema`: JSON Schema of topology and workload files."""

from __future__ import annotations

import click

from sim.commands.options import FORMS, Answer, answered


@click.command("schema")
@click.argument("side", type=click.Choice(["topology", "workload"]))
@answered("json", *FORMS)
def command(side: str) -> Answer:
    """JSON Schema of SIDE's files, for editors: `# yaml-language-server: $schema=FILE`.

    Example: schema workload -o workload.schema.json
    """
    import sim

    found = sim.schema(side)
    from sim.report.schema import view

    return view(found)
