"""Machines and jobs side by side: what differs, by how much, and what part of the step made it so.

Every variant is held against the first. Time is compared as GPU-seconds per token, which splits
exactly into the parts of the step; a different number of GPUs is a factor of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from sim.blocks.kernels import STREAMED
from sim.documents import SCHEMAS, Document, Section
from sim.errors import Fault, InputError
from sim.files import is_file
from sim.inputs import catalogue
from sim.inputs.arguments import Argument
from sim.inputs.loader import Loaded, load
from sim.inputs.offers import catalogue as catalogue_of_offers
from sim.inputs.offers import cheapest, newest
from sim.inputs.price import PriceRow, place_of
from sim.inputs.topology import Topology
from sim.job.cost import Cost, break_even_price
from sim.quantities import percent, usd
from sim.result.peak import peak_of
from sim.result.predict import predict
from sim.result.result import CostSection, Result
from sim.study.axes import Grid, from_options
from sim.study.price_pairs import PricePair, price_pairs
from sim.study.pricing import matching, offer_settings, pick_offer

PARTS: dict[str, tuple[str, ...]] = {
    "GEMM": ("gemm",),
    "attention": ("attention",),
    "HBM-bound kernels": tuple(kind for kind in STREAMED if kind != "quantize"),
    "FP8 and 4-bit casts": ("quantize",),
    "optimizer": ("optimizer",),
    "exposed communication": ("exposed_communication",),
    "overhead": ("host", "copies", "idle"),
}  # fmt: skip
# the datasheet ratio that a part is read against
_RATES = {
    "GEMM": "peak", "attention": "peak", "HBM-bound kernels": "HBM", "optimizer": "HBM",
    "exposed communication": "network",
}  # fmt: skip
_SOURCE = "compare"
_WORTH_SAYING = 0.02  # of the first's time


@dataclass(frozen=True, slots=True)
class Variant(Section):
    """One column: what it is and what the simulation says."""

    label: str
    topology: str
    workload: str
    changes: tuple[str, ...]
    result: Result
    rates: dict[str, float]  # datasheet: peak [FLOP/s], HBM [B/s], NVLink, network [B/s] a GPU

    def content(self) -> dict[str, Any]:
        """The Result in full."""
        return {"label": self.label, "changes": self.changes, "result": self.result}


@dataclass(frozen=True, slots=True)
class PartDelta(Section):
    """One part of the step, in GPU-seconds per token."""

    name: str
    first_s: float
    second_s: float
    share: float  # (second - first) / the first's whole time: the parts add up to the delta

    @property
    def speedup(self) -> float | None:
        """How many times faster the part is; None where either is nothing."""
        return self.first_s / self.second_s if self.first_s > 0 and self.second_s > 0 else None

    def content(self) -> dict[str, Any]:
        """The part in both, and its share of the delta."""
        return {
            "name": self.name,
            "first_gpu_s_per_token": self.first_s,
            "gpu_s_per_token": self.second_s,
            "share_of_first": self.share,
        }


@dataclass(frozen=True, slots=True)
class Delta(Section):
    """A variant against the first. Ratios are variant / first."""

    label: str
    tokens_per_s_ratio: float
    per_gpu_ratio: float
    gpus_ratio: float
    wall_ratio: float | None
    cost_ratio: float | None
    energy_ratio: float | None
    memory_ratio: float
    tie_price_usd: float | None  # hourly price per GPU at which it costs as the first
    parts: tuple[PartDelta, ...]
    reasons: tuple[str, ...]
    prices: tuple[PricePair, ...] = ()  # one provider's first, then each machine's own

    @property
    def ratios(self) -> dict[str, float | None]:
        """Headline figures over the first's."""
        return {
            "tokens_per_s": self.tokens_per_s_ratio,
            "tokens_per_s_per_GPU": self.per_gpu_ratio,
            "memory": self.memory_ratio,
            "cost": self.cost_ratio,
            "energy": self.energy_ratio,
        }

    def content(self) -> dict[str, Any]:
        """Ratios, parts, reasons."""
        return {
            "label": self.label,
            "tie_price_per_gpu_hour_usd": self.tie_price_usd,
            "ratios": self.ratios,
            "parts": self.parts,
            "reasons": self.reasons,
            "prices": self.prices,
        }


