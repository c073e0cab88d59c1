"""Where what verbs say goes: standard output, files, pages, standard error."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import click

from sim.errors import InputError, visible
from sim.files import is_taken, make_folder, write_whole
from sim.report.formats import in_parts
from sim.report.progress import hushed, progress_bar

if TYPE_CHECKING:
    from sim.page.asked import Asked
    from sim.report.view import View, ViewPart

#: where the document that a verb showed is kept for ``--require``
SHOWN = "sim.shown"
#: where ``-q`` is kept
QUIET = "sim.quiet"
#: parameters that name machines
_MACHINES = frozenset(
    ("topology", "topologies", "inputs", "arguments", "cluster", "first", "other")
)
_ENDED = "sim.ended"  # the signal on which a verb ended with what it had
_STDOUT = "standard output"
#: characters of a line of a terminal; one that is narrower breaks them itself
_NARROWEST, _WIDEST = 60, 140


def write_page(report: Path | None, view: View, asked: Iterable[Asked] = ()) -> None:
    """Write the page of a verb, where one was asked for.

    Parameters
    ----------
    report : path or None
        Where to.
    view : View
        What the verb says.
    asked : iterable of Asked
        The jobs it is about; not asked for where there is no page.
    """
    if report is None:
        return
    from sim.page.gather import dossier_of
    from sim.page.render import page

    with progress_bar("pages"):
        text = page(dossier_of(view, list(asked), command_line())).rstrip("\n")
    emit(text, report)
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


def show(view: View, form: str, output: Path | None, parts: Iterable[str] | None = None) -> None:
    """Print a view in a format, or write it to a file; ``--require`` is about its document.

    `parts` are what it is in that format, where it writes itself bit by bit.
    """
    click.get_current_context().meta[SHOWN] = view.document
    if quiet():
        view = view.brief
    with progress_bar("rows") as told:
        view = view._replace(told=told, width=_width(output))
        emit(in_parts(view, form) if parts is None else parts, output)
    tell_read(view.sections)


def tell_read(sections: Iterable[ViewPart] = ()) -> None:
    """Say how the command line was read: words for a machine, columns that no price is in.

    What machines are taken as, an answer about one job has among its warnings (`sim.inputs.half`);
    others are of many jobs, or of none.
    """
    from sim.inputs.arguments import counted_machine
    from sim.inputs.price_files import unread_columns
    from sim.report.view import Remarks

    given = click.get_current_context().params
    said = " ".join(x for part in sections if isinstance(part, Remarks) for x in part.lines)
    for name in _MACHINES & given.keys():
        names = given[name] if isinstance(given[name], tuple) else (given[name],)
        for text in dict.fromkeys(names):
            found = counted_machine(text) if isinstance(text, str) else None
            if found is not None and found.told not in said:
                tell(found.told)
    prices = given.get("prices")
    if isinstance(prices, Path) and (columns := unread_columns(prices)):
        tell(f"{prices}: columns that are not read: {', '.join(columns)}")


def _width(output: Path | None) -> int:
    """Characters of a line: as ever, or what a terminal has, within bounds."""
    from sim.report.view import WIDTH

    if output is not None or sys.stdout is None or not sys.stdout.isatty():
        return WIDTH
    return max(_NARROWEST, min(_WIDEST, get_terminal_size((WIDTH, 0)).columns))


def quiet() -> bool:
    """Whether the answer alone is asked for."""
    return bool(click.get_current_context().meta.get(QUIET))


def emit(text: str | Iterable[str], output: Path | None) -> None:
    """Print a result, or write it to a file; a path that can't be written is bad input.

    A name that ends in ``.gz`` is packed. Of a text in parts no more than one is held.
    """
    parts = iter((text,) if isinstance(text, str) else text)
    first = next(parts, "")
    parts = chain((first,), parts)
    if not first:  # no row of JSON lines: an empty line would be none of them
        if output is not None:
            _write(output, ())
    elif output is None:
        say(parts)
    else:
        _write(output, chain(map(visible, parts), "\n"))


def _write(path: Path, parts: Iterable[str]) -> None:
    data = (part.encode() for part in parts)
    write_whole(path, _packed(data) if path.suffix == ".gz" else data)


def _packed(data: Iterable[bytes]) -> Iterator[bytes]:
    """As gzip packs it, of no date."""
    import zlib

    packer = zlib.compressobj(9, wbits=31)
    yield from map(packer.compress, data)
    yield packer.flush()


def say(text: str | Iterable[str]) -> None:
    """Print to standard output, control characters spelled out.

    Raises
    ------
    InputError
        There is no room for it.
    """
    on_terminal = sys.stdout is not None and sys.stdout.isatty()  # where a bar would be amid it
    try:
        with hushed() if on_terminal else nullcontext():
            for part in (text,) if isinstance(text, str) else text:
                click.echo(visible(part), nl=False)
            click.echo()
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        unheard(error)


def unheard(error: OSError) -> None:
    """What becomes of a print that failed: nothing where nobody reads on, else bad input.

    Raises
    ------
    InputError
        There is no room for it.
    """
    # what waits in the buffer goes nowhere at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):  # `| head` has read enough
        raise InputError.single(_STDOUT, f"cannot write: {error.strerror}") from None


@contextmanager
def stopped_softly() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM asked the verb to end; asked again it ends at once.

    It is told of by who asks for it: what a signal finds may be printing itself. `end_as_asked`
    ends the process once what was found is shown.
    """
    asked, told = 0, False
    meta = click.get_current_context().meta

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = number
        signal.signal(number, before[number])

    def stop() -> bool:
        nonlocal told
        if asked and not told:
            told = True
            meta[_ENDED] = asked
            again = "Ctrl-C" if asked == signal.SIGINT else "SIGTERM"
            tell(f"ending with what was found; {again} again ends at once")
        return told

    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }
    with suppress(ValueError):  # not the main thread of a program that calls us
        for number in before:
            signal.signal(number, ask)
    try:
        yield stop
    except KeyboardInterrupt:
        if told:  # nothing was found by then
            sys.exit(128 + asked)
        raise
    finally:
        with suppress(ValueError):
            for number, old in before.items():
                signal.signal(number, old)


def end_as_asked(document: object) -> None:
    """End with 128 + the signal where a document says that it was `stopped` before its end."""
    if getattr(document, "stopped", False):
        sys.exit(128 + click.get_current_context().meta[_ENDED])


def tell(text: str) -> None:
    """Print to standard error, control characters spelled out; nobody has to listen."""
    with suppress(OSError):
        click.echo(visible(text), err=True)


def plots_written(drawn: Mapping[str, str], folder: Path | None, output: Path | None) -> str:
    """Write pictures, SVG by name, where a folder is named; that folder as `output` links it."""
    if folder is None or not drawn:
        return ""
    make_folder(folder)
    for name, svg in drawn.items():
        write_whole(folder / f"{name}.svg", svg)
    return os.path.relpath(folder, output.parent if output else ".")


def written(path: Path, text: str, force: bool = False) -> None:
    """Write a file, and say so; one that is there is kept unless `force`."""
    if is_taken(path) and not force:
        message = "is there already; name another file, or add --force"
        raise InputError.single(str(path), message)
    make_folder(path.parent)
    _write(path, (text,))
    tell(f"wrote {path}")
