"""`scaling-sim sweep`: many configurations of one job or several."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import sim
from sim.api.questions import sweep
from sim.commands.asked import asks
from sim.commands.complete import INPUTS
from sim.commands.options import FORMS, printed, reported, sets
from sim.commands.output import say, show, tell, write_page
from sim.errors import InputError, visible

_BINARY = ("parquet",)
_FORMAT = "--format"


_asks = asks(sweep)


@click.command("sweep")
@click.argument("arguments", nargs=-1, metavar="STUDY.yaml | TOPOLOGY WORKLOAD",
                shell_complete=INPUTS)  # fmt: skip
@sets
@_asks("vary", metavar="KEY=A,B,C",
       help="An axis over a key of either file; 1..8 is a range; `layout`: every way to cut the "
       "model. Repeatable.")  # fmt: skip
@_asks("zipped", "--zip", help="The --vary axes move together.")
@_asks("where", metavar="EXPR", help='Leave others out before computing: "gpus <= 64".')
@_asks("require", metavar="EXPR", help='Mark results that do not meet it: "fits and mfu > 0.4".')
@_asks("pareto", metavar="A,B", help="Front of measures, e.g. cost_usd,wall_clock_s.")
@_asks("screen", metavar="MEASURE",
       help="Find the best by it of a large grid: a surrogate says all configurations, those that "
       "may be the best are computed.")  # fmt: skip
@_asks("exact", metavar="N", help="Configurations that --screen computes at the most; 2,000.")
@_asks("store", help="SQLite file; NAME.sweep.sqlite.")
@_asks("processes", "-j", "--processes", help="Processes; all cores.")
@_asks("workers", help="Workers of a local Dask cluster.")
@_asks("scheduler", metavar="tcp://HOST:PORT", help="A Dask scheduler that runs already.")
@printed(*FORMS, *_BINARY, required=False)
@reported
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@click.option("--dry-run", is_flag=True, help="Only count the configurations.")
def command(
    arguments: tuple[str, ...], overrides: tuple[str, ...], vary: tuple[str, ...], zipped: bool,
    where: tuple[str, ...], require: tuple[str, ...], pareto: str | None, screen: str | None,
    exact: int | None, store: Path | None,
    processes: int | None, workers: int | None, scheduler: str | None, form: str,
    output: Path | None, report: Path | None, quiet: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Compute every configuration of a grid once: what is stored already is not repeated.

    Exit 1 if none has a result.
    """
    from sim.report.progress import progress_bar
    from sim.report.sweep import summary, view
    from sim.study.export import needs_pyarrow, write_parquet

    grid = sim.sweep_grid(
        *arguments, vary=vary, zipped=zipped, where=where, require=require, pareto=pareto,
        overrides=overrides,
    )  # fmt: skip
    if dry_run:
        say(f"{len(grid):,} configurations before --where")
        return
    binary = form in _BINARY
    if binary and output is None:
        message = "parquet is binary; name a file with -o FILE.parquet"
        raise InputError.single(_FORMAT, message)
    if binary and output is not None:
        needs_pyarrow(output)
    path = store or grid.store
    with progress_bar(visible(grid.name), quiet) as progress:
        outcome = sim.sweep(
            grid, store=path, processes=processes, workers=workers, scheduler=scheduler,
            screen=screen, exact=exact, overrides=overrides, progress=progress,
        )  # fmt: skip
    if binary and output is not None:
        write_parquet(outcome, output)
    else:
        show(view(outcome), form, output)
    if report is not None:
        from sim.page.gather import best_of

        write_page(report, view(outcome), best_of(outcome, overrides))
    if not quiet:
        tell(summary(outcome, path))
    if outcome.rows and not any(row.status == "ok" for row in outcome.rows):
        sys.exit(1)
