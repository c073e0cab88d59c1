"""`scaling-sim compare`: machines, jobs and changes side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

import sim
from sim.api.questions import compare
from sim.commands.asked import asks
from sim.commands.complete import INPUTS, JOBS
from sim.commands.options import Answer, answered, priced, quieted, sets
from sim.commands.output import quiet, stopped_softly

if TYPE_CHECKING:
    from sim.page.asked import Asked
    from sim.study.compared import Comparison


@click.command("compare")
@click.argument("inputs", nargs=-1, required=True, metavar="TOPOLOGY... [WORKLOAD...]",
                shell_complete=INPUTS)  # fmt: skip
@click.option("--workload", "-w", "workloads", multiple=True, shell_complete=JOBS,
              help="A job; may be repeated.")  # fmt: skip
@asks(compare)("vary", metavar="KEY=A,B",
               help="Values of a key to compare; several keys give all combinations.")  # fmt: skip
@sets
@priced
@answered(page=True)
@quieted
def command(
    inputs: tuple[str, ...], workloads: tuple[str, ...], vary: tuple[str, ...],
    overrides: tuple[str, ...], offer: str | None, prices: Path | None,
) -> Answer:  # fmt: skip
    """Simulate every machine with every job and say what makes each differ from the first.

    Examples: compare dgx-a100 dgx-h100 --workload mistral-7b-lora;
    compare dgx-h100 llama3-8b-sft --vary precision=bf16,fp8 --vary nodes=1,2.
    Ctrl-C and SIGTERM show the variants so far (exit 130, 143); again, they end at once.
    """
    from sim.inputs.arguments import split_inputs
    from sim.report.compare import view
    from sim.report.progress import progress_bar

    machines, jobs = split_inputs(inputs)
    jobs = [*jobs, *workloads]
    with progress_bar("variants", quiet()) as progress, stopped_softly() as stop:
        found = sim.compare(
            machines, jobs, vary=vary, overrides=overrides, offer=offer or "", prices=prices,
            progress=progress, stop=stop,
        )  # fmt: skip
    return view(found), _asked(found, machines, jobs, overrides)


def _asked(
    found: Comparison, machines: list[str], jobs: list[str], overrides: tuple[str, ...]
) -> Iterator[Asked]:
    """The jobs of its page, which is more to load than the answer."""
    from sim.page.gather import asked_of

    yield from asked_of(found, machines, jobs, overrides)
