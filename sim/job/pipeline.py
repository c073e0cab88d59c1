"""Data-loader workers feeding a bounded prefetch store: do the GPUs wait for data?

Each rank has its own workers (as torch's DataLoader). A worker reads a batch from storage, which
all ranks of a node share, preprocesses it and puts it into a store of bounded size; a step takes
one batch. Played batch by batch until the stall per step is steady.
"""

from __future__ import annotations

import math

from sim.records import dataclass

_MANY = 2000  # batches in the store beyond which the closed form does


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Input pipeline of one rank.

    Attributes
    ----------
    workers : int
        Loader processes per rank; 0: the trainer itself loads, and waits for all of it.
    tokens_per_step : float
        Tokens a rank consumes per optimizer step. [1]
    preprocess_tokens_per_s : float
        Rate of one worker. [1/s]
    bytes_per_token : float
        Read from storage. [B]
    storage_bytes_per_s : float
        The rank's share of the node's storage read bandwidth. [B/s]
    prefetch : int
        Batches the store holds per worker (torch's ``prefetch_factor``).
    """

    workers: int
    tokens_per_step: float
    preprocess_tokens_per_s: float
    bytes_per_token: float
    storage_bytes_per_s: float
    prefetch: int = 2

    @property
    def preprocess_s(self) -> float:
        """Seconds a worker preprocesses one step's tokens."""
        return self.tokens_per_step / self.preprocess_tokens_per_s

    @property
    def read_s(self) -> float:
        """Seconds storage needs to deliver one step's tokens to this rank."""
        return self.tokens_per_step * self.bytes_per_token / self.storage_bytes_per_s

    def bound_s(self) -> float:
        """Least seconds per step that the pipeline can sustain: workers or storage, the slower.

        Workers overlap reading and preprocessing of different batches, but storage is one device.
        """
        per_worker = self.preprocess_s + self.read_s
        return max(per_worker / max(1, self.workers), self.read_s)

    def pace_s(self, step_s: float) -> float:
        """A step with its waiting for data, on average.

        Parameters
        ----------
        step_s : float
            Time of a step that never waits. [s]
        """
        if self.workers == 0:
            return step_s + self.preprocess_s + self.read_s
        return max(step_s, self.bound_s())

    def workers_needed(self, step_s: float) -> int | None:
        """Fewest workers whose rate keeps up with a step; None if storage is too slow for any.

        Parameters
        ----------
        step_s : float
            Time of a step that never waits. [s]
        """
        if self.read_s > step_s:
            return None
        return max(1, math.ceil((self.preprocess_s + self.read_s) / step_s - 1e-9))


@dataclass(frozen=True, slots=True)
class Stall:
    """What waiting for data costs, per step in the steady state."""

    step_s: float  # with waiting
    stall_s: float
    idle_share: float
    workers_needed: int | None


def simulate_stall(pipeline: Pipeline, step_s: float) -> Stall:
    """Run workers and trainer and measure the steady wait per step.

    Parameters
    ----------
    pipeline : Pipeline
        The rank's input pipeline.
    step_s : float
        Time of a step that never waits. [s]
    """
    # without workers nothing runs beside the step; of thousands every one is like the next
    if pipeline.workers == 0 or pipeline.workers * pipeline.prefetch > _MANY:
        total = pipeline.pace_s(step_s)
        needed = pipeline.workers_needed(step_s)
        return Stall(total, total - step_s, (total - step_s) / total, needed)
    workers = pipeline.workers
    room = workers * pipeline.prefetch
    count = 12 * room + 40  # steps: enough for the store to drain to its steady state
    read_s, preprocess_s = pipeline.read_s, pipeline.preprocess_s
    # Storage reads, the store and the trainer all serve batches in the order in which workers ask,
    # and a worker asks anew once its batch is in the store.
    stored: list[float] = []
    taken: list[float] = []
    waited: list[float] = []
    asked = read = 0.0
    for batch in range(count):
        begun = stored[batch - workers] if batch >= workers else 0.0
        read = max(begun, read) + read_s
        done = read + preprocess_s
        stored.append(max(done, taken[batch - room]) if batch >= room else done)
        taken.append(max(asked, stored[batch]))
        waited.append(taken[batch] - asked)
        asked = taken[batch] + step_s
    # workers that start together stay together: average over whole rounds of all workers
    rounds = max(1, count // 2 // workers)
    tail = waited[-rounds * workers :]
    stall = sum(tail) / len(tail)
    total = step_s + stall
    return Stall(total, stall, stall / total, pipeline.workers_needed(step_s))
