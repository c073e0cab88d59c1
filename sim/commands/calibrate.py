"""`scaling-sim calibrate`: fit a few constants to a cluster's own measurements."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import JOBS, MACHINES
from sim.commands.options import FORMS, formed, sets
from sim.commands.output import emit, show


@click.command("calibrate")
@click.argument("topology", shell_complete=MACHINES)
@click.argument("workload", required=False, shell_complete=JOBS)
@click.option("--nccl-tests", "logs", multiple=True, metavar="[OP=]FILE[#N]",
              help="Output of nccl-tests, text or -J; may be repeated.")  # fmt: skip
@click.option("--measured", "runs", multiple=True, metavar="FILE",
              help="YAML list of runs: topology, workload, set, tokens_per_s_per_gpu.")  # fmt: skip
@click.option("--kineto", "traces", multiple=True, metavar="FILE",
              help="PyTorch profiler trace of WORKLOAD on TOPOLOGY.")  # fmt: skip
@click.option("--nvbandwidth", "copies", multiple=True, metavar="FILE", help="Its output.")
@click.option("--holdout", multiple=True, metavar="FILE",
              help="Runs as --measured, predicted before and after but not fitted.")  # fmt: skip
@click.option("--fit", "names", metavar="A,B,...", help="Only these constants.")
@sets
@formed(*FORMS)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the calibration here, for --calibration of any verb.")  # fmt: skip
def command(
    topology: str, workload: str | None, logs: tuple[str, ...], runs: tuple[str, ...],
    traces: tuple[str, ...], copies: tuple[str, ...], holdout: tuple[str, ...],
    names: str | None, overrides: tuple[str, ...], form: str, output: Path | None,
) -> None:  # fmt: skip
    """Fit named multipliers of TOPOLOGY to measurements, with a prior around 1.

    Prints the error before and after, and on evidence that was left out.
    """
    import sim
    from sim.inputs.calibration import written
    from sim.report.calibration import view
    from sim.report.progress import progress_bar

    with progress_bar("evidence") as progress:
        report = sim.calibrate(
            topology, workload, nccl_tests=logs, measured=runs, kineto=traces, nvbandwidth=copies,
            holdout=holdout, fit=[n.strip() for n in (names or "").split(",") if n.strip()],
            overrides=overrides, progress=progress,
        )  # fmt: skip
    show(view(report), form, None)
    if output is not None:
        emit(written(report.calibration, f"scaling-sim calibrate {topology}\n{report.verdict}"
                     ).rstrip("\n"), output)  # fmt: skip
