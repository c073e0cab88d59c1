"""Samples become rows: what a micro-batch holds where samples differ in length.

Padded: each micro-batch is as long as its longest sample, and ranks wait for the longest of all.
Padding-free: its samples stand one after the other, and it is as long as their sum. Packed: rows
are full; with document masks attention stops at the ends of samples. Whoever prices a step or walks
its memory takes a job whose `sequence_length` is the one that is computed.
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, TypeVar

from sim.inputs.modelling import keeps_scores
from sim.inputs.recipes import ONE_COPY, needs_one_copy
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.trainer import reduces_each
from sim.inputs.workload import Data, SampleLengths, Workload

if TYPE_CHECKING:
    from sim.mesh.lengths import Lengths

W = TypeVar("W", bound=Workload)

#: samples of a job that does not say how long it is: memory is of the longest of them
SAMPLES = 50_000
#: longest sample over the mean where a file gives the mean alone: Alpaca's 52,002 samples, 1,304
#: (Lightning-AI/litgpt, tutorials/resource-tables.md) to 105 tokens of Llama 2's tokenizer
LONGEST_OVER_MEAN = 12.4
MOST_STEPS = 50  # whose samples are sorted at once where they are grouped by length
QUANTUM = 8  # tokens: computed lengths are multiples of it, as collators pad


class Computed(Workload):
    """A job whose rows are as long as they are computed; no file has its keys."""

    attended: float = 0.0  # tokens of a sample that attention stays in; 0: of the whole row
    attended_share: float = 1.0  # of the row's tokens that reach attention: padding taken out


def varied(workload: Workload) -> bool:
    """Whether samples of unequal length make a step other than one of full rows."""
    data = workload.data
    if data.packing is True:
        return data.document_masks and lengths_of(data) is not None
    return lengths_of(data) is not None


def lengths_of(data: Data) -> SampleLengths | None:
    """What a file says of the lengths of samples."""
    if data.sequence_lengths is not None:
        return data.sequence_lengths
    if data.mean_length is not None:
        return SampleLengths.model_construct(mean=float(data.mean_length))
    return None


@lru_cache(maxsize=256)
def distribution(said: SampleLengths, cut: int) -> Lengths:
    """The distribution of sample lengths, cut to the row. [tokens]"""
    from sim.mesh.lengths import listed, lognormal

    if said.lengths:
        weights = said.weights or (1.0,) * len(said.lengths)
        return listed(said.lengths, weights, cut)
    mean = said.mean or float(cut)
    if said.shape == "constant":
        return listed([mean], [1.0], cut)
    return lognormal(mean, said.maximum or min(LONGEST_OVER_MEAN * mean, cut), cut)


def real_length(workload: Workload) -> float:
    """Tokens of a sequence that are no padding, on average. [1]"""
    said = lengths_of(workload.data)
    if said is None or workload.data.packing is True or isinstance(workload, Computed):
        return float(workload.sequence_length)
    return sample_length(workload)


def sample_length(workload: Workload) -> float:
    """Tokens of a sample, cut to the row, on average. [1]"""
    said, cut = lengths_of(workload.data), workload.sequence_length
    if said is None:
        return float(cut)
    if said.mean is not None and said.mean <= cut and (said.maximum or 0) <= cut:
        return said.mean  # none is cut
    return distribution(said, cut).mean


def with_kernels(topology: Topology, workload: Workload) -> Workload:
    """The job as its libraries run it on a machine's GPUs.

    With the attention that they fall back on where one GPU makes them, and one FP8 copy of a tensor
    where that serves all of its products.
    """
    if workload.attention != "sdpa" and workload.precision.recipe not in ONE_COPY:
        return workload  # asked for often
    capabilities = [gpu.compute_capability for gpu in topology.gpu_counts]
    return _as_on(
        workload, workload.attention == "sdpa" and keeps_scores(workload, min(capabilities)),
        all(needs_one_copy(capability) for capability in capabilities),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _as_on(workload: Workload, written_out: bool, one_copy: bool) -> Workload:
    changed: dict[str, object] = {"attention": "eager"} if written_out else {}
    precision = workload.precision
    if one_copy and precision.recipe in ONE_COPY:
        recipe = {"recipe": ONE_COPY[precision.recipe]}
        changed["precision"] = precision.model_copy(update=recipe)
    return workload.model_copy(update=changed) if changed else workload


def run_on(topology: Topology, workload: Workload) -> Workload:
    """The job as a machine's step runs it: its kernels there, and rows as long as a step is."""
    return as_run(with_kernels(topology, workload), topology.world_size)


def longest_on(topology: Topology, workload: Workload, world: int | None = None) -> Workload:
    """The job as its memory on a machine is of it; `world` ranks of it, all by default."""
    return at_longest(with_kernels(topology, workload), world or topology.world_size)


