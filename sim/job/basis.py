"""What a job and a machine say of the whole job: its length, saves, links, bill."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from sim.blocks.parameters import count_parameters
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.inputs.rows import sample_length
from sim.inputs.shares import batch_on
from sim.inputs.topology import Offer, Topology
from sim.inputs.workload import Workload
from sim.job.checkpoints import CheckpointCost, checkpoint_cost, memory_copy
from sim.job.cost import Cost, Terms, owned_rate, total_cost
from sim.job.energy import Energy, PowerDraw, job_energy
from sim.job.pipeline import Pipeline
from sim.memory.states import saved_bytes
from sim.records import NamedTuple, dataclass
from sim.step.breakdown import Breakdown
from sim.units import DTYPE_BYTES, HOUR_S


def job_steps(workload: Workload, world: int) -> tuple[int, float] | None:
    """Optimizer steps and tokens of the whole job, or None if its length is not given.

    Tokens are those of samples: padding is not counted.
    """
    return job_length(workload, batch_on(workload, world).tokens)


def job_length(workload: Workload, tokens_per_step: float) -> tuple[int, float] | None:
    """The same of a job whose steps have so many tokens."""
    if workload.steps:
        return workload.steps, float(workload.steps * tokens_per_step)
    tokens = workload.tokens
    if tokens is None and workload.samples:
        tokens = float(workload.samples * sample_length(workload)) * workload.epochs
    if tokens is None:
        return None
    steps = max(1, math.ceil(tokens / tokens_per_step - 1e-9))
    return steps, tokens


def has_length(workload: Workload) -> bool:
    """Whether a job states how long it is."""
    lengths = workload.tokens, workload.steps, workload.samples
    return any(length is not None for length in lengths)


def no_length(name: str) -> InputError:
    """What is wrong with a job that must have a length and states none."""
    return InputError.single(name, "states no length; write tokens, steps or samples of an epoch")


class Links(NamedTuple):
    """What a checkpoint travels over. [B/s]"""

    network: float  # at which one rank can receive from all others (full checkpoints)
    host: float  # device to host, of the first GPU while the others do not copy
    together: float  # device to host, of the slowest GPU while all copy


@lru_cache(maxsize=256)
def links_of(topology: Topology) -> Links:
    """Rates of the machine's links, as its fabric has them."""
    fabric = compile_fabric(topology)
    host = fabric.bandwidth(fabric.offload_route(0, "to-host"))
    apart = fabric.n_nodes > 1
    network = fabric.bandwidth(fabric.route(fabric.n_ranks - 1, 0)) if apart else host
    return Links(network, host, fabric.copies_bandwidth("to-host"))


@lru_cache(maxsize=512)
def checkpoint_bytes(workload: Workload) -> float:
    """What a resumable checkpoint holds: weights and optimizer state. [B]"""
    one = workload.parallelism.model_copy(update={"tensor_parallel": 1, "expert_parallel": 1})
    return saved_bytes(workload.model_copy(update={"parallelism": one}), ranks=1)


def export_bytes(workload: Workload) -> float:
    """What leaves the provider at the end: bf16 weights (adapters for LoRA), or the state. [B]"""
    if workload.checkpoint.export == "none":
        return 0.0
    if workload.checkpoint.export == "state":
        return checkpoint_bytes(workload)
    counts = count_parameters(workload.model, workload.method)
    return DTYPE_BYTES["bf16"] * (counts.trainable if workload.method.adapted else counts.total)


def terms_of(offer: Offer | None) -> Terms | None:
    """Terms of an offer; None without a price.

    Spot takes the spot price; a commitment takes its discount off and has a least length. A machine
    of one's own costs what it is written off by, unless it is rented at a price.
    """
    if offer is None:
        return None
    price, kind = offer.price_per_gpu_hour, "on-demand"
    if offer.own is not None and (price is None or offer.capacity == "owned"):
        price, kind = owned_rate(offer.own), "owned"
    elif price is None:
        return None
    elif offer.capacity == "spot" and offer.spot_price_per_gpu_hour is not None:
        price, kind = offer.spot_price_per_gpu_hour, "spot"
    elif offer.commitment_discount or offer.commitment:
        price, kind = price * (1.0 - offer.commitment_discount), "committed"
    return Terms(
        price_per_gpu_hour_usd=price,
        kind=kind,
        setup_hours=(offer.setup or 0.0) / HOUR_S,
        least_hours=offer.commitment / HOUR_S,
        storage_usd_per_gb_month=offer.storage_per_gb_month,
        egress_usd_per_gb=offer.egress_per_gb,
        energy_usd_per_kwh=offer.energy_per_kwh,
    )


