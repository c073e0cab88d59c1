"""Screening by a surrogate: does it find what an exhaustive search finds, and how fast is it?

python -m bench.screen              # 100 random spaces of 2,000 points, each also searched whole
python -m bench.screen 10 7         # so many, from another seed
python -m bench.screen --million    # a million layouts and settings, from question to exact winner
"""

import argparse
import math
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.study.axes import Axis, Changes, Grid
from sim.study.bases import read_bases
from sim.study.executors import Task, run_here
from sim.study.measures import MEASURES
from sim.study.screen import Screen, Screening
from sim.study.screened import screened, space_of
from sim.study.sweep import TOGETHER, compute, compute_many

POINTS = 2000
MACHINES = (
    "dgx-h100", "dgx-a100", "dgx-h200", "oci-bm-gpu-h100-8", "aws-p5", "azure-nd-a100-v4",
    "gcp-a3-high", "lambda-8x-h100",
)  # fmt: skip
JOBS = (
    "llama3-8b-sft", "llama3-70b-full", "llama3-8b-lora", "mistral-7b-full", "llama3-70b-lora",
    "llama3-8b-zero3", "mistral-7b-lora",
)  # fmt: skip
SOUGHT = ("tokens_per_s_per_gpu", "step_time_s", "wall_clock_s", "cost_usd", "mfu", "energy_j")
AXES: dict[str, tuple[Any, ...]] = {
    "nodes": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    "micro_batch": (1, 2, 3, 4, 6, 8, 12, 16),
    "gradient_accumulation": (1, 2, 4, 8, 16, 32),
    "sequence_length": (1024, 2048, 4096, 6144, 8192),
    "activation_checkpointing": ("none", "{selective: op}", "full"),
    "parallelism.tensor_parallel": (1, 2, 4, 8),
    "parallelism.pipeline_parallel": (1, 2, 4),
    "parallelism.context_parallel": (1, 2, 4),
    "parallelism.strategy": ("fsdp2", "fsdp1", "ddp", "zero2", "zero3"),
    "parallelism.reshard_after_forward": ("true", "false"),
    "parallelism.replicate": (1, 2, 4),
    "parallelism.offload": ("none", "optimizer", "all"),
    "optimizer": ("adamw", "adamw-8bit", "sgd"),
    "precision": ("bf16", "fp8"),
    "compile": ("true", "false"),
    "loss": ("fused-linear", "chunked"),
    "attention": ("sdpa", "flash2", "eager"),
    "node.nics.rate": ("100 Gb/s", "200 Gb/s", "400 Gb/s"),
    "network.oversubscription": (1, 2, 4),
}
#: of which every space has some levels: steps that differ in it alone share a simulation, so that
#: searching the whole of a space takes seconds
SHARED = "gradient_accumulation"
#: a million layouts and settings
MILLION: dict[str, tuple[Any, ...]] = {
    "nodes": (1, 2, 3, 4, 8, 16, 32, 64, 128),
    "parallelism.tensor_parallel": (1, 2, 4, 8),
    "parallelism.context_parallel": (1, 2, 4),
    "parallelism.replicate": (1, 2, 4),
    "parallelism.reshard_after_forward": ("true", "false"),
    "sequence_length": (8192, 16384),
    "micro_batch": (1, 2, 4, 8),
    "gradient_accumulation": (1, 2, 4),
    "activation_checkpointing": ("none", "{selective: op}", "full"),
    "optimizer": ("adamw", "adamw-8bit"),
    "compile": ("true", "false"),
    "loss": ("fused-linear", "chunked"),
    "node.nics.rate": ("100 Gb/s", "200 Gb/s", "400 Gb/s"),
}


@dataclass(frozen=True)
class Space:
    """A random space whose every point is known."""

    grid: Grid
    points: Sequence[Changes]
    rows: Sequence[dict[str, Any] | None]
    seconds: float

    @property
    def valid(self) -> int:
        """Points that do not contradict themselves."""
        return sum(row is not None for row in self.rows)

    def losses(self, measure: str) -> list[float]:
        """What is least where a point is best; infinite where it does not fit."""
        sign = 1.0 if MEASURES[measure][1] else -1.0
        return [
            sign * row[measure] if row and row["fits"] and row[measure] is not None else math.inf
            for row in self.rows
        ]

    def screen(self, measure: str) -> Screening:
        """Search it by a surrogate."""
        _, levels, codes = space_of(self.grid)
        less = bool(MEASURES[measure][1])
        return Screen(levels, codes, measure, less, lambda at: [self.rows[i] for i in at]).run(
            len(codes)
        )


