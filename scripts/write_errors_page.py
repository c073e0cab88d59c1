"""Write docs/errors.md: bad inputs and what they get, from real runs of the command line."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import tempfile
from pathlib import Path
from unittest import mock

from sim import cli

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
HEAD = """\
# What bad input gets

Every fault of both files at once, each with file, line, column, key, what was read and what would
be right; never a traceback. This page is written by `python scripts/write_errors_page.py` from real
runs, and a test holds it to them.

| exit code | means |
| --- | --- |
| 0 | done; a `run` whose answer is "does not fit" is done |
| 1 | a fault inside us: please report it (`SCALING_SIM_TRACEBACK=1` shows where) |
| 2 | bad input |
| 3 | the question has no answer: nothing fits, or nothing meets the deadline |
| 4 | a `--require` does not hold; the result is printed all the same |
| 130 | interrupted; `serve`, which runs until Ctrl-C, is then done: 0 |
| 143 | ended by SIGTERM |

Results go to stdout, everything else to stderr. A reader that stops early (`| head`) is no error.
Files are written whole or not at all; what a sweep has computed is in its store however it ends.
Control characters of names and files are spelled out (`\\u001b`): no file commands a terminal.
`tests/hostile` feeds some thousand damaged inputs to every reader and option.
"""
TOPO = """\
name: box
nodes: 2
node:
  gpu: h100-sxm-80gp
  gpus: 8
  nvlonk: {generation: 4}
  pcie: {generation: 5}
  nics: {count: 8, rate: 400}
  nics: {count: 8, rate: 400 Gb/s}
"""
JOB = """\
name: job
model: llama-3-8b
seq_len: 4096
compile: yes
tokens: 1e9x
"""
FILES: dict[str, str | bytes] = {
    "topo.yaml": TOPO,
    "job.yaml": JOB,
    "empty.yaml": "",
    "binary.yaml": b"\x7fELF\x00\x01",
    "bomb.yaml": "a: &a [x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n"
        for a, b in zip("abcdefg", "bcdefgh", strict=True)
    ),
    "bert.json": '{"model_type": "bert", "hidden_size": 768}',
}
BERT = "{name: j, model: bert.json, sequence_length: 512, tokens: 1B}\n"
CASES: tuple[tuple[str, str], ...] = (
    ("every fault of both files", "run topo.yaml job.yaml"),
    ("a key that is none", "run dgx-h100 llama3-8b-sft --set micro_bach=2"),
    ("a quantity without its unit", "run dgx-h100 llama3-8b-sft --set node.nics.rate=400"),
    ("a name that is none", "run dgx-h10 llama3-8b-sft"),
    ("an empty file", "run empty.yaml llama3-8b-sft"),
    ("a binary file", "run binary.yaml llama3-8b-sft"),
    ("a folder", "run . llama3-8b-sft"),
    ("an alias bomb", "run bomb.yaml llama3-8b-sft"),
    ("a kind of model that is not modelled", "run dgx-h100 bert.yaml"),
    ("FP8 on a GPU without it", "run dgx-a100 llama3-8b-sft-fp8"),
    ("FlashAttention-3 on Ampere", "run dgx-a100 llama3-8b-sft --set attention=flash3"),
    ("software older than the GPU", "run dgx-b200 llama3-8b-sft"),
    ("NVLink on a GPU without it", "run l40s-8 mistral-7b-lora --set "
     "'node.nvlink={generation: 4, links_per_gpu: 18}'"),
    ("a batch that cannot be divided", "run dgx-h100 llama3-8b-sft --set global_batch=100"),
    ("groups that do not divide", "run dgx-h100 llama3-8b-sft --set parallelism.replicate=3"),
    ("a knob of another strategy",
     "run dgx-h100 llama3-8b-sft --set parallelism.stage3_max_live_parameters=1e8"),
    ("no network between nodes", "run h100-x1 llama3-8b-offload --set nodes=2"),
    ("a requirement that cannot be read", "run dgx-h100 llama3-8b-sft --require mfu=0.4"),
    ("a path that cannot be written", "run dgx-h100 llama3-8b-sft -q -o no/such/folder"),
    ("a verb that is none", "rnu dgx-h100 llama3-8b-sft"),
)  # fmt: skip


def run_case(command: str) -> tuple[int, str]:
    """Exit code and stderr of one command, in the present folder."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["scaling-sim", *shlex.split(command)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, err.getvalue().replace(f"{ROOT}{os.sep}", "")


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, content in {**FILES, "bert.yaml": BERT}.items():
            Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        parts.append(
            f"\nWith `topo.yaml`\n\n```yaml\n{TOPO}```\n\nand `job.yaml`\n\n```yaml\n{JOB}```\n"
        )
        for title, command in CASES:
            code, told = run_case(command)
            shown = "\n".join(_short(line) for line in told.rstrip().splitlines())
            parts.append(f"\n## {title[0].upper()}{title[1:]}: exit {code}\n\n```text\n")
            parts.append(f"> scaling-sim {command}\n{shown}\n```\n")
    return "".join(parts)


def _short(line: str) -> str:
    """Long lists of names are cut."""
    return line if len(line) <= 240 else f"{line[:240]} [...]"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
