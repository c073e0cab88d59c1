"""Will it fit: bytes per GPU by category and moment, what dominates, what would mend it."""

from __future__ import annotations

from dataclasses import field, replace
from functools import lru_cache

from sim.blocks.from_workload import setting_of
from sim.blocks.modules import ModelTree
from sim.blocks.parameters import tree_of
from sim.blocks.tensor import workspace_bytes
from sim.inputs.notes import Message
from sim.inputs.pipeline import blocks_of, shape_of
from sim.inputs.rows import longest_on
from sim.inputs.shares import mesh_on
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Node, Topology
from sim.inputs.workload import Workload
from sim.memory.band import kind_of, memory_half_width
from sim.memory.ledger import Ledger, read
from sim.memory.reference import with_reference
from sim.memory.states import constants, fragmentation, in_flight_bytes
from sim.memory.verdict import Verdict
from sim.mesh import Mesh
from sim.pipeline.schedules import SCHEDULES
from sim.records import dataclass
from sim.strategies import allocations_of
from sim.strategies.terms import MOMENTS, WHOLE
from sim.strategies.units import dtypes, stored_bytes, tree_blocks

#: times as many micro-batches as stages, from which on each more adds as much as the last
FILLS = 3


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes on one GPU (ranks are alike) and on its host.

    Attributes
    ----------
    peak_allocated_bytes : float
        Highest sum of live tensors. [B]
    peak_reserved_bytes : float
        What the process takes if there is room: the allocator's pools, fragmentation, CUDA context,
        communicators. [B]
    needed_bytes : float
        What must live: the same with one pool, since streams give back what they do not use. [B]
    capacity_bytes : float
        What the GPU offers. [B]
    peak_moment : str
        ``init | forward | backward | optimizer | save``.
    by_category : dict
        Live tensors at the peak, categories of PyTorch's FSDPMemTracker. [B]
    terms : dict
        The same, told apart further. [B]
    by_moment : dict
        Peak of live tensors in each moment. [B]
    categories_by_moment : dict of dict
        `by_category` at each moment's own peak. [B]
    overheads : dict
        ``stream_pools`` (memory that streams do not share), ``fragmentation``, ``cuda_context``,
        ``communicators``. [B]
    dominating : str
        The largest of `terms`, or of `overheads`.
    paged_bytes : float
        Optimizer states of a GPU in managed memory: no allocation, and on the host where there is
        no room for them. [B]
    in_flight_bytes : float
        Blocks beside the reserved ones while streams hand on what they used. [B]
    step_reserved_bytes : float
        As `peak_reserved_bytes`, within a step alone: neither loading nor saving. [B]
    whole : bool
        Each GPU holds all of the parameters, gradients and states.
    host_bytes : float
        Host memory of one node while training: offloaded state and staging of checkpoints. [B]
    host_terms : dict
        The same by what takes it. [B]
    host_loading_bytes : float
        Host memory of one node while the weights are loaded, if every rank builds a copy. [B]
    host_capacity_bytes : float
        What a node's host offers. [B]
    warnings : tuple of Message
        Known traps that this job steps into.
    """

    peak_allocated_bytes: float
    peak_reserved_bytes: float
    needed_bytes: float
    capacity_bytes: float
    peak_moment: str
    by_category: dict[str, float]
    terms: dict[str, float]
    by_moment: dict[str, float]
    categories_by_moment: dict[str, dict[str, float]] = field(default_factory=dict)
    overheads: dict[str, float] = field(default_factory=dict)
    dominating: str = ""
    host_bytes: float = 0.0
    host_terms: dict[str, float] = field(default_factory=dict)
    host_loading_bytes: float = 0.0
    host_capacity_bytes: float = 0.0
    paged_bytes: float = 0.0
    in_flight_bytes: float = 0.0
    step_reserved_bytes: float = 0.0
    whole: bool = False
    half_width: float = 0.1  # of the 80 % band of the peak, as a logarithm
    binding_gpu: str = ""  # where GPUs differ: whose memory is the capacity
    warnings: tuple[Message, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Whether it fits, and how likely it is to run."""
        return Verdict(
            self.needed_bytes, self.capacity_bytes, self.step_reserved_bytes,
            max(self.host_bytes, self.host_loading_bytes), self.host_capacity_bytes,
            self.in_flight_bytes, self.half_width,
        )  # fmt: skip

    @property
    def evicted_bytes(self) -> float:
        """Of `paged_bytes`, what leaves a GPU each step: all, or none where all find room. [B]

        Notes
        -----
        The allocator's pools grow over managed pages before any allocation of theirs fails. Of
        states that do not fit beside them, those that were touched least recently leave; an update
        touches them in the same order each step, so these are the very ones that it needs next.
        Assumed: pages leave in that order strictly. To keep some would move twice the rest alone.
        """
        room = max(0.0, -self.verdict.missing_bytes)
        return self.paged_bytes if self.paged_bytes > room else 0.0

    @property
    def fits(self) -> bool:
        """Whether it more likely runs than not (`Verdict.fits`)."""
        return self.verdict.fits

    @property
    def headroom_bytes(self) -> float:
        """Capacity left; negative where it does not fit. [B]"""
        return self.capacity_bytes - self.needed_bytes


