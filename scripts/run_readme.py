"""Run the commands of the README and docs, and fail if one does not exit 0.

They are the `$ scaling-sim ...` lines of fenced blocks and, in the README, table cells that hold a
command alone. `--write` puts their output into the README, and into the docs the tables that stand
below a `<!-- table: COMMAND | rows=KEYS columns=KEYS value=KEY scale=NUMBER digits=N -->`: rows of
the command's CSV, laid out; `{a,b}` in it is one column a word. `--check` says whether any differs.
"""

import csv
import itertools
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


# files that only a user has, and what stands in for them
STAND_INS = {"topo.txt": "tests/data/topo/four-a100-trimmed.txt"} | {
    path.name: str(path) for path in (ROOT / "docs" / "examples" / "files").iterdir()
}


def commands() -> list[str]:
    """The commands, in order, without repeats."""
    found: dict[str, None] = {}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text()
        for block in re.findall(r"```(?:sh|console|text)?\n(.*?)```", text, re.S):
            for line in block.splitlines():
                if line.startswith("$ scaling-sim "):
                    found[line[2:].split("  #")[0].strip()] = None
        if page.name == "README.md":
            found |= dict.fromkeys(re.findall(r"\| `(scaling-sim [^`<]+)` \|", text))
    return list(found)


def write() -> None:
    """Put the real output into the README, below each `<!-- run: ... -->`."""

    def filled(match: re.Match[str]) -> str:
        command = match.group(1)
        done = subprocess.run(
            shlex.split(command), cwd=ROOT, capture_output=True, text=True, check=True
        )
        return f"<!-- run: {command} -->\n```console\n$ {command}\n{done.stdout}```\n"

    page = ROOT / "README.md"
    marked = r"<!-- run: (.*?) -->\n```console\n.*?```\n"
    page.write_text(re.sub(marked, filled, page.read_text(), flags=re.S))


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


def tables() -> dict[Path, str]:
    """The pages of docs that have tables of ours, with these as they are now."""
    marked = re.compile(r"(<!-- table: (.*?) \| (.*?) -->\n\n)(?:\|.*\n)*\n?")
    found = {}
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text()
        if marked.search(text):
            found[page] = marked.sub(lambda m: f"{m[1]}{table(m[2], m[3])}\n", text)
    return found


def main() -> int:
    """Run them all from the checkout's root, or write or check what they say."""
    if sys.argv[1:] == ["--write"]:
        write()
        for page, text in tables().items():
            page.write_text(text)
        return 0
    if sys.argv[1:] == ["--check"]:
        stale = [str(p.relative_to(ROOT)) for p, text in tables().items() if p.read_text() != text]
        for page in stale:
            print(f"{page}: a table is not as its command has it")
        return int(bool(stale))
    scratch = Path(tempfile.mkdtemp())
    files = dict(STAND_INS)  # and what earlier commands wrote
    for number, command in enumerate(commands()):
        began = time.monotonic()
        words = [files.get(word, word) for word in shlex.split(command)]
        for option in {"-o", "--junit"} & set(words):  # what it writes is not left in the checkout
            at = words.index(option) + 1
            files[words[at]] = words[at] = str(scratch / f"{number}-{words[at]}")
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
