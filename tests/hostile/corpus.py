"""What people and machines may feed to a command line: every reader's input, damaged in every way.

`readers` has a good file for each reader and the command that reads it; `cases` damages each: other
bytes, other syntax, every value in it replaced. `options` is the same for values of options.
"""

from __future__ import annotations

import functools
import gzip
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.hostile.samples import (
    ACCELERATE,
    CALIBRATION,
    CLUSTER_TRACE,
    CONFIG,
    GRAPH,
    HYBRID,
    JOBS,
    KINETO,
    LISTED,
    LOG,
    MEGATRON,
    NCCL,
    NVBANDWIDTH,
    PRICES,
    RESULT,
    RUNS,
    SCRIPT,
    SKYPILOT,
    STUDY,
    SWEEP,
    TOPOLOGY,
    TORCHTITAN,
    TORCHTUNE,
    WORKLOAD,
)

TRAINER_FILES = Path(__file__).parents[2] / "docs" / "examples" / "files"
TOPO_FILES = Path(__file__).parents[1] / "data" / "topo"
#: what must reach no terminal: an escape, a bell, a C1 control, a turn of the writing direction
TRICKS = "\x1b[31m\x1b]0;owned\x07\x9b1m\u202e"

#: what nobody sees in a message that repeats it
UNSEEN = "\xad\u200b\u2060\ufeff\U000e0041"


#: what stands under a name: bytes of a file, or what puts something else there
Content = bytes | Callable[[Path], object]


class Case(NamedTuple):
    """A command line, and the files that it names."""

    name: str
    argv: tuple[str, ...]
    files: dict[str, Content]


class Reader(NamedTuple):
    """A good file and what reads it."""

    file: str
    good: str
    argv: tuple[str, ...]


def readers() -> dict[str, Reader]:
    """Every reader of files, by name."""
    on = ("h100-x1", "job.yaml")
    found = {
        "topology": Reader("in.yaml", TOPOLOGY, ("memory", "in.yaml", "job.yaml")),
        "graph": Reader("in.yaml", GRAPH, ("topo", "show", "in.yaml")),
        "workload": Reader("in.yaml", WORKLOAD, ("run", "h100-x1", "in.yaml", "--quiet")),
        "config.json": Reader(
            "config.json", CONFIG, ("memory", "h100-x1", "job.yaml", "--set", "model=config.json")
        ),
        **{
            f"{name}.json": Reader(
                "config.json", text,
                ("memory", "h100-x1", "job.yaml", "--set", "model=config.json"),
            )
            for name, text in (("hybrid", HYBRID), ("listed", LISTED))
        },
        "sweep": Reader("in.yaml", SWEEP, ("sweep", "in.yaml", "-j", "1")),
        "jobs": Reader("in.yaml", JOBS, ("plan", "h100-x1", "in.yaml")),
        "study": Reader("in.yaml", STUDY, ("study", "in.yaml")),
        "runs": Reader("in.yaml", RUNS, ("calibrate", *on, "--measured", "in.yaml")),
        "calibration": Reader("in.yaml", CALIBRATION, ("memory", *on, "--calibration", "in.yaml")),
        "prices": Reader("in.csv", PRICES, ("prices", "list", "--prices", "in.csv")),
        "skypilot": Reader(
            "vms.csv", SKYPILOT,
            ("prices", "import", "vms.csv", "--provider", "aws", "--as-of", "2026-01-02"),
        ),
        "nccl-tests": Reader(
            "all_reduce.log", NCCL, ("calibrate", "dgx-h100", "--nccl-tests", "all_reduce.log")
        ),
        "cluster trace": Reader("in.csv", CLUSTER_TRACE, ("plan", "h100-x1", "in.csv")),
        "recorded step": Reader(
            "t.json", KINETO, ("trace", "diff", "t.json", "h100-x1", "job.yaml")
        ),
        "prices of two": Reader(
            "in.csv", PRICES,
            ("compare", *on, "--vary", "micro_batch=1,2", "--prices", "in.csv"),
        ),
        "kineto": Reader("t.json", KINETO, ("calibrate", *on, "--kineto", "t.json")),
        "nvbandwidth": Reader(
            "nvb.txt", NVBANDWIDTH, ("calibrate", "dgx-h100", "--nvbandwidth", "nvb.txt")
        ),
    }  # fmt: skip
    for path in sorted(TRAINER_FILES.iterdir()):
        if path.name == "accelerate.yaml":  # it names another file
            continue
        text = path.read_text()
        found[path.name] = Reader(path.name, text, ("import", path.name))
    found["accelerate.yaml"] = Reader("accelerate.yaml", ACCELERATE, ("import", "accelerate.yaml"))
    found["torchtitan.toml"] = Reader("t.toml", TORCHTITAN, ("import", "t.toml"))
    found["torchtune.yaml"] = Reader("t.yaml", TORCHTUNE, ("import", "t.yaml"))
    found["megatron.sh"] = Reader("m.sh", MEGATRON, ("import", "m.sh"))
    found["script.py"] = Reader("script.py", SCRIPT, ("import", "script.py"))
    found["log"] = Reader("x.log", LOG, ("diagnose", *on, "--log", "x.log"))
    found["result"] = Reader("a.json", RESULT, ("diff", "a.json", "a.json"))
    for name in ("four-a100-trimmed.txt", "dump.xml"):
        text = (TOPO_FILES / name).read_text()
        command = ("topo", "import", name, "--gpu", "a100-sxm-80gb", "--nic", "200Gb/s")
        found[name] = Reader(name, text, command)
    return found


