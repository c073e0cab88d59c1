"""Scripts that start a plan: an sbatch file, and torchrun on each node."""

from __future__ import annotations

from sim.errors import InputError
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload

_TORCHRUN = "--emit torchrun"
_SCRIPT = "-m trl.scripts.sft --config sft.yaml"


def sbatch_script(topology: Topology, workload: Workload) -> str:
    """A Slurm job that launches accelerate on every node."""
    nodes, gpus = topology.node_count, topology.gpus_per_node
    return f"""\
#!/bin/bash
# {workload.name}, written by scaling-sim for {topology.name}
#SBATCH --job-name={workload.name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive

HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun accelerate launch --config_file accelerate.yaml \\
  --num_machines {nodes} --num_processes {topology.world_size} \\
  --machine_rank "$SLURM_NODEID" --main_process_ip "$HEAD" --main_process_port 29500 \\
  {_SCRIPT}
"""


def torchrun_script(topology: Topology, workload: Workload) -> str:
    """A line to run on every node, for strategies that the trainer sets up itself.

    Raises
    ------
    InputError
        FSDP, which accelerate's launcher sets up.
    """
    if strategy_of(workload).fsdp_version:
        message = "torchrun sets up no FSDP; emit sbatch or accelerate instead"
        raise InputError.single(_TORCHRUN, message)
    nodes, gpus = topology.node_count, topology.gpus_per_node
    return f"""\
#!/bin/bash
# {workload.name}, written by scaling-sim for {topology.name}; on every node, HEAD being the first
torchrun --nnodes={nodes} --nproc_per_node={gpus} \\
  --rdzv_backend=c10d --rdzv_endpoint="$HEAD:29500" \\
  {_SCRIPT}
"""
