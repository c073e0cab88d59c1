"""Stages of a pipeline: which blocks each holds.

Source: torchtitan, ``generate_llm_fqn_per_model_part``: the embedding and the head count as a layer
or several, so the first and the last stage have fewer.
"""

from __future__ import annotations

from collections.abc import Sequence


def layers_of_stages(layers: int, stages: int, first: int, last: int) -> tuple[int, ...]:
    """Layers of each stage.

    Notes
    -----
    L + first + last units are dealt out to n stages, floor(units / n) each and one more to the
    first ones; `first` and `last` of them stand for embedding and head.
    """
    each, rest = divmod(layers + first + last, stages)
    found = [each + (i < rest) for i in range(stages)]
    found[0] -= first
    found[-1] -= last
    return tuple(found)


def layers_by_cost(layers: int, stages: int, layer: float, head: float) -> tuple[int, ...]:
    """Layers of each stage where every stage is to have the same work, the head's included.

    Parameters
    ----------
    layers, stages : int
        How many. [1]
    layer, head : float
        Work of a layer and of the head, in any unit.

    Notes
    -----
    Blocks go to a stage until the work so far exceeds its share of the whole, C (i + 1) / n; the
    block that makes it exceed stays. The head is on the last stage.

    Source: nanotron, ``trainer.py``, `_init_model`: thresholds of `get_block_compute_costs`.
    """
    found, at, whole = [0] * stages, 0, layers * layer + head
    for i in range(1, layers + 1):
        found[at] += 1
        if i * layer > whole * (at + 1) / stages:
            at += 1
    return tuple(found)


def blocks_of_stages(layers: Sequence[int]) -> tuple[range, ...]:
    """Block numbers of stages of so many layers: 0 the embedding, 1 to L the layers, then head."""
    found, at = [], 0
    for i, own in enumerate(layers):
        end = at + own + (i == 0) + (i == len(layers) - 1)
        found.append(range(at, end))
        at = end
    return tuple(found)
