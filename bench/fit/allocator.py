"""PyTorch's caching allocator on full fine-tuning under FSDP1: how often a step frees its cache.

    python bench/fit/allocator.py

Replays what a step of a Llama-like model allocates, block by block: activations, logits, gathered
parameters, gradients kept under no_sync, reduced ones, AdamW's states and foreach's temporaries.
Each stream has a pool; a block is the smallest free one that is large enough, is split, and merges
with its neighbours again; a segment that the GPU has no room for costs the whole cache
(pytorch c10/cuda/CUDACachingAllocator.cpp, 2.6). Beside it the time that the runs of
`sim/data/measured/finetune.csv` lose against the model without retries.
"""

from __future__ import annotations

import bisect
from collections import defaultdict

from sim.calibration.validate_finetune import machine_of, method_of
from sim.calibration.validate_training import predict_all
from sim.inputs.shares import batch_on
from sim.published.finetune import finetune_rows

MB = 1 << 20
STEPS = 5  # the last of them is counted
OUTSIDE = 0.9e9  # CUDA context and NCCL's buffers [B]


class OutOfMemoryError(Exception):
    """No room after the cache has been freed."""


class Block:
    """A part of a segment."""

    __slots__ = ("after", "before", "free", "pool", "size")

    def __init__(self, size, pool):
        self.size, self.pool = size, pool
        self.before = self.after = None
        self.free = False


