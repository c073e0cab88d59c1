"""Changes worth trying: what each sets, in which words, when it applies and what it is good for.

`run`, `memory` and whoever else proposes changes takes them from here, so that one change has one
wording and, simulated by `sim.step.step`, one figure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from sim.errors import InfeasibleError
from sim.inputs.checks import check
from sim.inputs.dtypes import casts_frozen, compute_dtype
from sim.inputs.method import Method
from sim.inputs.rows import varied
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.trainer import reduces_each
from sim.inputs.versions import sdpa_flash, sdpa_since
from sim.inputs.workload import Checkpointing, Precision, Workload
from sim.memory.bound import solve
from sim.result.change import Aim, Change, Maker
from sim.result.spread import spread
from sim.step.step import memory_of
from sim.strategies.fsdp1_checkpoints import keeps_inputs


def changes(topology: Topology, workload: Workload, aim: Aim) -> Iterator[Change]:
    """Changes with an aim that the loader neither refuses nor warns of at the keys they set.

    Parameters
    ----------
    topology, workload : specs
        Checked by the loader.
    aim : str
        ``faster`` or ``smaller``.
    """
    now = check(topology, workload)
    for change in _all(topology, workload):
        if change.aim not in (aim, "both"):
            continue
        found = check(change.topology, change.workload)
        if not any(f.error or f.path in change.settings for f in found if f not in now):
            yield change


def shorter(topology: Topology, workload: Workload) -> Change | None:
    """Sequences cut to the longest that fit; None where that is less than a quarter of them."""
    try:
        longest = solve(topology, workload, "sequence_length")
    except InfeasibleError:
        return None
    length = longest.value
    if not 0.25 <= length / workload.sequence_length < 1.0:
        return None
    change = Maker(topology, workload).spelt(
        "smaller", {"sequence_length": length}, f"sequences cut to {length:,} tokens", trains=True,
        sequence_length=length,
    )  # fmt: skip
    now = check(topology, workload)
    refused = any(f.error for f in check(topology, change.workload) if f not in now)
    return None if refused else change


def _all(topology: Topology, workload: Workload) -> Iterator[Change]:
    yield from _rows(topology, workload)
    yield from _batch(topology, workload)
    yield from _kernels(topology, workload)
    yield from _checkpointing(topology, workload)
    yield from spread(topology, workload)
    yield from _training(topology, workload)


def _rows(topology: Topology, workload: Workload) -> Iterator[Change]:
    data = workload.data
    if data.packing is not False or not varied(workload):
        return
    make = Maker(topology, workload)
    for packing, text in ((True, "samples packed into full rows"), ("padding-free", "no padding")):
        changed = data.model_copy(update={"packing": packing})
        yield make.spelt("faster", {"data.packing": packing}, text, data=changed)


def _batch(topology: Topology, workload: Workload) -> Iterator[Change]:
    make = Maker(topology, workload)
    size, steps = workload.micro_batch, workload.gradient_accumulation
    if steps % 2 == 0:
        yield make.job(
            "faster", "twice the micro-batch, same global batch",
            micro_batch=2 * size, gradient_accumulation=steps // 2,
        )  # fmt: skip
    for less in sorted({1, size // 2} - {0, size}, reverse=True):
        if size * steps % less == 0:
            yield make.job(
                "smaller", f"micro-batch of {less}, same global batch",
                micro_batch=less, gradient_accumulation=size * steps // less,
            )  # fmt: skip


def _kernels(topology: Topology, workload: Workload) -> Iterator[Change]:
    make = Maker(topology, workload)
    gpus = topology.gpu_counts
    if not workload.compile:
        yield make.job("both", "torch.compile fuses element-wise kernels", compile=True)
    if workload.attention != "flash3":
        yield make.job("faster", "FlashAttention-3", attention="flash3")
    older = sdpa_flash(sdpa_since(workload.stack.torch)) if workload.attention == "sdpa" else ""
    if "flash1" in (workload.attention, older) or workload.attention == "eager":
        yield make.job("both", "FlashAttention-2", attention="flash2")
    if all(gpu.peak_fp8 for gpu in gpus) and workload.precision.kind == "bf16":
        fp8 = Precision.model_construct(
            kind="fp8", recipe="tensorwise", master=workload.precision.master
        )
        # eager, FP8's casts are kernels of their own and eat the gain
        yield make.spelt(
            "faster", {"precision": {"fp8": {"recipe": "tensorwise"}}, "compile": True},
            "FP8 linears under torch.compile", precision=fp8, compile=True,
        )  # fmt: skip
    precision = workload.precision
    if precision.kind == "fp32" and not precision.tf32 and all(gpu.peak_tf32 for gpu in gpus):
        tf32 = precision.model_copy(update={"tf32": True})
        yield make.spelt("faster", {"precision": "tf32"}, "products in TF32", precision=tf32)
    if workload.loss in ("eager", "huggingface"):
        yield make.job("smaller", "loss in chunks", loss="chunked")
        yield make.job("both", "fused linear cross-entropy", "loss", loss="fused-linear")


#: policies of checkpointing that are offered: as ``--set`` has them, and in words
_POLICIES: dict[str, tuple[Any, str]] = {
    "none": ("none", "no activation checkpointing"),
    "selective-op": ({"selective": "op"}, "per-op activation checkpointing"),
    "full": ("full", "full activation checkpointing"),
}
#: of each policy those that recompute less, and those that keep less
_LIGHTER = {"full": ("none", "selective-op"), "selective-op": ("none",)}
_HEAVIER = {"none": ("selective-op", "full"), "selective-op": ("full",), "full": ()}


def _checkpointing(topology: Topology, workload: Workload) -> Iterator[Change]:
    make = Maker(topology, workload)
    key, policy = "activation_checkpointing", workload.activation_checkpointing
    for kind in _LIGHTER.get(policy.kind, ()):
        yield _policy(topology, workload, kind, "faster")
        yield from _resized(topology, workload, kind, larger=False)
    for kind in _HEAVIER.get(policy.kind, ("full",)):
        yield _policy(topology, workload, kind, "smaller")
        yield from _resized(topology, workload, kind, larger=True)
    if policy.kind == "full" and not policy.offload and strategy_of(workload).offloads_inputs:
        offloaded = {"offload": True} | ({"reentrant": True} if policy.reentrant else {})
        yield make.spelt(
            "smaller", {key: {"full": offloaded}}, "checkpointed inputs on the host",
            activation_checkpointing=policy.model_copy(update={"offload": True}),
        )  # fmt: skip
    if policy.kind == "full" and keeps_inputs(workload):
        plain = {"full": {"offload": True}} if policy.offload else "full"
        yield make.spelt(
            "both", {key: plain}, "checkpointing that is not reentrant",
            activation_checkpointing=policy.model_copy(update={"reentrant": False}),
        )  # fmt: skip
    gathered = "stage3_max_live_parameters" in strategy_of(workload).knobs
    if gathered and workload.method.frozen and policy.reentrant:
        text = "a DeepSpeed that frees frozen weights"
        yield make.parallel("smaller", text, deepspeed_version="0.19.2")


def _policy(
    topology: Topology, workload: Workload, kind: str, aim: Aim, how: str = "", shortens: str = "",
    **update: Any,
) -> Change:  # fmt: skip
    """Another policy of checkpointing, with the keys of a batch that go with it."""
    value, text = _POLICIES[kind]
    return Maker(topology, workload).spelt(
        aim, {"activation_checkpointing": value, **update}, text + how, shortens=shortens,
        activation_checkpointing=Checkpointing.model_construct(kind=kind), **update,
    )  # fmt: skip


def _resized(
    topology: Topology, workload: Workload, kind: str, *, larger: bool
) -> Iterator[Change]:
    """A policy with the largest micro-batch at which it fits as surely, same global batch.

    Larger ones are worth recompute where each micro-step has an exchange of its own.
    """
    size, samples = workload.micro_batch, workload.micro_batch * workload.gradient_accumulation
    each = reduces_each(workload) or strategy_of(workload).gathers_blocks
    if larger and (topology.world_size == 1 or not each):
        return
    now = memory_of(topology, workload).verdict
    if not now.fits:
        return

    def change(micro_batch: int) -> Change:
        return _policy(
            topology, workload, kind, "faster", *_RESIZED[larger],
            micro_batch=micro_batch, gradient_accumulation=samples // micro_batch,
        )  # fmt: skip

    def too_large(micro_batch: int) -> bool:
        found = memory_of(topology, change(micro_batch).workload).verdict
        return not found.fits or bool(found.risk and not now.risk)

    sizes = [n for n in range(1, samples + 1) if samples % n == 0 and n >= size * larger]
    few = bisect_left(sizes, True, key=too_large)
    if few and ((sizes[few - 1] > size) if larger else (sizes[few - 1] < size)):
        yield change(sizes[few - 1])


#: what is said of the micro-batches that go with a policy, and the part of a step that it is after
_RESIZED = {
    False: (" in smaller micro-batches", ""),
    True: (" in larger micro-batches", "waits"),
}


def _training(topology: Topology, workload: Workload) -> Iterator[Change]:
    make = Maker(topology, workload)
    method, precision = workload.method, workload.precision
    if not method.adapted:
        targets = workload.model.linears
        lora = Method.model_construct(kind="lora", rank=16, targets=targets)
        yield make.spelt(
            "smaller", {"method": {"lora": {"rank": 16, "targets": "all-linear"}}},
            "LoRA of rank 16", trains=True, method=lora,
        )  # fmt: skip
    if method.kind == "lora":
        four = method.model_copy(update={"kind": "qlora", "quantization": "nf4"})
        yield make.spelt(
            "smaller", {"method": {"qlora": {"rank": four.rank, "quantization": "nf4"}}},
            "QLoRA: frozen weights in 4 bits", trains=True, method=four,
        )  # fmt: skip
    if method.kind == "lora" and casts_frozen(workload) and not method.prepare_kbit:
        loaded = method.model_copy(update={"frozen_dtype": "as-compute"})
        yield make.spelt(
            "both", {"method.frozen_dtype": "as-compute"},
            f"frozen weights loaded in {compute_dtype(workload)}", method=loaded,
        )  # fmt: skip
    mixed = precision.activations == "bf16" and precision.master == "fp32"
    if mixed and not method.frozen:
        pure = {"recipe": precision.recipe} if precision.low else {}
        yield make.spelt(
            "smaller", {"precision": {precision.kind: {**pure, "master": "bf16"}}},
            "pure bf16 weights", trains=True,
            precision=precision.model_copy(update={"master": "bf16"}),
        )  # fmt: skip
