"""A layer with the communication inside it: what its operations need of ranks that share it.

Context parallelism today: each rank holds a part of every sequence and attends to all of it (see
`sim.blocks.attention.exchanged`). What is exchanged, with whom and when a block's description
says; here it is issued.
"""

from __future__ import annotations

from sim.blocks.modules import Block
from sim.blocks.ops import Exchange, When
from sim.blocks.unroll import exchanges
from sim.inputs.workload import Workload
from sim.strategies.plan import Recorder
from sim.strategies.units import dtypes

#: mesh axis -> the plan's group of that name, and the stream its collectives run on
_GROUPS = {"cp": "context"}


class Exchanging:
    """Plays a layer's segments module by module, with their exchanges.

    Parameters
    ----------
    workload : Workload
        Shapes and parallelism.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.dtype = dtypes(workload).compute

    def play(self, r: Recorder, name: str, phase: str, number: int, block: Block) -> None:
        """One layer forward, again or backward."""
        backward = name == "backward"
        every = exchanges(self.workload, block.kind)
        order = block.forward_order
        for module in reversed(order) if backward else order:
            own = [x for x in every.get(module, ()) if x.backward == backward]
            early = [x for x in own if x.when is not When.AFTER]
            late = [x for x in own if x.when is When.AFTER]
            self._issue(r, phase, number, block.name, early)
            if any(x.when is When.BEFORE for x in early):
                self._wait(r, early)
            r.segment(name, phase, number, module, block.name)
            self._issue(r, phase, number, block.name, late)
            self._wait(r, own)

    def _issue(
        self, r: Recorder, phase: str, number: int, unit: str, found: list[Exchange]
    ) -> None:
        for x in found:
            group = _GROUPS[x.over]
            r.wait_stream(group, "compute")
            r.collective(
                group, x.collective, phase, group, x.sent, x.received, self.dtype, unit, number
            )

    def _wait(self, r: Recorder, found: list[Exchange]) -> None:
        for group in dict.fromkeys(_GROUPS[x.over] for x in found):
            r.wait_stream("compute", group)
