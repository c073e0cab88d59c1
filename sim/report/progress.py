"""A progress bar on standard error, on a terminal only."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: after so long a terminal shows that something runs [s]
SILENT_S = 2.0


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A callable ``(done, total)`` that moves a bar with rate and time left, on a terminal.

    Until something is done the bar pulses, from `SILENT_S` on even if nothing is said; `total` may
    grow.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar: Any = None
    one = threading.Lock()  # at a time: who is at work, or who looks after the silence

    def show(done: int, total: int) -> None:
        nonlocal bar
        bar = _bar()
        bar.start()
        bar.add_task(title, start=False, total=total, completed=done)

    def move(done: int, total: int) -> None:
        with one:
            if bar is None:  # what the store had is no progress of this run
                show(done, total)
            task = bar.task_ids[0]
            if done:
                bar.start_task(task)
            bar.update(task, completed=done, total=total)

    def pulse() -> None:
        with one:
            if bar is None:
                show(0, 1)

    silence = threading.Timer(SILENT_S, pulse)
    silence.daemon = True
    silence.start()
    try:
        yield move
    finally:
        silence.cancel()
        silence.join()
        if bar is not None:
            bar.stop()


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
    )  # fmt: skip
