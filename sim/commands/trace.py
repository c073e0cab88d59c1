"""`scaling-sim trace`: the simulated step as a timeline to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sim
from sim.api.steps import trace, trace_diff
from sim.commands.asked import asks
from sim.commands.complete import MACHINES
from sim.commands.options import (
    FORMS,
    Answer,
    answered,
    job_or_none,
    pair,
    printed,
    refuse,
    sets,
    varied,
)
from sim.commands.output import emit, show, tell
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.choices import TraceLevel
    from sim.step.stages import StageChart

_RANKS = "--ranks"
_CHROME = ("chrome", "json")  # the same: a Chrome trace is JSON
_PICTURES = ("svg",)
#: what a chart of stages, which is of equal ranks, has not
_OF_TIMELINES = ("level", "ranks", "jitter", "slow", "seed", "all_micro_steps", "snapshot")


@click.command("diff")
@click.argument("recorded")
@click.argument("topology", shell_complete=MACHINES)
@job_or_none
@asks(trace_diff)("steps", help="How many steps the recording has, where it marks none.")
@sets
@answered(page=True)
def difference(
    recorded: str, topology: str, workload: str | tuple[str, ...], steps: int | None,
    overrides: tuple[str, ...],
) -> Answer:  # fmt: skip
    """Compare RECORDED, a trace of PyTorch's profiler, with the simulated step, part by part.

    Without a WORKLOAD, TOPOLOGY is another trace. Example: trace diff rank0.json.gz dgx-h100
    llama3-8b-sft
    """
    from sim.page.asked import Asked
    from sim.report.progress import progress_bar
    from sim.report.trace_diff import view

    recorded, topology, workload = _trace_first(recorded, topology, workload)
    asked = workload or None
    with progress_bar("MB") as progress:
        found = sim.trace_diff(
            recorded, topology, asked, steps=steps, overrides=overrides, progress=progress
        )
    return view(found), [Asked(topology, asked, overrides)] if asked else []


def _trace_first(
    recorded: str, topology: str, workload: str | tuple[str, ...]
) -> tuple[str, str, str | tuple[str, ...]]:
    """The three as they were meant, where the trace stands last, as a job's files do elsewhere."""
    from sim.inputs import catalogue

    if catalogue.find("topologies", recorded) is None:
        return recorded, topology, workload
    if not workload or not isinstance(workload, str):
        message = "is a machine; name the recorded trace: trace diff rank0.json MACHINE JOB"
        raise InputError.single(recorded, message)
    return workload, recorded, topology


class _Trace(click.Command):
    """The verb itself, and `trace diff`."""

    commands = {"diff": difference}  # noqa: RUF012

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:  # fmt: skip
        """Of whichever of the two is meant."""
        inner = self.commands.get(args[0]) if args else None
        if inner is not None:
            return inner.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("trace", cls=_Trace)
@pair
@printed(*dict.fromkeys((*_CHROME, *FORMS, *_PICTURES)))
@click.option("--stages", is_flag=True,
              help="A chart of a pipeline's ranks: a table, a picture (svg).")  # fmt: skip
@asks(trace)("level",
                 help="folded: equal ranks once; ranks: every rank's own lanes, the default with "
                 "--ranks, --jitter or --slow.")  # fmt: skip
@click.option("--ranks", metavar="0,3", help="Only these ranks.")
@varied
@click.option("--all-micro-steps/--cut", default=None,
              help="Every micro-step, or the first, one of the middle and the last; every one by "
              "default, where the trace stays below 400,000 ops.")  # fmt: skip
@click.option("--memory-snapshot", "snapshot", type=click.Path(path_type=Path), metavar="FILE",
              help="Also write what is allocated when, for pytorch.org/memory_viz.")  # fmt: skip
def command(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, level: TraceLevel | None,
    stages: bool, ranks: str | None, jitter: str, slow: tuple[str, ...], seed: int,
    all_micro_steps: bool | None, snapshot: Path | None, output: Path | None,
) -> None:  # fmt: skip
    """Simulate a step of WORKLOAD on TOPOLOGY and write its timeline.

    Open the JSON at https://ui.perfetto.dev or in chrome://tracing. Other formats list the
    collectives in order of issue. With --stages: what each rank of a pipeline computes when.
    `trace diff FILE TOPOLOGY WORKLOAD` sets a recorded trace beside it.
    """
    from sim.report.progress import progress_bar

    if stages or form in _PICTURES:
        refuse(_OF_TIMELINES, "of a timeline; a chart of stages (--stages, svg) takes none")
        with progress_bar("ops") as progress:
            chart = sim.stages(topology, workload, overrides=overrides, progress=progress)
        _chart(chart, form, output)
        return
    if form not in _CHROME:
        refuse(["ranks"], "of a timeline; a list is of the slowest rank's collectives")
    with progress_bar("ops") as progress:
        found = sim.trace(
            topology, workload, overrides=overrides, level=level, seed=seed, slow=slow,
            all_micro_steps=all_micro_steps, ranks=_ranks(ranks or ""), jitter=jitter,
            progress=progress,
        )  # fmt: skip
    from sim.report.trace import view

    timeline = form in _CHROME
    if snapshot is not None:
        from sim.files import write_whole
        from sim.step.snapshot import pickled

        write_whole(snapshot, pickled(found.memory_snapshot()))
        tell(f"{snapshot}: open it at https://pytorch.org/memory_viz")
        if output is None and timeline:
            return
    with progress_bar("events") as progress:
        show(view(found), form, output, found.parts(progress) if timeline else None)
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
