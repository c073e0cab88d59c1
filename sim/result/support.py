"""What of a job is measured, what is modelled and what is not, and how far that holds.

The evidence is the published runs of `sim/data/measured/residuals.json` that share a feature with
the job, each predicted by constants that had not seen its source; of parts that those rows do not
tell apart, `sim/data/evidence.toml` says what they were held to.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from sim.data import table
from sim.documents import SCHEMAS, Document, Section
from sim.inputs.notes import Message, Notes
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.band import kind_of, memory_half_width, memory_residuals
from sim.quantities import count, percent
from sim.result.bands import STAND_IN, UNSEEN, LikeRun, like_runs
from sim.result.likeness import JobTraits, Residual, job_of, residuals
from sim.result.predict import predict
from sim.result.result import Interval, Result

Status = Literal["measured", "modelled", "not modelled"]
#: what `JobTraits` knows of a job, in the words of a report
FEATURES = {
    "generation": "GPU kernels", "strategy": "strategy", "method": "method", "trainer": "trainer",
    "link": "slowest link", "fp8": "FP8", "compiled": "torch.compile",
}  # fmt: skip
RANGES = {"gpus": "GPUs", "parameters": "parameters", "tokens": "tokens of a micro-step"}
_LINE = re.compile(r":\d+$")  # where in a file
#: warnings about what was read and is not followed
UNFOLLOWED = ("not-followed", "model-notes", "architecture", "idle-key", "no-effect")


@dataclass(frozen=True, slots=True)
class Aspect(Section):
    """One thing about a job, and what stands behind its prediction.

    Attributes
    ----------
    about, value : str
        Which thing, and what it is in this job.
    status : {"measured", "modelled", "not modelled"}
        Whether real runs show it.
    rows, sources : int
        Published runs that share it, and how many published them.
    error : float or None
        Their mean error: |predicted / measured - 1|. [1]
    evidence : str
        What it was held to, or what its absence adds to the band.
    """

    about: str
    value: str
    status: Status
    rows: int
    sources: int
    error: float | None
    evidence: str


@dataclass(frozen=True, slots=True)
class Support(Document):
    """How far a prediction is backed.

    Attributes
    ----------
    topology, workload : str
        The titles of both.
    aspects : tuple of Aspect
        Speed first, then memory, then parts with evidence of their own.
    like : tuple of LikeRun
        The published runs most like this job, the most like it first.
    step_time_s, band_s : float, Interval
        What is predicted, and its 80 % band.
    memory_band : float
        Half the width of the 80 % band of peak memory, as a logarithm.
    comparable_rows : float
        Runs of equal weight that would say as much about its speed.
    borrowed : tuple of str
        Constants of a GPU that are another's.
    warnings : tuple of Message
        What the job is warned of; what is not followed is an aspect too.
    """

    schema = SCHEMAS["support"]
    topology: str
    workload: str
    aspects: tuple[Aspect, ...]
    like: tuple[LikeRun, ...]
    step_time_s: float
    band_s: Interval
    memory_band: float
    comparable_rows: float
    borrowed: tuple[str, ...]
    warnings: tuple[Message, ...]

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row an aspect."""
        return [aspect.content() for aspect in self.aspects]

    def of(self, status: Status) -> tuple[Aspect, ...]:
        """Aspects of a status."""
        return tuple(aspect for aspect in self.aspects if aspect.status == status)


def support(topology: Topology, workload: Workload, notes: Notes) -> Support:
    """What stands behind the prediction of a job on a machine.

    Parameters
    ----------
    topology, workload, notes
        As `sim.inputs.loader.load` gives them.
    """
    result = predict(topology, workload, notes, scaling=False, fixes=False)
    step, known = result.step, result.uncertainty
    assert known is not None
    job = job_of(topology, workload, step.breakdown, step.overlap_slowdown_s)
    aspects = (
        *_features(job), *_ranges(job), _memory(workload), *_own_evidence(workload),
        *_unfollowed(result),
    )  # fmt: skip
    return Support(
        result.topology.title, result.workload.title, aspects,
        like_runs(topology, workload, result), step.time_s, known.step_time_s,
        memory_half_width(kind_of(workload)), known.comparable_rows, result.borrowed,
        result.warnings,
    )  # fmt: skip


