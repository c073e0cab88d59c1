"""Options and output that several verbs share."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

from sim.errors import InputError, visible
from sim.files import make_folder, write_whole
from sim.report.formats import FORMATS, rendered

if TYPE_CHECKING:
    from sim.documents import Document
    from sim.page.asked import Asked
    from sim.report.view import View

F = TypeVar("F", bound=Callable[..., Any])
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}
_REQUIRE = "--require"
_STDOUT = "standard output"
_EXPRESSION = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(>=|<=|>|<)\s*([-+0-9.].*?)\s*")


def sets(function: F) -> F:
    """The repeatable ``--set a.b=c``, and ``--calibration``, which is a file of such settings."""

    @functools.wraps(function)
    def calibrated(
        *, calibration: Path | None, overrides: tuple[str, ...], model_config: Path | None,
        **rest: Any,
    ) -> Any:  # fmt: skip
        if model_config is not None:
            overrides = (f"model={model_config.resolve()}", *overrides)
        if calibration is not None:
            from sim.inputs.calibration import calibration_settings

            overrides = (*calibration_settings(calibration), *overrides)
        return function(overrides=overrides, **rest)

    with_sets = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE",
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


def job(function: F) -> F:
    """``WORKLOAD``: a file, a name, or the several files of one job as other tools have them."""
    return click.argument(
        "workload", nargs=-1, required=True, metavar="WORKLOAD...",
        callback=lambda context, parameter, files: files[0] if len(files) == 1 else files,
    )(function)  # fmt: skip


def priced(function: F) -> F:
    """``--offer NAME`` and ``--prices FILE``: rent at an offer of the catalogue or of a file."""
    with_prices = click.option(
        "--prices", type=click.Path(path_type=Path), metavar="FILE",
        help="A price file of your own; its rows replace the shipped ones.",
    )(function)  # fmt: skip
    return click.option(
        "--offer", metavar="NAME",
        help='Rent at the cheapest offer of the machine whose name contains this, or "cheapest".',
    )(with_prices)  # fmt: skip


def varied(function: F) -> F:
    """``--jitter``, ``--slow`` and ``--seed``: ranks and links that are not alike."""
    with_seed = click.option("--seed", default=0, show_default=True, help="Of the jitter.")(
        function
    )
    with_slow = click.option(
        "--slow", multiple=True, metavar="PART=FACTOR",
        help="A slow GPU or link: rank:3=0.9, link:n0/nic2>leaf0.2=0.5 (A<>B: both ways; names as "
        "`collective` prints them).",
    )(with_seed)  # fmt: skip
    return click.option(
        "--jitter", default="0%", metavar="SHARE",
        help="Deviation of each rank's compute time, by block, such as 5%.",
    )(with_slow)  # fmt: skip


FORMS = tuple(FORMATS)
#: tools that plans are written for (`sim.interop.emit.FILES`)
EMITTED = ("accelerate", "deepspeed", "torchtitan", "axolotl", "llamafactory", "trl", "sbatch",
           "torchrun", "yaml")  # fmt: skip


def formed(*forms: str) -> Callable[[F], F]:
    """``--format`` and ``--json``; the suffix of ``-o`` where neither is given, else the first."""
    forms = tuple(dict.fromkeys(forms))

    def add(function: F) -> F:
        @functools.wraps(function)
        def chosen(*, form: str | None, output: Path | None, **rest: Any) -> Any:
            suffix = output.suffix.lower().removeprefix(".") if output else ""
            form = form or (suffix if suffix in forms else forms[0])
            return function(form=form, output=output, **rest)

        with_json = click.option(
            "--json", "form", flag_value="json", help="Same as --format json."
        )(cast(F, chosen))  # fmt: skip
        return click.option(
            "--format", "form", type=click.Choice(forms), help=f"What to print; {forms[0]} if open."
        )(with_json)

    return add


def printed(*forms: str) -> Callable[[F], F]:
    """`formed`, and ``-o`` for the file to write to."""
    with_file = click.option(
        "-o", "--output", type=click.Path(path_type=Path),
        help="Write to a file instead; its suffix names the format.",
    )  # fmt: skip
    return lambda function: formed(*forms)(with_file(function))


def reported(function: F) -> F:
    """``--report FILE``: also a page with charts; the function gets `report`."""
    return click.option(
        "--report", type=click.Path(path_type=Path), metavar="FILE.html",
        help="Also write a page with charts to look at and hand over; it needs no network.",
    )(function)  # fmt: skip


def write_page(report: Path | None, view: View, *asked: Asked) -> None:
    """Write the page of a verb, where one was asked for.

    Parameters
    ----------
    report : path or None
        Where to.
    view : View
        What the verb says.
    *asked : Asked
        The jobs it is about.
    """
    if report is None:
        return
    from sim.page.gather import dossier_of
    from sim.page.render import page

    emit(page(dossier_of(view, asked, command_line())).rstrip("\n"), report)
    tell(f"{report}: open it in a browser")


def command_line() -> str:
    """What the user typed, without where the page goes; nothing outside the command line."""
    name, *words = sys.argv
    if not Path(name).name.startswith(("scaling-sim", "__main__")):
        return ""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word != "--report" and not word.startswith("--report="):
            kept.append(word)
        skip = word == "--report"
    return shlex.join(["scaling-sim", *kept])


def show(view: View, form: str, output: Path | None) -> None:
    """Print a view in a format, or write it to a file."""
    emit(rendered(view, form), output)


def emit(text: str, output: Path | None) -> None:
    """Print a result, or write it to a file; a path that can't be written is bad input."""
    if output is None:
        say(text)
    else:
        write_whole(output, visible(text) + "\n")


