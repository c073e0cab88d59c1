"""Absurd sizes, over every verb: who asks for a million of something gets an answer or a reason.

    python -m tests.hostile.sizes [--only WORD] [--most 10]     # all cases, the worst in a table

Every case is a process of its own under 4 GB of address space. It keeps its promise if it ends by
contract within 10 s of CPU and 1 GiB, or shows by then how far it is and stops on Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import re
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.clock import HANG_S, pace
from tests.hostile.corpus import readers
from tests.hostile.samples import WORKLOAD

ADDRESS_SPACE = 4_000_000 * 1024  # as `ulimit -v 4000000`
LIMIT_S, LIMIT_MIB = 10.0, 1024.0
STOPS_S = 5.0  # of CPU, from Ctrl-C to the end
#: no errors: done, bad input, no answer, a requirement that fails
BY_CONTRACT = (0, 2, 3, 4)
FILE_MB = 200

ON = ("dgx-h100", "llama3-8b-sft")
MOE = ("dgx-h100", "qwen3-235b-a22b")
LONG_PIPELINE = (
    "dgx-h100 llama3-405b --set gradient_accumulation=4096 --set nodes=64"
    " --set parallelism.tensor_parallel=8 --set parallelism.pipeline_parallel=16"
    " --set parallelism.pipeline_schedule"
)
LONG_STAGES = (
    "dgx-h100 llama3-8b-sft --set nodes=125 --set parallelism.pipeline_parallel=1000"
    " --set gradient_accumulation=1000 --set model.layers=1000"
)
#: as much as is taken of each, and more
EXTREMES: tuple[tuple[str, ...], ...] = (
    ("nodes=32768",), ("nodes=20000", "parallelism.tensor_parallel=8"),
    ("nodes=20000", "parallelism.replicate=20000"), ("nodes=1000000000",),
    ("node.gpus=1024", "nodes=16"), ("node.gpus=1000000",),
    ("model.layers=2000",), ("model.layers=1000000",),
    ("model.layers=2000", "parallelism.strategy=zero3"),
    ("model.hidden_size=1048576",), ("model.vocab_size=1000000000",),
    ("sequence_length=1048576",), ("sequence_length=10000000",), ("sequence_length=1000000000000",),
    ("micro_batch=1000000",), ("gradient_accumulation=1000000",),
    ("tokens=1e24",), ("steps=1000000000000",),
    ("nodes=2000", "parallelism.pipeline_parallel=16", "gradient_accumulation=65536"),
)  # fmt: skip
#: verbs of a machine and a job, with the extremes that weigh on them
VERBS: tuple[tuple[str, ...], ...] = (
    ("run",), ("run", "-q"), ("memory",), ("explain",), ("support",), ("improve",), ("config",),
    ("trace", "--format", "csv"), ("trace", "--stages"), ("posttrain",), ("prices", "job"),
    ("diagnose", "--measured", "step_time_s=1"), ("need", "bandwidth"),
)  # fmt: skip


class Size(NamedTuple):
    """A command line, and the files that it names: so many bytes of a reader's good file."""

    name: str
    argv: tuple[str, ...]
    reader: str = ""


class Taken(NamedTuple):
    """What a case took, and how it ended; seconds are those of a usual core."""

    case: Size
    cpu_s: float
    mib: float
    code: int
    progress: bool
    words: str  # the last line

    @property
    def fault(self) -> str:
        """What it breaks of what is promised; nothing if it keeps it."""
        if self.code == 130:
            return "" if self.progress else f"{self.cpu_s:.0f} s without a word"
        if self.code not in BY_CONTRACT:
            return f"exit code {self.code}: {self.words}"
        if self.progress:
            return ""
        if self.cpu_s > LIMIT_S:
            return f"{self.cpu_s:.0f} s"
        return f"{self.mib:.0f} MiB" if self.mib > LIMIT_MIB else ""


