"""What a checkpoint holds, how long it blocks, and the best interval by closed form.

Sources: Young 1974; Daly 2006 (higher-order estimate); the availability-optimal form with blocking
and asynchronous saves follows arXiv 2410.18124; copies in memory: Gemini (SOSP 2023). Bytes per
parameter: bf16 weights 2, fp32 master 4, Adam moments 8 (BLOOM-176B: 2.3 TB, 13.1 B per parameter).
"""

from __future__ import annotations

import math
from dataclasses import replace

from sim.job.cadence import steps_within
from sim.job.run import simulate_run
from sim.job.spec import JobSpec
from sim.records import dataclass

_INTERRUPTIONS = 300  # that are simulated of each interval between saves


@dataclass(frozen=True, slots=True)
class CheckpointCost:
    """One save: how long training stands still, and how long until it is durable."""

    size_bytes: float
    blocking_s: float
    write_s: float
    read_s: float


def checkpoint_cost(
    size_bytes: float,
    nodes: int,
    gpus_per_node: int,
    *,
    sharded: bool,
    asynchronous: bool,
    host_link_bytes_per_s: float,
    storage_write_bytes_per_s: float,
    storage_read_bytes_per_s: float,
    gather_bytes_per_s: float,
) -> CheckpointCost:
    """Time of one checkpoint through PCIe, network and storage.

    Parameters
    ----------
    size_bytes : float
        The whole state. [B]
    nodes, gpus_per_node : int
        Machine.
    sharded : bool
        Every rank writes its shard; else rank 0 gathers all and writes alone.
    asynchronous : bool
        Training goes on once the state is in host memory.
    host_link_bytes_per_s : float
        Device to host, of each GPU that writes. [B/s]
    storage_write_bytes_per_s, storage_read_bytes_per_s : float
        Per node. [B/s]
    gather_bytes_per_s : float
        Rate at which rank 0 receives the others' shards (full mode). [B/s]
    """
    ranks = nodes * gpus_per_node
    if sharded:
        to_host = size_bytes / ranks / host_link_bytes_per_s
        write = size_bytes / nodes / storage_write_bytes_per_s
        read = size_bytes / nodes / storage_read_bytes_per_s
    else:
        to_host = size_bytes * (1 - 1 / ranks) / gather_bytes_per_s
        to_host += size_bytes / host_link_bytes_per_s
        write = size_bytes / storage_write_bytes_per_s
        read = size_bytes / storage_read_bytes_per_s
    blocking = to_host if asynchronous else to_host + write
    return CheckpointCost(size_bytes, blocking, to_host + write, read)


def memory_copy(
    size_bytes: float,
    nodes: int,
    gpus_per_node: int,
    peers: int,
    *,
    host_link_bytes_per_s: float,
    network_bytes_per_s: float,
) -> CheckpointCost:
    """A copy of the state in the host memory of its own node, and of as many peers.

    Parameters
    ----------
    size_bytes : float
        The whole state, of which each rank holds its part. [B]
    nodes, gpus_per_node, peers : int
        Machine, and copies on other nodes.
    host_link_bytes_per_s : float
        Device to host, of each GPU while all copy. [B/s]
    network_bytes_per_s : float
        Of a node's NICs. [B/s]

    Notes
    -----
    Training waits for its own GPU's copy alone; peers get theirs while it goes on, in gaps of the
    network (Gemini, SOSP 2023). A node that is new reads its part from a peer.
    """
    to_host = size_bytes / (nodes * gpus_per_node) / host_link_bytes_per_s
    to_peer = size_bytes / nodes / network_bytes_per_s if peers else 0.0
    return CheckpointCost(size_bytes, to_host, to_host + peers * to_peer, to_host + to_peer)


def young_interval(blocking_s: float, mtbf_s: float) -> float:
    """Young's first-order optimal work between checkpoints: sqrt(2 C M). [s]"""
    return math.sqrt(2.0 * blocking_s * mtbf_s)


def daly_interval(blocking_s: float, mtbf_s: float) -> float:
    """Daly's higher-order optimal work between checkpoints. [s]

    Notes
    -----
    T = sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18M) - C for C < 2M, else M.
    """
    if blocking_s >= 2.0 * mtbf_s:
        return mtbf_s
    ratio = blocking_s / (2.0 * mtbf_s)
    young = young_interval(blocking_s, mtbf_s)
    return young * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - blocking_s


def best_interval(spec: JobSpec) -> float | None:
    """Best training time between saves, from simulated long runs. [s]

    Parameters
    ----------
    spec : JobSpec
        The job; its own interval and length are not used.

    Returns
    -------
    float or None
        None where saving costs nothing, nothing needs what is saved, or failures come faster than
        saves.

    Notes
    -----
    Nine intervals around Daly's are simulated, and ``loss = a / T + b T + c`` fitted to them by
    least squares: saving costs 1/T, lost work grows with T. The best is sqrt(a / b).
    """
    import numpy as np

    rate = spec.storage_rate
    if spec.blocking_s <= 0.0 or rate <= 0.0:
        return None
    mtbf_s = 1.0 / rate
    middle = max(daly_interval(spec.blocking_s, mtbf_s), spec.step_s)
    wanted = (middle * 2.0 ** (k / 2.0) for k in range(-4, 5))
    # saves fall between steps
    tried = [steps_within(t, spec.step_s) * spec.step_s for t in wanted]
    # enough that storage is needed, but not for the sake of what memory takes care of
    counted_s = _INTERRUPTIONS / max(rate, 0.1 * spec.interruption_rate)
    steps = max(1, math.ceil(counted_s / spec.step_s))
    loss = []
    for interval_s in tried:
        long = replace(
            spec, steps=steps, interval_s=interval_s, spread=0.0, evaluation_every=0, setup_s=0.0,
            stall_s=0.0,
        )  # fmt: skip
        run = simulate_run(long, seed=0)  # of each: all meet the same failures
        if not run.finished:
            return None
        loss.append(run.wall_s / (steps * spec.step_s))
    at = np.array(tried)
    columns = np.stack([1.0 / at, at, np.ones_like(at)], axis=1)
    (a, b, _), *_ = np.linalg.lstsq(columns, np.array(loss), rcond=None)
    if a <= 0.0 or b <= 0.0:
        return float(at[int(np.argmin(loss))])
    return float(math.sqrt(a / b))
