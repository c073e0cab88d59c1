"""`scaling-sim compare`: machines, jobs and changes side by side."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import INPUTS, JOBS
from sim.commands.options import FORMS, priced, printed, reported, sets, show, write_page


@click.command("compare")
@click.argument("inputs", nargs=-1, required=True, metavar="TOPOLOGY... [WORKLOAD...]",
                shell_complete=INPUTS)  # fmt: skip
@click.option("--workload", "-w", "workloads", multiple=True, shell_complete=JOBS,
              help="A job; may be repeated.")  # fmt: skip
@click.option("--vary", multiple=True, metavar="KEY=A,B",
              help="Values of a key to compare; several keys give all combinations.")  # fmt: skip
@sets
@priced
@printed(*FORMS)
@reported
def command(
    inputs: tuple[str, ...], workloads: tuple[str, ...], vary: tuple[str, ...],
    overrides: tuple[str, ...], offer: str | None, prices: Path | None, form: str,
    output: Path | None, report: Path | None,
) -> None:  # fmt: skip
    """Simulate every machine with every job and say what makes each differ from the first.

    Examples: compare dgx-a100 dgx-h100 --workload mistral-7b-lora;
    compare dgx-h100 llama3-8b-sft --vary precision=bf16,fp8 --vary nodes=1,2.
    """
    import sim
    from sim.inputs.arguments import split_inputs
    from sim.report.compare import view

    machines, jobs = split_inputs(inputs)
    found = sim.compare(
        machines, [*jobs, *workloads], vary=vary, overrides=overrides, offer=offer or "",
        prices=prices,
    )  # fmt: skip
    show(view(found), form, output)
    if report is not None:
        from sim.page.gather import asked_of

        cases = asked_of(found, machines, [*jobs, *workloads], overrides)
        write_page(report, view(found), *cases)
