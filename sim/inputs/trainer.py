"""The loop around a strategy: what a trainer does on the CPU between forward, backward and step."""

from __future__ import annotations

from functools import cache

from sim.data import table
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.records import dataclass


@dataclass(frozen=True, slots=True)
class Trainer:
    """A trainer, as ``data/trainers.toml`` has it.

    Attributes
    ----------
    name, title : str
        As ``trainer`` writes it, and as reports do.
    modelling : str
        Whose code its models mostly are (`sim.inputs.modelling`).
    strategies : tuple of str
        Strategies that it can run, beside that of one GPU, the usual one first; empty: any.
    optimizers, attentions, checkpointings : tuple of str
        Optimizers, attention and kinds of checkpointing that it has words for; empty: any.
    micro_step_s : float
        CPU time of a micro-step beside forward and backward: the loader's next batch, contexts,
        callbacks. [s]
    step_s : float
        Of an optimizer step: learning rate, logging, callbacks, zero_grad. [s]
    sample_s : float
        To collate a sample. [s]
    keeps_output : bool
        The model's output, and with it its logits, lives through backward.
    waits_for_loss, waits_for_step : bool
        The CPU reads the loss of each micro-step; something after each step.
    scales_gradients : bool
        It multiplies gradients after backward: by the number of tokens, over which it summed the
        loss.
    wraps_adapters : bool
        Under FSDP1 it takes PEFT's wrap policy: a unit for each adapter weight.
    keeps_chunks : bool
        It makes the logits of all chunks of a loss before the loss of the first.
    steps_in_backward : bool
        It can step a parameter as soon as its gradient is there.
    own_adapters : bool
        Its LoRA layers are its own, not PEFT's, and of the dtype of its weights.
    shards_scales : bool
        Its 4-bit weights are torchao's, whose scales are sharded with them.
    no_sync : tuple of str
        Strategies under which it accumulates in no_sync(): the last micro-step alone reduces.
    reduces_computed : tuple of str
        Strategies whose gradients it reduces as they are computed, not in fp32.
    waits_for_messages : bool
        The CPU waits for each message of a pipeline: it learns from it what comes.
    waits_for_batch : bool
        The CPU waits while a micro-step's batch is copied to the GPU, behind all that it has issued
        before; of a pipeline that of its first and its last rank, who have one.
    sums_apart : bool
        What tensor-parallel ranks hold in common is summed over them a parameter at a time, not as
        one flat tensor.
    layer_forward_s, layer_backward_s, layer_update_s : float
        CPU time of a layer beside its kernels: what its own modules do in forward and backward,
        spread over them, and of a micro-step's gradients, onto the buffer that sums them. [s]
    gathered_part_s : float
        Of each part of a parameter that a rank updates and all gather: cut out of the parameter,
        and copied back into it. [s]
    """

    name: str
    title: str
    micro_step_s: float
    step_s: float
    sample_s: float
    keeps_output: bool
    waits_for_loss: bool
    waits_for_step: bool
    scales_gradients: bool
    modelling: str = "huggingface"
    strategies: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ()
    checkpointings: tuple[str, ...] = ()
    wraps_adapters: bool = False
    keeps_chunks: bool = False
    steps_in_backward: bool = False
    own_adapters: bool = False
    shards_scales: bool = False
    no_sync: tuple[str, ...] = ()
    reduces_computed: tuple[str, ...] = ()
    waits_for_messages: bool = False
    waits_for_batch: bool = False
    sums_apart: bool = False
    layer_forward_s: float = 0.0
    layer_backward_s: float = 0.0
    layer_update_s: float = 0.0
    gathered_part_s: float = 0.0

    @property
    def works(self) -> bool:
        """Whether there is a trainer at all."""
        return self.name != NOBODY.name

    def calls_s(self, samples: int) -> dict[str, float]:
        """CPU time of its calls with so many samples a micro-step, on the constants' host. [s]"""
        return {
            "trainer.micro_step": self.micro_step_s + samples * self.sample_s,
            "trainer.step": self.step_s,
            "trainer.layer_forward": self.layer_forward_s,
            "trainer.layer_backward": self.layer_backward_s,
            "trainer.layer_update": self.layer_update_s,
            "trainer.gathered_part": self.gathered_part_s,
        }


@cache
def trainer_named(name: str) -> Trainer:
    """The trainer of a name; KeyError if there is none."""
    row = table("trainers")[name]
    lists = ("strategies", "optimizers", "attentions", "checkpointings", "no_sync",
             "reduces_computed")  # fmt: skip
    names = {key: tuple(row.get(key, ())) for key in lists}
    return Trainer(name, **row | names)


NOBODY = trainer_named("none")


def trainer_of(workload: Workload) -> Trainer:
    """The trainer that a workload names, or that its strategy mostly runs under."""
    return trainer_named(workload.trainer or strategy_of(workload).trainer(workload))


def reduces_each(workload: Workload) -> bool:
    """Whether gradients are reduced in every micro-step, not in the last one alone.

    As the workload says, or else as the trainer that it names does under its strategy. A loop that
    nobody names calls no no_sync(), as the modules of a strategy do by themselves.
    """
    said, named = workload.parallelism.gradient_sync, workload.trainer
    if said is not None or named is None:
        return said != "last"
    return strategy_of(workload).name not in trainer_named(named).no_sync


def reductions(workload: Workload, micro_steps: int) -> list[bool]:
    """Of each of so many micro-steps, whether gradients are reduced in it; the last one's are."""
    return [reduces_each(workload)] * (micro_steps - 1) + [True]
