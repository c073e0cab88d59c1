"""A bar on a terminal: also of what says nothing for long."""

import threading

import pytest

from sim.report import progress
from tests.clock import HANG_S


class Bar:
    """What rich's would be told."""

    task_ids = (0,)

    def __init__(self):
        self.said, self.shown = [], threading.Event()

    def start(self):
        self.said.append("start")

    def add_task(self, title, **rest):
        self.said.append(title)
        self.shown.set()

    def start_task(self, task):
        self.said.append("moves")

    def update(self, task, completed, total):
        self.said.append((completed, total))

    def stop(self):
        self.said.append("stop")


@pytest.fixture
def bar(monkeypatch):
    made = Bar()
    monkeypatch.setattr(progress, "_bar", lambda: made)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    return made


def test_what_says_nothing_for_long_is_seen_to_run(bar, monkeypatch):
    monkeypatch.setattr(progress, "SILENT_S", 0.0)
    with progress.progress_bar("ops") as move:
        assert bar.shown.wait(HANG_S)
        move(3, 9)
    assert bar.said == ["start", "ops", "moves", (3, 9), "stop"]


def test_what_ends_soon_shows_nothing(bar, monkeypatch):
    monkeypatch.setattr(progress, "SILENT_S", HANG_S)
    with progress.progress_bar("ops"):
        pass
    assert bar.said == []


def test_a_part_of_a_verb_takes_its_place(bar, monkeypatch):
    monkeypatch.setattr(progress, "SILENT_S", HANG_S)
    with progress.progress_bar("run") as around:
        around(0, 1)
        with progress.progress_bar("ops") as move:
            around(0, 1)
            move(3, 9)
        with progress.progress_bar("ops", quiet=True) as move, progress.hushed():
            assert move is None
            around(0, 1)
        around(1, 1)
    first, part = ["start", "run", (0, 1), "stop"], ["start", "ops", "moves", (3, 9), "stop"]
    assert bar.said == [*first, *part, "start", "run", "moves", (1, 1), "stop"]