def walk(workload: Workload, tree: ModelTree, mesh: Mesh) -> Ledger:
    """Memory of one rank in a step, read off its plan; of the fullest rank of a pipeline."""
    ledgers = [_of_rank(workload, tree, mesh, rank) for rank in fullest_ranks(workload, tree)]
    return max(ledgers, key=lambda ledger: ledger.peaks[ledger.highest].total)


def _of_rank(workload: Workload, tree: ModelTree, mesh: Mesh, rank: int) -> Ledger:
    """Memory of a rank; of a pipeline that fills up, from what one micro-batch more takes."""
    micro, few = workload.gradient_accumulation, FILLS * mesh.pp

    def of(micro: int) -> Ledger:
        job = workload
        if micro != workload.gradient_accumulation:
            job = workload.model_copy(update={"gradient_accumulation": micro})
        return read(allocations_of(job, tree, mesh, rank), job, tree)

    schedule = SCHEDULES[workload.parallelism.pipeline_schedule]
    if mesh.pp == 1 or schedule.cycle(shape_of(workload)) or micro <= few:
        return of(micro)
    return of(few).further(of(few - 1), micro - few)


def fullest_ranks(workload: Workload, tree: ModelTree) -> list[int]:
    """Ranks of a pipeline of which one is the fullest; 0 where there is none.

    Of ranks whose stages have the same blocks, the first: an earlier one has more micro-batches in
    flight. Along a V they are more by what a rank has of one of its stages and fewer by what it
    has of the other, evenly from rank to rank: the first or the last is the fullest.
    """
    p = workload.parallelism
    schedule = SCHEDULES[p.pipeline_schedule]
    if p.pipeline_parallel == 1:
        return [0]
    shape = shape_of(workload)
    kinds = [block.kind for block in tree_blocks(tree)]
    ranges = blocks_of(workload)
    alike: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for rank in range(shape.ranks):
        stages = schedule.stages_of(shape, rank)
        own = tuple(tuple(kinds[b] for b in ranges[stage]) for stage in stages)
        alike.setdefault(own, []).append(rank)
    few = {ranks[0] for ranks in alike.values()}
    if schedule.turns:
        few |= {ranks[-1] for ranks in alike.values()}
    return sorted(few)


