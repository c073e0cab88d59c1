"""Every verb under faults of the machine: no room, reader, stream or surroundings, an end."""

import os
import re
import signal
import threading

import pytest

from sim.report import progress
from tests.hostile.verbs import FOLDERS, FORMS, ODD, SERVERS, WITH_OUTPUT, call, lay_out, verbs


@pytest.fixture
def folder(tmp_path, compiled):
    """A folder with the files that command lines read."""
    inner = tmp_path / "inner"
    inner.mkdir()
    lay_out(inner)
    return inner


def ends(argv, folder, **around):
    """How it ends; never with a traceback, nor as an error of ours."""
    found = call(argv, folder, **around)
    assert "Traceback" not in found.err, found
    assert "internal error" not in found.err, found
    return found


def test_no_verb_is_forgotten():
    assert set(verbs()) == set(FORMS) | SERVERS


@pytest.mark.parametrize("verb", FORMS)
def test_no_room_no_reader_no_stream_no_surroundings(folder, verb):
    argv = (*FORMS[verb], "--force") if verb in FOLDERS else FORMS[verb]
    for around in ({}, {"variables": ODD, "encoding": "ascii"}):
        found = ends(argv, folder, **around)
        said = found.err if verb in FOLDERS else found.out
        assert (found.code, bool(said.strip())) == (0, True), found
    with open("/dev/full", "wb") as full:
        found = ends(argv, folder, stdout=full.fileno())
    no_room = "standard output  cannot write: No space left on device\n"
    assert verb in FOLDERS or (found.code == 2 and found.err.endswith(no_room)), found
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb"):
        found = ends(argv, folder, stdout=writer)
    assert found.code in (0, 128 + signal.SIGPIPE), found
    assert "roken pipe" not in found.err
    assert ends(argv, folder, stdout=-1).code == 0


@pytest.mark.parametrize("verb", sorted(WITH_OUTPUT - FOLDERS))
def test_files_are_written_whole_or_not_at_all(folder, verb):
    before = {path.name for path in folder.iterdir()} | {"s.sqlite"}
    for output in ("out.json", "/proc/owned"):
        found = ends((*FORMS[verb], "-o", output), folder, largest=40)
        assert found.code == 2, found
        assert "  cannot " in found.err, found
    assert {path.name for path in folder.iterdir()} <= before


@pytest.mark.parametrize("verb", sorted(FOLDERS))
def test_folders_hold_whole_files_or_none(folder, verb):
    before = set(folder.iterdir())
    found = ends(FORMS[verb], folder, largest=40)
    assert found.code == 2, found
    assert "  cannot write: " in found.err, found
    assert [path for new in set(folder.iterdir()) - before for path in new.iterdir()] == []


@pytest.mark.parametrize("verb", FORMS)
def test_sigterm_ends_it_by_contract(folder, verb):
    before = {path.name for path in folder.iterdir()} | {"s.sqlite", "mine", "plan", "out.json"}
    output = ("-o", "out.json") if verb in WITH_OUTPUT - FOLDERS else ()
    found = ends((*FORMS[verb], *output), folder, ends_after_s=0.02)
    assert found.code in (0, 128 + signal.SIGTERM), found
    assert {path.name for path in folder.iterdir()} <= before


class _AtOnce(threading.Timer):
    """Time that nothing is said for is over when it begins."""

    def start(self):
        self.function()


@pytest.mark.parametrize("verb", FORMS)
def test_what_takes_long_is_seen_to_run(folder, verb, monkeypatch):
    monkeypatch.setattr(progress, "Timer", _AtOnce)
    argv = tuple(word for word in FORMS[verb] if word != "--quiet")
    found = ends(argv, folder, terminal=True, variables={"TERM": "xterm", "COLUMNS": "80"})
    assert found.code == 0, found
    said = re.sub(r"\x1b\[[?\d]*\w", "", found.err).split()
    assert said[0] == verb.split()[0], said  # before any part of it says how far it is
    assert verb in FOLDERS or found.out.strip(), "what is printed to a file went to the terminal"
    assert "\x1b" not in found.out
