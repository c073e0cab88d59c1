"""Checks of the optimizer: where its states lie, and what it cannot step."""

from __future__ import annotations

from sim.inputs.finding import Findings, fault, warning
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload

#: AdamW of projected gradients, and what the libraries are called
PROJECTED = {"galore": "GaLore", "galore-8bit": "GaLore", "apollo": "APOLLO"}
#: optimizers that step whole matrices
OF_MATRICES = {"muon": "Muon", **PROJECTED}


def findings(workload: Workload) -> Findings:
    """Every finding about a workload's optimizer."""
    yield from _paged(workload)
    yield from _on_host(workload)
    yield from _by_matrix(workload)
    yield from _projected(workload)
    yield from _in_backward(workload)


def _paged(w: Workload) -> Findings:
    if not w.optimizer_paged:
        return
    path, message = "optimizer_paged", ""
    if not w.optimizer.startswith(("adam", "lion")):
        message = f"bitsandbytes pages the states of AdamW and Lion, not of {w.optimizer}"
    elif w.optimizer == "adamw-bf16":
        message = "bitsandbytes pages states of 32 or 8 bits, not those of adamw-bf16"
    elif w.parallelism.offload != "none":
        message = f"offload: {w.parallelism.offload} keeps what is updated on the host already"
    if message:
        yield fault("paged", "workload", path, message, "leave it out")


def _on_host(w: Workload) -> Findings:
    """Kernels of bitsandbytes are the GPU's; torchao's AdamW of 8 bits runs on both."""
    if w.optimizer == "lion-8bit" and w.parallelism.offload != "none":
        message = (
            f"offload: {w.parallelism.offload} steps on the CPU, for which nobody has lion-8bit"
        )
        yield fault(
            "offload-optimizer", "workload", "optimizer", message, "write lion, or offload: none"
        )


def _by_matrix(w: Workload) -> Findings:
    """Who steps whole matrices, one after another, does so once all of a gradient is there."""
    if w.optimizer not in OF_MATRICES:
        return
    p, message, name = w.parallelism, "", w.optimizer
    hint = "write strategy: ddp, or optimizer: adamw"
    if p.strategy not in ("single", "ddp") or max(p.tensor_parallel, p.pipeline_parallel) > 1:
        message = (
            f"{name} needs whole matrices, of which a rank of {p.strategy} has parts: how those are"
            " gathered differs by library and is not modelled"
        )
    elif w.optimizer_in_backward:
        message, hint = f"{name} is not stepped within backward", "leave optimizer_in_backward out"
        if name != "muon":
            message = f"{name} layer by layer, within backward, is not modelled"
    elif w.model.experts and w.experts == "grouped":
        message = f"{name} takes matrices; grouped experts are one parameter of three axes"
        hint = "write experts: eager, or optimizer: adamw"
    if message:
        code = "muon" if name == "muon" else "projected"
        yield fault(code, "workload", "optimizer", message, hint)


def _projected(w: Workload) -> Findings:
    """What GaLore and APOLLO are not for, and what of GaLore's step is not counted."""
    if w.optimizer not in PROJECTED:
        if w.optimizer_rank != Workload.model_fields["optimizer_rank"].default:
            message = f"{w.optimizer} projects nothing"
            hint = "write optimizer: galore, or leave it out"
            yield warning("optimizer-rank", "workload", "optimizer_rank", message, hint)
        return
    if w.method.adapted:
        message = f"{w.optimizer} projects gradients of whole matrices; adapters are of low rank"
        yield fault("projected", "workload", "optimizer", message, "write adamw")
    if w.optimizer != "apollo":
        message = (
            "the SVD of every matrix each 200 steps or so is not counted (of 7B some ten minutes,"
            " by Q-GaLore's authors: seconds a step)"
        )
        yield warning("galore-svd", "workload", "optimizer", message, "apollo makes none")


def _in_backward(w: Workload) -> Findings:
    """What needs all gradients, or those of several micro-steps, has none to wait for.

    Source: torchtune, recipes/full_finetune_single_device.py and full_finetune_distributed.py,
    which refuse accumulation and clipping.
    """
    if not w.optimizer_in_backward:
        return
    p, otherwise = w.parallelism, "leave it out"
    faults: list[tuple[bool, str, str]] = [
        (
            not strategy_of(w).steps_in_backward,
            f"{p.strategy} reduces gradients for a step after backward",
            "write single or fsdp2, or leave it out",
        ),
        (p.offload != "none", f"offload: {p.offload} steps on the host, after backward", otherwise),
        (
            p.tensor_parallel > 1 or p.pipeline_parallel > 1,
            "it is not modelled under tensor or pipeline parallelism",
            "write 1 for both, or leave it out",
        ),
        (
            w.gradient_accumulation > 1,
            "a gradient is gone before the next micro-step could add to it",
            "write gradient_accumulation: 1",
        ),
        (
            p.clip_gradients,
            "the norm of all gradients is known only after each has been used",
            "write parallelism.clip_gradients: false",
        ),
        (
            w.precision.kind == "fp16",
            "loss scaling looks for overflows in all gradients before any is used",
            "write precision: bf16",
        ),
    ]
    for wrong, message, hint in faults:
        if wrong:
            yield fault("in-backward", "workload", "optimizer_in_backward", message, hint)
