"""Run every `$ scaling-sim ...` line of the README and docs, and fail if one does not exit 0."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    """The commands of fenced blocks, in order, without repeats."""
    found: dict[str, None] = {}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```(?:sh|console|text)?\n(.*?)```", page.read_text(), re.S):
            for line in block.splitlines():
                if line.startswith("$ scaling-sim "):
                    found[line[2:].split("  #")[0].strip()] = None
    return list(found)


def main() -> int:
    """Run them all from the checkout's root."""
    for command in commands():
        done = subprocess.run(
            shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        print(f"exit {done.returncode}  {command}")
        if done.returncode != 0:
            print(done.stdout[-2000:], done.stderr[-2000:])
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
