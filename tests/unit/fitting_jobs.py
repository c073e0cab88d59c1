"""A node of H100s and jobs on it whose memory is worked by hand."""

from sim.inputs.gpu import Gpu
from sim.inputs.models import resolve_model
from sim.inputs.topology import Node, Pcie, Topology
from sim.inputs.workload import Checkpointing, Stack, Workload

FULL = Checkpointing(kind="full")


def topology(nodes=1, gpus=8, size=80e9):
    gpu = Gpu(name="h100", memory=size)
    return Topology(name="t", nodes=nodes, node=Node(gpu=gpu, gpus=gpus, pcie=Pcie(generation=5)))


def workload(name="llama-3.1-8b", length=2048, **keys):
    keys.setdefault("activation_checkpointing", FULL)
    keys.setdefault("attention", "sdpa")
    model, stack = resolve_model(name), Stack(torch="2.13", transformers="4.53")  # repeats heads
    return Workload(name="w", model=model, sequence_length=length, stack=stack, **keys)
