"""Context parallelism: each rank holds a part of every sequence and attends to all of it.

``all-gather``: keys and values are gathered before attention, their gradients reduce-scattered
after its backward; both are waited for (Llama 3, section 3.3.2). ``ring``: keys and values travel
round the ring beside attention on what has arrived; in backward their gradients travel too (ring
attention; torch's `context_parallel`). ``ulysses``: all-to-alls turn parts of the sequence into
parts of the heads before attention, and back after it.
"""

from __future__ import annotations

from sim.blocks.modules import Block
from sim.inputs.shares import batch_on
from sim.inputs.workload import Workload
from sim.strategies.plan import Recorder
from sim.strategies.units import dtypes
from sim.units import DTYPE_BYTES

_STREAM = "context"


class ContextParallel:
    """Plays a layer's segments with the communication of its attention.

    Parameters
    ----------
    workload : Workload
        Shapes and `context_parallel`.
    """

    def __init__(self, workload: Workload) -> None:
        knobs, model = workload.parallelism, workload.model
        self.ranks = knobs.context_parallel
        self.kind = knobs.context_parallel_kind
        tokens = batch_on(workload).local_tokens
        self.dtype = dtypes(workload).compute
        element = DTYPE_BYTES[self.dtype]
        self.keys_values = 2.0 * model.kv_heads * model.head_dim * tokens * element
        if self.kind == "ulysses" and model.kv_heads < self.ranks:
            self.keys_values *= self.ranks / model.kv_heads  # each rank needs a whole head
        self.queries = float(model.heads * model.head_dim) * tokens * element

    def play(self, r: Recorder, name: str, phase: str, number: int, block: Block) -> None:
        """One layer forward, again or backward, module by module."""
        core = _core(block)
        backward = name == "backward"
        order = reversed(block.forward_order) if backward else block.forward_order
        for module in order:
            if module == core:
                self._before(r, phase, number, block.name, backward)
            r.segment(name, phase, number, module, block.name)
            if module == core:
                self._after(r, phase, number, block.name, backward)

    def _before(self, r: Recorder, phase: str, number: int, unit: str, backward: bool) -> None:
        r.wait_stream(_STREAM, "compute")
        kv = self.keys_values
        if self.kind == "ring":
            # beside attention: the next module waits
            size = (self.ranks - 1) * kv * (2.0 if backward else 1.0)
            self._issue(r, "send_recv", phase, number, unit, size, size)
            return
        if self.kind == "all-gather":
            if backward:
                return
            self._issue(r, "all_gather", phase, number, unit, kv, kv * self.ranks)
        else:
            size = self.queries if backward else self.queries + kv
            self._issue(r, "all_to_all", phase, number, unit, size, size)
        r.wait_stream("compute", _STREAM)

    def _after(self, r: Recorder, phase: str, number: int, unit: str, backward: bool) -> None:
        kv = self.keys_values
        if self.kind != "ring":
            r.wait_stream(_STREAM, "compute")
        if self.kind == "all-gather" and backward:
            self._issue(r, "reduce_scatter", phase, number, unit, kv * self.ranks, kv)
        elif self.kind == "ulysses":
            size = self.queries + kv if backward else self.queries
            self._issue(r, "all_to_all", phase, number, unit, size, size)
        r.wait_stream("compute", _STREAM)

    def _issue(
        self, r: Recorder, what: str, phase: str, number: int, unit: str, sent: float, got: float
    ) -> None:
        r.collective(_STREAM, what, phase, "context", sent, got, self.dtype, unit, number)


def _core(block: Block) -> str:
    """The module that attention's own kernels are counted with."""
    names = {m.name for m in block.modules}
    return next(n for n in ("k_norm", "wqkv", "wv") if n in names)