@dataclass(frozen=True, slots=True)
class Comparison(Document):
    """Variants, and the deltas of all but the first."""

    schema: ClassVar[str] = SCHEMAS["comparison"]

    variants: tuple[Variant, ...]
    deltas: tuple[Delta, ...]
    summary: tuple[str, ...]
    notes: tuple[str, ...] = ()  # prices that no file named

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a variant: its headline figures, and the parts of the step per token."""
        return [_record(variant) for variant in self.variants]


def _record(variant: Variant) -> dict[str, Any]:
    r = variant.result
    wall, dollars, joules = whole_job(r)
    parts = {
        f"{part.lower().replace(' ', '_').replace('-', '_')}_gpu_s_per_token": seconds
        for part, seconds in part_times(r).items()
    }
    return {
        "label": variant.label,
        "topology": variant.topology,
        "workload": variant.workload,
        "changes": " ".join(variant.changes),
        "gpus": r.topology.gpus,
        "fits": r.memory.fits,
        "verdict": r.memory.verdict,
        "fit_probability": r.memory.fit_probability,
        "memory_bytes": r.memory.needed_bytes,
        "step_time_s": r.step.time_s,
        "tokens_per_s": r.throughput.tokens_per_s,
        "tokens_per_s_per_gpu": r.throughput.tokens_per_s_per_gpu,
        "mfu": r.throughput.mfu,
        "wall_clock_s": wall,
        "total_usd": dollars,
        "energy_j": joules,
        **parts,
    }


def split_inputs(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Topologies and workloads of a mixed list of names and paths.

    A shipped name is what it is; a file with a `model` key is a workload.
    """
    machines: list[str] = []
    jobs: list[str] = []
    for name in names:
        shipped = catalogue.find("workloads", name) and not catalogue.find("topologies", name)
        (jobs if shipped or _has_model(name) else machines).append(name)
    return machines, jobs


def _has_model(name: str) -> bool:
    from sim.inputs.tree import Branch, read_file
    from sim.inputs.yaml import from_yaml

    try:
        if not is_file(Path(name)):
            return False
        tree = from_yaml(read_file(Path(name)), name, [])
    except (OSError, ValueError, InputError):
        return False  # the loader says what is wrong with it
    return isinstance(tree, Branch) and "model" in tree.entries


def compare(
    topologies: Sequence[Argument],
    workloads: Sequence[Argument],
    *,
    vary: Iterable[str] = (),
    overrides: Iterable[str] = (),
    offer: str = "",
    prices: Path | None = None,
    engine: str = "auto",
) -> Comparison:
    """Simulate every machine with every workload and every combination of varied keys.

    Parameters
    ----------
    topologies, workloads : sequence of paths, names, mappings or specs
        At least one each.
    vary : iterable of str
        ``key=a,b`` texts; several give all their combinations.
    overrides, offer, prices, engine
        As for `sim.compare`.

    Raises
    ------
    InputError
        Faults of any variant, or fewer than two variants.
    """
    combinations = [
        tuple(f"{key}={value}" for key, value in changes.items())
        for changes in Grid(_SOURCE, axes=from_options(vary, False)).points()
    ]
    cases = list(itertools.product(topologies, workloads, combinations))
    if not topologies or not workloads:
        missing = "topology" if not topologies else "workload"
        raise InputError([Fault(_SOURCE, None, None, missing, f"no {missing} given")])
    if len(cases) < 2:
        message = "one variant is nothing to compare; name another, or vary a key: --vary nodes=1,2"
        raise InputError([Fault(_SOURCE, None, None, "", message)])
    base = tuple(overrides)
    rows = newest(catalogue_of_offers(prices))
    loaded, notes = [], []
    for topology, workload, changes in cases:
        one = load(topology, workload, (*base, *changes))
        row = _offer_for(one.topology, offer, rows)
        if row is not None:
            one = load(topology, workload, (*base, *offer_settings(row), *changes))
            rate = f"{usd(row.usd_per_gpu_hour)} per GPU-hour ({row.name}, {row.as_of})"
            notes.append(f"{one.topology.name} priced at {rate}")
        loaded.append(one)
    labels = _labels(loaded, [changes for _, _, changes in cases])
    variants = tuple(
        _variant(one, changes, label, engine)
        for one, (_, _, changes), label in zip(loaded, cases, labels, strict=True)
    )
    deltas = tuple(
        replace(
            _delta(variants[0], variant),
            prices=price_pairs(
                (loaded[0].topology, one.topology), (variants[0].result, variant.result), rows
            ),
        )
        for variant, one in zip(variants[1:], loaded[1:], strict=True)
    )
    return Comparison(variants, deltas, _summary(variants, deltas), tuple(dict.fromkeys(notes)))


