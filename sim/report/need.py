"""Answers to inverse questions, a sentence or two each."""

from __future__ import annotations

from sim import units
from sim.job.estimate import JobEstimate
from sim.memory.bound import Bound
from sim.quantities import counted, duration, gib, percent, usd
from sim.report.settings import settings
from sim.report.view import Lines, View
from sim.study.needed import BandwidthNeeded, GpusNeeded, PriceNeeded


def bandwidth_view(found: BandwidthNeeded) -> View:
    """NIC rate for an efficiency."""
    total = units.show(found.rate_bytes_per_s * found.nics, "B/s")
    title = (
        f"{found.nics} NICs of {_gigabits(found.rate_bytes_per_s)} each ({total} a node) scale "
        f"with {percent(found.efficiency)} (asked {percent(found.asked_efficiency)})"
    )
    now = (
        f"now {_gigabits(found.now_bytes_per_s)} each: {percent(found.now_efficiency)}; "
        f"the best any network gives: {percent(found.best_efficiency)}"
    )
    lines = [now]
    if (kept := found.oversubscription) > 1.0:
        lines.append(
            f"switches are oversubscribed {kept:g} : 1 at every rate; --set "
            "network.oversubscription=1 asks without"
        )
    if found.stopped:
        short = found.short_bytes_per_s
        told = f", {_gigabits(short)} or less does not" if short else ""
        lines.append(f"Stopped: less may do as well{told}")
    return View(title, [Lines(lines, indent=0, apart=False)], found)


def gpus_view(found: GpusNeeded) -> View:
    """Nodes for a deadline, or to fit at all."""
    size = f"{counted(found.nodes, 'node')} ({counted(found.gpus, 'GPU')})"
    if found.job is None:
        title = f"At least {size}: the search was stopped, larger sizes are not tried"
    elif found.deadline_s is None:
        title = f"{size} {_verb(found.nodes, 'hold')} it in memory: done in {_job(found.job)}"
    else:
        title = f"{size} {_verb(found.nodes, 'end')} in {_job(found.job)}"
        title += f" (asked {duration(found.deadline_s)})"
    there = [f"As `run` with {settings(found.settings)}"] if found.settings else []
    if found.below is None:
        parts = [Lines(there, indent=0, apart=False)] if there else []
        return View(f"{title}; it is the smallest size", parts, found)
    nodes, job = found.below
    said = f"{_verb(nodes, 'take')} {_job(job)}" if job else "would not hold it in memory"
    below = f"{counted(nodes, 'node')} {said}"
    if found.job is None and found.deadline_s is not None:
        below += f" (asked {duration(found.deadline_s)})"
    return View(title, [Lines([below, *there], indent=0, apart=False)], found)


def _verb(number: int, verb: str) -> str:
    """The form of a verb that goes with a number."""
    return f"{verb}s" if number == 1 else verb


def context_view(found: Bound) -> View:
    """Longest context."""
    r = found.report
    title = (
        f"{found.value:,} tokens fit: {gib(r.needed_bytes)} of {gib(r.capacity_bytes)}, "
        f"mostly {r.dominating.replace('_', ' ')}"
    )
    if found.beyond is not None:
        title += f"; one step more needs {gib(found.beyond.needed_bytes)}"
    if r.verdict.risk:
        title += f"; there it is {r.verdict.risk}"
    if found.sure is not None:
        title += f"; {found.sure:,} fit without risk"
    if not found.stopped:
        return View(title, [], found)
    if found.beyond is not None:
        told = "Stopped: more may fit without risk"
    else:
        told = "Stopped: more may fit as well"
    if found.too_many is not None:
        told += f", {found.too_many:,} or more do not"
    return View(title, [Lines([told], indent=0, apart=False)], found)


def price_view(found: PriceNeeded) -> View:
    """Break-even price."""
    lines = [
        f"{found.first}: {_job(found.first_job)}",
        f"{found.other}: {_job(found.other_job)}",
        f"a GPU of {found.first} does {found.speed_ratio:.2f} times the work of one of "
        f"{found.other}",
    ]
    places = [place or "no stated provider" for place in (found.first_place, found.other_place)]
    if found.alike:
        lines.append(f"both priced at {places[0]}")
    else:
        lines.append(f"not like for like: priced at {places[0]} against {places[1]}")
        same = found.like_for_like
        where = f"at {same.first_place}" if same else "no provider has both machines"
        if same and not same.alike:
            where += f" against {same.other_place}"
        lines.append(f"{where}: {_break_even(same)}" if same else where)
    return View(_break_even(found), [Lines(lines, indent=0, apart=False)], found)


def _break_even(found: PriceNeeded) -> str:
    if found.break_even_usd is None:
        return f"{found.first} wins at no price: its storage and egress alone cost more"
    now = ""
    if found.now_usd is not None:
        word = "wins" if found.now_usd < found.break_even_usd else "loses"
        now = f" (it asks {usd(found.now_usd)}, so it {word})"
    price = f"{usd(found.break_even_usd)} per GPU-hour"
    return f"{found.first} beats {found.other} below {price}{now}"


def _gigabits(rate: float) -> str:
    """A rate as NICs are sold."""
    return f"{rate * units.BITS_PER_BYTE / 1e9:.3g} Gb/s"


def _job(job: JobEstimate) -> str:
    cost = f" for {usd(job.cost.total_usd)}" if job.cost else ""
    return f"{duration(job.wall_s)}{cost}"
