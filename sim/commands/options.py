"""Options that several verbs share, and what becomes of their answers."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import click
from click.core import ParameterSource

from sim.api.jobs import simulate
from sim.commands.asked import asks
from sim.commands.complete import JOBS, MACHINES, settings
from sim.commands.output import QUIET, SHOWN, end_as_asked, show, tell, write_page
from sim.report.formats import FORMATS
from sim.report.progress import hushed

if TYPE_CHECKING:
    from sim.page.asked import Asked
    from sim.report.view import View

F = TypeVar("F", bound=Callable[..., Any])
_asks = asks(simulate)
#: what a verb says; with it the jobs that its page is about
Answer: TypeAlias = "View | tuple[View, Iterable[Asked]]"


def sets(function: F) -> F:
    """The repeatable ``--set a.b=c``, and ``--calibration``, which is a file of such settings."""

    @functools.wraps(function)
    def calibrated(
        *, calibration: Path | None, overrides: tuple[str, ...], model_config: Path | None,
        **rest: Any,
    ) -> Any:  # fmt: skip
        if model_config is not None:
            overrides = (f"model={os.path.abspath(model_config)}", *overrides)
        if calibration is not None:
            from sim.inputs.calibration import calibration_settings

            overrides = (*calibration_settings(calibration), *overrides)
        return function(overrides=overrides, **rest)

    with_sets = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", shell_complete=settings,
        help="Override a key of either file, e.g. --set nodes=4 --set micro_batch=1.",
    )(cast(F, calibrated))  # fmt: skip
    with_model = click.option(
        "--model-config", type=click.Path(path_type=Path), metavar="FILE",
        help="The config.json of a model that the catalogue lacks.",
    )(with_sets)  # fmt: skip
    return click.option(
        "--calibration", type=click.Path(path_type=Path), metavar="FILE",
        help="Corrections of this cluster, as `scaling-sim calibrate` writes them.",
    )(with_model)  # fmt: skip


def pair(function: F) -> F:
    """``TOPOLOGY WORKLOAD...`` and `sets`: a job on a machine."""
    return click.argument("topology", shell_complete=MACHINES)(job(sets(function)))


def pair_of_files(function: F) -> F:
    """``TOPOLOGY WORKLOAD``, of one file each, and `sets`."""
    with_job = click.argument("workload", shell_complete=JOBS)(sets(function))
    return click.argument("topology", shell_complete=MACHINES)(with_job)


def job_of(
    context: click.Context, parameter: click.Parameter, files: tuple[str, ...]
) -> str | tuple[str, ...]:
    """One file or name as it is, the several files of a job together."""
    return files[0] if len(files) == 1 else files


def job(function: F) -> F:
    """``WORKLOAD``: a file, a name, or the several files of one job as other tools have them."""
    return click.argument(
        "workload", nargs=-1, required=True, metavar="WORKLOAD...", callback=job_of,
        shell_complete=JOBS,
    )(function)  # fmt: skip


def job_or_none(function: F) -> F:
    """``[WORKLOAD]``: as `job` has it, or none."""
    return click.argument(
        "workload", nargs=-1, metavar="[WORKLOAD...]", callback=job_of, shell_complete=JOBS
    )(function)


#: ``--prices FILE``: offers of a file over those of the catalogue
own_prices = _asks(
    "prices", metavar="FILE", help="A price file of your own; its rows replace the shipped ones."
)


def refuse(names: Iterable[str], why: str) -> None:
    """A usage error that names those of some parameters that are given, should any be.

    Parameters
    ----------
    names : iterable of str
        As the verb's function calls them.
    why : str
        Follows their options: what they are of, and what would be right.
    """
    context, names = click.get_current_context(), frozenset(names)
    given = [
        param.opts[0]
        for param in context.command.params
        if param.name in names
        and context.get_parameter_source(param.name) is not ParameterSource.DEFAULT
    ]
    if given:
        message = f"{', '.join(given)}: {why}"
        raise click.UsageError(message)


def priced(function: F) -> F:
    """``--offer NAME`` and `own_prices`: rent at an offer of the catalogue or of a file."""
    return click.option(
        "--offer", metavar="NAME",
        help='Rent at the cheapest offer of the machine whose name contains this, or "cheapest".',
    )(own_prices(function))  # fmt: skip


def varied(function: F) -> F:
    """``--jitter``, ``--slow`` and ``--seed``: ranks and links that are not alike."""
    with_seed = _asks("seed", help="Of the jitter.")(function)
    with_slow = _asks(
        "slow", metavar="PART=FACTOR",
        help="A slow GPU or link: rank:3=0.9, link:n0/nic2>leaf0.2=0.5 (A<>B: both ways; names as "
        "`collective` prints them).",
    )(with_seed)  # fmt: skip
    return _asks(
        "jitter", metavar="SHARE",
        help="Deviation of each rank's compute time, by block, such as 5%.",
    )(with_slow)  # fmt: skip


FORMS = FORMATS
#: tools that plans are written for (`sim.interop.emit.FILES`)
EMITTED = ("accelerate", "deepspeed", "torchtitan", "megatron", "axolotl", "llamafactory", "trl",
           "sbatch", "torchrun", "yaml")  # fmt: skip


def formed(*forms: str, required: bool = True) -> Callable[[F], F]:
    """``--format`` and ``--json``; the suffix of ``-o`` where neither is given, else the first.

    With `required` also ``--require`` and ``--junit``, which hold what `show` showed to conditions.
    """
    forms = tuple(dict.fromkeys(forms))

    def add(function: F) -> F:
        if required:
            function = _requirements(function)

        @functools.wraps(function)
        def chosen(*, form: str | None, output: Path | None, **rest: Any) -> Any:
            named = output and (output.with_suffix("") if output.suffix == ".gz" else output)
            suffix = named.suffix.lower().removeprefix(".") if named else ""
            form = form or (suffix if suffix in forms else forms[0])
            return function(form=form, output=output, **rest)

        with_json = click.option(
            "--json", "form", flag_value="json", help="Same as --format json."
        )(cast(F, chosen))  # fmt: skip
        return click.option(
            "--format", "form", type=click.Choice(forms), help=f"What to print; {forms[0]} if open."
        )(with_json)

    return add


def _requirements(function: F) -> F:
    """The repeatable ``--require``, read before anything is simulated, and ``--junit``."""

    @functools.wraps(function)
    def held(*, wanted: tuple[str, ...], junit: Path | None, **rest: Any) -> None:
        if not wanted and junit is None:
            function(**rest)
            return
        from sim.commands.required import hold, read

        conditions = read(wanted)
        function(**rest)
        failed = hold(click.get_current_context().meta[SHOWN], conditions, junit)
        for line in failed:
            tell(line)
        if failed:
            sys.exit(4)

    with_file = click.option(
        "--junit", type=click.Path(path_type=Path), metavar="FILE",
        help="Also write the requirements as JUnit XML.",
    )(cast(F, held))  # fmt: skip
    return click.option(
        "--require", "wanted", multiple=True, metavar="EXPR",
        help='Exit 4 unless it holds: "mfu > 40 %", "fits and step.time_s < 12 s".',
    )(with_file)  # fmt: skip


def printed(*forms: str, required: bool = True) -> Callable[[F], F]:
    """`formed`, and ``-o`` for the file to write to."""
    with_file = click.option(
        "-o", "--output", type=click.Path(path_type=Path),
        help="Write to a file instead; its suffix names the format.",
    )  # fmt: skip
    return lambda function: formed(*forms, required=required)(with_file(function))


def reported(function: F) -> F:
    """``--report FILE``: also a page with charts; the function gets `report`."""
    return click.option(
        "--report", type=click.Path(path_type=Path), metavar="FILE.html",
        help="Also write a page with charts to look at and hand over; it needs no network.",
    )(function)  # fmt: skip


def quieted(function: F) -> F:
    """``-q``: no progress, and `show` prints the answer alone."""

    def keep(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[QUIET] = value
        if value:
            context.with_resource(hushed())

    return click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=keep,
        help="The answer alone: no progress, nothing below it.",
    )(function)  # fmt: skip


def answered(*forms: str, page: bool = False) -> Callable[[Callable[..., Answer]], Any]:
    """`printed`, and with `page` `reported`, for a function that returns what its verb says.

    Parameters
    ----------
    *forms : str
        Formats, the first where none is asked for; those of every verb by default.
    page : bool
        Whether the answer can be a page.
    """

    def add(function: Callable[..., Answer]) -> Any:
        @functools.wraps(function)
        def said(
            *, form: str, output: Path | None, report: Path | None = None, **rest: Any
        ) -> None:
            from sim.report.view import View

            answer = function(**rest)
            view, asked = (answer, ()) if isinstance(answer, View) else answer
            show(view, form, output)
            write_page(report, view, asked)
            end_as_asked(view.document)

        return printed(*(forms or FORMS))(reported(said) if page else said)

    return add