def _offer_for(topology: Topology, name: str, rows: Iterable[PriceRow]) -> PriceRow | None:
    """The offer to price a machine at, if not its own."""
    if name:
        return pick_offer(topology, name, rows)
    own = topology.offer
    if own is not None and own.price_per_gpu_hour is not None:
        return None
    found = matching(topology, rows)
    return cheapest(found)


def _labels(loaded: Sequence[Loaded], changes: Sequence[tuple[str, ...]]) -> list[str]:
    """What tells the variants apart: machine, job, changes, as far as each differs."""
    machines = {one.topology.name for one in loaded}
    jobs = {one.workload.name for one in loaded}
    labels = []
    for one, change in zip(loaded, changes, strict=True):
        words = [one.topology.name] if len(machines) > 1 else []
        words += [one.workload.name] if len(jobs) > 1 else []
        words += [_short(c) for c in change]
        labels.append(" ".join(words) or one.topology.name)
    if len(set(labels)) < len(labels):
        labels = [f"{i}: {label}" for i, label in enumerate(labels, 1)]
    return labels


def _short(change: str) -> str:
    key, _, value = change.partition("=")
    return f"{key.rsplit('.', 1)[-1]}={value}"


def _variant(one: Loaded, changes: tuple[str, ...], label: str, engine: str) -> Variant:
    result = predict(
        one.topology, one.workload, one.notes, engine=engine, scaling=False, fixes=False
    )
    return Variant(label, one.topology.name, one.workload.name, changes, result, _rates(one))


def _rates(one: Loaded) -> dict[str, float]:
    peak = peak_of(one.topology, one.workload).flops_per_s
    return datasheet_rates(one.topology) | {"peak": peak}


def datasheet_rates(topology: Topology) -> dict[str, float]:
    """HBM, NVLink and network rate of a GPU. [B/s]; what the topology lacks is left out.

    Of unlike GPUs the slowest one's, for which the others wait.
    """
    rates = {"HBM": min(gpu.memory_bandwidth for gpu in topology.gpu_counts)}
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


def part_times(result: Result) -> dict[str, float]:
    """GPU-seconds per token by part; they add up to GPUs x step time / tokens."""
    tokens = result.throughput.tokens_per_s_per_gpu * result.step.time_s
    breakdown = dict(result.step.breakdown)
    times = {
        name: sum(breakdown.pop(key, 0.0) for key in keys) / tokens for name, keys in PARTS.items()
    }
    times["overhead"] += sum(breakdown.values()) / tokens  # kinds that no part lists
    return times