def pipeline_of(topology: Topology, workload: Workload) -> Pipeline:
    """The input pipeline of a rank; the ranks of a node share its storage."""
    data = workload.data
    gpus = max(1, topology.world_size // max(1, topology.node_count))
    # a context-parallel group reads a sequence's tokens between its ranks
    return Pipeline(
        data.workers, batch_on(workload).tokens_per_rank,
        data.preprocess_tokens_per_s_per_worker, data.bytes_per_token,
        topology.storage.read / gpus, data.prefetch,
    )  # fmt: skip


def save_of(topology: Topology, workload: Workload, links: Links) -> CheckpointCost:
    """One checkpoint of the job on the machine; reading it back includes a frozen base."""
    nodes, storage = max(1, topology.node_count), topology.storage
    sharded = workload.checkpoint.mode == "sharded"
    save = checkpoint_cost(
        checkpoint_bytes(workload), nodes, max(1, topology.world_size // nodes),
        sharded=sharded,
        asynchronous=workload.checkpoint.asynchronous,
        host_link_bytes_per_s=links.together if sharded else links.host,
        storage_write_bytes_per_s=storage.write,
        storage_read_bytes_per_s=storage.read,
        gather_bytes_per_s=links.network,
    )  # fmt: skip
    if not workload.method.adapted:
        return save
    # the frozen base is in no checkpoint: every node reads its file again
    counts = count_parameters(workload.model, workload.method)
    base_s = DTYPE_BYTES["bf16"] * (counts.total - counts.trainable) / storage.read
    return replace(save, read_s=save.read_s + base_s)


def copy_of(topology: Topology, workload: Workload, links: Links) -> CheckpointCost | None:
    """One copy of the state in host memory; None where the job makes none."""
    if workload.checkpoint.memory_interval is None:
        return None
    nodes = max(1, topology.node_count)
    nics = [group.node.nics for group in topology.described]
    rates = [n.count * n.rate for n in nics if n is not None]
    return memory_copy(
        checkpoint_bytes(workload), nodes, max(1, topology.world_size // nodes),
        workload.checkpoint.peers,
        host_link_bytes_per_s=links.together,
        network_bytes_per_s=min(rates) if rates else links.network,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bill:
    """Cost and energy of a job of known length."""

    storage_gb: float
    egress_gb: float
    cost: Cost | None  # None without a price
    energy: Energy


def bill_of(
    topology: Topology,
    workload: Workload,
    step: Breakdown,
    wall_s: float,
    stepping_s: float,
    tokens: float,
) -> Bill:
    """What a job takes and costs.

    Parameters
    ----------
    topology, workload : specs
        Machine with its offer, and job.
    step : Breakdown
        One step, for the power it draws.
    wall_s, stepping_s : float
        In all, and with the GPUs at work, on steps later lost too. [s]
    tokens : float
        Trained on.
    """
    nodes, offer = max(1, topology.node_count), topology.offer or Offer()
    draws = [
        PowerDraw(gpu, n, step.by_gpu.get(gpu.name, step.parts))
        for gpu, n in topology.gpu_counts.items()
    ]
    energy = job_energy(
        draws,
        nodes=nodes, busy_s=stepping_s, wall_s=wall_s,
        provider=offer.provider, region=offer.region, country=offer.country, pue=offer.pue,
    )  # fmt: skip
    kept = workload.checkpoint.keep if workload.checkpoint.interval else 0
    storage_gb = kept * checkpoint_bytes(workload) / 1e9
    storage_gb += tokens * workload.data.bytes_per_token / 1e9
    egress_gb = export_bytes(workload) / 1e9
    terms, cost = terms_of(topology.offer), None
    if terms is not None:
        spares = topology.reliability.spare_nodes or 0
        cost = total_cost(
            terms, topology.world_size * (nodes + spares) // nodes, wall_s,
            storage_gb=storage_gb, egress_gb=egress_gb, energy_j=energy.energy_j, tokens=tokens,
        )  # fmt: skip
    return Bill(storage_gb, egress_gb, cost, energy)
