"""Which share of a mixture's tokens meets its experts, and the ranks that hold them."""

from __future__ import annotations

from functools import lru_cache
from math import comb

_HALVINGS = 60  # of the interval that the spread of logits is sought in
_WIDEST = 64.0  # spread at which one expert has all


def parts_met(experts: int, parts: int, choices: int) -> float:
    """Parts of the experts, equally many in each, that a token's choices are in, on average. [1]

    Parameters
    ----------
    experts, parts, choices : int
        Of a layer, of them, and of a token: different experts, all equally likely. [1]

    Notes
    -----
    A part is missed where all choices are of the others: parts (1 - C(E - E/p, k) / C(E, k)).
    """
    others = experts - experts // parts
    return parts * (1.0 - comb(others, choices) / comb(experts, choices))


@lru_cache(maxsize=256)
def busiest_load(
    experts: int, ranks: int, imbalance: float, seed: int = 0, layers: int = 1
) -> float:
    """Tokens of the rank whose experts have most, over the mean of all ranks.

    Parameters
    ----------
    experts : int
        Of a layer; each rank holds a run of equally many. [1]
    ranks : int
        That they are spread over. [1]
    imbalance : float
        Tokens of a layer's busiest expert over the mean of all, at most `experts`. [1]
    seed : int
        Of the draw.
    layers : int
        Each has a draw, and so a busiest rank, of its own: the mean of them. [1]

    Notes
    -----
    Shares are a softmax of normal logits, s_i = exp(a z_i) / sum_j exp(a z_j), with z drawn and
    `a` such that max_i s_i = imbalance / experts. All ranks wait for the busiest one in every
    layer, so its load is what sets the time.
    """
    if imbalance == 1.0 or ranks == 1:
        return 1.0
    import numpy as np  # inputs are checked without it

    logits = np.random.default_rng(seed).standard_normal((layers, experts))
    logits -= logits.max(axis=1, keepdims=True)
    low, high = np.zeros((layers, 1)), np.full((layers, 1), _WIDEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # the busiest expert's share is one over the sum, as its logit is 0
        below = experts / np.exp(middle * logits).sum(axis=1, keepdims=True) < imbalance
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    shares = np.exp(low * logits)
    shares /= shares.sum(axis=1, keepdims=True)
    busiest = shares.reshape(layers, ranks, -1).sum(axis=2).max(axis=1)
    return round(float(ranks * busiest.mean()), 9)
