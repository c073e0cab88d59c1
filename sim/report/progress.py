"""A progress bar on standard error, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A callable ``(done, total)`` that moves a bar with rate and time left, on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
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
        """Configurations per second."""

        def render(self, task: Task) -> Text:
            """The rate so far."""
            return Text("" if not task.speed else f"{task.speed:,.0f}/s", style="cyan")

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(title, total=None)

        def move(done: int, total: int) -> None:
            if bar.tasks[0].total is None:  # what the store had is no progress of this run
                bar.reset(task, total=total, completed=done)
            bar.update(task, completed=done)

        yield move
