"""Run the commands of the README and docs, and fail if one does not exit 0.

They are the `$ scaling-sim ...` lines of fenced blocks and, in the README, table cells that hold a
command alone; those whose output stands under a mark are left to `--check`, which runs them.
`--write` puts their output into the README and docs, and `--check` says of which command, and from
which line on, it differs; both take pages, and all of them where none is named. Marks say where
output stands:

`<!-- run: COMMAND -->`, what it prints, in the block below; `<!-- run: COMMAND | lines=A-B -->`,
some lines of it.

`<!-- table: COMMAND | rows=KEYS columns=KEYS value=KEY scale=NUMBER digits=N -->`, rows of the
command's CSV, laid out; `{a,b}` in it is one column a word.

The pages of docs/studies are what `scaling-sim study` writes, the example of a report what the
command of docs/reports.md does.
"""

import csv
import itertools
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
# the day that docs are as of (2026-11-29): prices in them do not age
os.environ["SOURCE_DATE_EPOCH"] = "1795910400"


EXAMPLE = ROOT / "docs" / "examples" / "report.html"
# files that only a user has, and what stands in for them
STAND_INS = {"topo.txt": "tests/data/topo/four-a100-trimmed.txt"} | {
    path.name: str(path) for path in (ROOT / "docs" / "examples" / "files").iterdir()
}


def pages() -> list[Path]:
    """The README, the pages of docs and the tutorials; studies are written whole."""
    docs = ROOT / "docs"
    return [ROOT / "README.md", *sorted(docs.glob("*.md")), *sorted(docs.glob("tutorials/*.md"))]


def commands() -> list[str]:
    """The commands whose output nobody holds, in order, without repeats."""
    found: dict[str, None] = {}
    held: set[str] = set()
    for page in pages():
        text = page.read_text()
        held |= {match[1] for match in _RUN.finditer(text)}
        for block in re.findall(r"```(?:sh|console|text)?\n(.*?)```", text, re.S):
            for line in block.splitlines():
                if line.startswith("$ scaling-sim "):
                    found[line[2:].split("  #")[0].strip()] = None
        if page.name == "README.md":
            found |= dict.fromkeys(re.findall(r"\| `(scaling-sim [^`<]+)` \|", text))
    return [command for command in found if command not in held]