def _set(values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def cases() -> Iterator[Size]:
    """Every verb at every extreme."""
    for verb in VERBS:
        for values in EXTREMES:
            yield Size(f"{' '.join(verb)} {' '.join(values)}", (*verb, *ON, *_set(values)))
    for values in (("model.experts=1000000",), ("model.experts=4096", "nodes=4096")):
        yield Size(f"run {' '.join(values)}", ("run", *MOE, *_set(values)))
    for nodes in ("2500", "20000"):
        wide = (
            f"nodes={nodes}",
            "parallelism.tensor_parallel=8",
            "parallelism.pipeline_parallel=4",
        )
        yield Size(f"run {' '.join(wide)}", ("run", *ON, *_set(wide)))
    for strategy in ("fsdp1", "ddp", "zero1", "zero2", "megatron"):
        deep = ("model.layers=2000", f"parallelism.strategy={strategy}")
        yield Size(f"memory {' '.join(deep)}", ("memory", *ON, *_set(deep)))
    for knobs in ("strategy=zero3 parallelism.offload=all", "wrap=linear", "offload=all"):
        deep = ("model.layers=2000", *f"parallelism.{knobs}".split())
        yield Size(f"run {' '.join(deep)}", ("run", *ON, *_set(deep)))
    yield from _others()
    for name in readers():
        yield Size(f"{FILE_MB} MB of {name}", (), name)


def _others() -> Iterator[Size]:
    jobs = "docs/examples/week.yaml"
    for line in (
        "run {on} --replicas 1000000", "run {on} --jitter 5% --replicas 1000000",
        "run {on} --jitter 5% --replicas 1000",
        "run {on} --level ranks --set nodes=2048", "run {on} --level steps --set nodes=64",
        "run {on} --level ranks --jitter 5% --set nodes=512",
        "run {on} --jitter 5% --replicas 1000 --set model.layers=2000",
        "run {on} --level ranks --set nodes=64 --set model.layers=2000",
        "run {on} --report r.html --set model.layers=2000 --set parallelism.strategy=zero3",
        "collective dgx-h100 --set nodes=32768", "collective dgx-h100 all_to_all --set nodes=2048",
        "collective dgx-h100 all_to_all --set nodes=32768", "collective dgx-h100 --sizes 1:1e18",
        "collective dgx-h100 --vary nodes=1..100000", "topo show dgx-h100 --set nodes=32768",
        "topo show dgx-h100 --set nodes=32768 --format graph",
        "topo show dgx-h100 --set node.gpus=1024",
        "sweep {on} -j 1 --store :s: --vary nodes=1..1000000000",
        "sweep {on} -j 1 --store :s: --vary nodes=1..4096",
        "sweep {on} -j 1 --store :s: --vary micro_batch=1..1000 --vary nodes=1..1000",
        "sweep {on} -j 1 --store :s: --vary micro_batch=1..1000 --vary nodes=1..1000 --dry-run",
        "sweep {on} -j 1 --store :s: --screen step_time_s --vary nodes=1..64"
        " --vary micro_batch=1..64 --vary gradient_accumulation=1..256 --exact 100000",
        "compare {on} --vary nodes=1..100000", "compare {on} --vary nodes=1..64",
        "plan dgx-h100 {jobs} --vary nodes=1..100000", "plan dgx-h100 {jobs} --set nodes=32768",
        "plan dgx-h100 {jobs} --replicas 1000", "plan dgx-h100 {jobs} --growth 1000000",
        "plan dgx-h100 {jobs} --smallest --growth 1000",
        "size llama3-8b-sft --deadline 1h --max-gpus 16384",
        "size llama3-8b-sft --deadline 1h --gpus 16384 --global-batch 16777216",
        "size llama3-8b-sft --deadline 1h --vary micro_batch=1..100000",
        "size llama3-8b-sft --deadline 1h --vary sequence_length=512..60000",
        "size llama3-70b-full --deadline 48h --vary layout --max-gpus 1024",
        "size llama3-8b-sft --deadline 1h --max-gpus 1000000000",
        "size llama3-8b-sft --deadline 1s --set tokens=1e24",
        "export {on} --set nodes=32768 --emit yaml --emit sbatch -o plan",
        "need context {on} --set nodes=4096", "need price dgx-h100 dgx-a100 llama3-70b-full"
        " --set nodes=4096", "run {on} --report r.html --set nodes=32768",
        "posttrain {on} --set post_training.prompts=1000000 --set post_training.samples=1",
        "posttrain {on} --set post_training.prompts=1000000000 --set post_training.samples=8",
        f"explain {LONG_STAGES}",
        "need gpus {on} --deadline 1s --set tokens=1e17",
        "trace {on} --level ranks --set nodes=2048 --format csv", "trace {on} --all-micro-steps"
        " --format csv --set gradient_accumulation=65536",
        "prices job {on} --set nodes=4096",
        f"run {LONG_PIPELINE}=zbv", f"run {LONG_PIPELINE}=interleaved-zero-bubble",
    ):  # fmt: skip
        argv = line.format(on=" ".join(ON), jobs=jobs).split()
        name = line.replace(LONG_PIPELINE, "LONG").format(on="JOB", jobs="JOBS")[:90]
        yield Size(name, tuple(argv))


def take(case: Size, folder: Path, until_progress: bool = False) -> Taken:
    """Run a case in a folder, at a terminal of its own for what it says beside its answer.

    Ctrl-C ends it at the limit; or, then alone, as soon as it says how far it is.
    """
    argv = case.argv
    (folder / "job.yaml").write_text(WORKLOAD)
    if case.reader:
        reader = readers()[case.reader]
        argv = reader.argv
        _grow(folder / reader.file, reader.good)
    argv = tuple(str(folder / "s.sqlite") if word == ":s:" else word for word in argv)
    root = Path(__file__).parents[2]
    argv = tuple(str(root / word) if word.startswith("docs/") else word for word in argv)
    master, slave = pty.openpty()
    pid = os.fork()
    if not pid:
        _become(argv, folder, slave)
    os.close(slave)
    return _watch(case, pid, master, until_progress)


def _grow(path: Path, good: str) -> None:
    """A file of `FILE_MB`: its lines over and over, the last third of them most of all."""
    if '"traceEvents"' in good:  # as a profiler writes it: one event over and over
        at = good.index("[") + 1
        event = json.dumps(json.loads(good)["traceEvents"][-1])
        head, again, tail = good[:at], event + ",\n", good[at:]
    else:
        lines = good.splitlines(keepends=True)
        at = -(-2 * len(lines) // 3)
        again = "".join(lines[at:-1] if len(lines) > at + 1 else lines[-1:])
        head, tail = "".join(lines[:at]), "".join(lines[at:])
    block = again.encode() * max(1, (1 << 20) // len(again))
    with path.open("wb") as file:
        file.write(head.encode())
        for _ in range(FILE_MB * 1_000_000 // len(block) + 1):
            file.write(block)
        file.write(tail.encode())


def _become(argv: tuple[str, ...], folder: Path, terminal: int) -> None:
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open("out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(terminal, 2)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TERM": "xterm", "COLUMNS": "100"}
    os.execve(sys.executable, [sys.executable, "-m", "sim", *argv], environment)


def _watch(case: Size, pid: int, terminal: int, until_progress: bool) -> Taken:
    said, progress, asked, peak = b"", False, 0.0, 0.0
    slow, began = pace(), time.monotonic()
    while True:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        if ready:
            with contextlib.suppress(OSError):  # nobody holds the other end: it has ended
                said = (said + os.read(terminal, 65536))[-20000:]
        progress = progress or "━".encode() in said
        peak = max(peak, _peak_mib(pid))
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        cpu = _cpu_s(pid)
        hangs = time.monotonic() - began > HANG_S
        late = hangs or (progress if until_progress else cpu > LIMIT_S * slow * 1.2)
        if not asked and late:
            asked = cpu
            os.kill(pid, signal.SIGINT)
        elif asked and cpu > asked + STOPS_S * slow:
            os.kill(pid, signal.SIGKILL)
            asked = float("inf")
    os.close(terminal)
    words = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return Taken(
        case, (used.ru_utime + used.ru_stime) / max(slow, pace()), peak,
        os.waitstatus_to_exitcode(status), progress, words[-1].strip() if words else "",
    )  # fmt: skip


def _peak_mib(pid: int) -> float:
    """So far; what `wait4` says counts who started it, too."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0  # it has ended


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the worst cases, and those that break what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name this pattern finds")
    parser.add_argument("--most", type=int, default=10, help="cases in the table")
    given = parser.parse_args()
    found = []
    for case in cases():
        if re.search(given.only, case.name):
            with tempfile.TemporaryDirectory() as folder:
                found.append(take(case, Path(folder)))
            one = found[-1]
            print(f"{one.cpu_s:6.1f} s {one.mib:6.0f} MiB  {one.code:4d}  {case.name}  {one.fault}",
                  file=sys.stderr, flush=True)  # fmt: skip
    print("| case | CPU s | MiB | ends |\n|---|--:|--:|---|")
    for one in sorted(found, key=lambda t: -t.cpu_s)[: given.most]:
        said = "progress" if one.progress else "no word"
        end = f"{said}, Ctrl-C" if one.code == 130 else f"{one.code} {one.words[:80]}"
        print(f"| {one.case.name} | {one.cpu_s:.1f} | {one.mib:.0f} | {end} |")
    broken = [one for one in found if one.fault]
    print(f"\n{len(found)} cases, {len(broken)} break it")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
