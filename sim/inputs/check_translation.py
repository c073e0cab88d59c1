"""Checks of another tool's job on a machine: its GPUs, and what of it cannot be followed."""

from __future__ import annotations

from collections.abc import Mapping

from sim.inputs.finding import Finding, warning
from sim.inputs.topology import Topology
from sim.inputs.translation import Translation
from sim.inputs.tree import Place

_MOST = 6


def check_translation(
    job: Translation, machine: Topology, given: Mapping[str, Place]
) -> tuple[Finding, ...]:
    """Warnings that the files of a job give rise to, beside the places of all keys of ours."""
    found = [
        warning("not-followed", "workload", "", f"{_line(aside.place)}{aside.theirs}: {aside.why}")
        for aside in job.aside
        if aside.matters and not aside.answered(given)
    ]
    return (*_gpus(job, machine), *_samples(job, given), *found, *_unread(job))


def _unread(job: Translation) -> list[Finding]:
    """Keys of each file that no reader knows: whether they change the run is not known either."""
    files: dict[str, list[str]] = {}
    for aside in job.unread:
        name = aside.place.source.rpartition("/")[2]
        line = f" (line {aside.place.line})" if aside.place.line else ""
        files.setdefault(name, []).append(f"{aside.theirs}{line}")
    found = []
    for name, keys in files.items():
        more = f" and {len(keys) - _MOST} more" if len(keys) > _MOST else ""
        message = (
            f"{name}: {', '.join(keys[:_MOST])}{more}: no keys that are known here; whether they "
            "change the run is not known either"
        )
        found.append(warning("not-read", "workload", "", message))
    return found


def _samples(job: Translation, given: Mapping[str, Place]) -> tuple[Finding, ...]:
    """Samples that whoever asks counts, of a job whose samples are several rows each."""
    theirs, place = job.at("samples"), given.get("samples")
    own = place is not None and (theirs is None or place != theirs.place)
    if not own or job.sample is None or job.sample.rows == 1:
        return ()
    rows, at, what = job.sample[:3]
    message = f"{_line(at)}{what}: samples counts rows, and a sample of this trainer is {rows} rows"
    return (warning("pairs", "workload", "samples", message, f"of N pairs say samples={rows}N"),)


def _gpus(job: Translation, machine: Topology) -> tuple[Finding, ...]:
    """GPUs that the files start the job on, held against the machine's."""
    for said, has, what in (
        (job.world, machine.world_size, "GPUs"),
        (job.nodes, machine.node_count, "nodes"),
        (job.gpus_per_node, machine.gpus_per_node, "GPUs a node"),
    ):
        if said is None or said[0] == has:
            continue
        count, place = said
        message = f"{_line(place)}the job is for {count} {what}; {machine.name} has {has}"
        each = machine.gpus_per_node or 1
        nodes = count if what == "nodes" else count // each if count % each == 0 else 0
        hint = f"add --set nodes={nodes}" if nodes and what != "GPUs a node" else ""
        return (warning("world", "workload", "", message, hint or "take a machine like it"),)
    return ()


def _line(place: Place) -> str:
    """Name and line of a file, as a sentence begins with them."""
    name = place.source.rpartition("/")[2]
    return f"{name}:{place.line}: " if place.line else f"{name}: "