class Allocator:
    """Large blocks alone: up to 1 MiB have pools of their own."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.pools = defaultdict(list)  # (size, order, block), sorted
        self.reserved = self.live = self.most_live = self.most_reserved = 0
        self.flushes = self.freed = self.order = 0

    def take(self, size, pool="compute"):
        """A block of some bytes; None of a small one."""
        if size <= MB:
            return None
        size = -(-int(size) // 512) * 512
        free = self.pools[pool]
        at = bisect.bisect_left(free, (size, 0))
        block = free.pop(at)[2] if at < len(free) else self._segment(size, pool)
        if block.size - size > MB:
            rest = Block(block.size - size, pool)
            rest.before, rest.after = block, block.after
            if block.after:
                block.after.before = rest
            block.after, block.size = rest, size
            self._put(rest)
        block.free = False
        self.live += size
        self.most_live = max(self.most_live, self.live)
        return block

    def _segment(self, size, pool):
        size = 20 * MB if size < 10 * MB else -(-size // (2 * MB)) * 2 * MB
        if self.reserved + size > self.capacity:
            self._flush()
        if self.reserved + size > self.capacity:
            raise OutOfMemoryError
        self.reserved += size
        self.most_reserved = max(self.most_reserved, self.reserved)
        return Block(size, pool)

    def give(self, *blocks):
        """Blocks are free again."""
        for block in blocks:
            if block is None:
                continue
            self.live -= block.size
            for side in (block.before, block.after):
                if side is not None and side.free:
                    free = self.pools[side.pool]
                    free.pop(next(i for i, held in enumerate(free) if held[2] is side))
                    block.size += side.size
                    if side is block.before:
                        block.before = side.before
                        if side.before:
                            side.before.after = block
                    else:
                        block.after = side.after
                        if side.after:
                            side.after.before = block
            self._put(block)

    def _put(self, block):
        block.free = True
        self.order += 1
        bisect.insort(self.pools[block.pool], (block.size, self.order, block))

    def _flush(self):
        self.flushes += 1
        for pool, free in self.pools.items():
            kept = [held for held in free if held[2].before or held[2].after]
            gone = sum(held[0] for held in free) - sum(held[0] for held in kept)
            self.reserved -= gone
            self.freed += gone
            self.pools[pool] = kept


class Job:
    """Full fine-tuning in bf16 on so many ranks, checkpointed, as Transformers runs it."""

    def __init__(self, model, ranks, tokens, accumulation, capacity):
        self.ranks, self.tokens, self.accumulation = ranks, tokens, accumulation
        self.layers, self.hidden, self.ffn = model.layers, model.hidden_size, model.ffn_size
        self.vocab, self.kv = model.vocab_size, model.kv_heads * model.head_dim
        self.gated = model.ffn != "gelu"
        d = self.hidden
        matrices = [
            d * d,
            d * self.kv,
            d * self.kv,
            d * d,
            *(3 - (not self.gated)) * [d * self.ffn],
        ]
        ends = [self.vocab * d] * (1 if model.tied_embeddings else 2)
        self.units = [[*matrices, d, d] for _ in range(self.layers)] + [ends]
        self.heap = Allocator(capacity)
        self.held = [None] * len(self.units)
        for unit in self.units:
            self.heap.take(2 * sum(unit) / ranks)
        self.states = None

    def _layer(self, keep):
        """Forward of a layer: its output, and what backward needs of it."""
        take, t, kept = self.heap.take, self.tokens, []

        def done(*blocks):
            if keep:
                kept.extend(blocks)
            else:
                self.heap.give(*blocks)

        def norm():
            wide, square = take(4 * t * self.hidden), take(4 * t * self.hidden)
            self.heap.give(square)
            scaled = take(4 * t * self.hidden)
            narrow = take(2 * t * self.hidden)
            done(scaled, wide)
            out = take(2 * t * self.hidden)
            done(narrow)
            return out

        x = norm()
        q, k, v = (take(2 * t * n) for n in (self.hidden, self.kv, self.kv))
        done(x)
        cos, half, turned = (take(2 * t * self.hidden) for _ in range(3))
        turned_k = take(2 * t * self.kv)
        self.heap.give(cos, half, q, k)
        attended = take(2 * t * self.hidden)
        done(turned, turned_k, v)
        projected = take(2 * t * self.hidden)
        done(attended)
        residual = take(2 * t * self.hidden)
        self.heap.give(projected)
        x = norm()
        wide = [take(2 * t * self.ffn) for _ in range(4 if self.gated else 2)]
        done(*wide, x)
        down, out = take(2 * t * self.hidden), take(2 * t * self.hidden)
        self.heap.give(down)
        done(residual)
        return out, kept

    def _gather(self, unit):
        return self.heap.take(2 * sum(self.units[unit]), "gather")

    def _gradients(self, unit, parts, last, late):
        """A flat gradient: kept, or reduced into a shard and free once that has passed."""
        size = 2 * sum(self.units[unit])
        flat = self.heap.take(size)
        self.heap.give(*parts)
        if self.held[unit] is not None:
            self.heap.give(flat)
            flat = self.held[unit]
        self.held[unit] = None if last else flat
        if last:
            self.shards.append(self.heap.take(size / self.ranks, "reduce"))
            late.append(flat)
            if len(late) > 1:
                self.heap.give(late.pop(0))

    def _micro_step(self, last):
        take, give, t = self.heap.take, self.heap.give, self.tokens
        root, late = self._gather(-1), []
        x, inputs, before = take(2 * t * self.hidden), [], None
        for i in range(self.layers):
            gathered = self._gather(i)
            give(before)
            out, _ = self._layer(keep=False)
            inputs.append(x)
            x, before = out, gathered
        give(before)
        wide, narrow, logits = (
            take(4 * t * self.hidden),
            take(2 * t * self.hidden),
            4 * t * self.vocab,
        )
        half, full = take(logits / 2), take(logits)
        give(half)
        shifted, loss = take(logits), take(logits)
        give(full, shifted)
        first, second = take(logits), take(logits)
        give(first, loss)
        third = take(logits)
        give(second)
        half = take(logits / 2)
        give(third)
        gradient, head = take(2 * t * self.hidden), take(2 * self.units[-1][0])
        give(half, wide, narrow, x)
        ahead = {self.layers - 1: self._gather(self.layers - 1)}
        for i in reversed(range(self.layers)):
            if i:
                ahead[i - 1] = self._gather(i - 1)
            out, kept = self._layer(keep=True)
            parts = [take(2 * n) for n in self.units[i]]
            give(*[take(2 * t * self.ffn) for _ in range(3)])
            others = [take(2 * t * self.hidden) for _ in range(4)]
            below = take(2 * t * self.hidden)
            give(*others, *kept, out, gradient, inputs[i])
            gradient = below
            self._gradients(i, parts, last, late)
            give(ahead.pop(i))
        give(gradient)
        self._gradients(-1, [head, *(take(2 * n) for n in self.units[-1][1:])], last, late)
        give(root, *late)

    def step(self):
        """Micro-steps and AdamW's update."""
        self.shards = []
        for micro in range(self.accumulation):
            self._micro_step(micro == self.accumulation - 1)
        sizes = [2 * n for unit in self.units for n in self._own(unit)]
        if self.states is None:
            self.states = [(self.heap.take(n), self.heap.take(n)) for n in sizes]
        self.heap.give(*[self.heap.take(n) for n in sizes])
        self.heap.give(*self.shards)

    def _own(self, unit):
        """Elements of each tensor in the part of a rank in the middle."""
        each, at = sum(unit) / self.ranks, 0
        low = each * (self.ranks // 2)
        for n in unit:
            if min(at + n, low + each) > max(at, low):
                yield min(at + n, low + each) - max(at, low)
            at += n


def replayed(*job):
    """The heap after some steps, and flushes and bytes freed in the last."""
    played = Job(*job)
    for _ in range(STEPS):
        before = played.heap.flushes, played.heap.freed
        played.step()
    return played.heap, played.heap.flushes - before[0], played.heap.freed - before[1]


def main():
    """A line a job that takes more than 0.85 of the capacity."""
    jobs = {}
    for row in finetune_rows():
        w = row.workload
        several = row.group == "finetune" and row.gpus > 1 and row.topology.nodes == 1
        if several and row.status == "complete" and method_of(row) == "full":
            batch = w.sequence_length * w.micro_batch, w.gradient_accumulation
            jobs.setdefault((machine_of(row), w.model.name, row.gpus, *batch), row)
    print(
        "                                          GB: live, pools, of; freed at capacity; lost [s]"
    )
    for point in predict_all(list(jobs.values())):
        row, w = point.row, point.row.workload
        tokens, capacity = w.sequence_length * w.micro_batch, point.memory.capacity_bytes - OUTSIDE
        job = w.model, row.gpus, tokens, w.gradient_accumulation
        free, _, _ = replayed(*job, float("inf"))
        if free.most_reserved < 0.85 * capacity:
            continue
        try:
            _, flushes, freed = replayed(*job, capacity)
            at = f"{flushes} x, {freed / 1e9:4.0f}"
        except OutOfMemoryError:
            at = "no room"
        took = batch_on(w).tokens_per_rank / row.tokens_per_s_per_gpu
        lost = took - (took / (1 + point.error) - point.retries_s)
        name = f"{machine_of(row):10} {w.model.name:15} x{row.gpus}"
        sizes = free.most_live, free.most_reserved, capacity
        print(f"{name} {tokens:6d} x {w.gradient_accumulation} ", end=" ")
        print(*(f"{size / 1e9:5.1f}" for size in sizes), f" {at:>9}  {lost:5.1f}")


if __name__ == "__main__":
    main()
