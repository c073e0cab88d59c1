"""Clock that a power limit leaves to a kernel, and the power a kernel draws."""

from __future__ import annotations

from sim.records import dataclass

ATTENTION_INTENSITY = 0.6  # tensor-core activity of fused attention beside a dense product; assumed


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
    reference_peak : float
        Dense bf16 peak of the board of these constants; another board of the generation draws in
        proportion to its own. [FLOP/s]
    idle_watts : float
        Idle power of that board. [W]
    table_clock : float
        Clock at which the tables were measured that give shares of peak.
    compute_capability : float
        Of that board's chip.
    """

    gemm_clock: float
    exponent: float
    memory_share: float
    stock_watts: float
    reference_peak: float
    idle_watts: float
    table_clock: float = 1.0
    compute_capability: float = 9.0


def clock_factor(
    intensity: float, limit_watts: float, idle_watts: float, c: PowerConstants, size: float = 1.0
) -> float:
    """Share of the quoted clock that a kernel holds in long runs.

    Parameters
    ----------
    intensity : float
        Tensor-core activity: 1 of dense products, `ATTENTION_INTENSITY` of attention, 0 of what is
        memory-bound.
    limit_watts, idle_watts : float
        The GPU's power limit and idle power. [W]
    c : PowerConstants
        Constants of the generation.
    size : float
        The GPU's dense peak over `reference_peak`.

    Returns
    -------
    float
        In (0, 1].

    Notes
    -----
    P = idle + D (f/f0)^p, the clock is the largest f <= f0 with P <= limit. D for intensity 1 is
    (stock - idle) / gemm_clock^p, so that the board of the constants holds `gemm_clock` at its
    stock limit.

    Source: H100 SXM, quoted at 1.83 GHz, holds 1.4 to 1.7 GHz in dense products at 700 W
    (stas00/ml-engineering compute/accelerator/benchmarks); A100 1.305 of 1.41 GHz in HPL
    (glennklockwood.com); power caps act on compute-bound work first (arXiv 2604.11391).
    """
    wanted = power_watts(intensity, 1.0, idle_watts, c, size)
    if wanted <= limit_watts:
        return 1.0
    room = max(limit_watts - idle_watts, 0.05 * limit_watts)
    return float(max(0.1, (room / (wanted - idle_watts)) ** (1 / c.exponent)))


def power_watts(
    intensity: float, clock: float, idle_watts: float, c: PowerConstants, size: float = 1.0
) -> float:
    """Power of a kernel at a share of the quoted clock. [W]"""
    dynamic = size * (c.stock_watts - c.idle_watts) / c.gemm_clock**c.exponent
    share = c.memory_share + (1 - c.memory_share) * intensity
    return float(idle_watts + dynamic * share * clock**c.exponent)
