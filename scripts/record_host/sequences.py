"""Collectives of FSDP1 with accumulation, in order, with unit and bytes; see tests/golden.

Hugging Face's tiny Llama in bf16, no mixed precision, as its trainer runs it: PEFT's policy, the
checkpoint around the sharded layer, clipping. The second of two steps of two micro-steps.
"""

from __future__ import annotations

import itertools
import re
import warnings
from typing import Any

import torch
import torch.distributed.fsdp._runtime_utils as runtime
from counting import COLLECTIVES
from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from wrappers import RANKS, group, micro, ready

LAYERS = 3
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
NAMES = {"q_proj": "wq", "v_proj": "wv"}


class Issued(TorchDispatchMode):
    """Collectives, with the phase and unit they are issued for."""

    def __init__(self) -> None:
        super().__init__()
        self.phase, self.unit, self.on = "", "root", False
        self.ops: list[list[Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and self.on:
            sides = [[t for t in tree_leaves(a) if isinstance(t, torch.Tensor)] for a in args]
            sides = [side for side in sides if side]
            out, into = (sum(t.nbytes for t in side) for side in (sides[0], sides[-1]))
            kind, dtype = COLLECTIVES[func._opname], DTYPES[sides[-1][0].dtype]
            self.ops.append([kind, self.phase, self.unit, into, out, dtype, RANKS])
        return func(*args, **(kwargs or {}))


def unit_name(path: str) -> str:
    """As plans name it: ``layers.0.wq.A``."""
    layer = re.search(r"layers\.(\d+)", path)
    if layer is None:
        return "root"
    adapter = re.search(r"(\w_proj)\S*lora_([AB])", path)
    inner = f".{NAMES[adapter[1]]}.{adapter[2]}" if adapter else ""
    return f"layers.{layer[1]}{inner}"


def play(case: dict[str, Any]) -> list[list[Any]]:
    """The collectives of the second step."""
    group("fsdp1")
    model, batch, _ = ready(case, LAYERS)
    issued = Issued()
    names = {id(m._handle): unit_name(name) for name, m in model.named_modules()
             if isinstance(m, Fsdp) and m._handle is not None}  # fmt: skip
    before = runtime._unshard, runtime._post_backward_hook

    def named(call: Any) -> Any:
        def run(state: Any, handle: Any, *args: Any) -> Any:
            held = issued.unit, issued.phase
            issued.unit = names.get(id(handle), "root")
            if handle is not None and issued.phase == "backward":
                # a second forward is forward to FSDP
                forward = handle._training_state.name == "FORWARD"
                issued.phase = "forward" if forward else "backward"
            try:
                return call(state, handle, *args)
            finally:
                issued.unit, issued.phase = held

        return run

    def phase(name: str) -> None:
        issued.phase = name

    runtime._unshard, runtime._post_backward_hook = (named(call) for call in before)
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        with issued, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in range(2):
                issued.on = step == 1
                for number in range(2):
                    micro(model, batch, case, number == 1, phase)
                issued.phase, issued.unit = "clip", ""
                model.clip_grad_norm_(1.0)
                for p in trained:
                    p.grad = None
    finally:
        runtime._unshard, runtime._post_backward_hook = before
    return issued.ops


def record() -> list[dict[str, Any]]:
    """Rows."""
    plain: dict[str, Any] = {
        "model": "llama", "attention": "flash_attention_2", "method": "lora",
        "adapter_dtype": "bf16", "dropout": 0.0, "master": "bf16", "autocast": False,
        "padding": False, "batch": 1, "wrapper": "fsdp1", "policy": "peft",
        "mixed_precision": False, "use_orig_params": True,
    }  # fmt: skip
    rows = []
    for dtype, kind, held in itertools.product(
        ("bf16", "fp32"), ("none", "nonreentrant", "reentrant"), (True, False)
    ):
        case = plain | {"adapter_dtype": dtype, "checkpointing": kind, "no_sync": held}
        rows.append(
            {"adapter_dtype": dtype, "checkpointing": kind, "no_sync": held, "ops": play(case)}
        )
    return rows
