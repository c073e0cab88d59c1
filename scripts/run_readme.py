"""Run the commands of the README and docs, and fail if one does not exit 0.

They are the `$ scaling-sim ...` lines of fenced blocks and, in the README, table cells that hold a
command alone.
"""

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


def main() -> int:
    """Run them all from the checkout's root; with ``--write``, show the output in the README."""
    if sys.argv[1:] == ["--write"]:
        write()
        return 0
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
