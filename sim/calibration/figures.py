"""Measured runs as people have them: rates of a GPU or of all, MFU, s/it, or a log."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sim.blocks.flops import token_flops
from sim.calibration.cause import Heard
from sim.errors import Fault, InputError
from sim.files import is_file
from sim.inputs.arguments import Argument
from sim.inputs.loader import load
from sim.inputs.notes import Notes
from sim.inputs.shares import batch_of
from sim.inputs.spoken import folded
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.result.peak import peak_of
from sim.units import UnitError, parse


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured run."""

    topology: Topology
    workload: Workload
    step_time_s: float
    label: str = ""
    read: str = ""  # where from, where it was not given as it is
    timed: bool = False  # a time, whatever tokens are counted
    heard: tuple[Heard, ...] = ()  # what its log says besides
    notes: Notes | None = None  # of its reading

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """As a rate. [1/s]"""
        return self.rate(self.step_time_s)

    def rate(self, seconds: float) -> float:
        """Tokens a second and GPU, of a step of so many seconds."""
        return batch_of(self.topology, self.workload).tokens / seconds / self.topology.world_size


StepSeconds = Callable[[float, Topology, Workload], float]


def _tokens(topology: Topology, workload: Workload) -> float:
    """Of an optimizer step, on all GPUs."""
    return float(batch_of(topology, workload).tokens)


def _of_mfu(share: float, topology: Topology, workload: Workload) -> float:
    """Step time of a share of the peak, FLOPs counted as `run` counts them. [s]"""
    return _of_flops(share * peak_of(topology, workload).flops_per_s, topology, workload)


def _of_flops(flops_per_s: float, topology: Topology, workload: Workload) -> float:
    """Step time of so many model FLOPs a second and GPU. [s]"""
    rate = flops_per_s / token_flops(workload).model
    return _tokens(topology, workload) / rate / topology.world_size


#: key -> the step time that a figure of it means [s]
KEYS: dict[str, StepSeconds] = {
    "tokens_per_s_per_gpu": lambda v, t, w: _tokens(t, w) / v / t.world_size,
    "tokens_per_s": lambda v, t, w: _tokens(t, w) / v,
    "step_time_s": lambda v, t, w: v,
    "s_per_it": lambda v, t, w: v,
    "it_per_s": lambda v, t, w: 1.0 / v,
    "s_per_micro_step": lambda v, t, w: v * w.gradient_accumulation,
    "samples_per_s": lambda v, t, w: _tokens(t, w) / w.sequence_length / v,
    "mfu": _of_mfu,
    "tflops_per_gpu": lambda v, t, w: _of_flops(v * 1e12, t, w),
}
_TIMES = ("step_time_s", "s_per_it", "it_per_s", "s_per_micro_step")
_EITHER = 2.0  # a bare MFU up to this may be a share above the peak or per cent
_SHORT = re.compile(r"([0-9.]+) ?([A-Za-z]+(?:/[A-Za-z]+)*)\Z")
#: what is of a whole iteration, rollouts too, where there are any
_WHOLE = ("step_time_s", "s_per_it", "it_per_s", "samples_per_s")
#: what people call a key, without case and punctuation
_MEANT = {
    "steptime": "step_time_s", "secondsperstep": "step_time_s", "tps": "tokens_per_s_per_gpu",
    "tokenspersecond": "tokens_per_s", "tokenspersec": "tokens_per_s", "tokens/s": "tokens_per_s",
    "tokenspersecondpergpu": "tokens_per_s_per_gpu", "tokens/s/gpu": "tokens_per_s_per_gpu",
    "samplespersecond": "samples_per_s", "trainsamplespersecond": "samples_per_s",
    "trainstepspersecond": "it_per_s", "stepspersecond": "it_per_s",
    "s/it": "s_per_it", "it/s": "it_per_s",
    "tok/s/gpu": "tokens_per_s_per_gpu", "tok/s": "tokens_per_s",
    "tflops": "tflops_per_gpu", "tflop/s/gpu": "tflops_per_gpu", "tflops/s/gpu": "tflops_per_gpu",
    "tflops/gpu": "tflops_per_gpu", "tflops/s": "tflops_per_gpu", "tflop/s": "tflops_per_gpu",
}  # fmt: skip


