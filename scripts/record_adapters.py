"""Record which element-wise operations PEFT's LoRA layers run, and how many bytes each moves.

A dispatch mode notes every operation of a forward and a backward of PEFT's `Linear` and GPTQ
`QuantLinear`, by dtype of the adapters, with and without autocast, as bytes an element of the
layer's input or output. Dropout is torch's fused kernel, as CUDA takes it. PyTorch and PEFT are no
dependencies of this package: install them apart.

pip install torch==2.13.0 peft==0.13.2 transformers==4.45.2
python scripts/record_adapters.py > tests/data/adapters.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.gptq import QuantLinear
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TOKENS, N_IN, N_OUT, RANK = 256, 512, 1024, 16
NO_KERNEL = {"view", "t", "transpose", "detach", "_unsafe_view", "empty", "empty_like", "expand"}


class Watch(TorchDispatchMode):
    """Operations that run a kernel: name, dtypes read, columns, bytes read and written."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, str, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if name not in NO_KERNEL:
            read = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
            made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
            kinds = ",".join(str(t.dtype).removeprefix("torch.") for t in read)
            moved = sum(t.element_size() * t.numel() for t in (*read, *made))
            self.rows.append((name, kinds, made[0].shape[-1] if made[0].dim() else 1, moved))
        return out


def record(kind: str, dtype: torch.dtype, autocast: bool) -> dict[str, list[list[Any]]]:
    """Forward's and backward's operations on whole activations, products apart."""
    base = nn.Linear(N_IN, N_OUT, bias=False, dtype=torch.bfloat16)
    base.weight.requires_grad_(False)
    layer: nn.Module
    if kind == "gptq":
        base.infeatures, base.outfeatures = N_IN, N_OUT
        layer = QuantLinear(base, "default", r=RANK, lora_alpha=16, lora_dropout=0.05)
    else:
        layer = Linear(base, "default", r=RANK, lora_alpha=16, lora_dropout=0.05)
    adapters = [p for name, p in layer.named_parameters() if "lora_" in name]
    for p in adapters:
        p.data = p.data.to(dtype)
        p.requires_grad_(True)
    x = torch.ones(TOKENS, N_IN, dtype=torch.bfloat16, requires_grad=True) * 1
    forward, backward = Watch(), Watch()
    # on a GPU `is_autocast_enabled` asks for CUDA's
    torch.set_autocast_enabled("cpu", autocast)
    torch.set_autocast_enabled("cuda", autocast)
    with forward:
        y = layer.train()(x)
    torch.set_autocast_enabled("cpu", False)
    torch.set_autocast_enabled("cuda", False)
    gradient = torch.ones_like(y)
    with backward:
        torch.autograd.grad(y, [x, *adapters], gradient)
    return {
        way: [
            [name, kinds, {N_IN: "in", N_OUT: "out"}[columns], moved / (TOKENS * columns)]
            for name, kinds, columns, moved in found.rows
            if name != "mm" and moved >= 2 * TOKENS * N_IN
        ]
        for way, found in (("forward", forward), ("backward", backward))
    }


def main() -> None:
    """All combinations, as JSON."""
    torch.set_autocast_dtype("cpu", torch.bfloat16)
    F.dropout = lambda x, p, training, inplace=False: torch.native_dropout(x, p, training)[0]
    found = [
        {"layer": kind, "adapters": str(dtype).removeprefix("torch."), "autocast": autocast,
         **record(kind, dtype, autocast)}
        for kind in ("linear", "gptq")
        for dtype in (torch.float32, torch.bfloat16)
        for autocast in (False, True)
    ]  # fmt: skip
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
