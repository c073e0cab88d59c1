"""Record which operations PEFT's DoRA layer runs, how many bytes each moves, and what it keeps.

A dispatch mode notes every operation of a forward and a backward of PEFT's `Linear`, products by
their shape, the others by bytes an element of the widest tensor; what autograd keeps is what still
lives after forward. By dtype of the adapters, with and without autocast and dropout, which is
torch's fused kernel, as CUDA takes it. PyTorch and PEFT are no dependencies of this package.

pip install torch==2.13.0 peft==0.21.2
python scripts/record_dora.py > tests/data/dora.json
"""

from __future__ import annotations

import gc
import json
import sys
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TOKENS, N_IN, N_OUT, RANK = 384, 512, 1024, 16
NO_KERNEL = {"view", "t", "transpose", "permute", "detach", "_unsafe_view", "expand", "unsqueeze"}
OF = {TOKENS * N_IN: "in", TOKENS * N_OUT: "out", N_IN * N_OUT: "weight", N_IN * N_IN: "eye"}


class Watch(TorchDispatchMode):
    """Operations that run a kernel on more than a vector: of what, bytes an element of it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        tensors = [t for t in tree_leaves((args, kwargs or {}, out)) if isinstance(t, torch.Tensor)]
        widest = max((t.numel() for t in tensors), default=0)
        if name == "mm":
            (m, k), n = tensors[0].shape, tensors[1].shape[1]
            self.rows.append([name, [m, n, k], tensors[0].element_size()])
        elif name not in NO_KERNEL and widest in OF:
            moved = sum(t.element_size() * t.numel() for t in tensors)
            self.rows.append([name, OF[widest], round(moved / widest, 1)])
        return out


class _Kept:
    """What autograd was handed, as long as it holds on to it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def record(dtype: torch.dtype, autocast: bool, dropout: float) -> dict[str, Any]:
    """Forward's and backward's operations, and bytes kept beside the layer's own tensors."""
    base = nn.Linear(N_IN, N_OUT, bias=False, dtype=torch.bfloat16)
    base.weight.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=16, lora_dropout=dropout, use_dora=True)
    layer = Linear(base, "default", config=config, r=RANK, lora_alpha=16)
    adapters = [p for name, p in layer.named_parameters() if "lora_" in name]
    for p in adapters:
        p.data = p.data.to(dtype)
        p.requires_grad_(True)
    x = torch.ones(TOKENS, N_IN, dtype=torch.bfloat16, requires_grad=True) * 1
    handed: list[weakref.ref[_Kept]] = []

    def pack(tensor: torch.Tensor) -> _Kept:
        kept = _Kept(tensor)
        handed.append(weakref.ref(kept))
        return kept

    forward, backward = Watch(), Watch()
    for device in ("cpu", "cuda"):  # on a GPU `is_autocast_enabled` asks for CUDA's
        torch.set_autocast_enabled(device, autocast)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor), forward:
        y = layer.train()(x)
    for device in ("cpu", "cuda"):
        torch.set_autocast_enabled(device, False)
    gc.collect()
    own = {t.untyped_storage().data_ptr() for t in (x, base.weight, *adapters)}
    kept = {t.tensor.untyped_storage().data_ptr(): t.tensor for r in handed if (t := r())}
    # copies of the adapters in the compute dtype are gone after the step, and small
    small = {p.numel() for p in adapters if p.dim() > 1}
    sizes = [
        t.element_size() * t.numel()
        for place, t in kept.items()
        if place not in own and t.numel() not in small
    ]
    gradient = torch.ones_like(y)
    with backward:
        torch.autograd.grad(y, [x, *adapters], gradient)
    return {"forward": forward.rows, "backward": backward.rows, "kept": sum(sizes)}


def main() -> None:
    """All combinations, as JSON."""
    torch.set_autocast_dtype("cpu", torch.bfloat16)
    F.dropout = lambda x, p, training, inplace=False: torch.native_dropout(x, p, training)[0]
    found = [
        {"adapters": str(dtype).removeprefix("torch."), "autocast": autocast, "dropout": dropout,
         **record(dtype, autocast, dropout)}
        for dtype in (torch.float32, torch.bfloat16)
        for autocast in (False, True)
        for dropout in (0.0, 0.05)
    ]  # fmt: skip
    json.dump(found, sys.stdout)
    print()


if __name__ == "__main__":
    main()