def damaged(good: str) -> Iterator[tuple[str, bytes]]:
    """A file's content in ways that no reader expects."""
    data = good.encode()
    yield "empty", b""
    yield "blank", b" \n\t\n"
    yield "cut", data[: len(data) // 2]
    yield "cut late", data[:-3]
    yield "NUL inside", data[:20] + b"\x00" + data[20:]
    yield "UTF-16", good.encode("utf-16")
    yield "Latin-1", data + b"# caf\xe9\n"
    yield "byte order mark", b"\xef\xbb\xbf" + data
    yield "carriage returns", data.replace(b"\n", b"\r")
    yield "Windows lines", data.replace(b"\n", b"\r\n")
    yield "gzip", gzip.compress(data)
    yield "broken gzip", gzip.compress(data)[:-9]
    yield "gzip of zeros", gzip.compress(bytes(1 << 20))
    yield "ELF", b"\x7fELF\x02\x01\x01" + bytes(range(256))
    yield "SQLite", b"SQLite format 3\x00" + bytes(84)
    yield "twice", data + data
    yield "reversed", data[::-1]
    yield "upper case", data.upper()
    yield "a long line", data + b"# " + b"x" * 300_000
    yield "many lines", data + b"#\n" * 50_000
    yield "a long first line", b"x" * 300_000 + b"\n" + data
    yield "a long number", re.sub(rb"\b\d+\b", b"0" * 200_000, data, count=1)
    yield "a long last word", data.rstrip() + b"e" * 200_000 + b"\n"
    yield "much in quotes", data.rstrip() + b" '" + b"0x " * 60_000 + b"'\n"
    yield "unseen", re.sub(r"(?<=\w)(?=\n)", UNSEEN, good).encode()
    yield "paragraphs", data.replace(b"\n", b"\xe2\x80\xa9")
    yield "gzip without end", _bomb()
    yield "deep keys", b".".join([b"a"] * 50_000) + b" = 1\n"
    yield "deep lists", b"[" * 5_000
    yield "deep mappings", b"{a: " * 5_000
    yield "deep JSON", b'{"a":' * 5_000 + b"1" + b"}" * 5_000
    yield "tricks first", TRICKS.encode() + data
    yield "tricks inside", re.sub(r"(?<=\w)(?=\n)", TRICKS, good).encode("utf-8", "replace")
    yield "a list", b"[1, 2, 3]\n"
    yield "a number", b"1e999\n"
    yield "a text", b"'" + b"a" * 5_000 + b"'\n"
    yield "null", b"null\n"
    yield "laughs", b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n" + data
    yield "an object of Python", b"!!python/object/apply:os.system ['touch owned']\n"
    yield (
        "an entity",
        (
            b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">'
            b'<!ENTITY x SYSTEM "file:///etc/passwd">]><system version="1">&b;&x;</system>'
        ),
    )
    yield "HTML", b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n"


@functools.cache
def _bomb() -> bytes:
    """More than any reader unpacks, in a thousandth."""
    return gzip.compress(bytes(80 << 20), 1)


def _deaf(path: Path) -> None:
    """A socket that nobody listens to; its name may be longer than one of a socket."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


#: Python in the place of `X = 2`: too deep, too long, or more than it seems
BOMBS = {
    "parentheses": f"X = {'(' * 5_000}1{')' * 5_000}",
    "signs": f"X = {'-' * 50_000}1",
    "attributes": f"X = a{'.b' * 50_000}",
    "sums": f"X = {'+'.join(['1'] * 50_000)}",
    "calls": f"X = {'f(' * 150}1{')' * 150}",
    "lists of lists": "a0 = 1\n"
    + "".join(f"a{i + 1} = [{f'a{i}, ' * 20}]\n" for i in range(12))
    + "X = a12",
    "mappings of mappings": "a0 = {'b': 1}\n"
    + "".join(f"a{i + 1} = {{{f'**a{i}, ' * 20}}}\n" for i in range(12))
    + "X = dict(**a12)\nf(**a12)",
    "conditions": "a0 = 1\n"
    + "".join(f"a{i + 1} = {' or '.join([f'a{i} == 2'] * 20)}\n" for i in range(12))
    + "X = 1 if a12 else 2",
    "a circle": "X = Y\nY = X",
    "said often": f"X = {list(range(500))}\n" * 2_000,
    "fields of fields": "p.add_argument('--x', default=X)\n" * 3_000 + "X = p.parse_args().x",
    "a large power": "X = 10 ** 10 ** 10",
    "a large number": f"X = {'9' * 5_000}",
    "a coding that is none": "# coding: nothing\nX = 1",
    "half a character": "X = '\\ud800'",
}

#: what may stand where a file should
NO_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a device that fails": lambda path: path.symlink_to("/proc/self/mem"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link through a file": lambda path: path.symlink_to(Path(__file__) / "beyond"),
    "a socket": _deaf,
}

#: put in the place of a value, as YAML and JSON would both write it
VALUES = (
    "-1", "0", "1e308", "-0.0", "1e-300", "9223372036854775808", "1" + "0" * 400, "true", "null",
    "[]", "{}", '""', '"x"', '"../../owned"', '"\\u001b[31mred"', '"1 GB"', '"400 Gb/s"', '"nan"',
    '"inf"', '"1e9"', '"0x10"', '"' + "y" * 3000 + '"',
)  # fmt: skip
_VALUE = re.compile(r'(?<=[:\[,] )(?:"[^"\n]*"|[\w.+/-]+(?: [A-Za-z/]+)?)(?=[,}\]\n])')


def replaced(good: str, every: int = 8) -> Iterator[tuple[str, bytes]]:
    """A file with one of its values another: one replacement of every so many."""
    count = 0
    for match in _VALUE.finditer(good):
        for value in VALUES:
            count += 1
            if count % every == 0:
                changed = good[: match.start()] + value + good[match.end() :]
                yield f"{match[0][:20]} -> {value[:20]}", changed.encode()


def cases(reader: Reader) -> Iterator[Case]:
    """Everything that a reader may get instead of its file."""
    beside: dict[str, Content] = {"job.yaml": WORKLOAD.encode()}
    yield Case("good", reader.argv, beside | {reader.file: reader.good.encode()})
    if reader.good == SCRIPT:
        for name, code in BOMBS.items():
            python = SCRIPT.replace("X = 2", code, 1).encode()
            yield Case(name, reader.argv, beside | {reader.file: python})
    for name, content in (*damaged(reader.good), *replaced(reader.good), *NO_FILES.items()):
        yield Case(name, reader.argv, beside | {reader.file: content})