def grids(seed: int) -> Iterator[Grid]:
    """Random spaces, one after another."""
    draw = random.Random(seed)
    while True:
        keys = {SHARED, *draw.sample(list(AXES), draw.randint(3, 7))}
        if draw.random() < 0.8:
            keys.add("nodes")
        levels = {}
        for key in (k for k in AXES if k in keys):
            least = 4 if key == SHARED else 2
            count = draw.randint(least, len(AXES[key]))
            levels[key] = sorted(draw.sample(AXES[key], count), key=AXES[key].index)
        total = math.prod(map(len, levels.values()))
        if not POINTS <= total <= 40 * POINTS:
            continue
        chosen = []
        for place in sorted(draw.sample(range(total), POINTS)):
            point = []
            for values in reversed(levels.values()):
                place, at = divmod(place, len(values))
                point.append(str(values[at]))
            chosen.append(tuple(reversed(point)))
        axis = Axis(tuple(levels), tuple(chosen))
        yield Grid("space", draw.choice(MACHINES), draw.choice(JOBS), (axis,))


def searched_whole(grid: Grid) -> Space:
    """Every point of a space, exactly."""
    bases = read_bases(grid)
    points = list(grid.points())
    began = time.process_time()
    tasks = (Task(i, (bases.sides, point)) for i, point in enumerate(points))
    found = [
        answer.value
        for answer in run_here(compute, (bases.pairs, True), tasks, compute_many, TOGETHER)
    ]
    return Space(grid, points, found, time.process_time() - began)


def spaces(count: int, seed: int) -> None:
    """Print what is found of so many spaces."""
    out = print
    found = asked = valid = done = 0
    for number, grid in enumerate(grids(seed)):
        space = searched_whole(grid)
        measure = SOUGHT[number % len(SOUGHT)]
        losses = space.losses(measure)
        if space.valid < POINTS // 20 or min(losses) == math.inf:
            continue  # next to nothing goes on this machine, or it states no price
        began = time.process_time()
        said = space.screen(measure)
        seconds = time.process_time() - began
        winner = math.inf if said.winner is None else losses[said.winner]
        won = winner == min(losses)
        done, found = done + 1, found + won
        asked, valid = asked + said.exact - said.invalid, valid + space.valid
        out(
            f"{done:4} {'found' if won else 'MISSED'} {measure:21} {grid.topology} "
            f"{grid.workload}: {space.valid} valid, {said.exact} asked ({said.invalid} invalid), "
            f"error {100 * said.error:.1f} % (worst {100 * said.worst:.0f} %), "
            f"off {100 * abs(winner / min(losses) - 1):.2f} %, {seconds:.1f} s beside "
            f"{space.seconds:.0f} s; {', '.join(grid.keys)}",
            flush=True,
        )
        if done == count:
            break
    out(
        f"exact optimum found in {found} of {done} spaces, {asked / valid:.1%} of {valid:,} valid "
        "points computed"
    )


def million() -> None:
    """Time a space of a million points and more, from question to answer."""
    axes = tuple(Axis((key,), tuple((str(v),) for v in vs)) for key, vs in MILLION.items())
    grid = Grid("million", "dgx-h100", "llama3-70b-full", axes)
    cpu, wall = os.times(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcome = screened(grid, Path(folder) / "s.sqlite", "usd_per_million_tokens")
    now = os.times()
    took = sum(now[:4]) - sum(cpu[:4])
    said = outcome.screening
    assert said is not None
    best = outcome.rows[0]
    print(f"{said.points:,} points, {said.exact:,} exact ({said.invalid} invalid), {said}")
    print(dict(best.changes), best.measures)
    print(f"{time.perf_counter() - wall:.1f} s, CPU {took:.1f} s; load {os.getloadavg()[0]:.1f}")


def main() -> None:
    """Read what is wanted."""
    parser = argparse.ArgumentParser(prog="python -m bench.screen", description=__doc__)
    parser.add_argument("spaces", nargs="?", type=int, default=100)
    parser.add_argument("seed", nargs="?", type=int, default=1)
    parser.add_argument("--million", action="store_true")
    options = parser.parse_args()
    if options.million:
        million()
    else:
        spaces(options.spaces, options.seed)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