def as_run(workload: Workload, world: int) -> Workload:
    """The job with rows as long as a step is: padding, and waiting for the longest row.

    Parameters
    ----------
    world : int
        Ranks in all.

    Notes
    -----
    Ranks that gather blocks or reduce in every micro-step wait in each for the longest of all:
    E[longest of ranks x micro_batch draws] (padded), or of as many sums of `micro_batch`
    (padding-free). Others wait once a step: E[longest of ranks sums of micro-steps] / micro-steps.
    Where samples are grouped by length, all ranks' rows of a micro-step follow each other.
    """
    if not varied(workload) or isinstance(workload, Computed):
        return workload
    each = strategy_of(workload).gathers_blocks or reduces_each(workload)
    return _as_run(workload, _readers(workload, world), each)


def _readers(workload: Workload, world: int) -> int:
    """Ranks (with those they share samples with) that read different ones."""
    return max(1, world // workload.parallelism.sharing)


@lru_cache(maxsize=512)
def _as_run(workload: Workload, ranks: int, step_by_step: bool) -> Workload:
    batch, steps = _micro_batch(workload), workload.gradient_accumulation
    if batch is None:
        return _computed(workload, workload.sequence_length, 1.0)
    if workload.data.group_by_length and workload.data.packing is False:
        return _grouped(workload, ranks)
    if step_by_step or steps == 1:
        length = batch.longest(ranks).mean
    else:
        length = batch.total(steps).longest(ranks).mean / steps
    return _computed(workload, length, batch.mean)


def _grouped(workload: Workload, ranks: int) -> Workload:
    """The job with rows of samples that were sorted by length, some fifty steps of a rank at once.

    Source: transformers/trainer_pt_utils.py, `get_length_grouped_indices`, to which `Trainer` gives
    micro-batch x accumulation; accelerate deals its batches out to the ranks one by one.
    """
    said = lengths_of(workload.data)
    assert said is not None
    one = distribution(said, workload.sequence_length)
    step = workload.micro_batch * workload.gradient_accumulation
    among = step * max(1, min(int(samples_in_set(workload)) // (4 * step), MOST_STEPS))
    length = one.together(workload.micro_batch * ranks, among)
    return _computed(workload, length, one.together(workload.micro_batch, among))


def samples_in_set(workload: Workload) -> float:
    """Samples of the set, as far as the job says: those of an epoch. [1]"""
    return float(workload.samples or SAMPLES)


def at_longest(workload: Workload, world: int) -> Workload:
    """The job at the longest micro-batch of all its steps: what its memory is of.

    Parameters
    ----------
    world : int
        Ranks in all.
    """
    if not varied(workload) or isinstance(workload, Computed):
        return workload
    return _at_longest(workload, _readers(workload, world))


@lru_cache(maxsize=512)
def _at_longest(workload: Workload, ranks: int) -> Workload:
    batch = _micro_batch(workload)
    if batch is None:
        return _computed(workload, workload.sequence_length, 1.0)
    drawn = max(1.0, samples_drawn(workload, ranks) / workload.micro_batch)
    return _computed(workload, batch.longest(drawn).mean, batch.mean)


def as_counted(workload: W) -> Workload:
    """The job with rows as long as the samples that its tokens are in: what its FLOPs are of."""
    if not varied(workload) or isinstance(workload, Computed):
        return workload
    said = lengths_of(workload.data)
    assert said is not None
    attended = distribution(said, workload.sequence_length).attended
    return workload.model_copy(update={"sequence_length": max(1, round(attended))})


def samples_drawn(workload: Workload, ranks: int) -> float:
    """Samples that a job reads, each counted once. [1]"""
    step = workload.micro_batch * workload.gradient_accumulation * ranks
    if workload.samples:
        return float(workload.samples)
    if workload.steps:
        return float(workload.steps * step)
    if workload.tokens and isfinite(workload.tokens):
        return max(float(step), workload.tokens / sample_length(workload))
    return float(SAMPLES)


def _micro_batch(workload: Workload) -> Lengths | None:
    """Tokens of a row (padded) or of the whole micro-batch (padding-free); None: always full."""
    data, said = workload.data, lengths_of(workload.data)
    if said is None or data.packing is True:
        return None
    one = distribution(said, workload.sequence_length)
    many = workload.micro_batch
    return one.total(many) if data.packing == "padding-free" else one.longest(many)


def _computed(workload: Workload, length: float, mean: float) -> Computed:
    """The job at a length; `mean` is that of its micro-batches, over which attention is spread."""
    data, said = workload.data, lengths_of(workload.data)
    assert said is not None
    samples = distribution(said, workload.sequence_length)
    update: dict[str, object] = {}
    if data.packing is True:
        update = {"attended": samples.attended}
    else:
        quantum = QUANTUM * workload.parallelism.context_parallel
        tokens = max(quantum, quantum * round(length / quantum))
        free = data.packing == "padding-free"
        update["sequence_length"] = tokens if free else min(tokens, workload.sequence_length)
        if free:
            update |= {"micro_batch": 1, "attended": samples.attended}
        elif workload.attention_padding != "none":
            # a rank's longest row is padding to its other rows
            share = min(1.0, samples.mean / mean)
            update |= {"attended": samples.attended, "attended_share": share}
    values = {name: workload.__dict__[name] for name in type(workload).model_fields}
    return Computed.model_construct(**(values | update))
