"""`scaling-sim schema`: JSON Schema of topology and workload files."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import FORMS, printed, show


@click.command("schema")
@click.argument("side", type=click.Choice(["topology", "workload"]))
@printed("json", *FORMS)
def command(side: str, form: str, output: Path | None) -> None:
    """JSON Schema of SIDE's files, for editors: `# yaml-language-server: $schema=FILE`.

    Example: schema workload -o workload.schema.json
    """
    import sim

    found = sim.schema(side)
    from sim.report.schema import view

    show(view(found), form, output)
