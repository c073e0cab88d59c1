"""A Result: verdict first, then the numbers, then what to change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from sim.quantities import count, counted, duration, gib, percent, usd
from sim.report.job import job_section
from sim.report.memory import KILLED
from sim.report.ranks import waiting
from sim.report.settings import settings
from sim.report.view import (
    Bar,
    Cell,
    Column,
    Fact,
    Facts,
    Figures,
    Remarks,
    Row,
    Table,
    View,
    ViewPart,
    borrowed,
    left,
    warned,
)
from sim.result.figures import Memory, Scaling, Step
from sim.result.parts import labelled, parts_of
from sim.result.result import Interval, Result
from sim.result.sections import NO_IDLE
from sim.units import GIB

_TOLD = 0.01  # of the step: a spread that is worth a line
_PASSES = 1.0005  # of an efficiency that is written as more than 100 %
_SEEN = 0.05 * GIB  # less is written as none


def view(result: Result, *, quiet: bool = False) -> View:
    """What `scaling-sim run` says; `quiet` leaves all but the verdict out."""
    sections: list[ViewPart] = [_verdict(result)]
    if not quiet:
        sections += [
            _time(result), memory_table(result), *_scaling(result), job_section(result),
            fixes_table(result), notes(result), Figures(result.to_dict()),
        ]  # fmt: skip
    return View(_title(result), sections, result)


def _title(result: Result) -> str:
    t, w = result.topology, result.workload
    return (
        f"{w.title} · {t.title} · {w.strategy} · {w.precision} · "
        f"seq {w.sequence_length} · global batch {counted(w.global_batch_sequences, 'sequence')} "
        f"({w.micro_batch} x {w.gradient_accumulation} accumulated x "
        f"{counted(w.data_parallel, 'rank')})"
    )


def _verdict(result: Result) -> Facts:
    s, p = result.step, result.throughput
    exposed = s.exposed_communication_s / s.time_s
    where = ", ".join(f"{name} {duration(t)}" for name, t in list(s.exposed.items())[:3])
    verdict, *times = fit_lines(result)
    own = ", each GPU's own" if len({group.gpu for group in result.ranks}) > 1 else ""
    return Facts(
        [
            Fact("Verdict", verdict, (*times, result.bottleneck.explanation)),
            *_whole(result),
            Fact("Step time", duration(s.time_s) + _band(result), tuple(_variation(result))),
            Fact(
                "Tokens/s",
                f"{count(p.tokens_per_s)} in all · {count(p.tokens_per_s_per_gpu)} per GPU",
            ),
            Fact(
                "MFU",
                f"{percent(p.mfu)}   (model FLOPs without recompute, attention "
                f"{result.provenance['attention_flops']}, over the {p.peak_dtype} dense peak{own})",
            ),
            Fact(
                "HFU",
                f"{percent(p.hfu)}   (of what runs: recompute, no masked attention)",
            ),
            Fact(
                "Exposed comm",
                f"{duration(s.exposed_communication_s)} ({percent(exposed)} of the step)"
                + (f": {where}" if where else ""),
            ),
            *waiting(result),
        ],
        gap=1,
    )


def _whole(result: Result) -> Iterator[Fact]:
    """When the job is done and what that costs, where its length is known."""
    job, cost, known = result.job, result.cost, result.uncertainty
    if job is None or not math.isfinite(job.wall_clock_s):
        return
    said, bands = f"done in {duration(job.wall_clock_s)}", []
    if known is not None and known.wall_clock_s and job.data_idle_share < NO_IDLE:
        bands.append(_range(known.wall_clock_s, duration))
    if cost is not None:
        said += f" for {usd(cost.total_usd)}"
        bands += [_range(known.total_usd, usd)] if bands and known and known.total_usd else []
    yield Fact("Whole job", said + (f"  (80 % band {', '.join(bands)})" if bands else ""))


def _range(band: Interval, show: Callable[[float], str]) -> str:
    return f"{show(band.low)} to {show(band.high)}"


def _band(result: Result) -> str:
    if result.uncertainty is None:
        return ""
    return f"  (80 % band {_range(result.uncertainty.step_time_s, duration)})"


def _variation(result: Result) -> Iterator[str]:
    found = result.variation
    if found is None:
        return
    times = found.step_time_s
    if not found.replicas:
        if times.p90 - times.p10 > _TOLD * times.mean:
            yield (
                f"of machines p10 {duration(times.p10)}, p50 {duration(times.p50)}, p90 "
                f"{duration(times.p90)}: ranks differ by {percent(found.jitter)}, and one waits "
                f"{duration(found.waiting_s)} for the slowest of {found.ranks}"
            )
        return
    parts = list(found.slow)
    if found.jitter:
        parts.append(f"jitter {percent(found.jitter)}, seed {found.seed}")
    if found.replicas > 1:
        parts.append(
            f"over {found.replicas} steps p10 {duration(times.p10)}, "
            f"p50 {duration(times.p50)}, p90 {duration(times.p90)}"
        )
    yield f"with {', '.join(parts)}"


def fit_lines(result: Result) -> list[str]:
    """Whether it fits and why not, and what the times then mean."""
    m = result.memory
    used = m.needed_bytes / m.capacity_bytes if m.capacity_bytes else 0.0
    gpu = f"{gib(m.needed_bytes)} of {gib(m.capacity_bytes)} per {m.binding_gpu or 'GPU'}"
    loading = [_loading(m)] if m.host_loading_bytes_per_node else []
    if m.risk:
        return [f"at risk: {gpu} ({percent(used)}), {m.risk}", *loading]
    if m.fits:
        return [f"fits: {gpu} ({percent(used)})", *loading]
    reasons = []
    if m.needed_bytes > m.capacity_bytes:
        largest = max(m.by_category, key=lambda name: m.by_category[name])
        reasons.append(
            f"needs {gpu}, {gib(m.needed_bytes - m.capacity_bytes)} too much, at "
            f"{m.peak_moment}; {largest} alone are {gib(m.by_category[largest])}"
        )
    if m.host_bytes_per_node > m.host_capacity_bytes > 0.0:
        reasons.append(
            f"needs {gib(m.host_bytes_per_node)} of {gib(m.host_capacity_bytes)} of host memory "
            f"per node, {KILLED}"
        )
    if m.host_loading_bytes_per_node > m.host_capacity_bytes > 0.0:
        reasons.append(f"{_loading(m)} (parallelism.cpu_ram_efficient_loading)")
    times = "the times below are as if it just ran"
    curve, fewest = result.scaling.curve, result.scaling.fewest_nodes
    if fewest is not None:
        gpus = fewest * (result.topology.gpus // result.topology.nodes)
        size = f"{counted(fewest, 'node')} ({counted(gpus, 'GPU')})"
        times = f"unchanged, it fits on {size} or more; {times}"
    elif len(curve) > 1:
        times = f"unchanged, it fits on none of up to {curve[-1].nodes} nodes; {times}"
    return [f"DOES NOT FIT: {'; '.join(reasons)}", times]


def _loading(m: Memory) -> str:
    """What a copy of the model on every rank takes of a node before the first step."""
    return (
        f"loading takes {gib(m.host_loading_bytes_per_node)} of {gib(m.host_capacity_bytes)} of "
        "host memory per node, a copy of the model on every rank"
    )


def _time(result: Result) -> Bar:
    total = result.step.time_s
    shares = [(label, seconds / total) for label, seconds in parts_of(result.step).items()]
    more = []
    if cost := overlap_cost(result.step):
        more.append(f"overlap costs {cost}")
    if found := lost(result.step.transfer_slowdown, total):
        text = f"collectives and copies were under way {found[0]} longer than alone: {found[1]}"
        more.append(text)
    return Bar("Where time goes", shares, more)


def overlap_cost(step: Step) -> str | None:
    """What kernels lose to what runs beside them, of which kind they are and to whom."""
    found = lost(step.overlap_slowdown, step.time_s)
    if found is None:
        return None
    kernels = _worth(labelled(step.overlap_slowdown_kernels), step.time_s)
    return f"{found[0]} ({kernels}): kernels slowed by {found[1]}"


def lost(causes: Mapping[str, float], total: float) -> tuple[str, str] | None:
    """What overlap lost in all and by cause, where it is worth a line."""
    whole = sum(causes.values())
    if whole <= 0.005 * total:
        return None
    return duration(whole), _worth(causes, total)


def _worth(causes: Mapping[str, float], total: float) -> str:
    return ", ".join(f"{name} {duration(s)}" for name, s in causes.items() if s > 0.001 * total)


def memory_table(result: Result) -> Table:
    """Bytes on a GPU at its peak."""
    m = result.memory
    top = sorted(m.by_category.items(), key=lambda item: -item[1])
    rows: list[Row] = [
        [name, Cell(gib(size), size, "B"), ""] for name, size in top if size >= _SEEN
    ]
    rows += [
        ["allocated", Cell(gib(m.peak_allocated_bytes), m.peak_allocated_bytes, "B"), ""],
        [
            "needed in all", Cell(gib(m.needed_bytes), m.needed_bytes, "B"),
            "with context, NCCL buffers and fragmentation; with room, "
            f"{gib(m.peak_reserved_bytes)} reserved",
        ],
    ]  # fmt: skip
    return Table(
        [left("what"), Column("size", width=10), left(before="   ")],
        rows,
        f"Memory per GPU at its peak ({m.peak_moment})", headed=False,
    )  # fmt: skip


#: what the two kinds of scaling keep
_KEPT = {"weak": "the same work for each GPU", "strong": "the same global batch"}


def _scaling(result: Result) -> list[Table]:
    """The curves of a machine: weak, and strong where it was asked for."""
    curves = (result.scaling, result.strong_scaling)
    return [scaling_table(curve) for curve in curves if curve is not None]


def scaling_table(scaling: Scaling) -> Table:
    """A curve over numbers of nodes."""
    heading = (
        f"Scaling, {scaling.kind} ({_KEPT[scaling.kind]}; efficiency against "
        f"{counted(scaling.baseline_gpus, 'GPU')}"
    )
    if any(p.ideal_efficiency >= _PASSES for p in scaling.curve):
        heading += " as they run: what communicates less may pass 100 %"
    heading += ")"
    columns = [
        Column("nodes"), Column("GPUs", width=5, before=" "), Column("step time", width=9),
        Column("tokens/s", width=10), Column("efficiency"), Column("without comm"),
        Column("exposed"), left(),
    ]  # fmt: skip
    rows: list[Row] = [
        [
            Cell(str(p.nodes), p.nodes), Cell(str(p.gpus), p.gpus),
            Cell(duration(p.step_time_s), p.step_time_s, "s"),
            Cell(count(p.tokens_per_s), p.tokens_per_s), Cell(percent(p.efficiency), p.efficiency),
            Cell(percent(p.ideal_efficiency), p.ideal_efficiency),
            percent(p.exposed_communication_s / p.step_time_s),
            " ".join([p.verdict] * (p.verdict != "fits") + [f"as {p.strategy}"] * bool(p.strategy)),
        ]
        for p in scaling.curve
    ]  # fmt: skip
    return Table(columns, rows, heading)


def fixes_table(result: Result) -> Table:
    """Changes worth trying, each simulated."""
    heading, m = "Worth trying (each simulated; time per token against now)", result.memory
    if not m.fits and m.needed_bytes <= m.capacity_bytes:  # which trials then measure
        heading = heading.replace(")", "; memory of the host, a node)")
    if not m.fits and not any(fix.fits for fix in result.bottleneck.fixes):
        heading = heading.replace(")", "; none makes it fit)")
    columns = [
        Column("time per token", width=8), left("change", pad=False),
        left("memory", pad=False, before=" (", after=")"), left("as options", pad=False),
    ]  # fmt: skip
    rows: list[Row] = [
        [
            Cell(percent(fix.step_time_ratio - 1.0, sign="+"), fix.step_time_ratio),
            fix.text,
            Cell(gib(fix.memory_bytes) + ("" if fix.verdict == "fits" else f", {fix.verdict}"),
                 fix.memory_bytes, "B"),
            settings(fix.change),
        ]
        for fix in result.bottleneck.fixes
    ]  # fmt: skip
    return Table(columns, rows, heading, headed=False)


def notes(result: Result) -> Remarks:
    """Warnings, borrowed constants, and keys that took defaults."""
    lines = [*warned(result.warnings).lines, *borrowed(result.borrowed).lines]
    if result.assumptions:
        lines.append(
            f"{len(result.assumptions)} keys took defaults (--format json lists them), such as "
            + ", ".join(_telling(result.assumptions))
        )
    return Remarks(lines)


_TELLING = (
    "optimizer_implementation", "loss", "wrap", "reduce_dtype", "torch", "nccl", "clip",
    "adapters", "adapter_dtype", "gptq_kernels", "experts", "deepspeed_version",
)  # fmt: skip


def _telling(assumptions: tuple[str, ...]) -> list[str]:
    """The assumed keys that move the numbers most."""
    short = [text.split(".", 1)[-1] for text in assumptions]
    return [t for t in short if t.split(" =")[0].rsplit(".", 1)[-1] in _TELLING]
