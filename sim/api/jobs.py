"""One job on one machine: its step, memory, methods and keys.

Inputs are read before the simulator is imported, so that their faults are said at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from sim.api.arguments import Overrides, chosen, path, read, settings, texts
from sim.choices import CHOICES

if TYPE_CHECKING:
    from sim.choices import BoundQuantity, EngineName, StepLevel, WrittenShare
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.inputs.config import Configuration
    from sim.inputs.notes import Message
    from sim.result.explain import MethodComparison
    from sim.result.improve import Improvement
    from sim.result.memory import MemoryAnswer
    from sim.result.result import Result
    from sim.result.support import Support
    from sim.step.variation import Progress, Stop
    from sim.study.post_trained import PostTrainingReport


def simulate(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    offer: str = "",
    prices: File | None = None,
    engine: EngineName = "auto",
    level: StepLevel | None = None,
    jitter: WrittenShare = "0%",
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
        Called with ``(drawn, replicas)`` after each; while a step of more than a million ops runs,
        with ops that have ended and all of them.
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

    sets = settings(overrides, calibration, keys)
    said: tuple[Message, ...] = ()
    if offer or prices:
        from sim.study.pricing import rented_at

        rented, said = rented_at(topology, workload, sets, offer, path(prices))
        sets = (*rented, *sets)
    loaded = load(topology, workload, sets)
    notes = replace(loaded.notes, warnings=(*loaded.notes.warnings, *said))
    from sim.result.predict import predict
    from sim.step.variation import read_variation

    slowed = texts("slow", slow, "['rank:3=0.9']")
    varied = read_variation(jitter, slowed, seed, replicas)
    found = predict(
        loaded.topology, loaded.workload, notes, engine=engine, level=varied.level(level),
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
    given = cast("tuple[BoundQuantity, ...]", texts("bounds", bounds, "['micro_batch']"))
    asked = [*([bound] if bound else []), *given]
    for quantity in given:
        chosen("bounds", quantity, CHOICES["BoundQuantity"])
    machine, job, notes = read(topology, workload, overrides, calibration, keys)
    from sim.memory.bound import solve_each
    from sim.memory.report import memory
    from sim.result.memory import MemoryAnswer
    from sim.result.sections import title_of
    from sim.result.trials import smaller
    from sim.result.warned import warnings_of

    found, unbounded = solve_each(machine, job, asked)
    return MemoryAnswer(
        title=title_of(machine, job),
        report=memory(machine, job),
        fixes=smaller(machine, job) if fixes else (),
        bounds=found,
        unbounded=unbounded,
        warnings=warnings_of(machine, job, notes),
    )


def improve(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    same_numerics: bool = False,
    progress: Progress | None = None,
    stop: Stop | None = None,
    **keys: Any,
) -> Improvement:
    """The combination of changes that helps a job most on its machine, each step simulated.

    Parameters
    ----------
    topology, workload, overrides, calibration, keys
        As for `simulate`.
    same_numerics : bool
        No FP8, no gradients reduced in bf16, no 8-bit optimizer.
    progress : callable, optional
        Called with changes tried, and those with what is known to be ahead, which grows.
    stop : callable, optional
        Asked before each change is tried: once it is true, the answer is the best so far
        (``stopped``).

    Raises
    ------
    InputError
        All faults of both inputs.
    """
    loaded = read(topology, workload, overrides, calibration, keys)
    from sim.result.improve import improve
    from sim.step.variation import never

    return improve(*loaded, numerics=not same_numerics, progress=progress, stop=stop or never)


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
    loaded = read(topology, workload, overrides, calibration, keys)
    from sim.result.explain import explain

    return explain(*loaded)


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
    loaded = read(topology, workload, overrides, calibration, keys)
    from sim.result.support import support

    return support(*loaded)


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

    return resolved(read(topology, workload, overrides, calibration, keys))


def posttrain(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
) -> PostTrainingReport:
    """A step of DPO, GRPO or PPO: generation, log-probabilities, update, new weights.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`; the workload says ``post_training``.
    """
    from sim.study.post_training import post_training

    return post_training(topology, workload, settings(overrides, calibration))
