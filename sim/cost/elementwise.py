"""Time of kernels that only move data: bytes over achieved bandwidth, with a launch floor."""

from __future__ import annotations


def stream_time(
    traffic: float,
    launches: int,
    share: float,
    bytes_per_s: float,
    floor_s: float,
    ramp_bytes: float,
) -> float:
    """Time of `launches` equal memory-bound kernels.

    Parameters
    ----------
    traffic : float
        Bytes read and written by all of them. [B]
    launches : int
        How many.
    share : float
        Share of the HBM bandwidth that this way of access reaches on large tensors.
    bytes_per_s : float
        HBM bandwidth, datasheet. [B/s]
    floor_s : float
        Shortest kernel. [s]
    ramp_bytes : float
        Traffic at which a kernel reaches half of its final bandwidth, floor apart: few bytes do not
        fill all SMs. [B]

    Returns
    -------
    float
        Duration of all. [s]

    Notes
    -----
    t = n t0 + (B + n r) / (share x bandwidth) for B > 0; a kernel that moves less than `ramp_bytes`
    costs hardly more than the floor, so r enters as min(r, B/n).

    Source: fitted on sim/data/measured/kernels_nongemm.csv by bench/fit/elementwise.py.
    """
    each = traffic / launches
    return launches * (floor_s + (each + min(ramp_bytes, each)) / (share * bytes_per_s))


def beyond_l2(traffic: float, launches: int, l2_bytes: float, l2_speed: float) -> float:
    """Bytes that HBM is as busy with as a kernel of a chain keeps L2 and HBM.

    Parameters
    ----------
    traffic : float
        Bytes read and written by all launches. [B]
    launches : int
        How many.
    l2_bytes : float
        What the L2 keeps of data that all SMs read: one of its partitions. [B]
    l2_speed : float
        Bandwidth of the L2 over that of HBM.

    Returns
    -------
    float
        At most `traffic`. [B]

    Notes
    -----
    A kernel reads what the one before it wrote. Half of its traffic x is read; the share
    1 - x/2 / C of it is still in an L2 of C bytes, and as much of what it writes replaces lines
    that never leave it.
    """
    kept = max(0.0, 1.0 - traffic / launches / 2 / l2_bytes)
    return traffic * (1.0 - kept * (1.0 - 1.0 / l2_speed))
