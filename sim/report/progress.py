"""A progress bar on standard error, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock, Timer
from typing import Any

#: after so long a terminal shows that something runs [s]
SILENT_S = 2.0


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A callable ``(done, total)`` that moves a bar with rate and time left, on a terminal.

    Until something is done the bar pulses, from `SILENT_S` on even if nothing is said; `total` may
    grow. It takes the place of one around it.
    """
    with hushed():
        if quiet or sys.stderr is None or not sys.stderr.isatty():
            yield None
            return
        bar = _Bar(title)
        _BARS.append(bar)
        bar.go_on()
        try:
            yield bar.move
        finally:
            bar.hush()
            _BARS.pop()


@contextmanager
def hushed() -> Iterator[None]:
    """The bar around this shows nothing meanwhile."""
    around = _BARS[-1:]
    for bar in around:
        bar.hush()
    try:
        yield
    finally:
        for bar in around:
            bar.go_on()


class _Bar:
    """Shown once something is done or nothing was said for long, unless it is hushed."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._hushes = 1
        self._silence: Timer | None = None
        self._shown: Any = None
        self._one = RLock()  # at a time: who is at work, or who looks after the silence

    def go_on(self) -> None:
        """Take back one `hush`, or begin."""
        with self._one:
            self._hushes -= 1
            if not self._hushes:
                self._silence = Timer(SILENT_S, self._pulse)
                self._silence.daemon = True
                self._silence.start()

    def hush(self) -> None:
        """Show nothing until as many `go_on`."""
        with self._one:
            self._hushes += 1
            if self._silence is not None:
                self._silence.cancel()
            if self._shown is not None:
                self._shown.stop()
                self._shown = None

    def move(self, done: int, total: int) -> None:
        """So many of so many are done."""
        with self._one:
            if self._hushes:
                return
            if self._shown is None:  # what the store had is no progress of this run
                self._show(done, total)
            task = self._shown.task_ids[0]
            if done:
                self._shown.start_task(task)
            self._shown.update(task, completed=done, total=total)

    def _pulse(self) -> None:
        with self._one:
            if self._shown is None and not self._hushes:
                self._show(0, 1)

    def _show(self, done: int, total: int) -> None:
        self._shown = _bar()
        self._shown.start()
        self._shown.add_task(self._title, start=False, total=total, completed=done)


_BARS: list[_Bar] = []  # that of the verb, those of its parts within


def _bar() -> Any:
    """Made when there is something to tell: most runs end before."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """What is done in a second."""

        def render(self, task: Task) -> Text:
            """The rate so far."""
            return Text("" if not task.speed else f"{task.speed:,.0f}/s", style="cyan")

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
        redirect_stdout=False,  # else what is printed to a file goes to the terminal
    )  # fmt: skip
