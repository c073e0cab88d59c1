"""Record where recompute ends: the operations that a non-reentrant checkpoint runs again.

A gated feed-forward network on the CPU, whose last product is trained, frozen, of a function of
its own that saves its weight as AutoGPTQ's triton_v2 layer does (when it has run), or of one that
keeps it as an attribute as bitsandbytes' 4-bit layer does. A dispatch mode notes what the second
forward runs. PyTorch is no dependency of this package: install it apart.

pip install torch==2.13.0 numpy
python scripts/record_early_stop.py > tests/data/early_stop.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

TOKENS, HIDDEN, FFN = 4, 8, 16
KERNELS = ("mm", "silu", "mul")


class Watch(TorchDispatchMode):
    """Names of operations that run a kernel, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name in KERNELS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


class SavesAfter(torch.autograd.Function):
    """As AutoGPTQ's QuantLinearFunction: multiply, then save what the weight is made of."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any) -> Any:
        """x W."""
        out = x @ weight.t()
        ctx.save_for_backward(weight)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Gradient of x."""
        return gradient @ ctx.saved_tensors[0], None


class KeepsAttribute(torch.autograd.Function):
    """As bitsandbytes' MatMul4Bit: the weight is an attribute of the context."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any) -> Any:
        """x W."""
        ctx.tensors = (None, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Gradient of x."""
        return gradient @ ctx.tensors[1], None


def again(kind: str) -> list[str]:
    """What the second forward runs, with a last product of this kind."""
    gate, up, down = (nn.Linear(HIDDEN, FFN, False), nn.Linear(HIDDEN, FFN, False),
                      nn.Linear(FFN, HIDDEN, False))  # fmt: skip
    for layer in (gate, up, down):
        layer.requires_grad_(kind == "trained")
    function = {"saves-after": SavesAfter, "attribute": KeepsAttribute}.get(kind)

    calls: list[Watch] = []

    def block(x: Any) -> Any:
        calls.append(Watch())
        with calls[-1]:
            h = F.silu(gate(x)) * up(x)
            return x + (function.apply(h, down.weight) if function else down(h))

    x = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    out = checkpoint(block, x, use_reentrant=False)
    out.backward(torch.ones_like(out))
    return calls[1].names


def main() -> None:
    """Write all kinds as JSON."""
    kinds = ("trained", "frozen", "saves-after", "attribute")
    json.dump({"torch": torch.__version__.split("+")[0], **{k: again(k) for k in kinds}},
              sys.stdout, indent=1)  # fmt: skip
    print()


if __name__ == "__main__":
    main()
