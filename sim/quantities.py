"""Numbers as a reader would say them: the one formatter of durations, bytes, shares and dollars.

`sim.units` writes quantities that are read back; these are for reports and messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.units import GIB


def duration(seconds: float) -> str:
    """Seconds as readers say them: ``6.84 s``, ``2 min 51 s``, ``7 h 14 min``, ``3.2 days``."""
    if seconds == float("inf"):
        return "never"
    if seconds == 0.0:
        return "0 s"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1.0:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120.0:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60.0)
    if minutes < 48 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest:02d} min" if rest else f"{hours} h"
    return f"{minutes / 1440.0:.1f} days"


def signed_duration(seconds: float) -> str:
    """A difference of times: ``+812 ms``, ``-6.84 s``."""
    if seconds == 0.0:
        return duration(0.0)
    return ("+" if seconds > 0.0 else "-") + duration(abs(seconds))


def brief(seconds: float) -> str:
    """Seconds of one kernel or collective, in three digits: ``2.42 ms``, ``16.8 us``."""
    unit, name = (1.0, "s") if seconds >= 1.0 or not seconds else (1e-3, "ms")
    if 0.0 < seconds < 1e-3:
        unit, name = 1e-6, "us"
    return f"{seconds / unit:.3g} {name}"


def counted(number: int, noun: str) -> str:
    """A count of things: ``1 node``, ``1,024 nodes``, ``2 batches``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("ch") else "s")


def count(value: float) -> str:
    """A count with a k, M, B or T."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {suffix}"
    return f"{value:.3g}"


def gib(value: float) -> str:
    """Bytes in GiB."""
    return f"{value / GIB:.1f} GiB"


def percent(share: float, digits: int = 1, sign: str = "") -> str:
    """A share as a percentage; `sign` is ``+`` where a rise should show. Nothing is never -0 %."""
    return f"{100.0 * share:{sign}z.{digits}f} %"


def whole_percents(shares: Sequence[float]) -> list[int]:
    """Shares as whole per cent that add up to what the shares do.

    Each is rounded down, and what is then missing goes to those of the largest remainders.
    """
    exact = [100.0 * share for share in shares]
    whole = [math.floor(value + 1e-9) for value in exact]
    missing = round(sum(exact)) - sum(whole)
    for i in sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])[: max(0, missing)]:
        whole[i] += 1
    return whole


def usd(value: float) -> str:
    """Dollars; cents below a hundred."""
    if not math.isfinite(value):
        return "-"
    return f"${value:,.0f}" if value >= 100 else f"${value:,.2f}"
