"""Checks of a workload alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.inputs import check_job, check_mesh, check_method, check_model, check_optimizer, reference
from sim.inputs.check_rows import check_rows
from sim.inputs.finding import Findings, fault, warning
from sim.inputs.modelling import ASYNC, keeps_weights, tensor_style
from sim.inputs.recipes import RECIPES, WRITTEN
from sim.inputs.registry import STRATEGIES
from sim.inputs.strategy import COMMON, having, strategy_named, strategy_of
from sim.inputs.versions import SOFTWARE, older, versions
from sim.inputs.workload import Parallelism, Workload

_DEFAULTS = Parallelism.model_construct()
#: what may be written of strategies that do not ask: they do so, or it was said of all once
_ANYWAY = {"gradient_sync": "every", "reduce_dtype": "fp32"}
_LIMITS = (
    ("sequence_length", 100_000_000), ("micro_batch", 1_000_000),
    ("gradient_accumulation", 1_000_000), ("tokens", 1e18), ("samples", 10**15), ("steps", 10**12),
    ("epochs", 1e6),
)  # fmt: skip


def findings(workload: Workload) -> Findings:
    """Every finding about a workload."""
    yield from check_job.findings(workload)
    yield from _knobs(workload.parallelism)
    yield from _offload(workload.parallelism)
    yield from strategy_of(workload).findings(workload)
    yield from check_optimizer.findings(workload)
    yield from check_method.findings(workload)
    yield from check_model.findings(workload.model)
    yield from check_model.of_job(workload)
    yield from check_mesh.workload_findings(workload)
    yield from _checkpointing(workload)
    yield from _fp8(workload)
    yield from _features(workload)
    yield from _loss(workload)
    yield from check_rows(workload)
    yield from reference.findings(workload)
    yield from _absurd(workload)


def _knobs(p: Parallelism) -> Findings:
    """A knob of another strategy is a wish that would silently not be granted."""
    strategy = strategy_named(p.strategy)
    own = COMMON | strategy.knobs
    for knob in Parallelism.model_fields:
        default = getattr(_DEFAULTS, knob)
        if knob in own or getattr(p, knob) in (default, _ANYWAY.get(knob, default)):
            continue
        message = f"{p.strategy} has no such knob; it belongs to {', '.join(having(knob))}"
        hint = strategy.instead.get(knob, "leave it out, or change the strategy")
        yield fault("foreign-knob", "workload", f"parallelism.{knob}", message, hint)
    if "wrap" in own and p.wrap not in strategy.wraps:
        message = f"{p.strategy} has no wrap: {p.wrap}"
        hint = f"write {' or '.join(strategy.wraps)}"
        yield fault("wrap", "workload", "parallelism.wrap", message, hint)


def _offload(p: Parallelism) -> Findings:
    path, strategy = "parallelism.offload", strategy_named(p.strategy)
    if p.offload == "none":
        if p.offload_device != "cpu":
            message = "nothing is offloaded"
            yield fault(
                "no-offload", "workload", "parallelism.offload_device", message, "add offload: all"
            )
        return
    if not strategy.offloads:
        message = f"{p.strategy} cannot offload"
        yield fault("offload", "workload", path, message, "write fsdp2, zero2 or zero3")
    elif p.offload not in strategy.offloads:
        if strategy.offloads == ("all",):
            message = f"{p.strategy} offloads parameters, gradients and optimizer together"
            yield warning("offload", "workload", path, message, "write all, or zero3 for parts")
        else:
            granted = " or ".join(strategy.offloads)
            message = f"{p.strategy} offloads the {granted} only"
            yield fault("offload", "workload", path, message, f"write {granted}, or zero3")
    if p.offload_device not in strategy.offload_devices:
        message = f"{p.strategy} cannot offload to {p.offload_device.upper()}"
        path = "parallelism.offload_device"
        able = [n for n in STRATEGIES if p.offload_device in strategy_named(n).offload_devices]
        yield fault("offload-nvme", "workload", path, message, f"{', '.join(able)} can")


def _checkpointing(w: Workload) -> Findings:
    c = w.activation_checkpointing
    yield from _activation_offload(w)
    if c.kind != "selective-blocks":
        return
    if c.fraction is None and c.every > w.model.layers:
        message = f"every {c.every}-th of {w.model.layers} blocks is none"
        yield fault(
            "selective", "workload", "activation_checkpointing", message, "write a smaller n"
        )


def _activation_offload(w: Workload) -> Findings:
    c, path = w.activation_checkpointing, "activation_checkpointing.offload"
    if not c.offload:
        return
    if c.kind == "none":
        message = "without checkpointing there are no block inputs to send to the host"
        yield fault("offload-nothing", "workload", path, message, "write {full: {offload: true}}")
    if not strategy_of(w).offloads_inputs:
        message = f"{w.parallelism.strategy} does not send checkpointed inputs to the host"
        yield fault("offload-inputs", "workload", path, message, "write fsdp2, or leave it out")


def _fp8(w: Workload) -> Findings:
    p = w.precision
    if not p.low:
        return
    recipe = RECIPES.get(p.recipe)
    if recipe is None or recipe.dtype != p.kind:
        message = f"{p.recipe} is no recipe of {p.kind}"
        known = ", ".join(name for name in WRITTEN if RECIPES[name].dtype == p.kind)
        yield fault("recipe-dtype", "workload", "precision.recipe", message, f"write {known}")
        return
    if any(p.bf16_ends) and sum(p.bf16_ends) >= w.model.layers:
        message = f"{' and '.join(map(str, p.bf16_ends))} of {w.model.layers} layers leave none"
        message += f" in {p.kind}"
        yield fault("bf16-layers", "workload", "precision", message, "write fewer, or bf16")
    gathers = strategy_of(w).gathers_fp8
    if p.all_gather == "fp8" and not gathers:
        message = f"{w.parallelism.strategy} has no FP8 all-gather"
        hint = "fsdp2 and megatron have"
        yield fault("fp8-all-gather", "workload", "precision.all_gather", message, hint)
    elif p.all_gather == "fp8" and p.recipe != gathers:
        message = f"{p.recipe} has no FP8 all-gather under {w.parallelism.strategy}"
        hint = f"{gathers} has; write all_gather: bf16 otherwise"
        yield fault("fp8-all-gather", "workload", "precision.all_gather", message, hint)
    elif p.all_gather == "fp8" and any(p.bf16_ends) and not keeps_weights(w):
        message = f"{w.parallelism.strategy} gathers all of a model's layers alike"
        hint = "write all_gather: bf16, or leave bf16_first and bf16_last out"
        yield fault("fp8-all-gather", "workload", "precision.all_gather", message, hint)
    if recipe.compiles and not w.compile:
        message = f"{p.recipe} without compile runs its casts as separate kernels"
        yield warning("fp8-eager", "workload", "compile", message, "write compile: true")


def _features(w: Workload) -> Findings:
    """Software too old for what the workload asks for."""
    used: list[tuple[str, str]] = (
        [("attention", w.attention)] if w.attention not in ("eager", "triton", "te") else []
    )
    strategy = strategy_of(w)
    if strategy.feature:
        used.append(("parallelism.strategy", strategy.feature))
    if w.compile:
        used.append(("compile", "compile"))
    if w.precision.recipe in RECIPES:
        used.append(("precision", RECIPES[w.precision.recipe].feature))
    if w.stack.expandable_segments:
        used.append(("stack.expandable_segments", "expandable-segments"))
    if w.stack.nccl_path != "plain":
        used.append(("stack.nccl_path", f"nccl-{w.stack.nccl_path}"))
    if tensor_style(w) == ASYNC:
        used.append(("parallelism.tensor_parallel_style", "async-tensor-parallel"))
    if w.parallelism.context_parallel > 1 and strategy.context_parallel:
        used.append(("parallelism.context_parallel", "context-parallel"))
    table = versions()["feature"]
    for path, feature in used:
        yield from too_old(w, feature, table[feature], f"raise {{key}}, or change {path}")


def _loss(w: Workload) -> Findings:
    if w.loss == "chunked" and w.loss_chunks == 1:
        message = "one chunk is the whole: all logits are there at once, as without chunks"
        hint = "write 8, or loss: eager"
        yield warning("no-effect", "workload", "loss_chunks", message, hint)


def too_old(w: Workload, what: str, needs: Mapping[str, Any], hint: str) -> Findings:
    """Software of a stack that is older than something needs.

    Parameters
    ----------
    w : Workload
        With its stack.
    what : str
        What needs it: a feature, a GPU.
    needs : mapping of str to str
        The oldest version by software; what is not in it may be of any.
    hint : str
        What to do, with ``{key}`` and ``{need}``.
    """
    for software, name in SOFTWARE.items():
        need, have, key = needs.get(software), getattr(w.stack, software), f"stack.{software}"
        if need is not None and older(have, need):
            message = f"{what} needs {name} {need} or newer; stack says {have}"
            yield fault("too-old", "workload", key, message, hint.format(key=key, need=need))


def _absurd(w: Workload) -> Findings:
    for key, limit in _LIMITS:
        value = getattr(w, key)
        if value is not None and value > limit:
            message = f"{value:g} is more than any job has ({limit:g})"
            yield fault("absurd", "workload", key, message, "check the number")
