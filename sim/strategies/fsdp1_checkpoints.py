"""What a reentrant checkpoint around FSDP1's units makes them do again, and keep."""

from __future__ import annotations

from collections.abc import Iterator

from sim.blocks.flops import checkpointed_layers
from sim.blocks.footprint import head_footprint
from sim.inputs.notes import Message
from sim.inputs.strategy import strategy_of
from sim.inputs.versions import older
from sim.inputs.workload import Workload


def runs_again(workload: Workload) -> bool:
    """Whether a reentrant checkpoint around FSDP1's unit calls it, hooks and all, a second time."""
    p, policy = workload.parallelism, workload.activation_checkpointing
    outside = p.checkpoint_wrapper or ("outside" if p.wrap == "peft" else "inside")
    return policy.kind != "none" and policy.reentrant and outside == "outside"


def keeps_inputs(workload: Workload) -> bool:
    """Whether every recomputed block's input and its gradient live until backward ends.

    A flat parameter without gradient has no post-backward hook, so FSDP1 hangs one on the block's
    inputs (``_register_post_backward_reshard_only_hook``, since PyTorch 2.1) and removes it when
    all of backward is done. That hook (``register_multi_grad_hook``) holds their gradient's node.
    In a reentrant checkpoint around the block the input is a detached leaf, whose node is an
    ``AccumulateGrad``: it owns the tensor, and so its ``.grad``. Any other input's node owns
    nothing once it has run. Recorded in ``tests/data/reentrant_memory.json``.
    """
    p, policy = workload.parallelism, workload.activation_checkpointing
    # adapters within the unit would give its flat parameter a gradient
    frozen = workload.method.frozen and p.wrap == "peft"
    # transformers checkpoints the call of a block, which by then is a sharded one
    around = policy.reentrant and p.checkpoint_wrapper != "inside"
    whole = policy.kind in ("full", "selective-blocks")
    flat = strategy_of(workload).fsdp_version == 1
    return flat and frozen and around and whole and not older(workload.stack.torch, "2.1")


def kept_inputs(workload: Workload) -> Iterator[Message]:
    """A warning where they do."""
    if keeps_inputs(workload):
        blocks = sum(checkpointed_layers(workload.activation_checkpointing, workload.model.layers))
        size = (2 * blocks - 3) * head_footprint(workload).hidden / 1e9
        yield Message(
            "memory.fsdp1-inputs-pile-up",
            "workload.activation_checkpointing.reentrant",
            "FSDP1 keeps the input of every recomputed block and its gradient until the backward "
            f"pass ends: {size:.1f} GB per GPU",
            "set activation_checkpointing: full, which is not reentrant",
        )
