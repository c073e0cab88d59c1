"""One job on one machine: its step, memory, methods and timeline.

Inputs are read before the simulator is imported, so that their faults are said at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sim.api.arguments import Overrides, chosen, path, settings, share, texts

if TYPE_CHECKING:
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.inputs.config import Configuration
    from sim.inputs.schema import FileSchema
    from sim.interop.emit import Exported
    from sim.interop.imported import ImportedJob
    from sim.interop.trace_diff import TraceDifference
    from sim.memory.bound import BoundQuantity
    from sim.result.explain import MethodComparison
    from sim.result.improve import Improvement
    from sim.result.memory import MemoryAnswer
    from sim.result.result import Result
    from sim.result.support import Support
    from sim.step.chrome_trace import Trace
    from sim.step.spans import StepTimeline
    from sim.step.stages import StageChart
    from sim.step.variation import Progress

_DIFFERENCE = "trace diff"
_ENGINES = ("auto", "reference", "python", "compiled")


def simulate(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    offer: str = "",
    prices: File | None = None,
    engine: str = "auto",
    level: str | None = None,
    jitter: str | float = "0%",
    slow: Iterable[str] = (),
    seed: int = 0,
    replicas: int = 1,
    scaling: bool = True,
    fixes: bool = True,
    progress: Progress | None = None,
    **keys: Any,
) -> Result:
    """Predict one training job on one machine.

    Parameters
    ----------
    topology, workload : path, catalogue name, mapping of the YAML's keys, or spec
        Machine and job.
    overrides : str, iterable of str, or mapping
        ``key=value`` as for ``--set``.
    calibration : path or Calibration, optional
        Corrections of this cluster, as `calibrate` makes them.
    offer : str
        Rent at the cheapest offer of the machine whose name contains this, or ``cheapest``.
    prices : path, optional
        A price file of one's own over the catalogue of offers.
    engine : str
        ``auto | reference | python | compiled``; all give the same times.
    level : str, optional
        ``folded`` (equal ranks once), ``ranks`` or ``steps`` (every ring step of every rank);
        ``ranks`` where ranks differ by `jitter` or `slow`, else ``folded``.
    jitter : str or float
        Deviation of each rank's compute time, block by block, such as ``5%`` or 0.05.
    slow : iterable of str
        Slow GPUs and links: ``rank:3=0.9``, ``link:NAME=0.5``.
    seed, replicas : int
        Of the jitter's draws, and how many steps to draw; ``result.variation`` has their
        distribution, and the step is the median one.
    scaling : bool
        Also simulate 1, 2, 4 and 8 nodes, with as much work for each GPU (``result.scaling``);
        of a job on several nodes also with the same global batch (``result.strong_scaling``).
    fixes : bool
        Also simulate changes worth trying.
    progress : callable, optional
        Called with ``(drawn, replicas)`` after each.
    **keys
        Overrides of keys that are names of Python: ``nodes=2, micro_batch=4``.

    Returns
    -------
    Result
        An infeasible job gets a full result with ``memory.fits`` false.

    Raises
    ------
    InputError
        All faults of both inputs.
    """
    from sim.inputs.loader import load

    chosen("engine", engine, _ENGINES)
    chosen("level", level, (None, "folded", "ranks", "steps"))
    sets = settings(overrides, calibration, keys)
    if offer or prices:
        from sim.study.pricing import rented_at

        sets = (*rented_at(topology, workload, sets, offer, path(prices)), *sets)
    loaded = load(topology, workload, sets)
    from sim.result.predict import predict
    from sim.step.variation import read_variation

    slowed = texts("slow", slow, "['rank:3=0.9']")
    varied = read_variation(share(jitter), slowed, seed, replicas)
    found = predict(
        loaded.topology, loaded.workload, loaded.notes, engine=engine, level=varied.level(level),
        scaling=scaling, fixes=fixes, variation=varied, progress=progress,
    )  # fmt: skip
    if not scaling or loaded.topology.nodes == 1:
        return found
    from sim.result.scaling import strong_curve

    return replace(found, strong_scaling=strong_curve(loaded.topology, loaded.workload, engine))


def memory_of(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    bound: BoundQuantity | None = None,
    bounds: Iterable[BoundQuantity] = (),
    fixes: bool = True,
    **keys: Any,
) -> MemoryAnswer:
    """Bytes per GPU by category and moment, the verdict, and what would save memory.

    Parameters
    ----------
    topology, workload, overrides, calibration, keys
        As for `simulate`.
    bound : {"micro_batch", "sequence_length", "nodes"}, optional
        Also find the largest of it that fits, or the fewest nodes.
    bounds : iterable of the same
        Of several, each on its own.
    fixes : bool
        Also walk and simulate changes that save memory.

    Raises
    ------
    InputError
        All faults of both inputs.
    InfeasibleError
        A `bound` was asked for and nothing fits; of several, none has an answer.
    """
    from sim.inputs.loader import load

    quantities = ("micro_batch", "sequence_length", "nodes")
    given = cast("tuple[BoundQuantity, ...]", texts("bounds", bounds, "['micro_batch']"))
    asked = [*([bound] if bound else []), *given]
    for quantity in asked:
        chosen("bound", quantity, (None, *quantities))
    machine, job, _ = load(topology, workload, settings(overrides, calibration, keys))
    from sim.memory.bound import solve_each
    from sim.memory.report import memory
    from sim.result.memory import MemoryAnswer
    from sim.result.sections import title_of
    from sim.result.trials import smaller

    found, unbounded = solve_each(machine, job, asked)
    return MemoryAnswer(
        title=title_of(machine, job),
        report=memory(machine, job),
        fixes=smaller(machine, job) if fixes else (),
        bounds=found,
        unbounded=unbounded,
    )


def improve(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    same_numerics: bool = False,
    **keys: Any,
) -> Improvement:
    """The combination of changes that helps a job most on its machine, each step simulated.

    Parameters
    ----------
    topology, workload, overrides, calibration, keys
        As for `simulate`.
    same_numerics : bool
        No FP8, no gradients reduced in bf16, no 8-bit optimizer.

    Raises
    ------
    InputError
        All faults of both inputs.
    """
    from sim.inputs.loader import load

    machine, job, _ = load(topology, workload, settings(overrides, calibration, keys))
    from sim.result.improve import improve

    return improve(machine, job, numerics=not same_numerics)


def explain(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    **keys: Any,
) -> MethodComparison:
    """Why LoRA is (no) faster: the step part by part, by fine-tuning method.

    Parameters
    ----------
    topology, workload, overrides, calibration, keys
        As for `simulate`. A full fine-tune is set beside LoRA of rank 16.
    """
    from sim.inputs.loader import load

    machine, job, _ = load(topology, workload, settings(overrides, calibration, keys))
    from sim.result.explain import explain

    return explain(machine, job)


def support(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    **keys: Any,
) -> Support:
    """What of a job is measured, modelled or not modelled, and the published runs near it.

    Parameters
    ----------
    topology, workload, overrides, calibration, keys
        As for `simulate`.
    """
    from sim.inputs.loader import load

    machine, job, notes = load(topology, workload, settings(overrides, calibration, keys))
    from sim.result.support import support

    return support(machine, job, notes)


def trace(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    level: str | None = None,
    all_micro_steps: bool | None = None,
    ranks: Iterable[int] = (),
    jitter: str | float = "0%",
    slow: Iterable[str] = (),
    seed: int = 0,
    **keys: Any,
) -> Trace:
    """Simulate a step and give its timeline, for Perfetto or as rows of collectives.

    Parameters
    ----------
    topology, workload, overrides, calibration, keys
        As for `simulate`.
    level : {"folded", "ranks"}, optional
        Equal ranks once, or every rank's own lanes; ``ranks`` where some are named or slowed.
    all_micro_steps : bool, optional
        Every micro-step, or the first, one of the middle and the last; by default every one where
        that makes no more than 400,000 ops.
    ranks : iterable of int
        Only these; all by default.
    jitter, slow, seed
        As for `simulate`.
    """
    from sim.inputs.loader import load

    chosen("level", level, (None, "folded", "ranks"))
    machine, job, _ = load(topology, workload, settings(overrides, calibration, keys))
    from sim.step.chrome_trace import traced
    from sim.step.variation import read_variation

    slowed = texts("slow", slow, "['rank:3=0.9']")
    varied = read_variation(share(jitter), slowed, seed, 1)
    return traced(machine, job, varied, level, all_micro_steps, tuple(ranks))


def trace_diff(
    recorded: File,
    topology: Argument,
    workload: Argument | None = None,
    *,
    steps: int | None = None,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    **keys: Any,
) -> TraceDifference:
    """A recorded step beside the simulated one, part by part.

    Parameters
    ----------
    recorded : path
        A trace of PyTorch's profiler, of one rank, ``.json`` or ``.json.gz``.
    topology, workload, overrides, calibration, keys
        As for `simulate`; without a workload, `topology` is another trace, such as `trace` writes.
    steps : int, optional
        How many steps the recording has, where it marks none.

    Raises
    ------
    InputError
        Faults of the inputs; a file that is no trace; a rank that the machine has not.
    """
    from sim.errors import InputError
    from sim.interop.trace_diff import compared, recorded_profile, simulated_profile

    sets = settings(overrides, calibration, keys)
    found = recorded_profile(str(recorded), steps)
    if workload is None:
        if sets:
            message = "two traces have no keys to set; name a machine and a job to simulate"
            raise InputError.single(_DIFFERENCE, message)
        return compared(found, recorded_profile(str(topology)))
    from sim.inputs.loader import load

    return compared(found, simulated_profile(load(topology, workload, sets), found.rank))


def timeline(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    all_micro_steps: bool = False,
    **keys: Any,
) -> StepTimeline:
    """A step to draw: spans a stream, exposed stretches, critical path, bytes over time.

    Parameters
    ----------
    topology, workload, overrides, calibration, all_micro_steps, keys
        As for `trace`.
    """
    from sim.inputs.loader import load

    machine, job, _ = load(topology, workload, settings(overrides, calibration, keys))
    from sim.result.sections import title_of
    from sim.step.spans import step_timeline

    return step_timeline(machine, job, title_of(machine, job), all_micro_steps)


def stages(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
) -> StageChart:
    """What each rank of a pipeline computes when, for a chart; and the share that it is idle.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`.

    Raises
    ------
    InputError
        The job has no pipeline.
    """
    from sim.inputs.loader import load

    machine, job, _ = load(topology, workload, settings(overrides, calibration))
    from sim.step.stages import stage_chart

    return stage_chart(machine, job, f"{job.name} on {machine.name}")


def config(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    **keys: Any,
) -> Configuration:
    """Every key of a machine and a job: its value, and where that came from.

    Parameters
    ----------
    topology, workload, overrides, calibration, keys
        As for `simulate`.
    """
    from sim.inputs.config import resolved
    from sim.inputs.loader import load

    return resolved(load(topology, workload, settings(overrides, calibration, keys)))


def export(
    topology: Argument,
    workload: Argument,
    *,
    emit: Sequence[str],
    folder: File = "plan",
    overwrite: bool = False,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
) -> Exported:
    """Write a job as configurations of the tools that will run it.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`.
    emit : sequence of str
        ``accelerate``, ``deepspeed``, ``torchtitan``, ``axolotl``, ``llamafactory``, ``trl``,
        ``sbatch``, ``torchrun``, ``yaml``.
    folder : path
        Where to; files that are there are kept unless `overwrite`.

    Raises
    ------
    InputError
        A tool whose file would mean another plan, or a file that is there already.
    """
    from sim.inputs.loader import load

    machine, job, _ = load(topology, workload, settings(overrides, calibration))
    from sim.interop.emit import export

    return export(machine, job, emit, Path(folder), overwrite)


def import_job(*files: File) -> ImportedJob:
    """Read the files of one job as other tools have them.

    Parameters
    ----------
    *files : paths
        In any order: a trainer's file, a launcher's, an adapter's. `simulate` and the others take
        such a file, or a tuple of them, as it is.

    Raises
    ------
    InputError
        A file that is no tool's known here, or two that contradict each other.
    """
    from sim.interop.imported import import_job

    return import_job(files)


def schema(side: str) -> FileSchema:
    """JSON Schema of a kind of file, for editors that complete and check YAML.

    Parameters
    ----------
    side : str
        ``topology`` or ``workload``.
    """
    from sim.errors import InputError
    from sim.inputs.schema import SIDES, file_schema

    if side not in SIDES:
        argument = "schema"
        raise InputError.single(argument, f"{side!r} is not one of {', '.join(SIDES)}", "side")
    return file_schema(side)
