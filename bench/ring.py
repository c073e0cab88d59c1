"""A training step of ring collectives, to time engines with.

80 layers; each is gathered twice (forward, backward), computed twice and its gradients scattered
once: 240 ring collectives and 160 compute ops a rank, the next gather but one waiting for a layer's
compute (prefetch depth one). Ranks stand 8 a node; ring edges within a node have 300 GB/s, those
between nodes 25 GB/s; gathers and scatters share them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from sim.program import I8, Program, assemble

LAYER_BYTES = 1.7e9
Level = Literal["steps", "unrolled", "flows", "ranks"]


def compute_seconds(
    ranks: npt.ArrayLike, passes: npt.ArrayLike, layers: int, jitter: float
) -> npt.NDArray[np.float64]:
    """10 ms forward, 20 ms backward, times 1 to 1 + jitter by a hash of rank and layer pass.

    bench/peers/ring.cpp has the same hash, so that both see the same times to the bit.
    """
    r = np.asarray(ranks, dtype=np.int64)
    i = np.asarray(passes, dtype=np.int64)
    backward = i >= layers
    h = ((r * 2654435761) & 0xFFFFFFFF) ^ ((i * 40503 + backward * 97) & 0xFFFFFFFF)
    h ^= h >> 15
    h = (h * 2246822519) & 0xFFFFFFFF
    h ^= h >> 13
    return np.where(backward, 20e-3, 10e-3) * (1 + jitter * (h & 0xFFFF) / 65536.0)


def ring_step(ranks: int, level: Level = "steps", layers: int = 80, jitter: float = 0.0) -> Program:
    """Build the step.

    Parameters
    ----------
    ranks : int
        Ranks in the ring.
    level : {"steps", "unrolled", "flows", "ranks"}
        Stepped ops; the same steps as ops of their own; one independent flow a ring edge and
        collective, of all its bytes; or one op a collective, which waits for all ranks and draws
        on all edges.
    layers : int
        Layers of the model.
    jitter : float
        Largest relative lengthening of a compute op.
    """
    if level == "ranks":
        return _whole(ranks, layers, jitter)
    steps = ranks - 1
    unrolled = steps if level == "unrolled" else 1
    chunk = LAYER_BYTES / ranks * (steps if level == "flows" else 1)
    gathers, scatters, computes = 2 * layers * unrolled, layers * unrolled, 2 * layers
    moves = gathers + scatters
    per_rank = moves + computes
    rank = np.arange(ranks, dtype=np.int64)[:, None]
    same_node = rank // 8 == (rank + 1) % ranks // 8
    base = rank * per_rank
    latency = np.empty((ranks, per_rank))
    latency[:, :moves] = np.where(same_node, 2e-6, 4e-6)
    latency[:, moves:] = compute_seconds(rank, np.arange(computes), layers, jitter)
    work = np.zeros((ranks, per_rank))
    work[:, :moves] = chunk
    route = np.full((ranks, per_rank), -1, dtype=np.int32)
    route[:, :moves] = rank
    lane = np.repeat(np.arange(3 * ranks, dtype=np.int32), [gathers, scatters, computes] * ranks)
    edges: list[tuple[I8, I8]] = []
    gather_end = base + (np.arange(computes) + 1) * unrolled - 1
    compute = base + moves + np.arange(computes)
    edges.append((gather_end, compute))
    edges.append((compute[:, :-2], base + np.arange(2, computes) * unrolled))
    edges.append((compute[:, layers:], base + gathers + np.arange(layers) * unrolled))
    peer = np.full((ranks, per_rank), -1, dtype=np.int32)
    if level == "steps":
        peer[:, :moves] = np.roll(base, 1) + np.arange(moves)
    elif level == "unrolled":
        onward = np.roll(base, -1)
        for first, count in ((0, gathers), (gathers, scatters)):
            step = first + np.arange(count - 1)
            edges.append((base + step, onward + step + 1))
    if level != "steps":  # a rank computes once it has sent and received
        edges.append((gather_end, np.roll(compute, -1, axis=0)))
    r = rank.ravel()
    sends = np.where(same_node.ravel(), r, 2 * ranks + r)
    receives = np.where(same_node.ravel(), ranks + (r + 1) % ranks, 3 * ranks + (r + 1) % ranks)
    program, _ = assemble(
        lane=lane,
        latency=latency.ravel(),
        work=work.ravel(),
        demand_ptr=np.arange(0, 2 * ranks + 1, 2),
        demand_resource=np.stack((sends, receives), 1).ravel(),
        demand_amount=np.ones(2 * ranks),
        route=route.ravel(),
        capacity=np.repeat((300e9, 25e9), 2 * ranks),
        src=np.concatenate([a.ravel() for a, _ in edges]),
        dst=np.concatenate([b.ravel() for _, b in edges]),
        steps=np.where(peer >= 0, steps, 1).ravel(),
        peer=peer.ravel(),
        n_lanes=3 * ranks,
    )
    return program


def _whole(ranks: int, layers: int, jitter: float) -> Program:
    """Level "ranks": computes of every rank, then gathers, then scatters, one op each."""
    steps, gathers, scatters = ranks - 1, 2 * layers, layers
    computes = ranks * gathers
    rank = np.arange(ranks)
    own = rank[:, None] * gathers + np.arange(gathers)
    gather = computes + np.arange(gathers)
    scatter = gather[-1] + 1 + np.arange(scatters)
    same_node = rank // 8 == (rank + 1) % ranks // 8
    sends = np.where(same_node, rank, 2 * ranks + rank)
    receives = np.where(same_node, ranks + (rank + 1) % ranks, 3 * ranks + (rank + 1) % ranks)
    slowest = 2e-6 if bool(same_node.all()) else 4e-6
    moves = gathers + scatters
    edges = [
        (np.broadcast_to(gather, own.shape), own),
        (own[:, :-2], np.broadcast_to(gather[2:], (ranks, gathers - 2))),
        (own[:, layers:], np.broadcast_to(scatter, (ranks, layers))),
    ]
    lengths = compute_seconds(rank[:, None], np.arange(gathers), layers, jitter)
    program, _ = assemble(
        lane=np.repeat(np.arange(ranks + 2), [gathers] * ranks + [gathers, scatters]),
        latency=np.concatenate((lengths.ravel(), np.full(moves, steps * slowest))),
        work=np.repeat((0.0, LAYER_BYTES / ranks * steps), (computes, moves)),
        demand_ptr=(0, 2 * ranks),
        demand_resource=np.concatenate((sends, receives)),
        demand_amount=np.ones(2 * ranks),
        route=np.repeat((-1, 0), (computes, moves)),
        capacity=np.repeat((300e9, 25e9), 2 * ranks),
        src=np.concatenate([a.ravel() for a, _ in edges]),
        dst=np.concatenate([b.ravel() for _, b in edges]),
        n_lanes=ranks + 2,
    )
    return program
