"""What autograd keeps on a pipeline rank after each of its actions, to the byte.

The recordings ran on a CPU, whose RMSNorm keeps two fp32 copies as the unfused one does, so the
input of a stage is none of what is kept. They count in a whole batch of token ids; a stage's output
they do not, which lives until its backward.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from sim.blocks.footprint import head_footprint
from sim.blocks.parameters import tree_of
from sim.inputs.model import Model
from sim.inputs.pipeline import blocks_of
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Stack, Workload
from sim.memory.ledger import quantities
from sim.strategies import build_plans
from sim.strategies import terms as t
from sim.strategies.allocations import ADD, MARK
from sim.strategies.columns import columns_of
from sim.strategies.plan import SEGMENT

DATA = Path(__file__).parents[1] / "data" / "pipeline_memory.json"
RUNS = json.loads(DATA.read_text())["recordings"]
KINDS = {"forward": "F", "backward": "B", "input": "I", "weight": "W"}


@pytest.mark.parametrize("name", RUNS)
def test_kept_bytes_after_each_action(name):
    run = RUNS[name]
    workload = Workload(
        name="recorded", model=Model(**run["model"]), sequence_length=run["sequence_length"],
        gradient_accumulation=run["gradient_accumulation"], attention="sdpa",
        stack=Stack(torch="2.8"), parallelism=Parallelism(**run["parallelism"]),
        activation_checkpointing=Checkpointing(kind="none"),
    )  # fmt: skip
    tree = tree_of(workload)
    head = head_footprint(workload)
    ids = 8.0 * run["gradient_accumulation"] * run["sequence_length"]
    stages = run["world"] * run["parallelism"]["virtual_stages"]
    compared = 0
    for plan in build_plans(workload, tree, mesh_on(workload, run["world"])):
        found = kept_after(plan, workload, tree)
        recorded = run["after"][str(plan.stage)]
        splits, flying = "W" in recorded, Counter()
        for text in recorded.split():
            action, size = text.split(":")
            stage, kind, micro = re.fullmatch(r"(\d+)([FBIW])(\d+)", action).groups()
            whole = f"{stage}B{micro}"  # the first stage's weights bring its inputs
            freed = kind == "W" or whole == action
            flying[int(stage)] += (kind == "F") - freed
            ours = found.get(action, found.get(whole) if kind == "W" else None)
            first, last = flying[0], flying[stages - 1]
            if ours is None or (last and splits) or (kind == "F" and int(stage) == stages - 1):
                continue  # nothing to do; a loss that is yet to come, or gone before its weights
            expected = float(size) - ids * (first > 0) - ids * (last > 0) - 4.0 * last
            assert ours == expected + head.hidden * (first - last), action
            compared += 1
    assert compared > 8 * run["world"]


def kept_after(plan, workload, tree):
    """Bytes of saved tensors after each action of a plan, by its name."""
    sizes, offsets = quantities(plan.memory, workload, tree), columns_of(plan.memory).offsets
    stage_of = {block: s for s, own in enumerate(blocks_of(workload)) for block in own}
    ends = {}
    for i, op in enumerate(plan.ops):
        if op.kind == SEGMENT and op.block >= 0:
            ends[f"{stage_of[op.block]}{KINDS[op.name]}{op.micro_step}"] = i
    waiting, live, found = list(ends.items()), 0.0, {}
    for kind, *rest in plan.memory.entries(0, len(plan.memory.log)):
        if kind == MARK:
            while waiting and rest[1] > waiting[0][1]:
                found[waiting.pop(0)[0]] = live
        elif rest[0] in (t.SAVED, t.LOGITS):
            assert kind == ADD
            _, size, quantity, layer = rest
            live += size * sizes[offsets[layer] + quantity]
    return found | {name: live for name, _ in waiting}
