"""The Pareto front of a set of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pareto_front(
    values: Sequence[Sequence[float]] | NDArray[np.float64], less_is_better: Sequence[bool]
) -> list[int]:
    """Indices of rows that no other row beats.

    Parameters
    ----------
    values : sequence of sequence of float, or array
        One row a configuration, one column a measure; NaN never wins.
    less_is_better : sequence of bool
        By column.

    Returns
    -------
    list of int
        In the order of the first column, best first. Of equal rows all are kept.

    Notes
    -----
    Rows are visited in lexicographic order: a row can only be beaten by one before it, so each is
    compared with the front so far.
    """
    if not len(values):
        return []
    signs = np.where(np.asarray(less_is_better), 1.0, -1.0)
    costs = np.nan_to_num(np.asarray(values, dtype=np.float64) * signs, nan=np.inf)
    order = np.lexsort(costs.T[::-1])
    front: list[int] = []
    kept = np.empty_like(costs)
    for i in order:
        row = costs[i]
        if not np.isfinite(row).all():
            continue
        so_far = kept[: len(front)]
        beaten = (so_far <= row).all(axis=1) & (so_far < row).any(axis=1)
        if not beaten.any():
            kept[len(front)] = row
            front.append(int(i))
    return front
