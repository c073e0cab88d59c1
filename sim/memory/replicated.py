"""Memory walk of DDP and of DeepSpeed's ZeRO: gradients in buckets, parameters whole or by module.

Sources: torch DistributedDataParallel (buckets beside gradients unless views), DeepSpeed 0.19.8
stage_1_and_2.py and stage3.py: bf16 parameters, fp32 master partition, contiguous gradient buckets.
"""

from __future__ import annotations

from sim.blocks.activations import checkpoint_policy, head_footprint, layer_footprint
from sim.blocks.modules import ModelTree
from sim.inputs.shares import batch_on
from sim.inputs.workload import Workload
from sim.memory.ledger import Ledger
from sim.memory.states import (
    optimizer_bytes,
    optimizer_temporaries,
    scale_bytes,
    trainable_elements,
)
from sim.mesh import Mesh
from sim.strategies.units import (
    QUANTISED_BYTES,
    checkpointed,
    dtypes,
    is_matrix,
)
from sim.strategies.zero3 import zero3_live_peak
from sim.units import DTYPE_BYTES

HIDDEN = "recomputed activations and their gradients"


def walk_replicated(workload: Workload, tree: ModelTree, mesh: Mesh) -> Ledger:
    """Walk one optimizer step under ``ddp``, ``zero1``, ``zero2`` or ``zero3``.

    Parameters
    ----------
    workload : Workload
        The job.
    tree : ModelTree
        The model's parameters.
    mesh : Mesh
        How the ranks are grouped.

    Returns
    -------
    Ledger
        Live bytes at the end and the peak of every moment.
    """
    p = workload.parallelism
    stage = {"ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3}[p.strategy]
    ranks = mesh.size("fsdp")
    types = dtypes(workload)
    compute = DTYPE_BYTES[types.compute]
    elements, _, largest, _ = trainable_elements(workload.model, workload.method, 1)
    stored = _stored(tree, compute if stage else DTYPE_BYTES[types.master], workload)
    offload_states = p.offload in ("optimizer", "all")
    offload_parameters = p.offload in ("parameters", "all")
    ledger = Ledger()

    parameters = stored / ranks if stage == 3 else stored
    if stage == 3 and p.zero_hpz_partition_size > 1:
        # a second shard inside the group, in the compute dtype
        parameters += stored / p.zero_hpz_partition_size
    ledger.put("sharded parameters", 0.0 if offload_parameters else parameters)
    ledger.put("quantisation scales", scale_bytes(workload, tree))
    ledger.mark()
    if not offload_states:
        states = optimizer_bytes(workload, ranks)
        if stage and types.compute != "fp32":
            states += 4.0 * elements / ranks  # the fp32 master partition
        ledger.put("optimizer states", states)
    if stage == 0 and compute < DTYPE_BYTES[types.master]:
        # autocast keeps a cast copy of each weight until its backward
        ledger.put("unsharded parameters", compute * elements)
    tokens = batch_on(workload).local_tokens
    ledger.put("inputs", 8.0 * tokens)

    # what backward needs for communication
    bucket = 0.0
    if stage in (1, 2) and elements:
        size = 5e8 if p.reduce_bucket_size == "auto" else p.reduce_bucket_size
        if p.reduce_bucket_size == "auto":
            size = float(tree.layers[0].modules[0].parameters[0].shape[-1]) ** 2
        copies = 2 if p.overlap_comm else 1
        # DeepSpeed allocates whole buckets, however few parameters train
        bucket = copies * compute * max(size, largest)
    live = limit = gathering = 0.0
    if stage == 3:
        held, traps = zero3_live_peak(workload, tree, mesh)
        live, gathering = held["unsharded_parameters"], held["gather_buffer"]
        bucket = held["reduce_bucket"] + held["reduce_buffer"]
        limit = live
        if any(trap.code == "zero3-frozen-weights-pile-up" for trap in traps):
            # what piles up in backward is no part of forward, where the limit holds
            ahead = p.stage3_max_live_parameters + _prefetch(workload, tree)
            limit = max(min(live, compute * ahead), held["persistent_parameters"])
    grads_master = DTYPE_BYTES[types.master] if stage == 0 else compute
    kept = grads_master * elements
    if stage >= 2:
        kept = compute * elements / ranks
    if offload_states and stage >= 2:
        kept = 0.0

    policy = checkpoint_policy(workload)
    marks = checkpointed(workload.activation_checkpointing, len(tree.layers))
    pairs = [
        (block.kind, policy if marked else "none")
        for block, marked in zip(tree.layers, marks, strict=True)
    ]
    distinct = {pair: layer_footprint(workload, *pair) for pair in set(pairs)}
    prints = [distinct[pair] for pair in pairs]
    loss = head_footprint(workload)
    saved = "saved activations"
    for micro in range(min(workload.gradient_accumulation, 2)):
        ledger.moment = "forward"
        ledger.put("unsharded parameters", ledger.live.get("unsharded parameters", 0.0))
        if stage == 3:
            ledger.put("unsharded parameters", limit)
            ledger.put("all-gather buffers", gathering)
        for footprint in prints:
            ledger.mark_terms({saved: loss.hidden + footprint.forward_peak})
            ledger.add(saved, footprint.saved)
        ledger.mark_terms({"logits and loss": loss.forward_peak})
        ledger.moment = "backward"
        ledger.put("reduce-scatter buffers", bucket)
        extra = loss.backward_peak - loss.saved
        ledger.mark_terms({"logits and loss": loss.saved, "gradients of logits": extra})
        if stage == 0 and not micro:
            ledger.add("reduce-scatter buffers", kept)  # DDP's buckets, beside the gradients
        ledger.put("logits and loss", loss.held)
        step = kept / len(prints)
        for index, footprint in enumerate(reversed(prints), start=1):
            if stage == 3:  # what piles up does so layer by layer
                held_now = limit + (live - limit) * index / len(prints)
                ledger.put("unsharded parameters", held_now)
            gone = footprint.saved - footprint.backward_saved
            ledger.mark_terms({saved: -gone, HIDDEN: loss.hidden + footprint.backward_working})
            ledger.add(saved, -footprint.saved)
            if not micro:
                ledger.add("sharded gradients" if stage >= 2 else "unsharded gradients", step)
        ledger.mark_terms({HIDDEN: loss.hidden})
        ledger.put("logits and loss", 0.0)
    if stage:
        ledger.put("reduce-scatter buffers", 0.0)
    if stage == 3 or stage == 0:
        ledger.put("unsharded parameters", 0.0)
        ledger.put("all-gather buffers", 0.0)
    ledger.moment = "optimizer"
    scratch = 0.0
    if not offload_states:
        scratch = optimizer_temporaries(workload, ranks)
        if stage == 3 and elements:  # a sub-group at a time
            scratch *= min(1.0, p.sub_group_size * ranks / elements)
        if stage in (1, 2):
            scratch += 4.0 * elements / ranks  # the gradient partition in fp32
        elif stage == 3:
            scratch += 4.0 * min(elements / ranks, p.sub_group_size)
    ledger.mark_terms({"optimizer temporaries": scratch})
    ledger.put("sharded gradients", 0.0)
    ledger.put("unsharded gradients", 0.0)
    ledger.moment = "save"
    staging = 0.0
    if workload.checkpoint.mode == "full" and stage == 3:
        staging = compute * largest
    ledger.mark_terms({"checkpoint staging": staging})
    return ledger


def _prefetch(workload: Workload, tree: ModelTree) -> float:
    """Elements of one prefetch bucket of ZeRO-3."""
    size = workload.parallelism.stage3_prefetch_bucket_size
    if size == "auto":
        return 0.9 * float(tree.layers[0].modules[0].parameters[0].shape[-1]) ** 2
    return float(size)


def _stored(tree: ModelTree, element: float, workload: Workload) -> float:
    """Bytes of all parameters as they are kept, frozen 4-bit matrices packed."""
    types = dtypes(workload)
    frozen = DTYPE_BYTES[types.frozen]
    total = 0.0
    seen: dict[str, float] = {}
    for block in (tree.embedding, *tree.layers, tree.head):
        if block.kind not in seen:
            size = 0.0
            for module in block.modules:
                for q in module.parameters:
                    if q.trainable:
                        size += element * q.numel
                    elif (
                        types.quantised and block.kind.startswith("layer") and is_matrix(module, q)
                    ):
                        size += QUANTISED_BYTES * q.numel
                    else:
                        size += frozen * q.numel
            seen[block.kind] = size
        total += seen[block.kind]
    return total
