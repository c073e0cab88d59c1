"""Checks of rows, samples and padding: what a micro-batch is made of."""

from __future__ import annotations

from sim.inputs.finding import Findings, fault, warning
from sim.inputs.modelling import modelling_of
from sim.inputs.rows import as_run, lengths_of, sample_length, varied
from sim.inputs.workload import SampleLengths, Workload
from sim.quantities import percent

#: attention that takes rows of unequal length
VARIED = ("flash1", "flash2", "flash3", "te")
WORTH = 0.05  # share of padding that is worth a word


def check_rows(workload: Workload) -> Findings:
    """Everything wrong with how samples become rows."""
    yield from _samples(workload)
    yield from _masks(workload)
    yield from _padding(workload)
    yield from _unpadding(workload)
    yield from _padded_attention(workload)


def _unpadding(w: Workload) -> Findings:
    if w.attention_padding == "none":
        return
    path = "attention_padding"
    if w.attention not in VARIED:
        message = f"attention {w.attention} takes rows of one length"
        hint = f"write attention: {' or '.join(VARIED)}, or attention_padding: none"
        yield fault("unpad", "workload", path, message, hint)
    if w.cuda_graphs:
        message = "taking padding out makes the host wait in every layer, which no CUDA graph can"
        yield fault("unpad", "workload", path, message, "write cuda_graphs: false")
    if w.parallelism.context_parallel > 1:
        message = "rows without padding are not split over context-parallel ranks"
        yield fault("unpad", "workload", path, message, "write attention_padding: none")


def _samples(w: Workload) -> Findings:
    """What a file says of the lengths of samples, against itself."""
    data, said = w.data, w.data.sequence_lengths
    path = "data.sequence_lengths"
    if said is None:
        return
    if data.mean_length is not None:
        message = "says how long samples are a second time"
        yield fault("lengths", "workload", "data.mean_length", message, f"write it in {path}")
    if said.lengths:
        yield from _listed(said, path)
    elif said.mean is None:
        message = "a shape needs the mean length of a sample"
        yield fault("lengths", "workload", path, message, "add mean, or list the lengths")
    elif said.maximum is not None and said.maximum < said.mean:
        message = f"the longest sample, {said.maximum}, is below the mean of {said.mean:g}"
        yield fault("lengths", "workload", f"{path}.maximum", message, "check both")


def _listed(said: SampleLengths, path: str) -> Findings:
    if said.mean is not None or said.maximum is not None:
        message = "lengths that are listed have their own mean and maximum"
        yield fault("lengths", "workload", path, message, "leave mean and maximum out")
    if said.weights and len(said.weights) != len(said.lengths):
        message = f"{len(said.weights)} weights for {len(said.lengths)} lengths"
        yield fault("lengths", "workload", f"{path}.weights", message, "give each a weight")
    if min(said.lengths) < 1:
        message = f"a sample of {min(said.lengths)} tokens is none"
        yield fault("lengths", "workload", f"{path}.lengths", message, "count from 1")
    if said.weights and (min(said.weights) < 0 or sum(said.weights) <= 0):
        message = "weights are shares of samples: not negative, and not all zero"
        yield fault("lengths", "workload", f"{path}.weights", message, "check them")


def _masks(w: Workload) -> Findings:
    data, path = w.data, "data.document_masks"
    free = data.packing == "padding-free"
    if lengths_of(data) is None and (free or data.document_masks):
        where = "data.packing" if free else path
        message = "nothing says how long samples are"
        hint = "add data.mean_length or data.sequence_lengths"
        yield fault("lengths", "workload", where, message, hint)
    if data.document_masks and data.packing is False:
        message = "rows of one sample each have no documents to tell apart"
        yield fault("masks", "workload", path, message, "write packing: true, or leave it out")
    if data.group_by_length and data.packing is not False:
        message = "full rows are not grouped by length" if not free else "nothing is padded"
        hint = "write packing: false, or leave it out"
        yield fault("masks", "workload", "data.group_by_length", message, hint)
    masked = data.document_masks or free
    if masked and w.attention not in VARIED:
        message = f"attention {w.attention} does not stop at the ends of samples"
        hint = f"write attention: {' or '.join(VARIED)}"
        yield fault("masks", "workload", "attention", message, hint)
    if masked and w.parallelism.context_parallel > 1:
        message = "samples in a row are not split over context-parallel ranks"
        yield fault("masks", "workload", "data.packing" if free else path, message, "pack without")


def _padding(w: Workload) -> Findings:
    data, said = w.data, lengths_of(w.data)
    longest = max(said.lengths) if said and said.lengths else said and (said.maximum or said.mean)
    if longest and longest > w.sequence_length:
        message = f"samples of {longest:g} tokens are cut to {w.sequence_length}"
        hint = "raise sequence_length, or count what is left"
        path = "data.mean_length" if data.mean_length else "data.sequence_lengths"
        yield warning("cut", "workload", path, message, hint)
    if data.packing is False and said is None:
        message = "without packing each sample is padded, and nothing says how long samples are"
        hint = "add data.mean_length; until then every token counts as real"
        yield warning("padding", "workload", "data.packing", message, hint)
    elif w.samples is not None and said is None:
        message = f"nothing says how long samples are: each counts as {w.sequence_length:,} tokens"
        hint = "add data.mean_length"
        yield warning("lengths", "workload", "samples", message, hint)


def _padded_attention(w: Workload) -> Findings:
    """What the modelling code's flash attention does under a padding mask, and nobody wrote."""
    named = w.trainer or w.modelling
    if not named or w.data.packing is not False or not varied(w) or w.micro_batch == 1:
        return
    runs = modelling_of(w).padding
    if runs != w.attention_padding == "none" and w.attention in VARIED:
        message = "the model's flash attention takes padding out in every layer"
        yield warning("unpad", "workload", "attention_padding", message, f"write {runs}")


def padding_said(workload: Workload, world: int) -> Findings:
    """How much of what is computed is padding, on a machine of so many GPUs."""
    data = workload.data
    if data.packing is not False or not varied(workload):
        return
    real, run = sample_length(workload), as_run(workload, world).sequence_length
    share = 1.0 - real / run
    if share < WORTH:
        return
    alike = "samples of like length" if data.group_by_length else "all ranks' samples"
    message = (
        f"samples of {real:.0f} tokens wait in rows of {run} (the longest of {alike}): "
        f"{percent(share, 0)} is padding or waiting, which tokens/s and MFU do not count"
    )
    yield warning("padding", "workload", "data.packing", message, "packing saves it")
