"""`scaling-sim trace`: the simulated step as a timeline to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.commands.options import FORMS, emit, job, printed, sets, show, tell, varied
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.step.stages import StageChart

_RANKS = "--ranks"
_CHROME = ("chrome", "json")  # the same: a Chrome trace is JSON
_PICTURES = ("svg",)


@click.command("trace")
@click.argument("topology")
@job
@sets
@printed(*dict.fromkeys((*_CHROME, *FORMS, *_PICTURES)))
@click.option("--stages", is_flag=True,
              help="A chart of a pipeline's ranks: a table, a picture (svg).")  # fmt: skip
@click.option("--level", type=click.Choice(["folded", "ranks"]),
              help="folded: equal ranks once; ranks: every rank's own lanes, the default with "
              "--ranks, --jitter or --slow.")  # fmt: skip
@click.option("--ranks", metavar="0,3", help="Only these ranks.")
@varied
@click.option("--all-micro-steps/--cut", default=None,
              help="Every micro-step, or the first, one of the middle and the last; every one by "
              "default, where the trace stays below 400,000 ops.")  # fmt: skip
def command(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, level: str | None,
    stages: bool, ranks: str | None, jitter: str, slow: tuple[str, ...], seed: int,
    all_micro_steps: bool | None, output: Path | None,
) -> None:  # fmt: skip
    """Simulate a step of WORKLOAD on TOPOLOGY and write its timeline.

    Open the JSON at https://ui.perfetto.dev or in chrome://tracing. Other formats list the
    collectives in order of issue. With --stages: what each rank of a pipeline computes when.
    """
    import sim

    if stages or form in _PICTURES:
        _chart(sim.stages(topology, workload, overrides=overrides), form, output)
        return
    found = sim.trace(
        topology, workload, overrides=overrides, level=level, all_micro_steps=all_micro_steps,
        ranks=_ranks(ranks or ""), jitter=jitter, slow=slow, seed=seed,
    )  # fmt: skip
    from sim.report.trace import view

    timeline = form in _CHROME
    show(view(found), "json" if timeline else form, output)
    if output is not None and timeline:
        cut = found.shown < found.micro_steps
        said = f" ({found.shown} of {found.micro_steps} micro-steps)" if cut else ""
        tell(f"{output}{said}: open it at https://ui.perfetto.dev")


def _chart(found: StageChart, form: str, output: Path | None) -> None:
    from sim.report.stages import picture, view

    if form in _PICTURES:
        emit(picture(found).rstrip("\n"), output)
    else:
        show(view(found), FORMS[0] if form in _CHROME[:1] else form, output)


def _ranks(text: str) -> list[int]:
    """``0,3`` as numbers."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError.single(_RANKS, "is no list of ranks such as 0,3", text) from None