def printed(command: str, lines: str) -> str:
    """What a command prints: all of it, or some lines, what is left out marked."""
    done = subprocess.run(
        shlex.split(command), cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = done.stdout.rstrip("\n").split("\n")
    if lines:
        first, last = map(int, lines.split("-"))
        found = [*["..."] * (first > 1), *found[first - 1 : last], *["..."] * (last < len(found))]
    return "\n".join(found)


def table(command: str, layout: str) -> str:
    """One value of a command's rows, by some of their columns in lines and others beside."""
    how = dict(part.split("=", 1) for part in layout.split())
    down, across = (how.get(key, "").split(",") for key in ("rows", "columns"))
    across = [key for key in across if key]
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    brace = re.search(r"\{([\w,.-]+)\}", command)
    for word in brace.group(1).split(",") if brace else [""]:
        words = shlex.split(command.replace(brace.group(0), word) if brace else command)
        with tempfile.TemporaryDirectory() as scratch:
            more = ["--store", f"{scratch}/rows.sqlite", "-q"] if words[1] == "sweep" else []
            done = subprocess.run(
                [*words, "--format", "csv", *more],
                cwd=ROOT, capture_output=True, text=True, check=True,
            )  # fmt: skip
        for row in csv.DictReader(done.stdout.splitlines()):
            number = float(row[how["value"]]) * float(how.get("scale", 1.0))
            column = ", ".join([*([word] if word else []), *(row[key] for key in across)])
            line = cells.setdefault(tuple(row[key] for key in down), {})
            line[column] = f"{number:,.{how.get('digits', '0')}f}"
    columns = list(dict.fromkeys(itertools.chain(*cells.values())))
    lines = [[*down, *columns], ["---"] * len(down) + ["---:"] * len(columns)]
    lines += [[*key, *(line.get(column, "") for column in columns)] for key, line in cells.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_RUN = re.compile(
    r"<!-- run: (.*?)(?: \| lines=(\d+-\d+))? -->\n(?:\n?```console\n.*?```\n)?", re.S
)
_TABLE = re.compile(r"(<!-- table: (.*?) \| (.*?) -->\n\n)(?:\|.*\n)*\n?")


def written(chosen: Sequence[str]) -> dict[Path, str]:
    """The files that have output of ours, as they would be now."""
    wanted = {ROOT / name for name in chosen}
    found = {}
    for page in pages():
        if wanted and page not in wanted:
            continue
        text = page.read_text()
        if _RUN.search(text) or _TABLE.search(text):
            text = _RUN.sub(_run_block, text)
            found[page] = _TABLE.sub(lambda m: f"{m[1]}{table(m[2], m[3])}\n", text)
    return found | studies(wanted) | example(wanted)


def _run_block(match: re.Match[str]) -> str:
    mark = match[0][: match[0].index("-->") + 3]
    return f"{mark}\n```console\n$ {match[1]}\n{printed(match[1], match[2] or '')}\n```\n"


def studies(wanted: set[Path]) -> dict[Path, str]:
    """The pages of the shipped studies, and their pictures."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for page in sorted((ROOT / "docs" / "studies").glob("*.md")):
            if wanted and page not in wanted:
                continue
            new = Path(scratch) / page.name
            subprocess.run(
                ["scaling-sim", "study", page.stem, "-o", new, "--plots", new.with_suffix("")],
                cwd=ROOT, capture_output=True, check=True,
            )  # fmt: skip
            found[page] = new.read_text()
            for picture in sorted(new.with_suffix("").glob("*.svg")):
                found[page.with_suffix("") / picture.name] = picture.read_text()
    return found


def example(wanted: set[Path]) -> dict[Path, str]:
    """The page that docs/reports.md shows, as its command writes it."""
    if wanted and EXAMPLE not in wanted:
        return {}
    where = EXAMPLE.relative_to(ROOT)
    command = re.search(
        rf"^\$ (.* --report {where})$", (ROOT / "docs/reports.md").read_text(), re.M
    )
    assert command is not None
    with tempfile.TemporaryDirectory() as scratch:
        new = Path(scratch) / where
        new.parent.mkdir(parents=True)
        subprocess.run(shlex.split(command[1]), cwd=scratch, capture_output=True, check=True)
        return {EXAMPLE: new.read_text()}


def main() -> int:
    """Run them all from the checkout's root, or write or check what they say."""
    if sys.argv[1:2] == ["--write"]:
        for page, text in written(sys.argv[2:]).items():
            page.write_text(text)
        return 0
    if sys.argv[1:2] == ["--check"]:
        now = written(sys.argv[2:])
        stale = [
            f"{page.relative_to(ROOT)}{fault}"
            for page, text in now.items()
            for fault in differences(page.read_text() if page.exists() else "", text)
        ]
        print("\n".join(stale))
        return int(bool(stale))
    with tempfile.TemporaryDirectory() as scratch:
        return ran(Path(scratch))


def differences(there: str, now: str) -> list[str]:
    """Where a page is not what its commands say: by block, its first line that differs."""
    old, new = (re.split(r"^(?=<!-- (?:run|table): )", text, flags=re.M) for text in (there, now))
    found, line = [], 1
    for was, becomes in itertools.zip_longest(old, new, fillvalue=""):
        if was != becomes:
            pairs = itertools.zip_longest(was.split("\n"), becomes.split("\n"))
            further, (is_, would_be) = next(
                (number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1]
            )
            mark = re.match(r"<!-- (?:run|table): (.*?) -->", becomes)
            whose = f" of `{mark[1]}`" if mark else ""
            found.append(f":{line + further}: {is_!r}{whose} would be {would_be!r}")
        line += was.count("\n")
    return found


def ran(scratch: Path) -> int:
    """Exit code of the commands, up to the first that fails; what they write goes to a folder."""
    files = dict(STAND_INS)  # and what earlier commands wrote
    for number, command in enumerate(commands()):
        began = time.monotonic()
        program, verb, *rest = shlex.split(command)
        words = [program, verb, *(files.get(word, word) for word in rest)]  # a verb is no file
        for option in {"-o", "--junit", "--report"} & set(
            words
        ):  # what it writes is not left in the checkout
            at = words.index(option) + 1
            files[words[at]] = words[at] = str(scratch / f"{number}-{Path(words[at]).name}")
        if "--emit" in words and "-o" not in words:
            words += ["-o", str(scratch / f"{number}-plan")]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
        print(f"exit {done.returncode}  {command}  ({time.monotonic() - began:.1f} s)")
        if done.returncode != 0:
            print(done.stdout[-2000:], done.stderr[-2000:])
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
