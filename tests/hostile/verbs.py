"""A good command line of every verb, and each of them with a fault of the machine around it.

A fork of this process is the command line: streams, surroundings, signals and files are its own,
and nothing is imported anew.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click

from sim import cli
from tests.hostile.samples import (
    JOBS,
    KINETO,
    MEGATRON,
    NVBANDWIDTH,
    RESULT,
    SKYPILOT,
    STUDY,
    WORKLOAD,
)

ON = ("h100-x1", "job.yaml")
#: what `FORMS` read
FILES = {
    "job.yaml": WORKLOAD, "jobs.yaml": JOBS, "question.yaml": STUDY, "recorded.json": KINETO,
    "a.json": RESULT, "m.sh": MEGATRON, "vms.csv": SKYPILOT, "nvb.txt": NVBANDWIDTH,
    "after.yaml": WORKLOAD.replace(", mean_length: 100", "")
    + "post_training: {algorithm: dpo, prompt_length: 99, completion: {mean: 99, maximum: 99}}\n",
    "topo.txt": (Path(__file__).parents[1] / "data/topo/four-a100-trimmed.txt").read_text(),
}  # fmt: skip
#: a command line of each verb, as quick as there is
FORMS: dict[str, tuple[str, ...]] = {
    "run": ("run", *ON, "--quiet"),
    "import": ("import", "m.sh"),
    "list": ("list", "gpus"),
    "show": ("show", "h100-x1"),
    "init": ("init", "mine"),
    "diff": ("diff", "a.json", "a.json"),
    "doctor": ("doctor",),
    "completion": ("completion", "bash"),
    "export": ("export", *ON, "--emit", "yaml"),
    "config": ("config", *ON),
    "schema": ("schema", "workload"),
    "topo import": ("topo", "import", "topo.txt", "--gpu", "a100-sxm-80gb", "--nic", "200Gb/s"),
    "topo show": ("topo", "show", "h100-x1"),
    "collective": ("collective", "dgx-h100", "--sizes", "1M,2M"),
    "compare": ("compare", *ON, "--vary", "micro_batch=1,2"),
    "prices import": ("prices", "import", "vms.csv", "--provider", "aws", "--as-of", "2026-01-02"),
    "prices job": ("prices", "job", *ON),
    "prices list": ("prices", "list"),
    "prices show": ("prices", "show", "p5.48xlarge"),
    "study": ("study", "question.yaml"),
    "memory": ("memory", *ON),
    "improve": ("improve", *ON),
    "explain": ("explain", *ON),
    "support": ("support", *ON),
    "need bandwidth": ("need", "bandwidth", "dgx-h100", "job.yaml", "--set", "nodes=2"),
    "need context": ("need", "context", *ON),
    "need gpus": ("need", "gpus", "dgx-h100", "job.yaml", "--deadline", "24h"),
    "need price": ("need", "price", "dgx-h100", "dgx-a100", "job.yaml"),
    "posttrain": ("posttrain", "h100-x1", "after.yaml"),
    "plan": ("plan", "h100-x1", "jobs.yaml", "--replicas", "0"),
    "size": ("size", "job.yaml", "--deadline", "24h", "--max-gpus", "1", "--gpu", "h100-sxm"),
    "sweep": ("sweep", *ON, "--vary", "micro_batch=1,2", "-j", "1", "--store", "s.sqlite"),
    "calibrate": ("calibrate", "dgx-h100", "--nvbandwidth", "nvb.txt"),
    "diagnose": ("diagnose", *ON, "--measured", "step_time_s=1"),
    "trace": ("trace", *ON, "--format", "csv"),
    "trace diff": ("trace", "diff", "recorded.json", *ON),
    "validate": ("validate", "collectives"),
}
#: those that serve until somebody ends them: tests of their own
SERVERS = {"mcp", "serve"}
#: those that write a folder, and say on standard error which files
FOLDERS = {"init", "export"}
#: those whose option -o says where
WITH_OUTPUT = FORMS.keys() - {"init", "completion"}
#: no locale, no width, no home, nowhere to write
ODD = {
    "LC_ALL": "C", "COLUMNS": "1", "LINES": "1", "HOME": "/dev/null", "TMPDIR": "/nowhere",
    "XDG_CACHE_HOME": "/dev/null", "TERM": "dumb",
}  # fmt: skip


class Ended(NamedTuple):
    """How a command line ended, and what it said."""

    code: int
    out: str
    err: str


def verbs() -> Iterator[str]:
    """Every verb that is there, those below another one with its name."""
    for name in cli.VERBS:
        command = cli.group.get_command(click.Context(cli.group), name)
        inner = getattr(command, "commands", {})
        yield from (f"{name} {below}" for below in inner)
        if not isinstance(command, click.Group):
            yield name


def lay_out(folder: Path) -> None:
    """Write what the command lines read."""
    for name, text in FILES.items():
        (folder / name).write_text(text)


def call(
    argv: tuple[str, ...], folder: Path, *, stdout: int | None = None, largest: int | None = None,
    ends_after_s: float = 0.0, variables: Mapping[str, str] | None = None, encoding: str = "utf-8",
    terminal: bool = False,
) -> Ended:  # fmt: skip
    """Run a command line in a folder.

    Parameters
    ----------
    argv : tuple of str
        After the name of the program.
    folder : Path
        Holds `FILES`.
    stdout : int, optional
        The descriptor that it prints to, -1: none at all; left out: what it prints is kept.
    largest : int, optional
        As on a full disk: bytes of a file. [B]
    ends_after_s : float
        It gets SIGTERM after so much CPU; 0: it does not. [s]
    variables : mapping, optional
        Of its environment.
    encoding : str
        Of its streams, as the locale would have it.
    terminal : bool
        Standard error is one.
    """
    pipes = [os.pipe(), os.openpty() if terminal else os.pipe()]
    pid = os.fork()
    if not pid:
        out, err = (theirs for _, theirs in pipes)
        _become(argv, folder, out if stdout is None else stdout, err, encoding,
                lambda: _around(largest, ends_after_s, variables or {}))  # fmt: skip
    for _, theirs in pipes:
        os.close(theirs)
    with ThreadPoolExecutor(1) as beside:  # whichever is full first
        out_said = beside.submit(_all_of, pipes[0][0])
        err_said = _all_of(pipes[1][0])
    _, status = os.waitpid(pid, 0)
    said = (text.decode(encoding, errors="replace") for text in (out_said.result(), err_said))
    return Ended(os.waitstatus_to_exitcode(status), *said)


def _all_of(descriptor: int) -> bytes:
    said = b""
    with open(descriptor, "rb", buffering=0) as stream, suppress(OSError):  # so a terminal ends
        while part := stream.read(1 << 16):
            said += part
    return said


def _around(largest: int | None, ends_after_s: float, variables: Mapping[str, str]) -> None:
    os.environ.update(variables)
    if largest is not None:
        sys.dont_write_bytecode = True  # cut short, it would stay for all that come after
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    if ends_after_s:
        signal.signal(signal.SIGVTALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_VIRTUAL, ends_after_s)


def _become(
    argv: tuple[str, ...], folder: Path, stdout: int, stderr: int, encoding: str,
    around: Callable[[], None],
) -> None:  # fmt: skip
    """The command line, as Python would start it and end it."""
    code = 1
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stderr, 2)
        if stdout >= 0:
            os.dup2(stdout, 1)
        else:
            os.close(1)
        sys.stdin, sys.argv = io.StringIO(), ["scaling-sim", *argv]
        sys.stdout = _stream(1, encoding) if stdout >= 0 else None
        sys.stderr = _stream(2, encoding)
        around()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:
        code = 120
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _stream(descriptor: int, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(open(descriptor, "wb", closefd=False), encoding=encoding)
