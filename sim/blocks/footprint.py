"""Memory: what autograd keeps of a decoder layer and of the head, by stack and method.

A reading of the blocks' descriptions; the miniature autograd of `sim.blocks.autograd` derives
saved tensors and working sets. Checked tensor by tensor against PyTorch's own records
(tests/unit/test_footprint.py).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from sim.blocks.autograd import Footprint, footprint
from sim.blocks.from_workload import setting_of
from sim.blocks.head import loss_memory
from sim.blocks.layer import HEAD, BlockKind, block_kinds, describe
from sim.blocks.setting import Setting
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.records import dataclass


@dataclass(frozen=True, slots=True)
class HeadFootprint:
    """Memory from the final norm to the loss, in bytes above the saved layers.

    Attributes
    ----------
    norm : float
        Saved by the final norm and for the head's weight gradient.
    logits : float
        Logits in the compute dtype.
    forward_peak : float
        Most that lives while the loss is computed, `norm` included.
    saved : float
        Kept until the loss's backward, `norm` included.
    backward_peak : float
        Most that lives in the loss's backward, `saved` included.
    weight_peak : float
        At the head's weight gradient (which comes on top): gradients of logits and hidden, `norm`.
    hidden : float
        Gradient that the layers receive.
    held : float
        Logits that the model's output keeps alive until backward has ended.
    """

    norm: float
    logits: float
    forward_peak: float
    saved: float
    backward_peak: float
    weight_peak: float
    hidden: float
    held: float = 0.0


@lru_cache(maxsize=256)
def layer_footprint(workload: Workload, kind: str, checkpoint: str = "none") -> Footprint:
    """Footprint of one layer of a kind under a checkpoint policy (see `autograd.footprint`)."""
    setting, model, strategy = setting_of(workload), workload.model, strategy_of(workload)
    constant = 0.0
    block = block_kinds(model, workload.method, setting.bf16_ends)[kind]
    if model.positions == "rope" and strategy.casts_inputs and block.attends:
        # FSDP2 casts each block's floating inputs, so every block keeps its own cos and sin
        constant = float(setting.length * (model.rope_head_dim or model.head_dim) * setting.element)
    # where blocks are gathered, the gradients of one wait for each other
    passing = workload.optimizer_in_backward and not strategy.gathers_blocks
    return _footprint(setting, block, checkpoint, constant, passing)


@lru_cache(maxsize=1024)
def _footprint(
    setting: Setting, kind: BlockKind, checkpoint: str, constant: float, passing: bool
) -> Footprint:
    if kind.state == "passive":  # no graph is made: outputs live until they have been read
        ahead = footprint(describe(setting, kind), "full", 0.0, passing)
        return replace(ahead, saved=0.0, backward_saved=0.0, backward_working=0.0, tensors=())
    return footprint(describe(setting, kind), checkpoint, constant, passing)


@lru_cache(maxsize=256)
def head_footprint(workload: Workload) -> HeadFootprint:
    """Footprint of the final norm, the head and the loss (see `sim.blocks.head.loss_memory`)."""
    setting = setting_of(workload)
    described, loss = describe(setting, HEAD), loss_memory(setting.trains("head"))
    norm, hidden = described.saved_bytes, described.sizes[0]
    return HeadFootprint(
        norm=norm,
        logits=loss.logits,
        forward_peak=norm + loss.forward,
        saved=norm + loss.saved,
        backward_peak=norm + loss.backward,
        weight_peak=norm + loss.gradient + hidden,
        hidden=hidden,
        held=loss.held,
    )


def checkpoint_policy(workload: Workload) -> str:
    """Name of the policy of checkpointed layers, as `autograd.footprint` takes it."""
    policy = workload.activation_checkpointing
    if policy.kind == "selective-op":
        return "selective-op"
    return "full-reentrant" if policy.reentrant else "full"
