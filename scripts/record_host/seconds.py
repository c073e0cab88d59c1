"""CPU time of the host's work, in calls of one small operator on the same machine.

The unit is the CPU time of ``torch.add`` on two tensors of eight values without gradient, measured
beside every sample. Times are of the calling thread; of many samples the lower quartile stands, of
both, since what shares the machine only adds. The arithmetic of tensors this small is a part of
each operator, as a launch is on CUDA.
"""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from modelling import MODELS
from torch import nn
from torch.utils.checkpoint import checkpoint
from wrappers import group, micro, ready

REPEATS = 33
DEPTHS = (2, 7)
ONE = torch.ones(8)


def spent(call: Callable[[], Any], number: int) -> float:
    """CPU time of one call. [s]"""
    start = time.thread_time()
    for _ in range(number):
        call()
    return (time.thread_time() - start) / number


def reference() -> float:
    """CPU time of the unit. [s]"""
    with torch.no_grad():
        return spent(lambda: torch.add(ONE, ONE), 500)


def ratio(
    call: Callable[[], Any], number: int = 100, less: Callable[[], Any] | None = None
) -> float:
    """CPU time of a call, less that of another, in units."""
    call()
    found: tuple[list[float], ...] = ([], [], [])
    gc.disable()
    for _ in range(REPEATS):
        found[0].append(spent(call, number))
        found[1].append(spent(less, number) if less else 0.0)
        found[2].append(reference())
    gc.enable()
    one, other, unit = (quiet(values) for values in found)
    return round((one - other) / unit, 2)


def quiet(values: list[float]) -> float:
    """The lower quartile."""
    return statistics.quantiles(values, n=4)[0]


class Plain(nn.Module):
    """A module that returns its input."""

    def forward(self, x: Any) -> Any:
        return x


class Node(torch.autograd.Function):
    """A Python autograd function that does nothing."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g


def primitives() -> dict[str, float]:
    """Single calls."""
    small, leaf = torch.ones(8), torch.ones(8, requires_grad=True)
    square = torch.ones(8, 8)
    weight, module = torch.ones(8, 8, requires_grad=True), Plain()
    linear = nn.Linear(8, 8, bias=False)

    def nothing() -> None:
        pass

    def chain(nodes: int) -> Callable[[], Any]:
        def run() -> None:
            x = leaf
            for _ in range(nodes):
                x = x.neg()
            torch.autograd.grad(x, leaf, small)

        return run

    def forward(nodes: int) -> Callable[[], Any]:
        def run() -> None:
            x = leaf
            for _ in range(nodes):
                x = x.neg()

        return run

    def cast() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            linear(square)

    both = ratio(chain(50), 5)
    there = ratio(forward(50), 5)
    found = {
        "python_call": ratio(nothing, 1000),
        "view": ratio(lambda: small.view(2, 4), 200),
        "empty": ratio(lambda: torch.empty(8), 200),
        "operator_with_gradient": round(there / 50, 2),
        "operator_in_backward": round((both - there) / 50, 2),
        "product": ratio(lambda: torch.mm(square, square), 200),
        "linear_with_gradient": ratio(lambda: torch.nn.functional.linear(square, weight), 200),
        "cast": ratio(lambda: small.to(torch.bfloat16), 200),
        "module_call": ratio(lambda: module(small), 200, lambda: module.forward(small)),
        "autograd_function": ratio(lambda: Node.apply(leaf), 100),
        "autocast_linear": ratio(cast, 50, lambda: linear(square)),
        "item": ratio(lambda: small[0].item(), 200),
        "checkpoint_nonreentrant": ratio(
            lambda: checkpoint(module, leaf, use_reentrant=False), 20
        ),
        "checkpoint_reentrant": ratio(lambda: checkpoint(module, leaf, use_reentrant=True), 20),
    }  # fmt: skip
    return found


def adapted() -> dict[str, float]:
    """PEFT's LoRA linear more than the linear under it, forward."""
    from peft import LoraConfig, get_peft_model

    found = {}
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        for dropout in (0.0, 0.1):
            base = nn.Sequential(nn.Linear(16, 16, bias=False)).to(torch.bfloat16)
            model = get_peft_model(
                base, LoraConfig(r=4, target_modules=["0"], lora_dropout=dropout),
                autocast_adapter_dtype=dtype is torch.float32,
            ).train()  # fmt: skip
            layer = model.base_model.model[0]
            x = torch.ones(4, 16, dtype=torch.bfloat16, requires_grad=True)
            key = f"peft_linear_{name}_dropout_{dropout:g}"
            found[key] = ratio(partial(layer, x), 20, partial(layer.base_layer, x))
    return found


