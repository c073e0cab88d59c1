"""What ZeRO-3 holds beyond its shards at its largest, and traps that a release springs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from sim.blocks.modules import ModelTree
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.records import NamedTuple
from sim.strategies.recorder import Quiet
from sim.strategies.replicated_memory import Gathered
from sim.strategies.zero3_coordinator import Coordinator
from sim.strategies.zero3_settings import Settings, settings_of
from sim.strategies.zero3_trace import ModuleTrace, trace_of
from sim.units import DTYPE_BYTES

PILE_UP = "zero3-frozen-weights-pile-up"


class Trap(NamedTuple):
    """A known trap that this configuration springs."""

    code: str
    message: str
    hint: str
    bytes: float


class LivePeak(NamedTuple):
    """Largest amounts a rank holds beyond its own shards, each at its own moment. [B]"""

    by_category: dict[str, float]
    traps: tuple[Trap, ...]


def zero3_live_peak(workload: Workload, tree: ModelTree, mesh: Mesh) -> LivePeak:
    """Gathered parameters and buffers of one rank at their largest.

    Returns
    -------
    LivePeak
        ``unsharded_parameters`` (persistent ones included), ``persistent_parameters``,
        ``gather_buffer`` (the largest coalesced all-gather, held twice while it is unpacked),
        ``reduce_bucket`` and ``reduce_buffer``; and the traps.
    """
    s, trace = settings_of(workload, mesh), trace_of(workload, tree)
    # what is gathered and reduced together does not depend on how many ranks there are
    few = replace(s, world=s.hpz, gpus_per_node=s.hpz)
    found = trace.derived.get(few)
    if found is None:
        found = trace.derived[few] = _played(trace, few)
    size, wide = DTYPE_BYTES[s.dtype], DTYPE_BYTES[s.reduce_dtype]

    def largest(groups: Collection[_Numels]) -> float:
        return max((1.0 * sum(-(-n // s.world) for n in each) for each in groups), default=0.0)

    by_category = {
        "unsharded_parameters": float(found.live * size),
        "persistent_parameters": float(found.persistent * size),
        "gather_buffer": largest(found.gathered) * s.world * size,
        "reduce_bucket": float(s.reduce_bucket * size) if any(trace.trainable) else 0.0,
        "reduce_buffer": largest(found.reduced) * s.world * wide,
    }
    return LivePeak(by_category, _traps(workload, s, found))


_Numels = tuple[int, ...]  # elements of parameters that are gathered, or reduced, together


class _Played(NamedTuple):
    """What a micro-batch gathers, whatever the number of ranks; elements. [1]"""

    live: int  # gathered at most
    persistent: int
    frozen: int  # that do not persist
    gathered: Collection[_Numels]  # several parameters in one buffer
    reduced: Collection[_Numels]


def _played(trace: ModuleTrace, s: Settings) -> _Played:
    c = Coordinator(trace, s, Quiet({}))
    c.micro_batch()
    coalesced, reduced = set(), set()
    for issued in c.issued:
        numels = tuple(sorted(trace.numel[p] for p in issued.parameters))
        if issued.trigger == "ipg_bucket":
            reduced.add(numels)
        elif len(issued.parameters) > 1:
            coalesced.add(numels)
    frozen = sum(
        n for n, trains, keep in zip(trace.numel, trace.trainable, c.persistent, strict=True)
        if not trains and not keep
    )  # fmt: skip
    return _Played(c.peak_live, c.persistent_numel, frozen, sorted(coalesced), sorted(reduced))


def gathered(workload: Workload, tree: ModelTree, mesh: Mesh) -> Gathered:
    """What the coordinator holds, forward and backward.

    In forward the limit on live parameters holds; what piles up in backward is no part of it.
    """
    held, traps = zero3_live_peak(workload, tree, mesh)
    p, live = workload.parallelism, held["unsharded_parameters"]
    forward = live
    if any(trap.code == PILE_UP for trap in traps):
        ahead = p.stage3_prefetch_bucket_size
        if isinstance(ahead, str):
            ahead = 0.9 * float(workload.model.hidden_size) ** 2
        element = DTYPE_BYTES[settings_of(workload, mesh).dtype]
        limit = element * (p.stage3_max_live_parameters + ahead)
        forward = max(min(live, limit), held["persistent_parameters"])
    buckets = held["reduce_bucket"] + held["reduce_buffer"]
    return Gathered(forward, live, held["gather_buffer"], buckets)


def _traps(workload: Workload, s: Settings, played: _Played) -> tuple[Trap, ...]:
    policy, version = workload.activation_checkpointing, workload.parallelism.deepspeed_version
    if not (s.attribute_frozen and policy.kind != "none" and played.frozen):
        return ()
    peak = float(played.live * DTYPE_BYTES[s.dtype])
    if not policy.reentrant:
        return (
            Trap(
                "zero3-frozen-weights-gathered-twice",
                f"DeepSpeed {version} releases the frozen weights of a layer in the middle of its "
                "backward pass, after recomputing it, and gathers them once more, each when it is "
                "needed",
                "use DeepSpeed 0.19.2 or older, if no norm is frozen and partitioned",
                float(played.frozen * DTYPE_BYTES[s.dtype]),
            ),
        )
    if played.live <= s.max_live:
        return ()
    return (
        Trap(
            PILE_UP,
            f"DeepSpeed {version} keeps the frozen weights of every recomputed layer gathered "
            f"until the backward pass ends: {peak / 1e9:.1f} GB per GPU, whatever the number of "
            "GPUs",
            "set activation_checkpointing reentrant: false, or use DeepSpeed 0.19.2 or older",
            peak,
        ),
    )
