"""Operators of one optimizer step and of gradient clipping over a list of tensors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from counting import Watch

TENSORS = 24
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def play(kind: str, dtype: str, tensors: int) -> Watch:
    """One step after two to warm up."""
    torch.manual_seed(0)
    parameters = [
        torch.nn.Parameter(torch.randn(8, 8, dtype=DTYPES[dtype])) for _ in range(tensors)
    ]
    how = {"foreach": {"foreach": True}, "fused": {"fused": True}, "for-loop": {"foreach": False}}
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, **how.get(kind, {}))
    watch = Watch()
    for step in range(3):
        for p in parameters:
            p.grad = torch.randn_like(p)
        with watch:
            watch.phase = "step" if step == 2 else ""
            if kind == "clip":
                torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            else:
                optimizer.step()
            watch.phase = ""
    return watch


def record(kind: str, dtype: str) -> dict[str, Any]:
    """What is there whatever the number of tensors, and what each adds."""
    some, more = play(kind, dtype, TENSORS), play(kind, dtype, 2 * TENSORS)
    one, two = some.kernels["step"], more.kernels["step"]
    each = Counter({k: (two[k] - one[k]) / TENSORS for k in two if two[k] != one[k]})
    lists = {k: v for k, v in one.items() if k.startswith(("_foreach", "_fused"))}
    fixed = {k: v for k, v in one.items() if k not in lists and k not in each}
    if kind == "foreach":
        lists["_foreach_add_"] -= 1  # of the step counters, in host memory
    if kind == "for-loop":
        each["add_"] -= 1  # the same
    host = (more.operators["step"] - some.operators["step"]) / TENSORS - sum(each.values())
    return {"what": kind, "dtype": dtype, "lists": lists, "fixed": fixed, "tensor": dict(each),
            "host_operators_tensor": host}  # fmt: skip


def cases() -> list[tuple[str, str]]:
    """What is recorded."""
    return [(k, d) for k in ("foreach", "fused", "for-loop", "clip") for d in DTYPES]
