"""From checked specs to the whole Result: step, memory, job, cost, bottleneck, band."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from sim import __version__
from sim.blocks.parameters import count_parameters
from sim.inputs.calibration import CONSTANTS
from sim.inputs.modelling import taken
from sim.inputs.notes import Notes
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.forecast import forecast_job
from sim.result.bands import uncertainty
from sim.result.bottleneck import classify, data_bottleneck
from sim.result.figures import Scaling
from sim.result.peak import peak_of
from sim.result.result import Interval, Result
from sim.result.scaling import scaling_curve
from sim.result.sections import (
    cost_section,
    energy_section,
    job_section,
    memory_section,
    ranks_section,
    step_section,
    throughput_section,
    topology_section,
    with_deadline,
    workload_section,
)
from sim.result.trials import ranked
from sim.result.warned import warnings_of
from sim.step.reference import reference_notes
from sim.step.step import StepReport, step
from sim.step.variation import Progress, Spread, Variation, spread, usual_spread


def predict(
    topology: Topology,
    workload: Workload,
    notes: Notes | None = None,
    *,
    engine: str = "auto",
    level: str = "folded",
    scaling: bool = True,
    fixes: bool = True,
    variation: Variation | None = None,
    progress: Progress | None = None,
) -> Result:
    """Simulate checked specs and put the Result together.

    Parameters
    ----------
    topology, workload : specs
        Checked by the loader.
    notes : Notes, optional
        What the loader warned of and assumed.
    engine, level, scaling, fixes
        As for `sim.simulate`.
    variation : Variation, optional
        Jitter and slow parts.
    progress : callable, optional
        Called with replicas drawn and replicas in all; of one large step as by `run_replicas`.

    Returns
    -------
    Result
        A job that does not fit gets a full one too.
    """
    varied = variation or Variation()
    alike = not varied.needs_every_rank
    found = step(
        topology, workload, engine=engine, level=level, variation=varied, progress=progress
    )
    # what other keys would make of a step, warnings hold against one that was run as theirs
    folded = step(topology, workload, engine=engine) if alike and level != "folded" else found
    breakdown, memory = found.breakdown, memory_section(found.memory)
    shown = step_section(breakdown, found.algorithms)
    bottleneck = classify(shown, memory, found.retries_s)
    throughput = throughput_section(topology, workload, found.time_s)
    if fixes:
        fixing = ranked(topology, workload, breakdown, memory.fits)
        bottleneck = replace(bottleneck, fixes=fixing)
    own = None if varied.needs_every_rank else breakdown  # the curve is of whole machines
    curve = (
        scaling_curve(topology, workload, own, found.memory.verdict, engine) if scaling else None
    )
    job = forecast_job(topology, workload, breakdown)
    bottleneck = data_bottleneck(job, bottleneck, memory.needed_bytes)
    peak = peak_of(topology, workload)
    parameters = count_parameters(workload.model, workload.method).total
    result = Result(
        topology=topology_section(topology),
        workload=workload_section(workload, topology.world_size, parameters),
        step=shown,
        throughput=throughput,
        scaling=curve or Scaling("weak", topology.world_size, 1.0, ()),
        memory=memory,
        job=job_section(job) if job else None,
        cost=cost_section(job, topology) if job else None,
        energy=energy_section(job, throughput.model_flops_per_step) if job else None,
        bottleneck=bottleneck,
        uncertainty=None,
        warnings=warnings_of(topology, workload, notes, folded, alike=alike),
        assumptions=(
            *(notes.assumptions() if notes else ()),
            *(f"workload.{key} = {value}" for key, value in taken(workload).items()),
            *reference_notes(topology, workload),
        ),
        provenance={
            "attention_flops": "counted in full (not halved for the causal mask)",
            "peak": f"{peak.dtype} dense, {peak.gpu} datasheet",
            **{f"fallback {i}": text for i, text in enumerate(found.fallbacks)},
            **_calibrated(topology),
        },
        inputs_hash=inputs_hash(topology, workload),
        model_version=__version__,
        variation=_spread(topology, varied, level, found),
        ranks=ranks_section(found.ranks, found.time_s),
    )
    known = uncertainty(topology, workload, result, found.retries_s)
    result = replace(result, uncertainty=known)
    if job is None or result.job is None or workload.deadline is None:
        return result
    low, high = known.step_time_s.low / found.time_s, known.step_time_s.high / found.time_s
    section = with_deadline(result.job, job, workload.deadline, Interval(low, high))
    return replace(result, job=section)


def _spread(topology: Topology, varied: Variation, level: str, found: StepReport) -> Spread | None:
    """By how much ranks differ; nothing for one, or where a calibration says it."""
    ranks = max(topology.gpu_counts.values())
    if varied.needs_every_rank:
        waits = [(group.waiting_s, len(group.ranks)) for group in found.ranks]
        mean = sum(s * n for s, n in waits) / max(1, sum(n for _, n in waits))
        return spread(varied, varied.level(level), found.replicas_s, mean, ranks)
    if ranks == 1 or found.breakdown.deviation_s == 0.0:
        return None
    return usual_spread(found.breakdown, ranks)


def _calibrated(topology: Topology) -> dict[str, str]:
    """What was corrected by the cluster's own measurements."""
    known = topology.calibration
    if known is None:
        return {}
    moved = [f"{n} x {getattr(known, n):.3g}" for n in CONSTANTS if getattr(known, n) != 1.0]
    return {"calibration": ", ".join(moved) or "none of its constants differs from 1"}


def inputs_hash(topology: Topology, workload: Workload) -> str:
    """SHA-256 of the two specs, resolved; equal inputs give equal hashes."""
    text = json.dumps([topology.model_dump(), workload.model_dump()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