def _delta(first: Variant, other: Variant) -> Delta:
    a, b = first.result, other.result
    before, after = part_times(a), part_times(b)
    whole = sum(before.values())
    parts = tuple(
        PartDelta(name, before[name], after[name], (after[name] - before[name]) / whole)
        for name in PARTS
    )
    gpus = b.topology.gpus / a.topology.gpus
    per_gpu = b.throughput.tokens_per_s_per_gpu / a.throughput.tokens_per_s_per_gpu
    wall, cost, energy = map(_ratio, whole_job(a), whole_job(b))
    return Delta(
        label=other.label,
        tokens_per_s_ratio=b.throughput.tokens_per_s / a.throughput.tokens_per_s,
        per_gpu_ratio=per_gpu,
        gpus_ratio=gpus,
        wall_ratio=wall,
        cost_ratio=cost,
        energy_ratio=energy,
        memory_ratio=b.memory.needed_bytes / a.memory.needed_bytes,
        tie_price_usd=_tie_price(a.cost, b.cost),
        parts=parts,
        reasons=_reasons(first, other, parts, per_gpu, gpus),
    )


def whole_job(result: Result) -> tuple[float | None, float | None, float | None]:
    """Wall-clock, cost and energy. [s, USD, J]"""
    job, cost, energy = result.job, result.cost, result.energy
    return (
        job.wall_clock_s if job else None,
        cost.total_usd if cost else None,
        energy.energy_j if energy else None,
    )


def _ratio(first: float | None, other: float | None) -> float | None:
    if not first or other is None or not (math.isfinite(first) and math.isfinite(other)):
        return None
    return other / first


def reasons_between(
    first: Loaded, first_result: Result, other: Loaded, other_result: Result
) -> tuple[str, ...]:
    """Why one result differs from another, the largest contribution first."""
    ends = [
        Variant("", one.topology.name, one.workload.name, (), result, _rates(one))
        for one, result in ((first, first_result), (other, other_result))
    ]
    return _delta(ends[0], ends[1]).reasons


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
        text = f"{part.name}: {percent(abs(part.share), 0)} of the time {verb}"
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


def _tie_price(first: Cost | None, other: Cost | None) -> float | None:
    """Hourly price of the other at which both cost the same; None if no price does. [USD]"""
    if not first or not other:
        return None
    return break_even_price(first.total_usd, other)


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
    same = first.topology.name == other.topology.name
    tie = None if same else _tie_price(a, b)
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


def _costs(delta: Delta, was: CostSection | None, cost: CostSection | None) -> str:
    """Ratios of costs, each with the prices that it is at."""
    if delta.cost_ratio is None or was is None or cost is None:
        return ""
    both = f"{usd(cost.total_usd)} against {usd(was.total_usd)}"
    if not delta.prices or (len(delta.prices) == 1 and delta.prices[0].alike):
        return f" at {delta.cost_ratio:.2f} x the cost ({both})"
    texts = [f"{pair.cost_ratio:.2f} x the cost at {pair.said}" for pair in delta.prices]
    return f": {'; '.join(texts)}; {both} at the last"


def _summary(variants: Sequence[Variant], deltas: Sequence[Delta]) -> tuple[str, ...]:
    """One line a delta, and which is best by what."""
    first = variants[0]
    lines = []
    for delta, variant in zip(deltas, variants[1:], strict=True):
        text = f"{delta.label} does {delta.tokens_per_s_ratio:.2f} x the tokens/s of {first.label}"
        text += _costs(delta, first.result.cost, variant.result.cost)
        unfit = [v.label for v in (first, variant) if not v.result.memory.fits]
        if unfit:
            text += f"; but {' and '.join(unfit)} {'does' if len(unfit) == 1 else 'do'} not fit"
        for tight in (v for v in (first, variant) if v.result.memory.risk):
            text += f"; {tight.label} is at risk ({tight.result.memory.risk})"
        lines.append(text)
    fitting = [v for v in variants if v.result.memory.fits]
    if len(variants) > 2 and fitting:
        fastest = max(fitting, key=lambda v: v.result.throughput.tokens_per_s)
        text = f"fastest that fits: {fastest.label}"
        bills = [(v.result.cost.total_usd, v.label) for v in fitting if v.result.cost]
        if bills:
            total, label = min(bills, key=lambda bill: bill[0])
            text += f"; cheapest: {label} ({usd(total)})"
        lines.append(text)
    return tuple(lines)
