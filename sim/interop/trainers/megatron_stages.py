"""Which layers a stage holds, in Megatron-LM's words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sim.inputs.tree import Items, Leaf
from sim.interop.trainers.keys import Keys

LAYOUT = "pipeline-model-parallel-layout"
EMBEDDING = "account-for-embedding-in-pipeline-split"
LOSS = "account-for-loss-in-pipeline-split"
FIRST, LAST = "decoder-first-pipeline-num-layers", "decoder-last-pipeline-num-layers"
_TIMES = re.compile(r"\(([^()]*)\)(?:\*(\d+))?|([EtmL|])\*(\d+)")
_LETTERS = re.compile(r"[EtmL|]*\Z")
_MOST = 100_000  # letters of a layout, spelt out


def read(keys: Keys, layers: int, stages: int, virtual: int) -> None:
    """Take how many layers each stage has, where they are not equally many.

    Parameters
    ----------
    keys : Keys
        The arguments.
    layers, stages, virtual : int
        Of the model, ranks of a pipeline, stages a rank.

    Notes
    -----
    ``--decoder-first-pipeline-num-layers`` and ``-last-`` are of a rank, dealt out to its virtual
    stages; other ranks share what is left. Stage v p + r is rank r's v-th, as a layout lists them.

    Source: Megatron-LM, core/transformer/transformer_block.py, ``get_num_layers_to_build``;
    core/transformer/pipeline_parallel_layer_layout.py, ``parse_str_to_list``.
    """
    for side, name in (("first", EMBEDDING), ("last", LOSS)):
        if keys.flag(name):
            keys.put(f"parallelism.pipeline_{side}_stage_less_layers", 1, name)
    if keys.has(LAYOUT):
        _layout(keys, stages)
        return
    first, last = keys.count(FIRST), keys.count(LAST)
    if first is None and last is None:
        return
    said = FIRST if first is not None else LAST
    each = of_a_rank(keys, layers, stages)
    ranks = [each if first is None else first, *[each] * (stages - 2)]
    ranks.append(each if last is None else last)
    if sum(ranks) != layers or any(own % virtual for own in ranks):
        message = f"{layers} layers are not {stages} ranks of {ranks}, each of {virtual} stages"
        keys.fault(message, said)
        return
    _put(keys, [own // virtual for own in ranks] * virtual, said)


def of_a_rank(keys: Keys, layers: int, stages: int) -> int:
    """Layers of a rank that is not said apart; an end that stands for a layer is one."""
    apart = [keys.count(name) for name in (FIRST, LAST)]
    left = layers + bool(keys.flag(EMBEDDING)) + bool(keys.flag(LOSS)) - sum(n or 0 for n in apart)
    ranks = stages - sum(n is not None for n in apart)
    return left // ranks if ranks else 0


def _layout(keys: Keys, stages: int) -> None:
    text = spelt(keys.text(LAYOUT))
    if text is None:
        keys.fault('is no layout such as "E|(t*2|)*30,t|L"', LAYOUT)
        return
    if "m" in text:
        keys.matters("layers that predict further tokens (m) are left out", LAYOUT)
    found = [stage.count("t") for stage in text.split("|")]
    if len(found) % stages:
        keys.fault(f"{len(found)} stages are not the same number on each of {stages} ranks", LAYOUT)
        return
    if len(found) > stages:
        keys.put("parallelism.pipeline_schedule", "interleaved-1f1b", LAYOUT)
        keys.put("parallelism.virtual_stages", len(found) // stages, LAYOUT)
    _put(keys, found, LAYOUT)


def _put(keys: Keys, found: Sequence[int], name: str) -> None:
    place = keys.place(name)
    items = Items([Leaf(own, place) for own in found], place)
    keys.put("parallelism.pipeline_layers", items, name)


def spelt(layout: str) -> str | None:
    """A layout with its repetitions written out, or None for what is none."""
    text = re.sub(r"[,\s'\"]", "", layout)
    while match := _TIMES.search(text):
        times = int(match[2] or match[4] or 1)
        inner = match[1] if match[3] is None else match[3]
        if times * len(inner) > _MOST:
            return None
        text = f"{text[: match.start()]}{inner * times}{text[match.end() :]}"
    return text if text and _LETTERS.match(text) else None


def written(layers: Sequence[int]) -> str:
    """The layout of stages of so many layers: embedding first, loss last."""
    stages = ["t" * own for own in layers]
    return f"E{'|'.join(stages)}L"
