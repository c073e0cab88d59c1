"""What one step costs inside a process, piece by piece, and many configurations in a row."""

from __future__ import annotations

import itertools
import random
import resource
import statistics
from collections.abc import Iterator
from typing import Any

from bench.ring import ring_step
from bench.table import Row, measured
from sim.blocks.parameters import build_tree
from sim.engine import run
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.inputs.loader import load, prepare
from sim.inputs.shares import mesh_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.costs import price
from sim.lowering.frames import lowered
from sim.malloc import keep_large_blocks, seldom_collected
from sim.memory.report import memory
from sim.step.measures import AskedOf, simulated
from sim.step.run import run_step
from sim.step.step import steps
from sim.strategies import build_plan, plan_of
from sim.study.sweep import TOGETHER

REPEAT = 40


def inside(configurations: int) -> list[Row]:
    """Rows of Llama-3-70B on 2 x 8 H100s, one micro-batch, and of a thousand configurations."""
    sets = ("nodes=2", "gradient_accumulation=1")
    loaded = load("dgx-h100", "llama3-70b-full", sets)
    topology, workload = loaded.topology, loaded.workload
    fabric = compile_fabric(topology)
    tree = build_tree(workload.model, workload.method)
    mesh = mesh_of(topology, workload)
    lengths = itertools.count(4096, 8)

    def build(job: Workload) -> Any:
        plan = plan_of(job, tree, mesh_of(topology, job))
        return lowered(price([plan], job, fabric))

    def longer() -> Workload:
        return workload.model_copy(update={"sequence_length": next(lengths)})

    program = build(workload).program
    run(program, "compiled")
    step = ring_step(16)
    run(step, "compiled")
    events = run(step, "compiled").events
    engine = measured(REPEAT, lambda: run(step, "compiled"))
    rate = f"{events / min(engine[1]) / 1e6:.1f} M events/s, {events} events"
    size = f"{program.lane.size} ops"
    rows = [
        Row("plan of 70B, nothing kept", 0.0,
            *measured(REPEAT, lambda: build_plan(workload, tree, mesh))),
        Row("build, 70B on 2 x 8, warm", 4e-3, *measured(REPEAT, lambda: build(workload)),
            note=size),
        Row("build, another sequence length", 4e-3, *measured(REPEAT, lambda: build(longer())),
            note="kernels priced anew"),
        Row("run it, compiled", 2e-3, *measured(REPEAT, lambda: run(program, "compiled"))),
        Row("run it, plain Python", 0.0, *measured(5, lambda: run(program, "python"))),
        Row("step with its breakdown", 0.0,
            *measured(REPEAT, lambda: run_step(topology, longer(), engine="compiled"))),
        Row("memory, all moments", 0.0, *measured(REPEAT, lambda: memory(topology, longer()))),
        Row("engine, ring step of 16 ranks", events / 15e6, *engine, note=rate),
    ]  # fmt: skip
    return [*rows, _thousand(configurations), pipeline()]


def pipeline() -> Row:
    """A step of a large pipeline once more, all that is measured of it; the aim is 150 ms."""
    keep_large_blocks()  # as the command line does
    layout = (
        "parallelism={strategy: fsdp2, tensor_parallel: 8, pipeline_parallel: 16, "
        "pipeline_schedule: interleaved-1f1b, virtual_stages: 2}"
    )
    loaded = load("dgx-h100", "llama3-405b", ("nodes=64", layout))
    job, asked = (loaded.topology, loaded.workload), AskedOf("compiled", causes=True, waits=True)

    def again() -> object:
        return simulated([job], asked, None)

    again()
    note = f"{loaded.workload.gradient_accumulation} micro-batches, interleaved 1F1B"
    return Row("405B on 512 GPUs, 16 stages, again", 0.15, *measured(12, again), note=note)


def _thousand(count: int) -> Row:
    """Different configurations in one process, as a sweep takes them; no curves."""
    prepared = prepare("dgx-h100", "llama3-70b-full")
    chosen = list(itertools.islice(changes(), count))
    done: list[float] = []

    def pair(change: dict[str, Any]) -> tuple[Topology, Workload] | None:
        try:
            return prepared.vary(change).loaded()[:2]
        except InputError:
            return None

    def every() -> None:
        for begin in range(0, count, TOGETHER):
            pairs = [pair(change) for change in chosen[begin : begin + TOGETHER]]
            found = steps([one for one in pairs if one], engine="compiled")
            done.extend(each.time_s for each in found)

    keep_large_blocks()  # as the command line does, which looks for rubbish as seldom
    with seldom_collected():
        wall, cpu = measured(1, every)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    each = f"{len(done)} valid of {count}, {cpu[0] / len(done) * 1e3:.1f} ms each"
    spread = f"steps of {min(done):.1f} to {max(done):.0f} s, median {statistics.median(done):.1f}"
    return Row(f"{count} configurations", 8.0 * count / 1000, wall, cpu, peak, f"{each}; {spread}")


def changes() -> Iterator[dict[str, Any]]:
    """Every combination of six knobs, shuffled, so that neighbours share little."""
    axes: dict[str, list[Any]] = {
        "nodes": [1, 2, 3, 4, 6, 8, 12, 16, 32, 64],
        "micro_batch": [1, 2, 3, 4],
        "sequence_length": [2048, 4096, 8192],
        "gradient_accumulation": [1, 2, 8],
        "activation_checkpointing": ["full", "none"],
        "parallelism.reshard_after_forward": [True, False],
    }
    every = list(itertools.product(*axes.values()))
    random.Random(0).shuffle(every)
    return (dict(zip(axes, values, strict=True)) for values in every)
