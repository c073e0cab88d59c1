"""A Result as text: verdict first, then the numbers, then what to change."""

from __future__ import annotations

import csv
import io
from typing import Any

from sim.documents import flatten
from sim.report.job import job_lines
from sim.report.quantities import count, duration, gib, percent, settings
from sim.result.result import Result

_BAR = "█▓▒░▚▞"
_GROUPS = {
    "GEMM": ("gemm",),
    "attention": ("attention",),
    "other kernels": ("norm", "elementwise", "reduction", "embedding", "loss", "quantize", "copy"),
    "optimizer": ("optimizer",),
    "exposed comm": ("exposed_communication",),
    "host and copies": ("host", "copies", "idle"),
}


def render(result: Result, *, quiet: bool = False) -> str:
    """The report of `scaling-sim run`."""
    lines = [_title(result), "", *_verdict(result)]
    if quiet:
        return "\n".join(lines)
    for section in (_time, _memory, _scaling, job_lines, _bottleneck, _notes):
        lines += ["", *section(result)]
    return "\n".join(lines)


def _title(result: Result) -> str:
    t, w = result.topology, result.workload
    return (
        f"{w['title']} · {t['title']} · {w['strategy']} · {w['precision']} · "
        f"seq {w['sequence_length']} · global batch {w['global_batch_sequences']} sequences "
        f"({w['micro_batch']} x {w['gradient_accumulation']} accumulated "
        f"x {w['data_parallel']} ranks)"
    )


def _band(result: Result, key: str) -> str:
    band = result.uncertainty.get(key)
    return f"  (80 % band {duration(band[0])} to {duration(band[1])})" if band else ""


def _variation(result: Result) -> list[str]:
    found = result.detail.get("variation")
    if found is None:
        return []
    parts = list(found["slow"])
    if found["jitter"]:
        parts.append(f"jitter {percent(found['jitter'])}, seed {found['seed']}")
    times = found["step_time_s"]
    if found["replicas"] > 1:
        parts.append(
            f"over {found['replicas']} steps p10 {duration(times['p10'])}, "
            f"p50 {duration(times['p50'])}, p90 {duration(times['p90'])}"
        )
    return [f"               with {', '.join(parts)}"]


def _verdict(result: Result) -> list[str]:
    s, p = result.step, result.throughput
    exposed = s.exposed_communication_s / s.time_s
    where = ", ".join(f"{name} {duration(t)}" for name, t in list(s.exposed.items())[:3])
    return [
        *_fit(result),
        f"               {result.bottleneck.explanation}",
        f"  Step time    {duration(s.time_s)}{_band(result, 'step_time_s')}",
        *_variation(result),
        f"  Tokens/s     {count(p.tokens_per_s)} in all · {count(p.tokens_per_s_per_gpu)} per GPU",
        f"  MFU          {percent(p.mfu)}   (model FLOPs without recompute, attention "
        f"{result.provenance['attention_flops']}, over the {p.peak_dtype} dense peak)",
        f"  HFU          {percent(p.hfu)}   (recompute included)",
        f"  Exposed comm {duration(s.exposed_communication_s)} ({percent(exposed)} of the step)"
        + (f": {where}" if where else ""),
    ]


def _fit(result: Result) -> list[str]:
    m = result.memory
    used = m.peak_reserved_bytes / m.capacity_bytes if m.capacity_bytes else 0.0
    gpu = f"{gib(m.peak_reserved_bytes)} of {gib(m.capacity_bytes)} per GPU"
    if m.fits:
        return [f"  Verdict      fits: {gpu} ({percent(used)})"]
    reasons = []
    if m.peak_reserved_bytes > m.capacity_bytes:
        largest = max(m.by_category, key=lambda name: m.by_category[name])
        reasons.append(
            f"needs {gpu}, {gib(m.peak_reserved_bytes - m.capacity_bytes)} too much, at "
            f"{m.peak_moment}; {largest} alone are {gib(m.by_category[largest])}"
        )
    if m.host_bytes_per_node > m.host_capacity_bytes > 0.0:
        reasons.append(
            f"needs {gib(m.host_bytes_per_node)} of {gib(m.host_capacity_bytes)} of host memory "
            "per node"
        )
    times = "the times below are as if there were room"
    curve = result.scaling.curve
    roomy = [point for point in curve if point.fits]
    if roomy:
        times = f"unchanged, it fits on {roomy[0].nodes} nodes ({roomy[0].gpus} GPUs); {times}"
    elif len(curve) > 1:
        times = f"unchanged, it fits on none of up to {curve[-1].nodes} nodes; {times}"
    lines = [f"  Verdict      DOES NOT FIT: {'; '.join(reasons)}", f"               {times}"]
    return lines


