"""Clock that a power limit leaves to a kernel, and the power a kernel draws."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PowerConstants:
    """Power of one GPU generation at its stock limit.

    Attributes
    ----------
    gemm_clock : float
        Sustained over quoted clock in long runs of dense products at the stock limit.
    exponent : float
        Dynamic power ~ clock ** exponent (voltage falls with the clock).
    memory_share : float
        Power of a memory-bound kernel above idle, over that of a dense product at full clock.
    stock_watts : float
        The limit for which `gemm_clock` holds. [W]
    demand : float
        Power that dense products would draw at the quoted clock, over the stock limit.
    """

    gemm_clock: float
    exponent: float
    memory_share: float
    stock_watts: float
    demand: float


def clock_factor(intensity: float, limit_watts: float, idle_watts: float, c: PowerConstants) -> float:
    """Share of the quoted clock that a kernel holds in long runs.

    Parameters
    ----------
    intensity : float
        Tensor-core activity, 1 for dense products, about 0.6 for attention, 0 for memory-bound.
    limit_watts, idle_watts : float
        The GPU's power limit and idle power. [W]
    c : PowerConstants
        Constants of the generation.

    Returns
    -------
    float
        In (0, 1].

    Notes
    -----
    P = idle + D (f/f0)^p with D = demand x stock - idle for intensity 1; the clock is the largest f <= f0
    with P <= limit. At the stock limit intensity 1 gives `gemm_clock` by construction of `demand`.

    Source: sustained clocks of facts on H100, H200 and A100 (bench/fit/power.md has them with their sources).
    """
    drawn = power_watts(intensity, 1.0, idle_watts, c)
    if drawn <= limit_watts:
        return 1.0
    room = max(limit_watts - idle_watts, 0.05 * limit_watts)
    return float(max(0.1, (room / (drawn - idle_watts)) ** (1 / c.exponent)))


def power_watts(intensity: float, clock: float, idle_watts: float, c: PowerConstants) -> float:
    """Power of a kernel at a share of the quoted clock. [W]"""
    dynamic = c.demand * c.stock_watts - idle_watts
    share = c.memory_share + (1 - c.memory_share) * intensity
    return idle_watts + dynamic * share * clock**c.exponent
