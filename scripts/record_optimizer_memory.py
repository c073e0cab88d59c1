"""Record what a step of PyTorch's AdamW keeps and allocates, by dtype and implementation; Muon's.

Parameters of several sizes take two steps on the CPU. Bytes of a parameter element: states after a
step (counters apart), and the most that lives beside parameters, gradients and states within the
second step. PyTorch is no dependency of this package: install it apart.

pip install torch==2.13.0
python scripts/record_optimizer_memory.py > tests/data/optimizer_memory.json
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SHAPES = ((512, 256), (1024, 128), (2048,), (256, 512))
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "foreach": {"foreach": True}, "fused": {"fused": True}, "for-loop": {"foreach": False},
}  # fmt: skip


class Watch(TorchDispatchMode):
    """Storages that come into being, and the most bytes of them that live at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}
        self.known: set[int] = set()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.numel() > 1:
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.seen = {at: entry for at, entry in self.seen.items() if not entry[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.seen.values()))
        return out


def record(dtype: torch.dtype, implementation: str) -> dict[str, Any]:
    """Take two steps; count in the second."""
    parameters = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, **IMPLEMENTATIONS[implementation])
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "implementation": implementation,
        "elements": sum(p.numel() for p in parameters),
        "tensors": len(parameters),
        "largest": max(p.numel() for p in parameters),
        **watched(parameters, optimizer),
    }


def record_muon(dtype: torch.dtype, shape: tuple[int, int]) -> dict[str, Any]:
    """The same of one matrix, since Muon steps one after another."""
    parameter = torch.nn.Parameter(torch.randn(shape).to(dtype))
    found = watched([parameter], torch.optim.Muon([parameter]))
    return {"dtype": str(dtype).removeprefix("torch."), "shape": shape, **found}


def watched(
    parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, int]:
    """States after a step, and the most that the next one allocates."""
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    held = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    ]
    watch = Watch()
    everything = [*parameters, *(p.grad for p in parameters if p.grad is not None), *held]
    watch.known = {tensor.untyped_storage()._cdata for tensor in everything}
    with watch:
        optimizer.step()
    return {
        "state_bytes": sum(t.untyped_storage().nbytes() for t in held),
        "scratch_bytes": watch.most,
    }


def main() -> None:
    """Every combination, as JSON."""
    torch.manual_seed(0)
    dtypes = (torch.bfloat16, torch.float32)
    cases = [record(*case) for case in itertools.product(dtypes, IMPLEMENTATIONS)]
    matrices = [shape for shape in SHAPES if len(shape) == 2]
    muon = [record_muon(*case) for case in itertools.product(dtypes, matrices)]
    found = {"torch": torch.__version__.partition("+")[0], "cases": cases, "muon": muon}
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
