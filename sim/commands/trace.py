"""`scaling-sim trace`: the simulated step as a timeline to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.commands.options import FORMS, emit, job, printed, sets, show, tell

if TYPE_CHECKING:
    from sim.step.stages import StageChart

_CHROME = ("chrome", "json")  # the same: a Chrome trace is JSON
_PICTURE = "svg"


@click.command("trace")
@click.argument("topology")
@job
@sets
@printed(*dict.fromkeys((*_CHROME, *FORMS, _PICTURE)))
@click.option("--level", type=click.Choice(["folded", "ranks"]), default="folded",
              help="folded: equal ranks once; ranks: every rank's own lanes.")  # fmt: skip
@click.option("--stages", is_flag=True,
              help="A chart of a pipeline's ranks: a table, a picture (svg).")  # fmt: skip
@click.option("--all-micro-steps", is_flag=True,
              help="Every micro-step; else the first, one of the middle and the last.")  # fmt: skip
def command(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, level: str,
    stages: bool, all_micro_steps: bool, output: Path | None,
) -> None:  # fmt: skip
    """Simulate a step of WORKLOAD on TOPOLOGY and write its timeline.

    Open the JSON at https://ui.perfetto.dev or in chrome://tracing. Other formats list the
    collectives in order of issue. With --stages: what each rank of a pipeline computes when.
    """
    import sim

    if stages or form == _PICTURE:
        _chart(sim.stages(topology, workload, overrides=overrides), form, output)
        return
    found = sim.trace(
        topology, workload, overrides=overrides, level=level, all_micro_steps=all_micro_steps
    )
    from sim.report.trace import view

    timeline = form in _CHROME
    show(view(found), "json" if timeline else form, output)
    if output is not None and timeline:
        tell(f"{output}: open it at https://ui.perfetto.dev")


def _chart(found: StageChart, form: str, output: Path | None) -> None:
    from sim.report.stages import picture, view

    if form == _PICTURE:
        emit(picture(found).rstrip("\n"), output)
    else:
        show(view(found), "table" if form == "chrome" else form, output)
