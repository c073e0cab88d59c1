"""One step over time: its trace, a recorded one beside it, drawings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sim.api.arguments import Overrides, read, settings, texts
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.choices import StepCount, TraceLevel, WrittenShare
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.interop.trace_diff import TraceDifference
    from sim.step.chrome_trace import Trace
    from sim.step.spans import StepTimeline
    from sim.step.stages import StageChart
    from sim.step.variation import Progress

_DIFFERENCE = "trace diff"


def trace(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    level: TraceLevel | None = None,
    all_micro_steps: bool | None = None,
    ranks: Iterable[int] = (),
    jitter: WrittenShare = "0%",
    slow: Iterable[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
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
    progress : callable, optional
        Called with ops simulated and all there are, where they are a million and more.

    Raises
    ------
    InputError
        Faults of the inputs, or more ops than there is memory for.
    """
    machine, job, _ = read(topology, workload, overrides, calibration, keys)
    from sim.step.chrome_trace import traced
    from sim.step.variation import read_variation

    slowed = texts("slow", slow, "['rank:3=0.9']")
    varied = read_variation(jitter, slowed, seed, 1)
    return traced(machine, job, varied, level, all_micro_steps, tuple(ranks), progress)


def trace_diff(
    recorded: File,
    topology: Argument,
    workload: Argument | None = None,
    *,
    steps: StepCount | None = None,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
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
    progress : callable, optional
        Called with megabytes of a recording that were read and all it has.

    Raises
    ------
    InputError
        Faults of the inputs; a file that is no trace; a rank that the machine has not.
    """
    from sim.interop.trace_diff import compared, recorded_profile, simulated_profile

    sets = settings(overrides, calibration, keys)
    found = recorded_profile(str(recorded), steps, progress)
    if workload is None:
        if sets:
            message = "two traces have no keys to set; name a machine and a job to simulate"
            raise InputError.single(_DIFFERENCE, message)
        return compared(found, recorded_profile(str(topology), None, progress))
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
    machine, job, _ = read(topology, workload, overrides, calibration, keys)
    from sim.result.sections import title_of
    from sim.step.spans import step_timeline

    return step_timeline(machine, job, title_of(machine, job), all_micro_steps)


def stages(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
) -> StageChart:
    """What each rank of a pipeline computes when, for a chart; and the share that it is idle.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`.
    progress : callable, optional
        As for `trace`.

    Raises
    ------
    InputError
        The job has no pipeline.
    """
    machine, job, _ = read(topology, workload, overrides, calibration)
    from sim.step.stages import stage_chart

    return stage_chart(machine, job, f"{job.name} on {machine.name}", progress)
