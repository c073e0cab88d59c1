"""The model beside measurements: one's own and published ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sim.api.arguments import Overrides, names, settings

if TYPE_CHECKING:
    from sim.calibration.calibrate import CalibrationReport
    from sim.calibration.cause import Heard
    from sim.calibration.confusion import Confusion
    from sim.calibration.diagnosis import Diagnosis
    from sim.calibration.validation import Validation
    from sim.choices import PublishedPart
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.step.variation import Progress


def calibrate(
    topology: str,
    workload: str | None = None,
    *,
    nccl_tests: File | Iterable[File] = (),
    measured: File | Iterable[File] = (),
    log: File | Iterable[File] = (),
    kineto: File | Iterable[File] = (),
    nvbandwidth: File | Iterable[File] = (),
    holdout: File | Iterable[File] = (),
    fit: Sequence[str] = (),
    overrides: Overrides = (),
    progress: Progress | None = None,
) -> CalibrationReport:
    """Fit named multipliers of a machine to measurements, with a prior around 1.

    Parameters
    ----------
    topology, workload, overrides
        As for `simulate`; the job is that of `kineto`, of `log`, and of runs that name none.
    nccl_tests, measured, log, kineto, nvbandwidth : path or iterable of paths
        Output of nccl-tests (``[OP=]FILE[#N]``), YAML lists of runs or a figure of the job as
        `diagnose` takes it, a trainer's logs, traces of PyTorch's profiler, output of nvbandwidth.
    holdout : path or iterable of paths
        Runs as `measured`, predicted before and after but not fitted.
    fit : sequence of str
        Only these constants; all by default.
    progress : callable, optional
        Called with megabytes of a trace, or runs, that were read and all there are, then with
        predictions made and about how many there will be.

    Returns
    -------
    CalibrationReport
        ``calibration`` is what `simulate` takes.
    """
    from sim.calibration.calibrate import PRIORS, calibrate
    from sim.interop.observations import gather

    found, held, notes = gather(
        topology, workload, settings(overrides), nccl_tests=names(nccl_tests),
        measured=names(measured), log=names(log), kineto=names(kineto),
        nvbandwidth=names(nvbandwidth), holdout=names(holdout), progress=progress,
    )  # fmt: skip
    return calibrate(found, held, list(fit) or list(PRIORS), notes, progress)


def diagnose(
    topology: Argument,
    workload: Argument,
    *,
    measured: str = "",
    log: File | None = None,
    also: Sequence[str] = (),
    baseline: str | None = None,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Rank the causes that would explain why a run is slower, or faster, than it should be.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`.
    measured : str
        ``tokens_per_s_per_gpu=1000``, ``tokens_per_s``, ``step_time_s``, ``samples_per_s``,
        ``mfu=41%``, or ``12.5s/it``.
    log : path, optional
        A trainer's log that says it, instead; beside a figure, what else it says (NCCL's
        transports, warnings) is read.
    also : sequence of str
        Other runs of the job that the cause must explain too: ``KEY=VALUE SET...``.
    baseline : str, optional
        A run taken as it is, written the same way.
    progress : callable, optional
        Called with causes simulated and how many there are.
    """
    from dataclasses import replace

    from sim.calibration.diagnose import diagnose
    from sim.calibration.figures import read_figures
    from sim.interop.log_says import heard_in
    from sim.interop.trainer_logs import log_text, rate_in

    sets = settings(overrides, calibration)
    said = ""
    heard: tuple[Heard, ...] = ()
    if log is not None:
        text, source = log_text(str(log))
        heard = heard_in(text)
        if not measured:
            measured, said = rate_in(text, source)
    figures = read_figures(topology, workload, sets, measured, also)
    if heard:
        figures[0] = replace(figures[0], heard=heard)
    if said:
        figures[0] = replace(figures[0], read=f"{measured} ({said})")
    known = None
    if baseline is not None:
        known = read_figures(topology, workload, sets, baseline, (), "--baseline")[0]
    return diagnose(figures, known, progress)


def confusion(
    topology: Argument,
    workload: Argument,
    *,
    also: Sequence[str] = (),
    draws: int = 4000,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
) -> Confusion:
    """Which causes of a slow run can be told apart, and how often stated odds come true.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`.
    also : sequence of str
        Other runs of the job that would be measured too, ``SET...`` each.
    draws : int
        Causes that are drawn and diagnosed.
    """
    from sim.calibration.confusion import confusion
    from sim.calibration.figures import read_figures

    sets = settings(overrides, calibration)
    others = [text if "step_time_s=" in text else f"step_time_s=1 {text}" for text in also]
    return confusion(read_figures(topology, workload, sets, "step_time_s=1", others), draws)


def validate(
    what: PublishedPart = "all", *, cross_validate: bool = False, progress: Progress | None = None
) -> Validation:
    """The model beside published measurements, misses included.

    Parameters
    ----------
    what : {"all", "training", "finetune", "memory", "collectives", "mesh"}
        Which of them; "mesh", layouts on a mesh, takes minutes and is no part of "all".
    cross_validate : bool
        Also the error on models, GPU counts and sources left out of the fits.
    progress : callable, optional
        Called with rows predicted and all there are; of the mesh's, which come last, with theirs.
    """
    from sim.calibration.validation import PARTS, validation

    return validation(PARTS if what == "all" else (what,), cross_validate, progress)
