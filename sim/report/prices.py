"""Offers, and a job priced at them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.inputs.offers import STALE_DAYS, Offers, PriceRow
from sim.quantities import count, duration, usd
from sim.report.view import Cell, Lines, Part, Remarks, Row, Table, View, left

if TYPE_CHECKING:  # a list of offers needs no simulator
    from sim.study.pricing import PricedJob, PricedJobs


def age(row: PriceRow, today: datetime.date) -> str:
    """How old a price is, as far as its date says."""
    span = row.age_days(today)
    if span is None:
        return "undated"
    low, high = span
    if low == high:
        return f"{low} days"
    return f"up to {high} days" if low == 0 else f"{low} to {high} days"


def stale(rows: Sequence[PriceRow], today: datetime.date) -> str:
    """A warning about old or undated prices; nothing if there are none."""
    spans = [row.age_days(today) for row in rows]
    old = sum(span is not None and span[0] > STALE_DAYS for span in spans)
    vague = sum(span is None or span[0] <= STALE_DAYS < span[1] for span in spans)
    words = []
    if old:
        words.append(f"{old} of {len(rows)} prices are older than {STALE_DAYS} days")
    if vague:
        may = "may be" if old else f"prices may be older than {STALE_DAYS} days"
        words.append(f"{vague} of {len(rows)} {may}, their dates are too vague to tell")
    return "; ".join(words)


def offers_view(found: Offers) -> View:
    """A list of offers."""
    heads = ("provider", "instance", "GPUs", "per GPU-hour", "spot", "region", "age", "source")
    rows: list[Row] = [
        [
            r.provider, r.instance, f"{r.gpus_per_node} x {r.gpu}", _rate(r.usd_per_gpu_hour),
            _rate(r.spot_usd_per_gpu_hour), r.region or "-", age(r, found.today), r.source,
        ]
        for r in found.rows
    ]  # fmt: skip
    table = Table([left(head) for head in heads], rows, indent=2)
    return View("", [table, _stale(found.rows, found.today)], found)


def priced_view(found: PricedJobs, today: datetime.date) -> View:
    """A job at every offer, cheapest first."""
    jobs = found.jobs
    best = jobs[0]
    heads = (
        "offer", "machine", "per GPU-hour", "time", "compute", "setup", "storage", "egress",
        "total", "kWh", "kg CO2e", "ties at", "price age",
    )  # fmt: skip
    lines = [
        f"cheapest: {best.name} on {best.machine}, {usd(best.cost.total_usd)} for "
        f"{count(best.tokens)} tokens",
        '"ties at": hourly price per GPU at which that offer would cost the same',
    ]
    rivals = [p for p in jobs[1:] if p.tie_tokens is not None and p.fits]
    for rival in rivals[:3]:
        word = "shorter" if rival.tie_tokens and rival.tie_tokens < rival.tokens else "longer"
        lines.append(
            f"{rival.name} on {rival.machine} wins for jobs {word} than "
            f"{count(rival.tie_tokens or 0.0)} tokens"
        )
    rows = [_priced_row(p, best, today) for p in jobs]
    sections: list[Part] = [
        Table([left(head) for head in heads], rows, indent=2), Lines(lines),
        _stale([p.row for p in jobs], today),
    ]  # fmt: skip
    return View("", sections, found)


_VERDICTS = {"fits": "", "at risk": " (at risk)", "does not fit": " (DOES NOT FIT)"}


def _priced_row(p: PricedJob, best: PricedJob, today: datetime.date) -> Row:
    c = p.cost
    tie: Cell | str = "cheapest" if p is best else "at no price"
    if p is not best and p.tie_price_usd is not None:
        tie = _rate(p.tie_price_usd)
    sums = (c.compute_usd, c.setup_usd, c.storage_usd, c.egress_usd, c.total_usd)
    carbon = Cell("-" if p.co2_kg is None else f"{p.co2_kg:,.0f}", p.co2_kg, "kg")
    return [
        p.name, p.machine + _VERDICTS[p.verdict], _rate(c.price_per_gpu_hour_usd),
        Cell(duration(p.wall_s), p.wall_s, "s"), *(Cell(usd(x), x, "USD") for x in sums),
        Cell(f"{p.energy_j / 3.6e6:,.0f}", p.energy_j, "J"), carbon, tie, age(p.row, today),
    ]  # fmt: skip


def _rate(price: float | None) -> Cell:
    return Cell(f"${price:.2f}" if price else "-", price, "USD/h")


def _stale(rows: Sequence[PriceRow], today: datetime.date) -> Remarks:
    text = stale(rows, today)
    return Remarks([f"! {text}"] if text else [])
