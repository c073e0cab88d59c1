"""Record what whole-model autograd allocates at most in a step, gradients kept or stepped at once.

A small decoder in fp32, recomputed block by block, on the CPU; the most that lives beside weights
as the profiler of allocations has it. A dispatch mode would not do: with one there autograd adds no
gradient in place. PyTorch is no dependency of this package: install it apart.

pip install torch==2.13.0
python scripts/record_gradient_memory.py > tests/data/gradient_memory.json
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

TABLES = {"width": 256, "ffn": 1024, "vocabulary": 16384}  # most is in the tables
MATRICES = {"width": 512, "ffn": 2048, "vocabulary": 64}
LAYERS, HEADS, GROUPS = 4, 4, 2


class Norm(torch.autograd.Function):
    """As the fused kernel has it: saves its input and a statistic a row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1]), weight)
        return torch.empty_like(x).copy_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, _, weight = ctx.saved_tensors
        return gradients[0].clone(), torch.zeros_like(weight)


class Block(nn.Module):
    """Attention of grouped heads with rotary positions, and a gated MLP."""

    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.head = width // HEADS
        sizes = (width, GROUPS * self.head, GROUPS * self.head, width)
        self.attention = nn.ModuleList(nn.Linear(width, n, bias=False) for n in sizes)
        self.gate, self.up = (nn.Linear(width, ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(ffn, width, bias=False)
        self.norms = nn.ParameterList(torch.ones(width) for _ in range(2))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        normed = Norm.apply(x, self.norms[0])
        query, key, value = (
            linear(normed).view(batch, length, -1, self.head) for linear in self.attention[:3]
        )
        query, key = (_turned(part, cos, sin) for part in (query, key))
        key, value = (part.repeat_interleave(HEADS // GROUPS, 2) for part in (key, value))
        mixed = F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (query, key, value)), is_causal=True
        )
        x = x + self.attention[3](mixed.transpose(1, 2).reshape(batch, length, width))
        normed = Norm.apply(x, self.norms[1])
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Decoder(nn.Module):
    """Blocks between an embedding and a head, which may be one table."""

    def __init__(self, width: int, ffn: int, vocabulary: int, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, ffn) for _ in range(LAYERS))
        self.norm = nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        half = self.blocks[0].head // 2
        angle = torch.outer(torch.arange(tokens.shape[1]).float(), torch.rand(half))
        cos, sin = angle.cos()[None, :, None], angle.sin()[None, :, None]
        for block in self.blocks:
            x = checkpoint(block, x, cos, sin, use_reentrant=False, preserve_rng_state=False)
        return self.head(Norm.apply(x, self.norm))


def record(
    sizes: dict[str, int], length: int, tied: bool, within: bool, autocast: bool = False
) -> dict[str, Any]:
    """Take two steps; count in the second."""
    model = Decoder(*sizes.values(), tied=tied)
    weights = list(model.parameters())

    def stepped(weight: torch.Tensor) -> None:
        weight.data.add_(weight.grad, alpha=-0.1)
        weight.grad = None

    if within:
        for weight in weights:
            weight.register_post_accumulate_grad_hook(stepped)
    tokens = torch.randint(0, sizes["vocabulary"], (1, length))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(tokens).flatten(0, 1).float(), tokens.flatten())
        loss.backward()
        for weight in weights:
            weight.grad = None

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    live = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    own = 4 * sum(weight.numel() for weight in weights)
    return sizes | {
        "length": length, "tied": tied, "within": within, "autocast": autocast, "weights": own,
        "most": most,
    }  # fmt: skip


def main() -> None:
    """Write JSON to standard output."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cases = [
        record(TABLES, length, tied, within)
        for length, tied, within in itertools.product((16, 128), (True, False), (True, False))
    ]
    cases += [record(MATRICES, length, False, True) for length in (16, 128, 512)]
    cases += [record(TABLES, 16, tied, False, autocast=True) for tied in (True, False)]
    facts = {
        "source": "scripts/record_gradient_memory.py", "torch": torch.__version__,
        "unit": "bytes beside weights, at most, of a step with fp32 weights", "layers": LAYERS,
        "heads": HEADS, "groups": GROUPS,
    }  # fmt: skip
    head = json.dumps(facts)[1:-1]
    rows = ",\n".join(json.dumps(case) for case in cases)
    sys.stdout.write(f'{{{head}, "cases": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main()