def issued() -> dict[str, float]:
    """A collective issued from Python, of the imagined group."""
    group("fsdp1")
    part, whole = torch.ones(8), torch.ones(64)
    return {
        "all_gather": ratio(lambda: dist.all_gather_into_tensor(whole, part), 50),
        "reduce_scatter": ratio(lambda: dist.reduce_scatter_tensor(part, whole), 50),
        "all_reduce": ratio(lambda: dist.all_reduce(part), 50),
    }


def updates(tensors: int) -> dict[str, float]:
    """Steps of optimizers and what goes with them, over so many tensors."""
    found = {}
    for kind, how in (("foreach", {"foreach": True}), ("fused", {"fused": True}),
                      ("for-loop", {"foreach": False})):  # fmt: skip
        leaves = [nn.Parameter(torch.ones(4)) for _ in range(tensors)]
        for leaf in leaves:
            leaf.grad = torch.ones(4)
        optimizer = torch.optim.AdamW(leaves, lr=1e-3, **how)
        found[f"adamw_{kind}"] = ratio(optimizer.step, 2)
        found["clip"] = ratio(partial(nn.utils.clip_grad_norm_, leaves, 1.0, foreach=True), 2)
        for leaf in leaves:
            leaf.grad = None
        found["zero_grad"] = ratio(optimizer.zero_grad, 5)
    return found


class Clock:
    """CPU time by phase."""

    def __init__(self) -> None:
        self.phase, self.since = "", 0.0
        self.times: dict[str, float] = {}

    def __call__(self, phase: str) -> None:
        now = time.thread_time()
        if self.phase:
            self.times[self.phase] = self.times.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, time.thread_time()


def layer_of(case: dict[str, Any]) -> dict[str, dict[str, float]]:
    """A layer's and the rest's CPU time in each phase of a last micro-step."""
    group(case["wrapper"])
    made = []
    for depth in DEPTHS:
        clock = Clock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, batch, inner = ready(case, depth)
        for layer in inner:
            layer.forward = _timed(layer.forward, clock)
        trained = [p for p in model.parameters() if p.requires_grad]
        made.append((model, batch, trained, clock))
    samples: list[dict[str, list[float]]] = [{}, {}]
    units: list[float] = []
    gc.collect()
    gc.freeze()
    gc.disable()
    for number in range(REPEATS):
        for found, (model, batch, trained, clock) in zip(samples, made, strict=True):
            clock.times.clear()
            micro(model, batch, case, True, clock)
            clock("clip")
            if case["wrapper"] == "fsdp1":
                model.clip_grad_norm_(1.0)
            else:
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
            clock("")
            for p in trained:
                p.grad = None
            unit = reference()
            if number > 4:
                for key, value in clock.times.items():
                    found.setdefault(key, []).append(value)
                units.append(unit)
        gc.collect()  # of a frozen heap: cheap
    gc.enable()
    few, many = DEPTHS
    rows: dict[str, dict[str, float]] = {"layer": {}, "rest": {}}
    for key in samples[0]:
        two, six = (quiet(found[key]) / quiet(units) for found in samples)
        each = (six - two) / (many - few)
        rows["layer"][key], rows["rest"][key] = round(each, 1), round(two - few * each, 1)
    return rows


def _timed(forward: Callable[..., Any], clock: Clock) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        again = clock.phase == "backward"
        if again:
            clock("recompute")
        try:
            return forward(*args, **kwargs)
        finally:
            if again:
                clock("backward")

    return run


def timed() -> list[dict[str, Any]]:
    """Steps that are timed: in fp32, for products in bf16 are slow on a CPU of whatever size."""
    plain: dict[str, Any] = {
        "model": "llama", "attention": "flash_attention_2", "method": "full", "adapter_dtype": "",
        "dropout": 0.0, "master": "fp32", "autocast": False, "checkpointing": "none",
        "padding": False, "batch": 1, "wrapper": "none", "policy": "blocks",
        "mixed_precision": False, "use_orig_params": True, "no_sync": True,
    }  # fmt: skip
    lora = plain | {"method": "lora", "adapter_dtype": "fp32", "dropout": 0.1}
    found = [plain | {"model": m} for m in MODELS if m != "llama"]
    for kind in ("none", "nonreentrant", "reentrant"):
        again = {"checkpointing": kind}
        for wrapper in ("none", "fsdp1", "fsdp2", "ddp"):
            if wrapper == "ddp" and kind != "none":
                continue
            found.append(plain | again | {"wrapper": wrapper})
            peft = {"policy": "peft"} if wrapper == "fsdp1" else {}
            found.append(lora | again | {"wrapper": wrapper} | peft)
    return found


def record() -> list[dict[str, Any]]:
    """All rows."""
    torch.set_num_threads(1)
    return [
        {"what": "calls", "units": primitives() | adapted() | issued()},
        {"what": "reference", "seconds": round(min(reference() for _ in range(50)), 9)},
        *({"what": "updates", "tensors": n, "units": updates(n)} for n in (32, 320)),
        *({"what": "layer", **case} | layer_of(case) for case in timed()),
    ]
