"""Exchanges within blocks that kernels stand still for: as long as they take alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sim.blocks.layer import EMBEDDING, HEAD
from sim.blocks.unroll import exchanges, unroll
from sim.cost.nccl.communicator import Nccl
from sim.fabric import compile_fabric
from sim.inputs.rows import run_on
from sim.inputs.shares import mesh_of
from sim.lowering.collectives import cost_of, moved_by
from sim.mesh import Sisters
from sim.step.shares import WITHIN
from sim.strategies.exchanges import (
    COLLECTIVE,
    SEGMENT,
    WAIT,
    WHERE,
    Act,
    Exchanging,
    groups_within,
)
from sim.study.candidates import Candidate
from sim.study.micro_bounds import SAFETY, Within, alone, in_forward
from sim.study.parameter_bounds import in_blocks


class _Alone:
    """Prices exchanges of a candidate on the machine that its micro-steps run alone on."""

    def __init__(self, candidate: Candidate) -> None:
        topology, workload = alone(candidate)
        self.workload = run_on(topology, workload)
        mesh, self.nccl = mesh_of(topology, workload), Nccl.of(workload.stack)
        self.fabric, self.groups = compile_fabric(topology), groups_within(workload, mesh)
        self.within = Exchanging(self.workload, mesh)

    def seconds(self, group: str, collective: str, sent: float, received: float) -> float:
        """What one takes. [s]"""
        where, by = Sisters(self.groups[group], 0, 1), moved_by(group, self.nccl)
        return cost_of(self.fabric, collective, where, max(sent, received), by).time_s


def waited_within(candidate: Candidate) -> Within | None:
    """Exposed exchanges of a micro-step, by what is split and whether forward asks for them. [s]

    None where a kernel or another exchange runs beside one: what that hides has to be simulated.
    """
    at = _Alone(candidate)
    if not in_blocks(at.workload) or at.workload.method.frozen:  # not all have a backward pass
        return None
    templates = unroll(at.workload)
    blocks = Counter(zip(templates.layer_kinds, templates.checkpointed, strict=True))
    blocks.update((kind.key, False) for kind in (EMBEDDING, HEAD))
    found: Within = {}
    for (kind, again), times in blocks.items():
        for name in ("forward", "recompute", "backward") if again else ("forward", "backward"):
            acts = _waited(at.within.script(kind, name, again=again))
            if acts is None:
                return None
            for _, group, collective, phase, sent, received, _ in acts:
                if group not in WITHIN:
                    return None
                key = WITHIN[group], in_forward(name if phase == WHERE else phase)
                seconds = times * SAFETY * at.seconds(group, collective, sent, received)
                found[key] = found.get(key, 0.0) + seconds
    return found


def _waited(script: Iterable[Act]) -> list[Act] | None:
    """Exchanges of a block; None where anything runs beside one of them."""
    found: list[Act] = []
    under_way: list[Act] = []
    for act in script:
        what, one, two = act[:3]
        group = under_way[-1][1] if under_way else ""
        if what == COLLECTIVE:
            if group not in ("", one):
                return None
            under_way.append(act)
        elif what == SEGMENT and under_way:
            return None
        elif what == WAIT and (one, two) == ("compute", group):
            found += under_way
            under_way.clear()
    return None if under_way else found


def outside_s(candidate: Candidate) -> dict[bool, float]:
    """Exchanges of embedding and head in forward (True) and backward, as they take alone. [s]"""
    at, found = _Alone(candidate), {True: 0.0, False: 0.0}
    for kind in (EMBEDDING, HEAD):
        for ahead, phase in ((True, "forward"), (False, "backward")):
            for asked in exchanges(at.workload, kind.key, phase).values():
                found[ahead] += sum(
                    at.seconds(group, x.collective, share * x.sent, share * x.received)
                    for x in asked if x.collective
                    for group, share in at.within.ways[x.over]
                )  # fmt: skip
    return found