def memory(
    topology: Topology, workload: Workload, tree: ModelTree | None = None, world: int | None = None
) -> MemoryReport:
    """Bytes per GPU of a training step.

    Parameters
    ----------
    topology : Topology
        The machine; its GPUs' memory is the capacity.
    tree : ModelTree, optional
        ``tree_of(workload)``.
    world : int, optional
        GPUs in all. Default: all of the topology.

    Returns
    -------
    MemoryReport
        Peaks by moment and category, and the verdict.
    """
    tree = tree or tree_of(workload)
    capacity, gpus, host = machine(topology)
    world = world or gpus
    workload = longest_on(topology, workload, world)
    mesh = mesh_on(workload, world, topology.gpus_per_node)
    ledger = with_reference(walk(workload, tree, mesh), workload, mesh, walk)
    moment = ledger.highest
    peak = ledger.peaks[moment]
    c = constants()
    allocated = peak.total
    groups = 0 if world == 1 else 1
    if workload.parallelism.replicate > 1:
        groups += 1
    if workload.parallelism.separate_reduce_scatter_group:
        groups += 1
    groups += sum(size > 1 for size in (mesh.cp, mesh.tp, mesh.pp, mesh.ep))
    groups += mesh.ep > 1 and mesh.efsdp > 1
    pooled = sum(ledger.pools.values())
    lost = fragmentation(workload)
    overheads = {
        "stream_pools": pooled - allocated,
        "fragmentation": lost * pooled,
        "cuda_context": c["context"],
        "communicators": c["communicator"] * groups + workspace_bytes(setting_of(workload)),
    }
    reserved = allocated + sum(overheads.values())
    in_step = reserved - (1.0 + lost) * (pooled - ledger.step_pooled)
    needed = (1.0 + lost) * allocated
    needed += overheads["cuda_context"] + overheads["communicators"]
    whole = not strategy_of(workload).shards
    terms = {WHOLE.get(k, k) if whole else k: v for k, v in peak.terms.items() if v > 0.5}
    categories = {m: ledger.peaks[m].by_category() for m in MOMENTS}
    node = tightest_node(topology)
    per_node = min(world, node.gpus if node else world)
    host_parts = {k: per_node * v for k, v in ledger.host.items()}
    on_host = sum(host_parts.values())
    loading = per_node * _loading_bytes(workload, tree)
    return MemoryReport(
        peak_allocated_bytes=allocated,
        peak_reserved_bytes=reserved,
        needed_bytes=needed,
        capacity_bytes=capacity,
        peak_moment=moment,
        by_category=dict(categories[moment]),
        terms=terms,
        by_moment={m: ledger.peaks[m].total for m in MOMENTS},
        categories_by_moment=categories,
        overheads=overheads,
        dominating=max(terms, key=lambda k: terms[k]) if terms else "cuda_context",
        host_bytes=on_host,
        host_terms=host_parts,
        host_loading_bytes=loading,
        host_capacity_bytes=host,
        paged_bytes=ledger.host.get("optimizer states", 0.0) * workload.optimizer_paged,
        in_flight_bytes=in_flight_bytes(workload, tree, reserved),
        step_reserved_bytes=in_step,
        whole=whole,
        half_width=memory_half_width(kind_of(workload)),
        binding_gpu=_binding(topology),
        warnings=tuple(strategy_of(workload).memory_warnings(workload, tree, mesh)),
    )


def elsewhere(report: MemoryReport, topology: Topology) -> MemoryReport:
    """`memory` of the same job on a machine of the same `sizes`, whatever room that has."""
    (capacity, _, host), gpu = machine(topology), _binding(topology)
    if (capacity, host, gpu) == (
        report.capacity_bytes, report.host_capacity_bytes, report.binding_gpu,
    ):  # fmt: skip
        return report
    return replace(report, capacity_bytes=capacity, host_capacity_bytes=host, binding_gpu=gpu)


@lru_cache(maxsize=64)
def sizes(topology: Topology) -> tuple[int, int, int | None]:
    """GPUs in all, of a node, and of the tightest node: what of a machine a job's needs are by."""
    node = tightest_node(topology)
    return machine(topology)[1], topology.gpus_per_node, node.gpus if node else None


def _loading_bytes(workload: Workload, tree: ModelTree) -> float:
    """Host memory of one rank while it loads the weights. [B]

    Nothing to speak of where each rank reads its own part; the whole model, as it will be stored,
    where every rank builds a copy first (no ``cpu_ram_efficient_loading``).
    """
    p, types = workload.parallelism, dtypes(workload)
    if p.cpu_ram_efficient_loading:
        return 0.0
    kept = types.compute if strategy_of(workload).deepspeed else types.master
    return stored_bytes(tree, types, kept)


@lru_cache(maxsize=64)
def machine(topology: Topology) -> tuple[float, int, float]:
    """Memory of the smallest GPU, GPUs in all, and host memory of a node."""
    share = 1 - constants()["driver"]
    smallest = min((gpu.memory for gpu in topology.gpu_counts), default=0.0)
    node = tightest_node(topology)
    host = node.cpu.memory if node else float("inf")
    return share * smallest, max(1, topology.world_size), host


@lru_cache(maxsize=64)
def _binding(topology: Topology) -> str:
    gpus = topology.gpu_counts
    return min(gpus, key=lambda gpu: gpu.memory).name if len(gpus) > 1 else ""


@lru_cache(maxsize=64)
def tightest_node(topology: Topology) -> Node | None:
    """The node with the least host memory for each GPU; None of an explicit graph."""
    nodes = [group.node for group in topology.groups]
    return min(nodes, key=lambda node: node.cpu.memory / node.gpus, default=None)