def say(text: str) -> None:
    """Print to standard output, control characters spelled out.

    Raises
    ------
    InputError
        There is no room for it.
    """
    try:
        click.echo(visible(text))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; there is nobody left to tell
        _silence()
    except OSError as error:
        _silence()
        raise InputError.single(_STDOUT, f"cannot write: {error.strerror}") from None


def tell(text: str) -> None:
    """Print to standard error, control characters spelled out; nobody has to listen."""
    with suppress(OSError):
        click.echo(visible(text), err=True)


def _silence() -> None:
    """Let what waits in the buffer go nowhere at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def written(path: Path, text: str, force: bool = False) -> None:
    """Write a file, and say so; one that is there is kept unless `force`."""
    if path.exists() and not force:
        message = "is there already; name another file, or add --force"
        raise InputError.single(str(path), message)
    make_folder(path.parent)
    write_whole(path, text)
    tell(f"wrote {path}")


class Requirement(NamedTuple):
    """One ``--require``: a figure of the result and its limit."""

    text: str
    name: str
    operator: str
    limit: float


class Requirements(NamedTuple):
    """What a result must be, and where that is written down for a CI server."""

    wanted: tuple[Requirement, ...]
    junit: Path | None


def requirements(function: F) -> F:
    """The repeatable ``--require``, read before anything is simulated, and ``--junit``."""

    @functools.wraps(function)
    def required(*, wanted: tuple[str, ...], junit: Path | None, **rest: Any) -> Any:
        found = tuple(
            _requirement(part) for text in wanted for part in re.split(r"\s+and\s+", text)
        )
        return function(requirements=Requirements(found, junit), **rest)

    with_file = click.option(
        "--junit", type=click.Path(path_type=Path), metavar="FILE",
        help="Also write the requirements as JUnit XML.",
    )(cast(F, required))  # fmt: skip
    return click.option(
        "--require", "wanted", multiple=True, metavar="EXPR",
        help='Exit 4 unless it holds: "mfu > 40 %", "fits and step.time_s < 12 s".',
    )(with_file)  # fmt: skip


def _requirement(text: str) -> Requirement:
    if text.strip() == "fits":
        return Requirement(text, "memory.fits", ">=", 1.0)
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        message = 'cannot read it; write "fits" or NAME>NUMBER, e.g. "mfu>0.4"'
        raise InputError.single(_REQUIRE, message, text)
    name, operator, limit = match.groups()
    return Requirement(text.strip(), name, operator, _limit(limit, text))


def _limit(limit: str, text: str) -> float:
    """A number, a share as ``40 %``, or a quantity with its unit, in SI."""
    from sim import units

    try:
        return float(limit)
    except ValueError:
        pass
    for dimension in units.EXAMPLES:
        try:
            return units.parse(limit, cast("units.Dimension", dimension))
        except units.UnitError:
            continue
    message = f"{limit!r} is not a number, a share or a quantity with its unit"
    raise InputError.single(_REQUIRE, message, text)


def require(result: Document, asked: Requirements) -> None:
    """Exit with 4 if any requirement does not hold."""
    found = [(r, _lookup(result, r.name)) for r in asked.wanted]
    failed = [(r, value) for r, value in found if not _OPERATORS[r.operator](value, r.limit)]
    if asked.junit is not None:
        write_whole(asked.junit, _junit(found, [r for r, _ in failed]))
    for r, value in failed:
        tell(f"requirement not met: {r.text}" + ("" if r.text == "fits" else f" (is {value:.6g})"))
    if failed:
        sys.exit(4)


def _junit(found: list[tuple[Requirement, float]], failed: list[Requirement]) -> str:
    """Requirements as test cases."""
    from xml.etree import ElementTree as Xml

    suite = Xml.Element("testsuite", name="scaling-sim", tests=str(len(found)),
                        failures=str(len(failed)))  # fmt: skip
    for r, value in found:
        case = Xml.SubElement(suite, "testcase", classname="scaling-sim", name=r.text)
        if r in failed:
            Xml.SubElement(case, "failure", message=f"{r.name} is {value:.6g}")
    Xml.indent(suite)
    return Xml.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _lookup(result: Document, name: str) -> float:
    from difflib import get_close_matches

    from sim.documents import flatten

    flat = flatten(result.to_dict())
    numbers = {key: float(v) for key, v in flat.items() if isinstance(v, int | float)}
    hits = [key for key in numbers if key == name or key.split(".", 1)[-1] == name]
    if not hits:
        near = get_close_matches(name, [*numbers, *(k.rsplit(".", 1)[-1] for k in numbers)], 1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise InputError.single(_REQUIRE, f"no such figure in the result{hint}", name)
    return numbers[hits[0]]
