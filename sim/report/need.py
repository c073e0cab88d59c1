"""Answers to inverse questions, as a sentence or two and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim import units

if TYPE_CHECKING:
    from sim.job.estimate import JobEstimate
    from sim.memory.fit import Bound
    from sim.study.inverse import BandwidthNeeded, GpusNeeded, PriceNeeded


def gigabits(rate: float) -> str:
    """A rate as NICs are sold."""
    return f"{rate * units.BITS_PER_BYTE / units.GIGA:.3g} Gb/s"


def bandwidth_text(found: BandwidthNeeded) -> str:
    """NIC rate for an efficiency."""
    total = units.show(found.rate_bytes_per_s * found.nics, "B/s")
    return (
        f"{found.nics} NICs of {gigabits(found.rate_bytes_per_s)} each ({total} a node) scale with "
        f"{found.efficiency:.1%} (asked {found.asked_efficiency:.1%})\n"
        f"now {gigabits(found.now_bytes_per_s)} each: {found.now_efficiency:.1%}; "
        f"the best any network gives: {found.best_efficiency:.1%}"
    )


def _job(job: JobEstimate) -> str:
    cost = f" for ${job.cost.total_usd:,.2f}" if job.cost else ""
    return f"{units.show(job.wall_s, 's')}{cost}"


def gpus_text(found: GpusNeeded) -> str:
    """Nodes for a deadline."""
    text = (
        f"{found.nodes} nodes ({found.gpus} GPUs) end in {_job(found.job)} "
        f"(asked {units.show(found.deadline_s, 's')})"
    )
    if found.below is None:
        return text + "; it is the smallest size"
    nodes, job = found.below
    return text + f"\n{nodes} nodes " + (f"take {_job(job)}" if job else "do not fit in memory")


def context_text(found: Bound) -> str:
    """Longest context."""
    r = found.report
    text = (
        f"{found.value:,} tokens fit: {r.peak_reserved_bytes / 2**30:.1f} of "
        f"{r.capacity_bytes / 2**30:.1f} GiB, mostly {r.dominating.replace('_', ' ')}"
    )
    if found.beyond is not None:
        text += f"; one step more needs {found.beyond.peak_reserved_bytes / 2**30:.1f} GiB"
    return text


def price_text(found: PriceNeeded) -> str:
    """Break-even price."""
    head = (
        f"{found.first}: {_job(found.first_job)}\n{found.other}: {_job(found.other_job)}\n"
        f"a GPU of {found.first} does {found.speed_ratio:.2f} times the work of one of "
        f"{found.other}\n"
    )
    if found.break_even_usd is None:
        return head + f"{found.first} wins at no price: its storage and egress alone cost more"
    now = ""
    if found.now_usd is not None:
        word = "wins" if found.now_usd < found.break_even_usd else "loses"
        now = f" (it asks ${found.now_usd:.2f}, so it {word})"
    price = f"${found.break_even_usd:.2f} per GPU-hour"
    return head + f"{found.first} beats {found.other} below {price}{now}"
