"""What launchers do to an optimizer on the host: they start its ranks with one thread."""

from __future__ import annotations

from sim.cost.host_update import threads_of
from sim.fabric import compile_fabric
from sim.inputs.notes import Message
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.quantities import duration
from sim.step.step import quick

_TOLD = 1.01  # times the step, that it takes with one thread


def thread_warnings(topology: Topology, workload: Workload, step_s: float) -> tuple[Message, ...]:
    """Says what a step with one thread a rank takes, where nothing says how many there are.

    Parameters
    ----------
    topology, workload : specs
        As run, ranks of a kind alike.
    step_s : float
        Their step. [s]

    Notes
    -----
    Sources: torch/distributed/run.py (OMP_NUM_THREADS=1 where a node has several ranks and it is
    not set); accelerate/commands/launch.py (num_cpu_threads_per_process). DeepSpeed's launcher
    leaves it alone, so that ZeRO is not warned of.
    """
    p, stack = workload.parallelism, workload.stack
    if p.offload not in ("optimizer", "all") or stack.omp_num_threads is not None:
        return ()
    if strategy_of(workload).deepspeed or topology.gpus_per_node == 1:
        return ()
    fabric = compile_fabric(topology)
    hosts = {fabric.host(node) for node in range(topology.node_count)}
    if (cores := max(threads_of(host.cpu, host.gpus) for host in hosts)) == 1:
        return ()
    one = workload.model_copy(update={"stack": stack.model_copy(update={"omp_num_threads": 1})})
    slow_s = quick(topology, one).time_s
    if slow_s <= _TOLD * step_s:
        return ()
    message = (
        "torchrun and accelerate start ranks with OMP_NUM_THREADS=1 unless it is set: the step"
        f" would take {duration(slow_s)}, not {duration(step_s)} as on {cores} cores a rank"
    )
    hint = f"set OMP_NUM_THREADS={cores} where it is launched, or say what it is in the stack"
    return (Message("one-thread", "workload.stack.omp_num_threads", message, hint),)
