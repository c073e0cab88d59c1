"""What the ZeRO strategies have in common as strategies: knobs by DeepSpeed's names, tools."""

from __future__ import annotations

from typing import ClassVar

from sim.inputs.strategy import Strategy
from sim.inputs.workload import Parallelism, Workload


class DeepSpeed(Strategy):
    """A stage of ZeRO."""

    knobs = frozenset((
        "reduce_bucket_size", "allgather_bucket_size", "reduce_scatter", "overlap_comm",
        "communication_data_type", "deepspeed_version", "pin_memory",
    ))  # fmt: skip
    instead: ClassVar = {"reduce_dtype": "DeepSpeed says communication_data_type"}
    tools = frozenset({"accelerate", "axolotl", "deepspeed"})
    family = ("zero2", "zero3")
    deepspeed = offloads_inputs = context_parallel = traceable = ordered_by_sizes = True
    context_kinds = ("ulysses",)  # deepspeed/runtime/sequence_parallel/ulysses_sp.py
    stage: int

    def replicates(self, knobs: Parallelism) -> bool:
        """Never: every stage shards the optimizer's states."""
        return False

    def trainer(self, workload: Workload) -> str:
        """DeepSpeed's own engine in a plain loop; of adapters, Hugging Face's trainer around it."""
        return "huggingface" if workload.method.frozen else "deepspeed"

    def zero_stage(self, knobs: Parallelism) -> int:
        """The stage."""
        return self.stage
