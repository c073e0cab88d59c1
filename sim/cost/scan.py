"""Time of scans by chunks: small products in many thread blocks, some of them one after another."""

from __future__ import annotations

#: class of the tiles of 64 x 64, of which a chunk's products are made
SMALL = 3
#: thread blocks of a scan's kernels that an SM holds: their tiles fill half of its shared memory
RESIDENT = 2


def scan_compute_s(
    flops: float, blocks: int, steps: int, flops_per_s: float, step_s: float, sms: int
) -> float:
    """Time of a kernel of a scan, its traffic left out.

    Parameters
    ----------
    flops : float
        Of all its products. [1]
    blocks, steps : int
        Thread blocks, and how many steps each goes one after another. [1]
    flops_per_s : float
        What small tiles reach on all SMs. [FLOP/s]
    step_s : float
        What a step takes beside its products: loads, synchronisation, stores. [s]
    sms : int
        Streaming multiprocessors. [1]

    Returns
    -------
    float
        Duration. [s]

    Raises
    ------
    ValueError
        If there is no block or step.

    Notes
    -----
    t = max(1, SMs / blocks) F / R + max(1, blocks / (r SMs)) s t0: of b blocks an SM holds r at a
    time; where blocks are fewer than SMs the others idle. R and t0 are those of tiles of 64 x 64 of
    a matrix product (`sim.cost.gemm`): no scan was measured.
    """
    if blocks < 1 or steps < 1:
        message = f"{blocks} blocks of {steps} steps are no kernel"
        raise ValueError(message)
    products = flops / flops_per_s * max(1.0, sms / blocks)
    return products + max(1.0, blocks / (RESIDENT * sms)) * steps * step_s
