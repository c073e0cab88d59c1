"""What post-training adds to a job: rollouts, their lengths, and the engine that generates them."""

from __future__ import annotations

from typing import Literal

from sim.inputs.base import Count, Fraction, Positive, Seconds, Spec


class Completions(Spec):
    """Lengths of what is generated, log-normal up to a limit."""

    mean: Count = 1000.0  # [tokens]
    maximum: Positive = 4096  # where an engine cuts off [tokens]


class Generation(Spec):
    """The engines that generate, each a replica of the model."""

    gpus: Positive | None = None  # of their own; None: all GPUs, between two updates
    tensor_parallel: Positive | None = None  # GPUs of one engine; None: what is fastest
    max_sequences: Positive = 256  # that one engine decodes at a time
    memory_share: Fraction = 0.9  # of a GPU, for weights and cache
    step_overhead: Seconds = 1e-3  # scheduler and sampler, beside each decoding step; assumed
    overlap: bool = False  # on GPUs of their own: generate the next batch during this one's update


class PostTraining(Spec):
    """DPO, GRPO or PPO: what is generated and looked at before an update."""

    algorithm: Literal["dpo", "grpo", "ppo"] = "grpo"
    prompts: Positive = 128  # a step; of dpo, pairs
    samples: Positive = 8  # completions of a prompt
    prompt_length: Positive = 512  # [tokens]
    completion: Completions = Completions.model_construct()
    updates: Positive = 1  # optimizer steps a batch of rollouts is split into
    reference: bool = True  # log-probabilities of a frozen copy, for the KL term
    old_log_probs: bool = True  # taken by the trainer anew, not by the engine
    reward: Seconds = 0.0  # a batch's rewards, where they are not a model's on these GPUs
    offload: bool | None = None  # training state to host memory while generating; None: if needed
    generation: Generation = Generation.model_construct()
