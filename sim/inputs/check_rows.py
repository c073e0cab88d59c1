"""Checks of rows, samples and padding: what a micro-batch is made of."""

from __future__ import annotations

from collections.abc import Iterator

from sim.inputs.finding import Finding, fault, warning
from sim.inputs.workload import Workload

Findings = Iterator[Finding]

#: attention that takes rows of unequal length
VARIED = ("flash2", "flash3")


def check_rows(workload: Workload) -> Findings:
    """Everything wrong with how samples become rows."""
    yield from _padding(workload)
    yield from _unpadding(workload)


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


def _padding(w: Workload) -> Findings:
    data = w.data
    if data.mean_length is not None and data.mean_length > w.sequence_length:
        message = f"samples of {data.mean_length} tokens are cut to {w.sequence_length}"
        hint = "raise sequence_length, or count what is left"
        yield warning("cut", "workload", "data.mean_length", message, hint)
    if not data.packing and data.mean_length is None:
        message = "without packing each sample is padded, and nothing says how long samples are"
        hint = "add data.mean_length; until then every token counts as real"
        yield warning("padding", "workload", "data.packing", message, hint)
    if not data.packing and data.mean_length and data.mean_length < w.sequence_length:
        share = 100 * (1 - data.mean_length / w.sequence_length)
        message = f"{share:.0f} % of what is computed is padding; tokens/s and MFU count it"
        yield warning("padding", "workload", "data.packing", message, "packing saves it")
