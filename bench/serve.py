"""The live page under load: ``python -m bench.serve [CLIENTS] [SECONDS]``.

First one client moves a slider: latencies from question to numbers. Then many ask at once, each the
next question as soon as it has an answer: errors, answers a second, memory before and after.
"""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

JOBS = ("llama3-8b-sft", "llama3-70b-lora")
HEAD = {"Content-Type": "application/json"}


class Client:
    """A connection that asks."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._address, self._head = (
            parts.netloc,
            HEAD | {"Authorization": f"Bearer {parts.query.partition('=')[2]}"},
        )
        self._open()

    def _open(self) -> None:
        self._connection = http.client.HTTPConnection(self._address, timeout=60)

    def ask(self, job: str, place: int) -> tuple[int, float]:
        """Status and seconds of a question that was not asked before."""
        sets = [f"nodes={2 ** (place % 4)}", f"sequence_length={1024 + 8 * place}"]
        body = json.dumps({"topology": "dgx-h100", "workload": job, "overrides": sets})
        began = time.perf_counter()
        self._connection.request("POST", "/api/run", body, self._head)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status, time.perf_counter() - began


def family_of(process: int) -> list[int]:
    """A process and its descendants."""
    family = [process]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:
            continue
        if int(fields["PPid"]) in family:
            family.append(int(fields["Pid"]))
    return family


def cpu_s(processes: list[int]) -> float:
    """What the threads of some processes have had of the CPU. [s]"""
    found = 0
    for one in processes:
        for task in Path(f"/proc/{one}/task").glob("*/schedstat"):
            found += int(task.read_text().split()[0])
    return found * 1e-9


def memory_mib(process: int) -> float:
    """Resident memory of a process and its children. [MiB]"""
    total = 0
    for one in family_of(process):
        text = Path(f"/proc/{one}/status").read_text()
        total += int(text.partition("VmRSS:")[2].split()[0])
    return total / 1024


def main() -> None:
    """Print both tables."""
    clients, seconds = (int(x) for x in (*sys.argv[1:], *("100", "60")[len(sys.argv) - 1 :]))
    server = subprocess.Popen(
        [sys.executable, "-m", "sim", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    address = server.stdout.readline().strip()
    one = Client(address)
    for job in JOBS:
        one.ask(job, 10_000)  # its plan
        spent, family = [], family_of(server.pid)
        for place in range(100):
            before = cpu_s(family)
            seconds_of_wall = one.ask(job, place)[1]
            spent.append((seconds_of_wall * 1e3, (cpu_s(family) - before) * 1e3))
        wall, cpu = np.percentile(spent, [50, 95, 100], axis=0).round().astype(int).T
        print(f"{job}: median {wall[0]} ms, p95 {wall[1]} ms, longest {wall[2]} ms; "
              f"of CPU {cpu[0]}, {cpu[1]}, {cpu[2]} ms")  # fmt: skip
    before, until = memory_mib(server.pid), time.monotonic() + seconds
    told: list[tuple[int, float]] = []

    def work(number: int) -> None:
        mine = Client(address)
        place = 200 + number
        while time.monotonic() < until:
            told.append(mine.ask(JOBS[place % 2], place))
            place += clients

    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    middle = 0.0
    while time.monotonic() < until:
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))
        if not middle and time.monotonic() > until - seconds / 2:
            middle = memory_mib(server.pid)
    for thread in threads:
        thread.join()
    wrong = sum(status != 200 for status, _ in told)
    waits = np.percentile([s for _, s in told], [50, 95])
    rate = f"{len(told) / seconds:.0f} a second; wait {waits[0]:.1f} s, p95 {waits[1]:.1f} s"
    print(f"{clients} clients, {seconds} s: {len(told)} answers, {wrong} errors, {rate}")
    after = memory_mib(server.pid)
    print(f"memory {before:.0f} MiB before, {middle:.0f} MiB half-way, {after:.0f} MiB after")
    server.send_signal(signal.SIGINT)
    began = time.monotonic()
    print(f"stopped with {server.wait(20)} in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
