"""Stages of a pipeline: which blocks each holds.

Source: torchtitan, ``generate_llm_fqn_per_model_part``: the embedding and the head count as a layer
or several, so the first and the last stage have fewer.
"""

from __future__ import annotations


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


def blocks_of_stages(layers: int, stages: int, first: int, last: int) -> tuple[range, ...]:
    """Block numbers of each stage: 0 the embedding, 1 to L the layers, L + 1 the head."""
    found, at = [], 0
    for i, own in enumerate(layers_of_stages(layers, stages, first, last)):
        end = at + own + (i == 0) + (i == stages - 1)
        found.append(range(at, end))
        at = end
    return tuple(found)
