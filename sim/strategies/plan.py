"""A training step as a strategy issues it: what runs, where, and what it waits for; no seconds.

What a lowering must impose, and nothing else:

1. **Host order.** `Plan.ops` is in the order in which the CPU issues. An op cannot start before the
   CPU has reached it. If ``host_after >= 0`` the CPU first waits for the end of that op (a blocking
   synchronise); as the CPU is in order, every later op is issued after that too. An op of kind HOST
   runs on the CPU itself: it starts when the CPU reaches it and its `deps` have ended, and the CPU
   goes on after its end. Before it issues an op the CPU makes the `calls` of it.
2. **Streams.** Ops of one `stream` (all but "host") run in list order, one at a time.
3. **Dependencies.** An op starts after the end of every op in `deps`. Indices are of earlier ops.
   Those that stream order or an earlier wait of the same stream already implies are left out.
4. **Stages.** A collective of ranks of several pipeline stages, such as a message (a group of
   `Pairs`), is in the plan of each, with the same `comm` and `unit`.
5. **Communicators.** Collectives with the same `comm` run one at a time, in list order, whatever
   their streams: NCCL serialises a communicator. ``Plan.groups`` says which ranks;
   ``comm == group`` unless the strategy made a second communicator over the same ranks.

Kinds: SEGMENT is the kernels of one block (or of one leaf module of it) in one direction; `name` is
"forward", "recompute" (the second forward of activation checkpointing), "backward" or
"optimizer". The head's segments include the loss. KERNEL is one memory-bound kernel or copy of
`bytes` traffic: HBM read plus write, or, on the offload streams and with names "h2d"/"d2h", bytes
over the host link. COLLECTIVE carries bytes per rank as c10d sees them: all-gather in = shard, out
= all shards; reduce-scatter the reverse; all-reduce in = out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sim.mesh import Groups, Pairs
from sim.records import NamedTuple
from sim.strategies.allocations import Allocations
from sim.strategies.copied import Copy, written_out

SEGMENT, KERNEL, COLLECTIVE, HOST = range(4)
OWNED = ("optimizer", "clip")  # segments over what a rank owns, once a step, not over tokens

Calls = tuple[tuple[str, float], ...]


class PlanOp(NamedTuple):
    """One issued operation.

    `deps` are indices of earlier ops that must have ended, beside the previous op of its own
    stream and (collectives) of its own communicator.
    """

    kind: int
    stream: str  # compute, copy_in, all_gather, reduce_scatter, all_reduce, offload_*, host
    name: str  # "all_gather", "copy_out", "forward", "backward", "recompute", "optimizer" ...
    phase: str  # forward | backward | clip | optimizer | loss | ...
    block: int  # 0 embedding, 1..L layers, L+1 head; -1 root or none
    module: str  # leaf module, or several (`together`), of per-module schedules; "" = whole block
    deps: tuple[int, ...]
    host_after: int  # op whose end the CPU has to see before issuing this one; -1 none
    micro_step: int  # from 0
    # collectives
    collective: str = ""  # all_gather | reduce_scatter | all_reduce | broadcast | all_to_all
    group: str = ""  # "shard" | "replicate" | "world" | "hpz" | "subgroup:k" | "context" ...
    bytes_in: float = 0.0  # per rank [B]
    bytes_out: float = 0.0  # per rank [B]
    dtype: str = ""
    unit: str = ""  # FSDP unit or bucket, as recordings name it ("root", "layers.3")
    # plain kernels and copies
    bytes: float = 0.0  # HBM (or host link) traffic [B]
    comm: str = ""  # communicator (collectives): same name = serialised in list order
    # what the CPU does right before it issues the op: calls of `sim.cost.host`, and how often
    calls: Calls = ()


@dataclass(slots=True)
class Plan:
    """A recorded step of one rank; of every rank of its pipeline stage."""

    issued: Sequence[PlanOp]  # what `ops` are, but that copies are the op they are copies of
    memory: Allocations
    groups: dict[str, Groups | Pairs] = field(default_factory=dict)  # by the name that ops give
    owned_numel: float = 0.0  # trainable elements that rank 0 updates in the optimizer step
    owned_tensors: int = 0  # trainable tensors it updates
    owned_experts: int = 0  # those of them that are experts spread over ranks
    optimizer_on_host: bool = False  # CPU offload: the step is a HOST op
    stage: int = 0  # whose plan it is, of `stages`: ranks of a pipeline stage run the same
    stages: int = 1
    # what pricing and lowering work out once a plan: plans are shared by jobs that differ in costs
    derived: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    copies: list[Copy] = field(default_factory=list, repr=False, compare=False)  # in order
    like: Like | None = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> Plan:
        """The plan to ask for what is of structure alone: of plans alike the first, or itself."""
        return self.like.first if self.like else self

    @property
    def ops(self) -> Sequence[PlanOp]:
        """Operations in issue order, each with what is its own."""
        if not self.copies:
            return self.issued
        if "ops" not in self.derived:
            self.derived["ops"] = written_out(self.issued, self.copies)
        found: list[PlanOp] = self.derived["ops"]
        return found


class Like(NamedTuple):
    """What a plan has in common with others of its structure, and what is its own.

    Attributes
    ----------
    first : Plan
        Of which all ask what is of structure alone: its ops are `ops`.
    ops : sequence of PlanOp
        Of all of them, with places in `values` for numbers.
    derived : dict
        What readers work out once for all.
    values : sequence
        Numbers of this one.
    """

    first: Plan
    ops: Sequence[PlanOp]
    derived: dict[Hashable, Any]
    values: Sequence[Any]


def together(modules: Iterable[str]) -> str:
    """Several leaf modules as the `module` of one segment."""
    return " ".join(modules)


def runs(module: str, name: str) -> bool:
    """Whether a segment of `module` runs the leaf module `name`."""
    return not module or name in modules_of(module)


@lru_cache(maxsize=1024)
def modules_of(module: str) -> frozenset[str]:
    """The leaf modules of a segment's `module`, unless it is of all."""
    return frozenset(module.split(" "))
