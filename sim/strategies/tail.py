"""What follows the last backward of a step: the trainer's loss all-reduce, clipping, optimizer."""

from __future__ import annotations

from collections.abc import Callable

from sim.inputs.workload import Parallelism
from sim.mesh import Mesh
from sim.strategies.plan import SEGMENT
from sim.strategies.recorder import Recorder

#: what the CPU does for a tensor that a hook of its own steps, within backward
ALONE = "optimizer.alone"


def step_within(
    r: Recorder, stream: str, unit: str, block: int, size: float, tensors: int
) -> None:  # fmt: skip
    """Hooks step the parameters whose gradients `stream` has just made, one by one.

    Parameters
    ----------
    r : Recorder
        Where it is written down.
    stream : str
        On which autograd or FSDP2 calls them.
    unit, block : str, int
        Of these parameters.
    size : float
        Their bytes on this rank, as they are kept. [B]
    tensors : int
        How many. [1]

    Source: PyTorch, tutorial "How to save memory by fusing the optimizer step into the backward
    pass" (``register_post_accumulate_grad_hook``); torchtune, ``OptimizerInBackwardWrapper``;
    FSDP2 calls those of a sharded parameter on the stream that reduced its gradient
    (``_fsdp_collectives.py``, ``foreach_reduce``).
    """
    if tensors:
        r.call_times("optimizer.tensor", tensors)
        r.call_times(ALONE, tensors)
        r.issue(SEGMENT, stream, "optimizer", "backward", block, unit=unit, traffic=size)


def loss_all_reduce(r: Recorder, knobs: Parallelism, mesh: Mesh) -> None:
    """The trainer averages its loss over all ranks: 4 bytes."""
    if not knobs.loss_all_reduce:
        return
    everybody = mesh.groups("world")
    group = "shard" if r.plan.groups.get("shard") == everybody else "world"
    r.plan.groups[group] = everybody
    r.collective("compute", "all_reduce", "loss", group, 4.0, 4.0, "fp32")


def clip_and_step(
    r: Recorder, knobs: Parallelism, grad_bytes: float, norm_bytes: float | None = None,
    norm_dtype: str = "fp32", update_bytes: float = 0.0, clip_call: str = "clip.tensor",
    before_step: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Gradient norm, its all-reduce over the shard group, scaling, optimizer.

    Parameters
    ----------
    r : Recorder
        Its plan's `owned_numel` and `owned_tensors` are what is clipped and stepped.
    knobs : Parallelism
        `clip_gradients` and offload.
    grad_bytes : float
        Bytes an element of a reduced gradient. [B]
    norm_bytes : float, optional
        Bytes of the norm's all-reduce, 0 for none; default 4 a tensor (FSDP2: a norm each). [B]
    norm_dtype : str
        Dtype of that all-reduce.
    update_bytes : float
        Bytes an element that the step moves if it runs on the host. [B]
    clip_call : str
        What the CPU does for a tensor while it is clipped.
    before_step : callable
        Issues what the optimizer's kernels wait for.
    """
    plan = r.plan
    r.read_loss()
    size = plan.owned_numel * grad_bytes
    r.scale_gradients(size)
    # a stage without parameters takes part in the norm of all stages
    if knobs.clip_gradients and (plan.owned_tensors or "pipeline" in plan.groups):
        if plan.optimizer_on_host:
            r.host("grad_norm", "clip", size)
        else:
            r.call_times(clip_call, plan.owned_tensors)
            r.kernel("compute", "grad_norm", "clip", size)
        sent = 4.0 * plan.owned_tensors if norm_bytes is None else norm_bytes
        # norms are reduced over one mesh dimension at a time, of experts and of the others apart
        apart = 4.0 * plan.owned_experts
        chains = ((apart, ("expert-shard", "expert")), (sent - apart, ("shard", "tensor")))
        for norms, axes in chains:
            for group in axes if norms else ():
                if group in plan.groups and plan.groups[group].size > 1:
                    r.collective("compute", "all_reduce", "clip", group, norms, norms, norm_dtype)
        if (sent or norm_bytes is None) and "pipeline" in plan.groups:  # of all stages, squared
            r.collective("compute", "all_reduce", "clip", "pipeline", 4.0, 4.0, norm_dtype)
        if plan.optimizer_on_host:
            r.host_sync(r.record("compute"))
            r.host("clip", "clip", 2 * size)
        else:
            r.kernel("compute", "clip", "clip", 2 * size)
    before_step()
    if plan.optimizer_on_host:
        r.host("optimizer", "optimizer", update_bytes * plan.owned_numel)
    else:
        r.call_times("optimizer.tensor", plan.owned_tensors)
        r.issue(SEGMENT, "compute", "optimizer", "optimizer")
