"""`scaling-sim calibrate`: fit a few constants to a cluster's own measurements."""

from __future__ import annotations

from pathlib import Path

import click

import sim
from sim.api.measurements import calibrate
from sim.commands.asked import asks
from sim.commands.complete import JOBS, MACHINES
from sim.commands.options import FORMS, formed, sets
from sim.commands.output import emit, show

_asks = asks(calibrate)


@click.command("calibrate")
@click.argument("topology", shell_complete=MACHINES)
@click.argument("workload", required=False, shell_complete=JOBS)
@_asks("nccl_tests", metavar="[OP=]FILE[#N]",
       help="Output of nccl-tests, text or -J; may be repeated.")  # fmt: skip
@_asks("measured", metavar="FILE|KEY=VALUE",
       help="YAML list of runs: topology, workload, set, tokens_per_s_per_gpu; or one figure of "
       "WORKLOAD.")  # fmt: skip
@_asks("log", type=str, metavar="FILE",
       help="A trainer's log of WORKLOAD on TOPOLOGY: its figure; - if pasted.")  # fmt: skip
@_asks("kineto", metavar="FILE",
       help="PyTorch profiler trace of WORKLOAD on TOPOLOGY.")  # fmt: skip
@_asks("nvbandwidth", metavar="FILE", help="Its output.")
@_asks("holdout", metavar="FILE",
       help="Runs as --measured, predicted before and after but not fitted.")  # fmt: skip
@click.option("--fit", "names", metavar="A,B,...", help="Only these constants.")
@sets
@formed(*FORMS)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the calibration here, for --calibration of any verb.")  # fmt: skip
def command(
    topology: str, workload: str | None, nccl_tests: tuple[str, ...], measured: tuple[str, ...],
    log: tuple[str, ...], kineto: tuple[str, ...], nvbandwidth: tuple[str, ...],
    holdout: tuple[str, ...], names: str | None, overrides: tuple[str, ...], form: str,
    output: Path | None,
) -> None:  # fmt: skip
    """Fit named multipliers of TOPOLOGY to measurements, with a prior around 1.

    Prints the error before and after, and on evidence that was left out.
    """
    from sim.inputs.calibration import written
    from sim.report.calibration import view
    from sim.report.progress import progress_bar

    with progress_bar("evidence") as progress:
        report = sim.calibrate(
            topology, workload, nccl_tests=nccl_tests, measured=measured, log=log,
            kineto=kineto, nvbandwidth=nvbandwidth,
            holdout=holdout, fit=[n.strip() for n in (names or "").split(",") if n.strip()],
            overrides=overrides, progress=progress,
        )  # fmt: skip
    show(view(report), form, None)
    if output is not None:
        emit(written(report.calibration, f"scaling-sim calibrate {topology}\n{report.verdict}"
                     ).rstrip("\n"), output)  # fmt: skip