def read_figures(
    topology: Argument, workload: Argument, sets: Sequence[str], measured: str,
    also: Sequence[str] = (), option: str = "--measured",
) -> list[Figure]:  # fmt: skip
    """Figures as the command line has them.

    Parameters
    ----------
    topology, workload : path, name, mapping or spec
        The job.
    sets : sequence of str
        Overrides of all figures.
    measured : str
        A key of `KEYS` with a number, such as ``tokens_per_s_per_gpu=1000``, or ``2.5s/it``.
    also : sequence of str
        Such a figure and overrides of its own, separated by spaces.
    option : str
        What `measured` was given with, for faults.

    Raises
    ------
    InputError
        Faults of every figure, together.
    """
    faults: list[Fault] = []
    figures: list[Figure] = []
    for text, name in ((measured, option), *((text, "--also") for text in also)):
        try:
            figures.append(_figure(topology, workload, sets, text, name))
        except InputError as error:
            faults.extend(error.faults)
    if faults:
        raise InputError(faults)
    return figures


def _figure(
    topology: Argument, workload: Argument, sets: Sequence[str], text: str, option: str
) -> Figure:
    words, source = text.split(), f"{option} {text}"
    spoken = _SHORT.match(text.strip())
    if spoken is not None:
        words = [f"{spoken[2]}={spoken[1]}"]
    given = [w for w in words if _key(w)]
    if len(given) != 1:
        message = f"give one of {', '.join(KEYS)}, as KEY=NUMBER, or 2.5s/it"
        if is_file(Path(text)):
            message = "is a file: a log is read by --log, a profiler's trace by trace diff"
        raise InputError.single(source, message)
    key, number = _key(given[0]), given[0].partition("=")[2]
    value = read_value(key, number, lambda said: Fault(source, None, None, key, said))
    changes = [w for w in words if w not in given]
    loaded = load(topology, workload, (*sets, *changes))
    if key in _WHOLE and loaded.workload.post_training is not None:
        message = (
            "holds what post_training has beside the update, which posttrain predicts: give "
            "tokens_per_s of the update alone, or its time with --set post_training=null"
        )
        raise InputError.single(source, message)
    seconds = KEYS[key](value, loaded.topology, loaded.workload)
    label = " ".join(changes) or "as given"
    return replace(
        Figure(*loaded[:2], seconds, label, timed=key in _TIMES, notes=loaded.notes),
        read="" if key in ("tokens_per_s_per_gpu", "step_time_s") else text.strip(),
    )


def is_figure(text: str) -> bool:
    """Whether a text says a figure, whatever its number is."""
    return _SHORT.match(text.strip()) is not None or any("=" in w and _key(w) for w in text.split())


def _key(word: str) -> str:
    """The key of ``key=number``; "" where it is none."""
    key = word.partition("=")[0]
    return key if key in KEYS else _MEANT.get(folded(key), "")


def read_value(key: str, text: str, fault: Callable[[str], Fault]) -> float:
    """A number, a share, or a time with its unit, as a key of `KEYS` takes it.

    An MFU is a share of at most 1, written as such or in per cent: 0.41, 41% and 41 are the same.

    Raises
    ------
    InputError
        It is none of them, or more than the peak; `fault` places what is said.
    """
    number = text.strip().replace("_", "")
    try:
        if key in ("step_time_s", "s_per_it", "s_per_micro_step") and number[-1:].isalpha():
            value = parse(number, "s")
        else:
            of_100 = key == "mfu" and number.endswith("%")
            value = float(number.removesuffix("%")) / 100.0 if of_100 else float(number)
    except (UnitError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError([fault(f"{text!r} is no positive number")])
    if key == "mfu" and value > 1.0 and not number.endswith("%"):
        if value <= _EITHER:
            message = f"{text} is more than the peak as a share; {text}% if per cent is meant"
            raise InputError([fault(message)])
        value /= 100.0
    if key == "mfu" and value > 1.0:
        message = (
            f"{text} is more than the peak: of which GPU, and dense? It is a share of the dense "
            "peak of this machine's GPUs"
        )
        raise InputError([fault(message)])
    return value
