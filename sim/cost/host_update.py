"""Speed of the host's processors at the optimizer step and other passes over offloaded state."""

from __future__ import annotations

from sim.data import table
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Cpu
from sim.inputs.versions import version
from sim.inputs.workload import Workload

#: first PyTorch with a fused Adam for the CPU
FUSED_SINCE = (2, 4)


def constants() -> dict[str, float]:
    """Constants of ``data/constants/cpu_update.toml``."""
    return table("constants/cpu_update")


def host_rate(cpu: Cpu, ranks: int, threads: int | None = None) -> float:
    """Bytes a second that one rank's pass over host memory moves while all ranks do the same.

    Equation: min(e B s / n, t b), with e the reached share of the bandwidth B of s sockets, n ranks
    a node, t threads a rank (its share of the cores if left out) and b the bandwidth of a core.

    Parameters
    ----------
    cpu : Cpu
        The node's processors.
    ranks : int
        Ranks (GPUs) a node. [1]
    threads : int, optional
        Threads of a rank, ``OMP_NUM_THREADS``. [1]

    Returns
    -------
    float
        Rate. [B/s]
    """
    c = constants()
    threads = threads or threads_of(cpu, ranks)
    share = c["efficiency"] * cpu.memory_bandwidth * cpu.sockets / ranks
    return min(share, threads * c["core"])


def threads_of(cpu: Cpu, ranks: int) -> int:
    """Threads of a rank where nothing says how many: its cores."""
    return cpu.cores_per_rank or max(1, cpu.cores // ranks)


def update_s(workload: Workload, cpu: Cpu, ranks: int, traffic: float, elements: float) -> float:
    """The optimizer's pass over a rank's share in host memory. [s]

    Equation: slow B / rate + elements a / threads, the second for PyTorch's fused AdamW alone.

    Parameters
    ----------
    workload : Workload
        Its optimizer, its stack.
    cpu, ranks
        As for `host_rate`.
    traffic : float
        Read and written. [B]
    elements : float
        Updated. [1]
    """
    threads = workload.stack.omp_num_threads
    moving = update_slowdown(workload) * traffic / host_rate(cpu, ranks, threads)
    if strategy_of(workload).deepspeed or not _fused(workload):
        return moving  # its own kernel, or passes: as slow as measured, all in all
    return moving + elements * constants()["element"] / (threads or threads_of(cpu, ranks))


def _fused(workload: Workload) -> bool:
    new = version(workload.stack.torch) >= FUSED_SINCE
    return workload.optimizer_implementation == "fused" and new


def update_slowdown(workload: Workload) -> float:
    """How much longer than a vectorised CPU Adam the workload's own implementation takes. [1]

    DeepSpeed brings its own; FSDP runs PyTorch's, fused on the CPU since 2.4 if asked for.
    """
    if strategy_of(workload).deepspeed or _fused(workload):
        return 1.0
    return constants()["unfused"]
