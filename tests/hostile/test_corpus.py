"""Nothing that a file or an option may say ends in a traceback, a hang, or an escape sequence."""

import asyncio
import io
import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from sim import cli
from sim.errors import InputError
from tests.clock import HANG_S, pace
from tests.hostile.arguments import BODIES, CALLS, OPTIONS, options
from tests.hostile.corpus import Case, cases, readers

READERS = readers()
LIMIT_S = 10.0  # of CPU: other tests share the machine
LONGEST_WORD = 1000  # a path may be long
#: escapes, bells, C1 controls, turns of the writing direction, what nobody sees
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\U000e0000-\U000e007f]"
)


def run(case: Case, folder: Path, capsys, monkeypatch) -> list[str]:
    """What is wrong with how the command line takes a case."""
    for path in folder.iterdir():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in case.files.items():
        content(folder / name) if callable(content) else (folder / name).write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["scaling-sim", *case.argv])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    began = time.process_time()
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.process_time() - began
    out, err = capsys.readouterr()
    faults = []
    if code not in ((0,) if case.name == "good" else (0, 2, 3, 4)):
        faults.append(f"exit code {code}: {err[-300:]}")
    if code == 2 and not err.strip():
        faults.append("no message")
    if "Traceback" in out + err:
        faults.append("traceback")
    if CONTROL.search(out) or CONTROL.search(err):
        faults.append(f"control characters: {CONTROL.findall(out + err)[:3]}")
    if len(err) > 200_000:
        faults.append(f"{len(err)} characters of messages")
    if (longest := max(map(len, err.split()), default=0)) > LONGEST_WORD:
        faults.append(f"repeats a word of {longest} characters")
    if took > LIMIT_S and took > LIMIT_S * pace():
        faults.append(f"{took:.1f} s")
    for path in folder.iterdir():
        if path.name not in case.files and ".sweep.sqlite" not in path.name:
            faults.append(f"wrote {path.name}")
    files = {name: data for name, data in case.files.items() if isinstance(data, bytes)}
    changed = [name for name, data in files.items() if (folder / name).read_bytes() != data]
    return [*faults, *(f"changed {name}" for name in changed)]


@pytest.fixture
def faults(tmp_path, capsys, monkeypatch, compiled):
    """A function that runs cases in an empty folder and gives what is wrong, by case."""
    folder = tmp_path / "inner" / "cwd"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)

    def alarm(number, frame):
        message = f"took more than {HANG_S} s"
        raise TimeoutError(message)

    before = signal.signal(signal.SIGALRM, alarm)

    def find(all_cases):
        found = {c.name: run(c, folder, capsys, monkeypatch) for c in all_cases}
        assert list(folder.parent.iterdir()) == [folder]
        assert list(tmp_path.iterdir()) == [folder.parent]
        return {name: wrong for name, wrong in found.items() if wrong}

    ends = signal.getsignal(signal.SIGTERM)
    yield find
    signal.signal(signal.SIGALRM, before)
    signal.signal(signal.SIGTERM, ends)


@pytest.mark.parametrize("name", READERS)
def test_files(name, faults):
    assert faults(cases(READERS[name])) == {}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, faults):
    assert faults(options(name)) == {}


@pytest.mark.parametrize("verb", BODIES)
def test_bodies_of_the_live_page(verb):
    """Answered, or refused with its faults: never an error of ours, never a file of the machine."""
    pytest.importorskip("pydantic")
    from sim.serve.answers import answer

    for body in BODIES[verb]:
        status, found = answer(verb, body)
        assert status in (200, 422), (body, found)
        assert status == 200 or all(fault["message"] for fault in found["faults"]), body
        assert "root:" not in json.dumps(found, allow_nan=False)


def test_arguments_of_an_assistants_tools():
    """Refused in words that an assistant can act on, by the tool or before it is reached."""
    mcp = pytest.importorskip("mcp.server.fastmcp.exceptions", reason="no mcp extra")
    from sim.commands.mcp import server

    door, slow = server(), pace()
    for tool, arguments in CALLS:
        began = time.process_time()
        try:
            (answer, *_), _ = asyncio.run(door.call_tool(tool, arguments))
            said = answer.text
            assert said.startswith("not answered:\n"), (tool, arguments, said[:200])
        except (mcp.ToolError, InputError) as refusal:
            said = str(refusal)
        assert said.strip()
        assert not CONTROL.search(said), said
        assert "Traceback" not in said
        assert len(said) < 3000
        assert time.process_time() - began < LIMIT_S * max(slow, pace())


def test_there_are_enough():
    count = sum(len(list(cases(r))) for r in READERS.values())
    count += sum(map(len, BODIES.values())) + len(CALLS)
    assert count + sum(len(list(options(o))) for o in OPTIONS) > 1000
