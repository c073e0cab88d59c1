"""Offers, and a job priced at them, as tables."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Sequence

from sim.documents import plain
from sim.inputs.offers import STALE_DAYS, Offers, PriceRow, to_csv
from sim.report.quantities import count, duration, usd
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
        words.append(f"{vague} of {len(rows)} may be, their dates are too vague to tell")
    return "; ".join(words)


def offers_text(found: Offers, form: str) -> str:
    """A list of offers as ``table``, ``md``, ``csv`` (that `--prices` reads) or ``json``."""
    rows = found.rows
    if form == "csv":
        return to_csv(rows)
    if form == "json":
        return found.to_json()
    head = ["provider", "instance", "GPUs", "per GPU-hour", "spot", "region", "age", "source"]
    body = [
        [
            r.provider, r.instance, f"{r.gpus_per_node} x {r.gpu}", f"${r.usd_per_gpu_hour:.2f}",
            f"${r.spot_usd_per_gpu_hour:.2f}" if r.spot_usd_per_gpu_hour else "-", r.region or "-",
            age(r, found.today), r.source,
        ]
        for r in rows
    ]  # fmt: skip
    return laid_out(head, body, form)


def laid_out(head: Sequence[str], body: Sequence[Sequence[str]], form: str) -> str:
    """Rows of cells as aligned text or Markdown."""
    if form == "md":
        lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    return "\n".join(
        "  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
        for row in [head, *body]
    )


def priced_text(found: PricedJobs, form: str, today: datetime.date) -> str:
    """A job at every offer, cheapest first."""
    jobs = found.jobs
    if form == "json":
        return found.to_json()
    if form == "csv":
        return _priced_csv(found)
    head = [
        "offer", "machine", "per GPU-hour", "time", "compute", "setup", "storage", "egress",
        "total", "kWh", "kg CO2e", "ties at", "price age",
    ]  # fmt: skip
    body = [_priced_row(p, jobs[0], today) for p in jobs]
    lines = [laid_out(head, body, form), ""]
    best = jobs[0]
    lines.append(
        f"  cheapest: {best.name} on {best.machine}, {usd(best.cost.total_usd)} for "
        f"{count(best.tokens)} tokens"
    )
    lines.append('  "ties at": hourly price per GPU at which that offer would cost the same')
    rivals = [p for p in jobs[1:] if p.tie_tokens is not None and p.fits]
    for rival in rivals[:3]:
        word = "shorter" if rival.tie_tokens and rival.tie_tokens < rival.tokens else "longer"
        lines.append(
            f"  {rival.name} on {rival.machine} wins for jobs {word} than "
            f"{count(rival.tie_tokens or 0.0)} tokens"
        )
    return "\n".join(lines)


def _priced_row(p: PricedJob, best: PricedJob, today: datetime.date) -> list[str]:
    c = p.cost
    tie = "cheapest" if p is best else "at no price"
    if p is not best and p.tie_price_usd is not None:
        tie = f"${p.tie_price_usd:.2f}"
    return [
        p.name, p.machine + ("" if p.fits else " (DOES NOT FIT)"),
        f"${c.price_per_gpu_hour_usd:.2f}", duration(p.wall_s), usd(c.compute_usd),
        usd(c.setup_usd), usd(c.storage_usd), usd(c.egress_usd), usd(c.total_usd),
        f"{p.energy_j / 3.6e6:,.0f}", "-" if p.co2_kg is None else f"{p.co2_kg:,.0f}", tie,
        age(p.row, today),
    ]  # fmt: skip


def _priced_csv(found: PricedJobs) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = [plain(row) for row in found.records()]
    flat = [{**row, **row.pop("cost")} for row in rows]
    writer.writerow(flat[0])
    for row in flat:
        writer.writerow(["" if v is None else v for v in row.values()])
    return text.getvalue().rstrip("\n")
