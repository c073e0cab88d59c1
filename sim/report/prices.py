"""Offers, and a job priced at them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.inputs.offers import Offers
from sim.inputs.price import STALE_DAYS, TERMS, UNCHECKED, Currency, PriceRow
from sim.quantities import count, duration, usd
from sim.report.view import Cell, Column, Lines, Remarks, Row, Table, View, ViewPart, left

DOLLAR = Currency("USD", 1.0, "")
_PER_HOUR = {"on-demand": "per GPU-hour"}

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


def offers_view(found: Offers, currency: Currency = DOLLAR) -> View:
    """A list of offers, in a currency."""
    terms = [t for t in TERMS if any(r.price(t) for r in found.rows)] or ["on-demand"]
    heads = (
        "provider", "instance", "GPUs", *(_PER_HOUR.get(t, t) for t in terms), "region",
        "residency", "age", "source",
    )  # fmt: skip
    rows: list[Row] = [
        [
            r.provider, r.instance, f"{r.gpus_per_node} x {r.gpu}",
            *(_rate(r.price(t), currency, r.confidence == UNCHECKED) for t in terms),
            r.region or "-", r.residency or "-", age(r, found.today), r.source,
        ]
        for r in found.rows
    ]  # fmt: skip
    table = Table([left(head) for head in heads], rows, indent=2)
    title = "" if found.rows else "No offer is all that was asked for; leave a filter out"
    return View(title, [table, _remarks(found.rows, found.today, currency)], found)


def priced_view(found: PricedJobs, today: datetime.date, currency: Currency = DOLLAR) -> View:
    """A job at every offer, cheapest first."""
    jobs = found.jobs
    best = jobs[0]
    columns = [
        left("machine"), left("offer", below=True),
        *map(Column, (
            "per GPU-hour", "time", "compute", "setup", "storage", "egress", "total", "kWh",
            "grid kg CO2e", "machine kg", "ties at",
        )),
        left("price age"),
    ]  # fmt: skip
    lines = [
        f"cheapest: {best.name} on {best.machine}, {money(best.cost.total_usd, currency)} for "
        f"{count(best.tokens)} tokens" + (f"; {best.doubt}" if best.doubt else ""),
        '"ties at": hourly price per GPU at which that offer would cost the same',
    ]
    rivals = [p for p in jobs[1:] if p.tie_tokens is not None and p.fits]
    for rival in rivals[:3]:
        word = "shorter" if rival.tie_tokens and rival.tie_tokens < rival.tokens else "longer"
        lines.append(
            f"{rival.name} on {rival.machine} wins for jobs {word} than "
            f"{count(rival.tie_tokens or 0.0)} tokens"
        )
    below = min((p for p in jobs if p.fits), key=lambda p: p.cost.total_usd, default=best)
    if below.doubt and below.cost.total_usd < best.cost.total_usd:
        less = money(below.cost.total_usd, currency)
        lines.append(f"{below.name} would be {less}, but {below.doubt}")
    rows = [_priced_row(p, best, today, currency) for p in jobs]
    sections: list[ViewPart] = [
        Table(columns, rows, indent=2), Lines(lines),
        _remarks([p.row for p in jobs], today, currency),
    ]  # fmt: skip
    return View("", sections, found)


_VERDICTS = {"fits": "", "at risk": " (at risk)", "does not fit": " (DOES NOT FIT)"}


def _priced_row(p: PricedJob, best: PricedJob, today: datetime.date, currency: Currency) -> Row:
    c = p.cost
    tie: Cell | str = "cheapest" if p is best else "at no price"
    if p is not best and p.tie_price_usd is not None:
        tie = _rate(p.tie_price_usd, currency)
    sums = (c.compute_usd, c.setup_usd, c.storage_usd, c.egress_usd, c.total_usd)
    carbon = Cell("-" if p.co2_kg is None else f"{p.co2_kg:,.0f}", p.co2_kg, "kg")
    return [
        p.machine + _VERDICTS[p.verdict], p.name,
        _rate(c.price_per_gpu_hour_usd, currency, bool(p.doubt)),
        Cell(duration(p.wall_s), p.wall_s, "s"),
        *(Cell(money(x, currency), x, "USD") for x in sums),
        Cell(f"{p.energy_j / 3.6e6:,.0f}", p.energy_j, "J"), carbon,
        Cell(f"{p.machine_co2_kg:,.1f}", p.machine_co2_kg, "kg"), tie,
        "-" if p.terms == "owned" else age(p.row, today),
    ]  # fmt: skip


def money(dollars: float, currency: Currency) -> str:
    """Dollars in a currency."""
    if currency.code == "USD":
        return usd(dollars)
    return usd(currency.of(dollars)).replace("$", f"{currency.code} ")


def _rate(price: float | None, currency: Currency = DOLLAR, doubted: bool = False) -> Cell:
    if not price:
        return Cell("-", price, "USD/h")
    sign = "$" if currency.code == "USD" else f"{currency.code} "
    return Cell(f"{sign}{currency.of(price):.2f}" + (" ?" if doubted else ""), price, "USD/h")


def _remarks(rows: Sequence[PriceRow], today: datetime.date, currency: Currency) -> Remarks:
    unchecked = sum(row.confidence == UNCHECKED for row in rows)
    doubt = ""
    if unchecked:
        doubt = f"{unchecked} of {len(rows)} prices (?) were read in tables that nobody checked"
    lines = [f"! {text}" for text in (stale(rows, today), doubt) if text]
    return Remarks([*lines, *([currency.note] if currency.note else [])])