def _features(job: JobTraits) -> Iterator[Aspect]:
    """Features of the job that published runs share, or do not."""
    for key, about in FEATURES.items():
        value = getattr(job, key)
        rows = [r for r in residuals() if getattr(r.job, key) == value]
        if isinstance(value, bool):
            if not value:
                continue
            value = "yes"
        evidence = f"no run shows it: adds {percent(UNSEEN[key], 0)} to the band"
        if key == "generation" and job.stand_in:
            evidence += f"; kernels are another architecture's: {percent(STAND_IN, 0)} more"
        if key == "generation" and job.own:
            about, rows = "GPU of one's own", []
            evidence = f"kernels as {value}'s: adds {percent(UNSEEN[key], 0)} to the band"
        yield _aspect(about, str(value), rows, evidence)


def _ranges(job: JobTraits) -> Iterator[Aspect]:
    """Whether runs as large and as small are among the published ones."""
    for key, about in RANGES.items():
        value = float(getattr(job, key))
        sizes = sorted(float(getattr(r.job, key)) for r in residuals())
        near = [r for r in residuals() if 0.5 * value <= getattr(r.job, key) <= 2.0 * value]
        evidence = f"runs are of {count(sizes[0])} to {count(sizes[-1])}, none within a factor of 2"
        yield _aspect(about, count(value), near, evidence)


def _aspect(about: str, value: str, rows: Sequence[Residual], lacking: str) -> Aspect:
    """An aspect of speed by the runs that share it."""
    if not rows:
        return Aspect(about, value, "modelled", 0, 0, None, lacking)
    # residuals are logarithms of measured over predicted time
    error = statistics.fmean(abs(math.exp(-r.without_source) - 1.0) for r in rows)
    sources = len({r.source for r in rows})
    return Aspect(about, value, "measured", len(rows), sources, error, "published step times")


def _memory(workload: Workload) -> Aspect:
    """Published peaks of the same kind."""
    kind = kind_of(workload)
    rows = [r for r in memory_residuals() if r.kind == kind]
    value = f"{kind.method}, sharded by {kind.shards}, {kind.trainer}"
    if not rows:
        near = sum(r.kind.method == kind.method for r in memory_residuals())
        lacking = f"no peak of all three; {near} of the method"
        return Aspect("peak memory", value, "modelled", 0, 0, None, lacking)
    error = statistics.fmean(abs(math.exp(r.error) - 1.0) for r in rows)
    return Aspect(
        "peak memory",
        value,
        "measured",
        len(rows),
        len({r.source for r in rows}),
        error,
        "published peaks",
    )


def _own_evidence(workload: Workload) -> Iterator[Aspect]:
    """Parts that rows do not tell apart."""
    for row in table("evidence")["aspect"]:
        value = attrgetter(row["key"])(workload)
        if value is None or value == row.get("unless"):
            continue
        shown = str(value) if isinstance(value, bool | int | str) else "asked for"
        yield Aspect(row["about"], shown, row["status"], 0, 0, None, row["evidence"])


def _unfollowed(result: Result) -> Iterator[Aspect]:
    """What was written and changes nothing, or is taken as something else."""
    for warning in result.warnings:
        if warning.code in UNFOLLOWED:
            path = warning.path.partition(".")[2] or _theirs(warning.message)
            yield Aspect(path, "", "not modelled", 0, 0, None, warning.message)


def _theirs(message: str) -> str:
    """The key of another tool's file that a message begins with, after the file's line."""
    words = message.split(": ")
    keys = (word for word in words[:-1] if " " not in word and not _LINE.search(word))
    return next(keys, "the files")