def _time(result: Result) -> list[str]:
    breakdown, total = result.step.breakdown, result.step.time_s
    shares = {
        label: sum(breakdown.get(key, 0.0) for key in keys) / total
        for label, keys in _GROUPS.items()
    }
    bar = "".join(
        mark * round(48 * share) for mark, share in zip(_BAR, shares.values(), strict=True)
    )
    parts = " · ".join(f"{label} {100 * share:.0f} %" for label, share in shares.items())
    lines = [f"  Where time goes  {bar}", f"                   {parts}"]
    if result.step.overlap_slowdown_s > 0.005 * total:
        lines.append(
            f"                   overlap costs {duration(result.step.overlap_slowdown_s)}: kernels "
            "slowed by the SMs and HBM bandwidth of collectives beside them"
        )
    return lines


def _memory(result: Result) -> list[str]:
    m = result.memory
    top = sorted(m.by_category.items(), key=lambda item: -item[1])
    width = max((len(name) for name, _ in top), default=0)
    lines = [f"  Memory per GPU at its peak ({m.peak_moment})"]
    lines += [f"    {name:<{width}}  {gib(size):>10}" for name, size in top if size >= 1 << 20]
    lines.append(
        f"    {'allocated':<{width}}  {gib(m.peak_allocated_bytes):>10}   reserved with context, "
        f"NCCL buffers and fragmentation {gib(m.peak_reserved_bytes)}"
    )
    return lines


def _scaling(result: Result) -> list[str]:
    scaling = result.scaling
    if not scaling.curve:
        return []
    lines = [
        f"  Scaling ({scaling.kind}; efficiency against {scaling.baseline_gpus} GPUs)",
        "    nodes  GPUs  step time    tokens/s  efficiency  without comm  exposed",
    ]
    for point in scaling.curve:
        note = "" if point.fits else "  does not fit"
        lines.append(
            f"    {point.nodes:>5} {point.gpus:>5}  {duration(point.step_time_s):>9}  "
            f"{count(point.tokens_per_s):>10}  {percent(point.efficiency):>10}  "
            f"{percent(point.ideal_efficiency):>12}  "
            f"{percent(point.exposed_communication_s / point.step_time_s):>7}{note}"
        )
    return lines


def _bottleneck(result: Result) -> list[str]:
    fixes = result.bottleneck.fixes
    if not fixes:
        return []
    lines = ["  Worth trying (each simulated; time per token against now)"]
    for fix in fixes:
        verdict = f"{gib(fix.memory_bytes)}" + ("" if fix.fits else ", does not fit")
        gain = 100 * (fix.step_time_ratio - 1)
        lines.append(f"    {gain:+6.1f} %  {fix.description} ({verdict})  {settings(fix.change)}")
    return lines


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _notes(result: Result) -> list[str]:
    lines = [
        f"  ! {w.code} {w.message}" + (f" ({w.hint})" if w.hint else "") for w in result.warnings
    ]
    if result.assumptions:
        lines.append(
            f"  {len(result.assumptions)} keys took defaults (--format json lists them), such as "
            + ", ".join(_telling(result.assumptions))
        )
    return lines


_TELLING = ("optimizer_implementation", "loss", "wrap", "reduce_dtype", "torch", "nccl", "clip")


def _telling(assumptions: tuple[str, ...]) -> list[str]:
    """The assumed keys that move the numbers most."""
    short = [text.split(".", 1)[-1] for text in assumptions]
    return [t for t in short if t.split(" =")[0].rsplit(".", 1)[-1] in _TELLING]


def formatted(result: Result, form: str, *, quiet: bool = False) -> str:
    """The result as ``table``, ``json``, ``csv`` (one row) or ``md`` (a key-value table)."""
    if form == "json":
        return result.to_json()
    if form == "table":
        return render(result, quiet=quiet)
    flat = {k: v for k, v in flatten(result.to_dict()).items() if not isinstance(v, list)}
    if form == "md":
        rows = [f"| {key} | {_cell(value)} |" for key, value in flat.items()]
        return "\n".join(["| key | value |", "| --- | --- |", *rows])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(flat)
    writer.writerow([_cell(value) for value in flat.values()])
    return text.getvalue().rstrip("\n")


def _cell(value: Any) -> str:
    return "" if value is None else _text(value)
