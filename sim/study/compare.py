"""Machines and jobs side by side: every variant simulated and held against the first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sim.errors import Fault, InputError
from sim.inputs.arguments import Argument
from sim.inputs.loader import Loaded, load
from sim.inputs.offers import catalogue as catalogue_of_offers
from sim.inputs.offers import newest
from sim.quantities import count, usd
from sim.result.figures import CostSection
from sim.result.predict import predict
from sim.step.variation import Progress, Stop, never, silent
from sim.study.axes import Grid, from_options
from sim.study.compared import Comparison, Delta, Variant, as_long
from sim.study.deltas import delta_of, variant_of
from sim.study.machine_offers import (
    list_price,
    offer_settings,
    passed_over,
    pick_offer,
)
from sim.study.price_pairs import price_pairs

_SOURCE = "compare"


def compare(
    topologies: Sequence[Argument],
    workloads: Sequence[Argument],
    *,
    vary: Iterable[str] = (),
    overrides: Iterable[str] = (),
    offer: str = "",
    prices: Path | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
    stop: Stop = never,
) -> Comparison:
    """Simulate every machine with every workload and every combination of varied keys.

    Arguments are those of `sim.compare`, as lists; `vary` is of ``key=a,b`` texts.

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
    told = progress or silent
    told(0, len(cases))
    base = tuple(overrides)
    rows = newest(catalogue_of_offers(prices))
    loaded: list[Loaded] = []
    notes: list[str] = []
    for topology, workload, changes in cases:
        if loaded and stop():
            break
        one = load(topology, workload, (*base, *changes))
        machine = one.topology
        row = pick_offer(machine, offer, rows) if offer else list_price(machine, rows)
        if row is not None:
            one = load(topology, workload, (*offer_settings(machine, row), *base, *changes))
            rate = f"{usd(row.usd_per_gpu_hour)} per GPU-hour ({row.name}, {row.as_of})"
            notes.append(f"{one.topology.name} priced at {rate}")
            notes += filter(None, [passed_over(machine, prices, row)])
        elif prices is not None:
            notes.append(f"{machine.name} keeps its own price; --offer cheapest takes an offer's")
        loaded.append(one)
    labels = _labels(loaded, [changes for _, _, changes in cases[: len(loaded)]])
    variants: list[Variant] = []
    for one, (_, _, changes), label in zip(loaded, cases, labels, strict=False):
        if variants and stop():
            break
        result = predict(*one, engine=engine, scaling=False, fixes=False)
        variants.append(variant_of(one, result, label, changes))
        told(len(variants), len(cases))
    deltas = tuple(
        replace(
            delta_of(variants[0], variant),
            prices=price_pairs(
                (loaded[0].topology, one.topology), (variants[0].result, variant.result), rows
            ),
        )
        for variant, one in zip(variants[1:], loaded[1:], strict=False)  # fewer where stopped
    )
    summary = _summary(variants, deltas)
    found = Comparison(
        tuple(variants), deltas, summary, tuple(dict.fromkeys(notes)), asked=len(cases)
    )
    return found if found.as_long else replace(found, notes=(_unlike(variants), *found.notes))


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


def _costs(delta: Delta, was: CostSection | None, cost: CostSection | None, alike: bool) -> str:
    """Ratios of costs, each with the prices that it is at."""
    if delta.cost_ratio is None or was is None or cost is None:
        return ""
    both = f"{usd(cost.total_usd)} against {usd(was.total_usd)}"
    each, before = cost.usd_per_million_tokens, was.usd_per_million_tokens
    if not alike and each and before:
        rates = f"{usd(each)} against {usd(before)} per million"
        return f" at {each / before:.2f} x the cost of a token ({rates}; {both} for unlike lengths)"
    if not delta.prices or (len(delta.prices) == 1 and delta.prices[0].alike):
        return f" at {delta.cost_ratio:.2f} x the cost ({both})"
    texts = [f"{pair.cost_ratio:.2f} x the cost at {pair.said}" for pair in delta.prices]
    return f": {'; '.join(texts)}; {both} at the last"


def _cheapest(fitting: Sequence[Variant]) -> str:
    """Which costs least: in all, and where jobs are of unlike lengths, a token."""
    alike = all(as_long(fitting[0].result, v.result) for v in fitting)
    bills = [
        (cost.total_usd if alike else cost.usd_per_million_tokens or math.inf, v.label)
        for v in fitting
        if (cost := v.result.cost) is not None
    ]
    if not bills:
        return ""
    least, label = min(bills, key=lambda bill: bill[0])
    return f"; cheapest{'' if alike else ' a token'}: {label} ({usd(least)}" + (
        ")" if alike else " per million)"
    )


def _unlike(variants: Sequence[Variant]) -> str:
    """That wall-clock, cost and energy are of jobs of unlike lengths."""
    lengths = dict.fromkeys(count(v.result.job.tokens) for v in variants if v.result.job)
    return (
        f"! the jobs are not equally long ({', '.join(lengths)} tokens): wall-clock, cost and "
        "energy are of each as it is; --set tokens=1e9 gives all of them one length"
    )


def _summary(variants: Sequence[Variant], deltas: Sequence[Delta]) -> tuple[str, ...]:
    """One line a delta, and which is best by what."""
    first = variants[0]
    lines = []
    for delta, variant in zip(deltas, variants[1:], strict=True):
        text = f"{delta.label} does {delta.tokens_per_s_ratio:.2f} x the tokens/s of {first.label}"
        alike = as_long(first.result, variant.result)
        text += _costs(delta, first.result.cost, variant.result.cost, alike)
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
        text += _cheapest(fitting)
        lines.append(text)
    return tuple(lines)
