"""A step waits for its slowest rank: what ordinary variation costs, on by default.

`--jitter` simulates it rank by rank; here its mean is taken in closed form, so that equal ranks
still run once.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from sim.data import table
from sim.inputs.architecture import facts_of
from sim.inputs.gpu import Gpu
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload

REFERENCE_RANKS = 8  # ranks of the runs against which kernel constants were checked


def block_variation(generation: str) -> float:
    """Standard deviation over mean of a block's compute time."""
    block: dict[str, float] = table("constants/variation")["block"]
    return block.get(generation, block["h100"])


def expected_largest(n: int) -> float:
    """Mean of the largest of n standard normal variables.

    Notes
    -----
    inverse CDF of (n - 3/8) / (n + 1/4), within 2 % from n = 4 on.

    Source: Blom, "Statistical estimates and transformed beta-variables", 1958.
    """
    return NormalDist().inv_cdf((n - 0.375) / (n + 0.25)) if n > 1 else 0.0


def typical_speed(gpu: Gpu, workload: Workload, ranks: int) -> float:
    """Kernel speed that all ranks seem to have because each waits for the slowest.

    Parameters
    ----------
    gpu : Gpu
        The generation decides how much blocks vary.
    workload : Workload
        Where every block gathers, ranks wait at each; else once a micro-step, over which the
        variation of blocks averages out.
    ranks : int
        Ranks that wait for each other.

    Returns
    -------
    float
        At most 1; exactly 1 up to 8 ranks.

    Notes
    -----
    1 / (1 + c (E_n - E_8)), E_n the expected largest of n normals, c the variation of a block, or
    c / sqrt(layers) where ranks wait only once for all of them.
    """
    beyond = expected_largest(ranks) - expected_largest(REFERENCE_RANKS)
    if beyond <= 0.0:
        return 1.0
    c = block_variation(facts_of(gpu).constants)
    if not strategy_of(workload).gathers_blocks:
        c /= math.sqrt(workload.model.layers)
    return 1.0 / (1.0 + c * beyond)
