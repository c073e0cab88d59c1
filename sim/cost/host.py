"""CPU time of the threads that issue a training step: launches, Python hooks, a trainer's own work.

One lane a rank: the main thread issues forward and the optimizer, autograd's thread backward, and
each waits while the other works. What they do is counted by blocks (kernels), strategies (hooks of
wrapped units) and trainers; how long one of each takes is in ``data/constants/host.toml`` for the
host those numbers are of, times the pace of the job's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from sim.blocks.kernels import Kernel
from sim.data import table
from sim.inputs.topology import Cpu


@dataclass(frozen=True, slots=True, eq=False)
class HostModel:
    """CPU times of one stack on one host.

    Attributes
    ----------
    forward_s, backward_s, optimizer_s : float
        To issue a kernel, with the Python and autograd around it. [s]
    calls : mapping of str to float
        Of each named call. [s]
    pace : float
        Times in all of them: how much slower this host is than that of the constants. [1]
    """

    forward_s: float
    backward_s: float
    optimizer_s: float
    calls: Mapping[str, float]
    pace: float = 1.0

    def launch_s(self, kernel: Kernel) -> float:
        """CPU time to launch a kernel, all of its `launches`. [s]"""
        if kernel.kind == "optimizer" or not kernel.module:
            return self.optimizer_s * kernel.launches
        each = self.forward_s if kernel.direction == "forward" else self.backward_s
        return each * kernel.launches

    def of_trainer(self, calls: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
        """Those of some calls that are none of PyTorch's or of a strategy, but a trainer's."""
        return tuple([call for call in calls if call[0] not in self.calls])

    def trainer_s(self, calls: Sequence[tuple[str, float]], own: Mapping[str, float]) -> float:
        """CPU time of calls of a trainer that take so long on the constants' host. [s]"""
        return self.pace * sum([own[name] * times for name, times in calls])


def pace_of(cpu: Cpu, ranks: int, launch: float = 1.0) -> float:
    """How much slower than the constants' host the CPUs of a node are for each of its ranks. [1]

    Equation: launch max(1, (1 + b)/c) / v, with c cores a rank, of which its issuing thread takes
    one and the others (NCCL's proxy and watchdog, the loader's pinning thread) b in all, and v the
    speed of a core.

    Parameters
    ----------
    cpu : Cpu
        The node's processors; `cores_per_rank` is what the job was given of them.
    ranks : int
        Ranks (GPUs) a node. [1]
    launch : float
        A calibration's `host_launch`. [1]
    """
    cores = cpu.cores_per_rank or cpu.cores / ranks
    busy = 1.0 + float(table("constants/host")["threads"]["background_cores"])
    return launch * max(1.0, busy / cores) / cpu.speed


def agreement_s(ranks: int, nodes: int) -> float:
    """CPU time in which ranks agree on a collective before it (`stack.distributed_debug`). [s]

    Equation: m n l, with m messages a rank, one after the other, over n ranks, and l the time of
    one over TCP.

    Parameters
    ----------
    ranks, nodes : int
        Of the group. [1]
    """
    prices = table("constants/host")["agreement"]
    message_s: float = prices["between_s" if nodes > 1 else "within_s"]
    return ranks * int(prices["messages"]) * message_s if ranks > 1 else 0.0


def launch_stack(compiled: bool, graphs: bool) -> str:
    """How a workload launches kernels: ``eager | compiled | graphs``."""
    if graphs:
        return "graphs"
    return "compiled" if compiled else "eager"


@lru_cache(maxsize=64)
def host_model(stack: str, pace: float = 1.0) -> HostModel:
    """CPU times of a stack: ``eager | compiled | graphs``, on a host of some pace."""
    launches = {name: pace * value for name, value in table("constants/host")[stack].items()}
    calls = {name: pace * value for name, value in known_calls().items()}
    return HostModel(**launches, calls=calls, pace=pace)


@cache
def known_calls() -> Mapping[str, float]:
    """CPU time of each named call on the constants' host, made of counts or given. [s]"""
    data = table("constants/host")
    prices: dict[str, float] = data["prices"]
    found = {}
    for group, entries in data["calls"].items():
        for name, made_of in entries.items():
            if isinstance(made_of, dict):
                made_of = sum(prices[what] * times for what, times in made_of.items())
            found[f"{group}.{name}"] = float(made_of)
    return found
