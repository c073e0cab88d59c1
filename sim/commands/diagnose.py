"""`scaling-sim diagnose`: why is a real run slower than its machine should be."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import MACHINES
from sim.commands.options import FORMS, job, printed, reported, sets, show, write_page
from sim.page.asked import Asked


@click.command("diagnose")
@click.argument("topology", shell_complete=MACHINES)
@job
@click.option("--measured", required=True, metavar="KEY=VALUE",
              help="tokens_per_s_per_gpu=1000 or step_time_s=12.5")  # fmt: skip
@click.option("--also", multiple=True, metavar="'KEY=VALUE SET...'",
              help='Another run of the job, e.g. "tokens_per_s_per_gpu=12000 nodes=1"; '
              "the cause must explain it too.")  # fmt: skip
@click.option("--baseline", metavar="'KEY=VALUE SET...'",
              help='A run taken as it is, e.g. "tokens_per_s_per_gpu=12000 nodes=1": only what '
              "--measured lacks beside it needs explaining.")  # fmt: skip
@sets
@printed(*FORMS)
@reported
def command(
    topology: str, workload: str, measured: str, also: tuple[str, ...], baseline: str | None,
    overrides: tuple[str, ...], form: str, output: Path | None,
    report: Path | None,
) -> None:  # fmt: skip
    """Compare a measured run of WORKLOAD on TOPOLOGY with what it should give, and rank causes.

    Example: diagnose dgx-h100 llama3-8b-sft --set nodes=8 --measured tokens_per_s_per_gpu=1000
    """
    import sim
    from sim.report.diagnose import view

    found = sim.diagnose(
        topology, workload, measured=measured, also=also, baseline=baseline, overrides=overrides
    )
    show(view(found), form, output)
    write_page(report, view(found), Asked(topology, workload, overrides))
