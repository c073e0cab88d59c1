"""Two variants: by how much they differ, and which parts of the step made it so.

Time is compared as GPU-seconds per token, which splits exactly into the parts of the step; a
different number of GPUs is a factor of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sim.inputs.loader import Loaded
from sim.inputs.price import place_of
from sim.job.cost import break_even_price
from sim.quantities import percent, usd
from sim.result.peak import peak_of
from sim.result.result import Result
from sim.study.compared import (
    PARTS,
    Delta,
    PartDelta,
    Variant,
    as_long,
    part_times,
    whole_job,
)

# the datasheet ratio that a part is read against
_RATES = {
    "GEMM": "peak", "attention": "peak", "HBM-bound kernels": "HBM", "optimizer": "HBM",
    "exposed communication": "network",
}  # fmt: skip
_WORTH_SAYING = 0.02  # of the first's time


def variant_of(
    one: Loaded, result: Result, label: str = "", changes: tuple[str, ...] = ()
) -> Variant:
    """A job on a machine and what came out, with the rates that its parts are read against."""
    return Variant(label, one.topology.name, one.workload.name, changes, result, _rates(one))


def _rates(one: Loaded) -> dict[str, float]:
    """Peak, HBM, NVLink and network rate of a GPU; what the topology lacks is left out.

    Of unlike GPUs the slowest one's, for which the others wait. [FLOP/s, B/s]
    """
    topology = one.topology
    rates = {
        "peak": peak_of(topology, one.workload).flops_per_s,
        "HBM": min(gpu.memory_bandwidth for gpu in topology.gpu_counts),
    }
    node = topology.node
    if node is None:
        return rates
    if node.nvlink and node.nvlink.links_per_gpu:
        link = node.nvlink.link_rate or node.gpu.nvlink_link_rate
        rates["NVLink"] = node.nvlink.links_per_gpu * link
    if node.nics and topology.nodes > 1:
        rates["network"] = node.nics.count * node.nics.rate / node.gpus
    elif "NVLink" in rates:
        rates["network"] = rates["NVLink"]
    return rates


def delta_of(first: Variant, other: Variant) -> Delta:
    """A variant against the first, without what others charge for the two machines."""
    a, b = first.result, other.result
    before, after = part_times(a), part_times(b)
    whole = sum(before.values())
    parts = tuple(
        PartDelta(name, before[name], after[name], (after[name] - before[name]) / whole)
        for name in PARTS
    )
    gpus = b.topology.gpus / a.topology.gpus
    per_gpu = b.throughput.tokens_per_s_per_gpu / a.throughput.tokens_per_s_per_gpu
    _, cost, energy = map(_ratio, whole_job(a), whole_job(b))
    return Delta(
        label=other.label,
        tokens_per_s_ratio=b.throughput.tokens_per_s / a.throughput.tokens_per_s,
        per_gpu_ratio=per_gpu,
        cost_ratio=cost,
        energy_ratio=energy,
        memory_ratio=b.memory.needed_bytes / a.memory.needed_bytes,
        tie_price_usd=_tie_price(a, b),
        parts=parts,
        reasons=_reasons(first, other, parts, per_gpu, gpus),
    )


def _ratio(first: float | None, other: float | None) -> float | None:
    if not first or other is None or not (math.isfinite(first) and math.isfinite(other)):
        return None
    return other / first


def reasons_between(
    first: Loaded, first_result: Result, other: Loaded, other_result: Result
) -> tuple[str, ...]:
    """Why one result differs from another, the largest contribution first."""
    label = ""  # what tells the two apart
    if first.workload.name != other.workload.name:
        label = first.workload.name
    if first.topology.name != other.topology.name:
        label = first.topology.name
    ends = variant_of(first, first_result, label), variant_of(other, other_result)
    return delta_of(*ends).reasons


def _reasons(
    first: Variant, other: Variant, parts: Sequence[PartDelta], per_gpu: float, gpus: float
) -> tuple[str, ...]:
    """Sentences, the largest contribution first."""
    out = []
    if abs(gpus - 1.0) > 1e-9:
        a, b = first.result.topology.gpus, other.result.topology.gpus
        out.append(f"{b} GPUs instead of {a}; each does {per_gpu:.2f} x the tokens/s")
    for part in sorted(parts, key=lambda p: -abs(p.share)):
        if abs(part.share) < _WORTH_SAYING:
            continue
        verb = "saved" if part.share < 0 else "added"
        whose = f"{first.label}'s" if first.label else "the first's"
        text = f"{part.name}: {percent(abs(part.share), 0)} of {whose} time per token {verb}"
        if part.speedup is not None:
            text += f" ({part.speedup:.2f} x as fast{_against(first, other, part.name)})"
        elif part.first_s == 0.0:
            text += " (there was none)"
        else:
            text += " (all of it)"
        out.append(text)
    if not out:
        out.append("no part of the step differs by 2 % of the time")
    ends = first.result, other.result
    return (*out, *_waiting(*ends), *_cost_reason(*ends), *_carbon_reason(*ends))


def _tie_price(first: Result, other: Result) -> float | None:
    """Hourly price of the other at which both cost the same; None if no price does. [USD]"""
    if not first.cost or not other.cost or not as_long(first, other):
        return None
    return break_even_price(first.cost.total_usd, other.cost)


def _waiting(first: Result, other: Result) -> Iterator[str]:
    """Waiting for data, which is outside the step."""
    a, b = (r.job.data_idle_share if r.job else 0.0 for r in (first, other))
    if abs(b - a) >= _WORTH_SAYING:
        yield f"waiting for data takes {percent(b, 0)} of the job instead of {percent(a, 0)}"


def _cost_reason(first: Result, other: Result) -> Iterator[str]:
    """GPU-hours and hourly rate, whose product is the cost but for storage and the like."""
    a, b = first.cost, other.cost
    if a is None or b is None:
        return
    ratio = _ratio(a.total_usd, b.total_usd)
    if ratio is None or abs(ratio - 1.0) < _WORTH_SAYING:
        return
    hours = b.gpu_hours / a.gpu_hours
    rate = b.price_per_gpu_hour_usd / a.price_per_gpu_hour_usd
    text = f"cost {ratio:.2f} x: {hours:.2f} x the GPU-hours at {rate:.2f} x the hourly price"
    here, there = (place_of(c.provider, c.region) for c in (a, b))
    if here != there:
        text += f" ({there or 'its own price'} against {here or 'its own price'})"
    if first.job and other.job and not as_long(first, other):
        text += f", for {other.job.tokens / first.job.tokens:.3g} x the tokens"
    same = first.topology.name == other.topology.name
    tie = None if same else _tie_price(first, other)
    yield text + (f"; it would cost the same at {usd(tie)} per GPU-hour" if tie else "")


def _carbon_reason(first: Result, other: Result) -> Iterator[str]:
    """Energy and the grid's intensity, whose product is the CO2 of running it."""
    a, b = first.energy, other.energy
    if a is None or b is None or not a.g_co2_per_kwh or not b.g_co2_per_kwh:
        return
    energy, grid = _ratio(a.energy_j, b.energy_j), b.g_co2_per_kwh / a.g_co2_per_kwh
    if energy is None or a.co2_region == b.co2_region:
        return
    yield (
        f"CO2e {energy * grid:.2f} x: {energy:.2f} x the energy on a grid of {grid:.2f} x the "
        f"intensity ({b.g_co2_per_kwh:.0f} g/kWh in {b.co2_region}, {a.g_co2_per_kwh:.0f} in "
        f"{a.co2_region})"
    )


def _against(first: Variant, other: Variant, part: str) -> str:
    """The datasheet ratio that the part is read against, where the machines differ in it."""
    kind = _RATES.get(part, "")
    a, b = first.rates.get(kind), other.rates.get(kind)
    if not a or not b or abs(b / a - 1.0) < 1e-9:
        return ""
    return f"; {kind} rate {b / a:.2f} x"
