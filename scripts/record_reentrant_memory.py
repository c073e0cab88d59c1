"""Record what outlives a block's backward under FSDP, frozen weights and checkpointing.

Two gloo processes on the CPU train a small stack of Llama-like blocks, in every combination of
sharding (none, fsdp1, fsdp2), trained weights (all; adapters, in the block's unit or, as PEFT's
wrap policy does, in units of their own), checkpointing (none, not reentrant, reentrant) and its
place (around the sharded block, as transformers calls it, or inside it). In the third step, at the
start of each block's second forward, live storages of the size of a block's input are counted,
whoever holds them. PyTorch is no dependency of this package: install it apart.

pip install torch==2.13.0 numpy
python scripts/record_reentrant_memory.py > tests/data/reentrant_memory.json
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

RANKS, TOKENS, HIDDEN, FFN, HEADS, RANK, VOCABULARY = 2, 48, 64, 160, 2, 4, 96
LAYERS = (8, 12)
UNIT = 4 * TOKENS * HIDDEN  # bytes of a block's input: fp32, one sequence


class Watch(TorchDispatchMode):
    """Storages as large as a block's input, and how many of them live."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, StorageWeakRef] = {}
        self.counts: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and type(tensor) is not nn.Parameter:
                storage = tensor.untyped_storage()
                if storage.nbytes() == UNIT:
                    self.seen[storage._cdata] = StorageWeakRef(storage)
        return out

    def count(self) -> None:
        """Note how many live now."""
        self.seen = {at: ref for at, ref in self.seen.items() if not ref.expired()}
        self.counts.append(len(self.seen))


class Adapted(nn.Module):
    """A linear layer with an adapter beside it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs, bias=False)
        self.down = nn.Linear(inputs, RANK, bias=False)
        self.up = nn.Linear(RANK, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


class Block(nn.Module):
    """Attention and a gated MLP, each behind a norm."""

    def __init__(self, adapters: bool, entered: Callable[[], None]) -> None:
        super().__init__()
        linear = Adapted if adapters else partial(nn.Linear, bias=False)
        self.qkv, self.out = linear(HIDDEN, 3 * HIDDEN), linear(HIDDEN, HIDDEN)
        self.gate_up, self.down = linear(HIDDEN, 2 * FFN), linear(FFN, HIDDEN)
        self.norms = nn.ModuleList(nn.RMSNorm(HIDDEN) for _ in range(2))
        self.entered = entered

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.entered()
        shape = (*x.shape[:2], 3, HEADS, HIDDEN // HEADS)
        q, k, v = self.qkv(self.norms[0](x)).view(shape).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Inside(nn.Module):
    """A module whose inner one is checkpointed."""

    def __init__(self, inner: nn.Module, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.call = inner, call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(self.inner, x)


class Model(nn.Module):
    """Embedding, blocks, head."""

    def __init__(self, blocks: list[nn.Module], call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        self.call = call

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        if not x.requires_grad:  # as `enable_input_require_grads` does
            x.requires_grad_(True)
        for block in self.blocks:
            x = self.call(block, x)
        return self.head(x)


def _checkpoint(reentrant: bool, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = checkpoint(module, x, use_reentrant=reentrant)
    return out


def _plain(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = module(x)
    return out


def record(case: dict[str, Any]) -> list[int]:
    """Train three steps and give the counts of the last one's backward."""
    torch.manual_seed(0)
    watch = Watch()
    backward = False

    def entered() -> None:
        if backward:
            watch.count()

    kind, inside = case["checkpointing"], case["place"] == "inside"
    recompute = _plain if kind == "none" else partial(_checkpoint, kind == "reentrant")
    adapters = case["trained"] != "all"
    blocks: list[nn.Module] = [Block(adapters, entered) for _ in range(case["layers"])]
    if inside:
        blocks = [Inside(block, recompute) for block in blocks]
    model: nn.Module = Model(blocks, _plain if inside else recompute)
    if adapters:
        trained = {id(p) for m in model.modules() if isinstance(m, Adapted)
                   for p in (m.down.weight, m.up.weight)}  # fmt: skip
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
    if case["sharding"] == "fsdp2":
        for block in blocks:
            fully_shard(block)
        fully_shard(model)
    elif case["sharding"] == "fsdp1":
        apart = case["trained"] == "adapters apart"
        units = {id(m) for m in blocks}
        if apart:
            units |= {id(x) for m in model.modules() if isinstance(m, Adapted)
                      for x in (m.down, m.up)}  # fmt: skip

        def policy(module: nn.Module, recurse: bool, **_: Any) -> bool:
            return recurse or id(module) in units

        model = FullyShardedDataParallel(
            model, auto_wrap_policy=policy, use_orig_params=not apart,
            device_id=torch.device("cpu"),
        )  # fmt: skip
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    tokens = torch.arange(TOKENS)[None] % VOCABULARY
    for _ in range(3):
        watch.counts.clear()
        with watch:
            logits = model(tokens)
            loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
            del logits
            backward = True
            loss.backward()
            backward = False
            watch.count()  # after it
        optimizer.step()
        optimizer.zero_grad()
    return list(watch.counts)


def cases() -> list[dict[str, Any]]:
    """Every combination that there is."""
    found = []
    for layers, sharding, trained, kind, place in itertools.product(
        LAYERS, ("none", "fsdp1", "fsdp2"), ("all", "adapters", "adapters apart"),
        ("none", "not reentrant", "reentrant"), ("around", "inside"),
    ):  # fmt: skip
        if trained == "adapters apart" and sharding != "fsdp1":
            continue
        if kind == "none" and place == "inside":
            continue
        found.append({"layers": layers, "sharding": sharding, "trained": trained,
                      "checkpointing": kind, "place": place})  # fmt: skip
    return found


def work(rank: int, port: int) -> None:
    """One process; the first prints."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    done = []
    for case in cases():
        counts: list[Any] = [None] * RANKS
        dist.all_gather_object(counts, record(case))
        if any(other != counts[0] for other in counts):
            raise RuntimeError(f"ranks disagree: {case} {counts}")
        *recomputed, after = counts[0]
        done.append({**case, "live": recomputed, "after": after})
    if rank == 0:
        text = {
            "source": "scripts/record_reentrant_memory.py",
            "command": "python scripts/record_reentrant_memory.py",
            "torch": torch.__version__.split("+")[0],
            "python": sys.version.split()[0],
            "ranks": RANKS,
            "unit": "live storages of the size of a block's input, at the start of each block's "
            "second forward, last block first; and after backward",
        }
        rows = ",\n".join(json.dumps(row) for row in done)
        sys.stdout.write(f'{json.dumps(text, indent=1)[:-2]},\n "cases": [\n{rows}\n]}}\n')
        sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(29731,), nprocs=RANKS)
