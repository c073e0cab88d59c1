"""A user's measurements as observations: what was measured, and what a calibrated model says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from sim.blocks.kernels import STREAMED
from sim.calibration.observation import Observation, run_observation
from sim.calibration.runs import LoggedRun, NoListError, distinct, read_runs, timed_run
from sim.cost.collectives import DEFAULT_NCCL, plan_collective
from sim.cost.nccl.communicator import COLLECTIVES
from sim.errors import Fault, InputError
from sim.fabric.fabric import Fabric, compile_fabric
from sim.files import is_file
from sim.inputs.calibration import Calibration
from sim.inputs.loader import load, load_topology
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.kineto import KinetoTrace, read_kineto
from sim.interop.nccl_table import NcclTable
from sim.interop.nccl_tests import read_nccl_tests
from sim.interop.nvbandwidth import CopyRates, read_nvbandwidth
from sim.interop.trainer_logs import log_text, rate_in
from sim.step.step import step
from sim.step.variation import Progress
from sim.units import whole

COLLECTIVE_ERROR = 0.06  # from 1 MiB up
LATENCY_ERROR = 0.15  # below: launch and host dominate
KERNEL_ERROR = 0.05  # of the GPU time of all kernels of a kind in a profiled step
TRACED_ERROR = 0.25  # of a collective beside other work, waiting for peers
COPY_ERROR = 0.05
EQUIVALENTS = 8  # rows of one log count as so many independent ones at most
_LISTS = (".yaml", ".yml")  # a file of these names is no log
_FEW_BYTES = 1024 * 1024
_WORD = re.compile(r"\w+")
_LARGEST_LATENCY = 4096.0  # rows below this size all measure the same latency
_GPU_FAMILY = re.compile(r"(?:^|[^A-Z0-9])(GB200|GB300|[ABHV]\d{2,3}|L40S?|L4|4090|GH200)(?![0-9])")


def nccl_observations(argument: str, topology: Topology) -> tuple[list[Observation], list[str]]:
    """Rows of an nccl-tests log against a machine, and what is to be said about it.

    Parameters
    ----------
    argument : str
        Path, ``op=path`` where the log does not say its operation, ``path#2`` for its second table.
    topology : Topology
        The machine; its node count is taken from the log where they differ.
    """
    path, op, number = _parts(argument)
    tables = read_nccl_tests(path, op)
    if number:
        if number > len(tables):
            raise InputError.single(path, f"has {len(tables)} tables, no #{number}")
        tables = tables[number - 1 : number]
    out: list[Observation] = []
    notes: list[str] = []
    for table in tables:
        same_gpu(table.gpu, topology, table.source)
        machine, ranks = _placed(table, topology)
        notes += [f"{table.source}: {note}" for note in table.notes]
        version = table.nccl or DEFAULT_NCCL
        rows = _thinned(table)
        count = len(rows)
        for size, seconds in rows:
            sigma = COLLECTIVE_ERROR if size >= _FEW_BYTES else LATENCY_ERROR
            out.append(
                Observation(
                    f"{table.op} {size:.0f} B over {table.ranks}", table.source, "collective",
                    seconds, sigma * math.sqrt(max(1.0, count / EQUIVALENTS)),
                    _collective_time(machine, table.op, ranks, size, version),
                )
            )  # fmt: skip
    return out, notes


def _parts(argument: str) -> tuple[str, str, int]:
    """Path, operation and number of ``all_gather=log.txt#2``."""
    op = ""
    head, equals, rest = argument.partition("=")
    if equals and head in COLLECTIVES:
        op, argument = head, rest
    elif equals and _WORD.fullmatch(head) and not is_file(Path(argument.partition("#")[0])):
        near = get_close_matches(head, COLLECTIVES, 1)
        meant = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(COLLECTIVES)}"
        raise InputError.single(argument, f"no operation is called {head}; {meant}")
    path, mark, number = argument.rpartition("#")
    if mark and (row := whole(number)) and not is_file(Path(argument)):
        return path, op, row
    return argument, op, 0


def _thinned(table: NcclTable) -> list[tuple[float, float]]:
    """Size and median time; the many rows of a few bytes are one latency."""
    times: dict[float, list[float]] = {}
    for point in table.points:
        times.setdefault(max(point.size, _LARGEST_LATENCY), []).append(point.time_s)
    return [(size, float(np.median(found))) for size, found in sorted(times.items())]


def same_gpu(name: str, topology: Topology, source: str) -> None:
    """Refuse evidence of another GPU."""
    mine = topology.first_gpu
    theirs = _GPU_FAMILY.findall(name.upper())
    ours = _GPU_FAMILY.findall(f" {mine.base or mine.name} ".upper())
    if theirs and ours and not set(theirs) & set(ours):
        message = f"was measured on {name}, but {topology.name} has {mine.name}"
        raise InputError.single(source, message)


def _placed(table: NcclTable, topology: Topology) -> tuple[Topology, tuple[int, ...]]:
    """The machine with as many nodes as the log's, and the ranks that took part."""
    n = table.ranks
    if topology.node is None:
        if n > topology.world_size:
            raise InputError.single(table.source, f"{n} ranks, the topology has fewer")
        return topology, tuple(range(n))
    size = topology.node.gpus
    hosts = len(table.hosts)
    nodes = hosts if hosts and hosts * size >= n and n % hosts == 0 else -(-n // size)
    if nodes > 1 and topology.node.nics is None:
        message = f"{n} ranks on {nodes} nodes, and {topology.name} has no NICs to join them"
        raise InputError.single(table.source, message)
    local = -(-n // nodes)
    ranks = [node * size + i for node in range(nodes) for i in range(local)]
    return topology.model_copy(update={"nodes": nodes}), tuple(ranks[:n])


def _collective_time(
    topology: Topology, op: str, ranks: tuple[int, ...], size: float, nccl: str
) -> Callable[[Calibration], float]:
    def seconds(known: Calibration) -> float:
        return plan_collective(_fabric(topology, known), op, ranks, size, nccl).time_s

    return seconds


def _fabric(topology: Topology, known: Calibration) -> Fabric:
    return compile_fabric(topology.model_copy(update={"calibration": known}))


def kineto_observations(
    path: str, topology: Topology, workload: Workload, progress: Progress | None = None
) -> tuple[list[Observation], list[str]]:
    """Kernel times by kind and collectives of a profiler trace of the job, read with `progress`."""
    trace: KinetoTrace = read_kineto(path, progress)
    same_gpu(trace.gpu, topology, path)
    notes = [f"{path}: {note}" for note in trace.notes]
    if trace.world_size not in (1, topology.world_size):
        text = f"traced on {trace.world_size} ranks, predicted on {topology.world_size}"
        notes.append(f"{path}: {text}")
    out: list[Observation] = []
    for kind, members in (
        ("gemm", ("gemm",)), ("attention", ("attention",)), ("other", STREAMED)
    ):  # fmt: skip
        seconds = trace.per_step(kind)
        if seconds > 0 and _kernel_time(topology, workload, members)(_UNCHANGED) > 0:
            out.append(
                Observation(
                    f"{kind} kernels of a step", path, "kernels", seconds, KERNEL_ERROR,
                    _kernel_time(topology, workload, members),
                )
            )  # fmt: skip
    for traced in trace.collectives:
        if traced.size < _FEW_BYTES or traced.group_size > topology.world_size:
            continue
        ranks = tuple(range(traced.group_size))
        version = trace.nccl or workload.stack.nccl
        out.append(
            Observation(
                f"{traced.op} {traced.size:.0f} B over {traced.group_size}, traced", path,
                "collective", traced.least_s, TRACED_ERROR,
                _collective_time(topology, traced.op, ranks, traced.size, version),
            )
        )  # fmt: skip
    if not out:
        raise InputError.single(path, "has nothing that can be compared: no steps, no sizes")
    return out, notes


_UNCHANGED = Calibration.model_construct()


def _kernel_time(
    topology: Topology, workload: Workload, kinds: Iterable[str]
) -> Callable[[Calibration], float]:
    def seconds(known: Calibration) -> float:
        calibrated = topology.model_copy(update={"calibration": known})
        kernels: Mapping[str, float] = step(calibrated, workload).breakdown.kernels
        return sum(kernels.get(kind, 0.0) for kind in kinds)

    return seconds


def copy_observations(path: str, topology: Topology) -> tuple[list[Observation], list[str]]:
    """Copies between host and GPU, and between GPUs, as seconds a gigabyte."""
    rates: CopyRates = read_nvbandwidth(path)
    same_gpu(rates.gpu, topology, path)
    out = []
    for way in ("host_to_device", "device_to_host", "device_to_device"):
        rate = rates.median(way)
        if not rate > 0 or (way == "device_to_device" and topology.world_size < 2):
            continue
        out.append(
            Observation(
                f"copy {way}", path, "copy", 1e9 / rate, COPY_ERROR, _copy_time(topology, way)
            )
        )
    return out, []


def _copy_time(topology: Topology, way: str) -> Callable[[Calibration], float]:
    def seconds(known: Calibration) -> float:
        fabric = _fabric(topology, known)
        if way == "device_to_device":
            return 1e9 / fabric.bandwidth(fabric.route(0, 1))
        direction = "to-device" if way == "host_to_device" else "to-host"
        return 1e9 / fabric.bandwidth(fabric.offload_route(0, direction))

    return seconds


def gather(
    topology: str,
    workload: str | None,
    sets: Sequence[str],
    *,
    nccl_tests: Iterable[str] = (),
    measured: Iterable[str] = (),
    log: Iterable[str] = (),
    kineto: Iterable[str] = (),
    nvbandwidth: Iterable[str] = (),
    holdout: Iterable[str] = (),
    progress: Progress | None = None,
) -> tuple[list[Observation], list[Observation], list[str]]:
    """Read all evidence of a cluster: to fit, to hold out, and notes; `progress` as it is read.

    Raises
    ------
    InputError
        With the faults of the first kind of evidence that has any.
    """
    if any(text.strip().startswith("calibration.") for text in sets):
        raise InputError.single(topology, "calibrate starts from the shipped constants, all 1")
    found: list[Observation] = []
    notes: list[str] = []
    logs, copies, traces = list(nccl_tests), list(nvbandwidth), list(kineto)
    if logs or copies:
        machine = load_topology(topology, [s for s in sets if _of_topology(s)])
        for argument in logs:
            more, said = nccl_observations(argument, machine)
            found, notes = found + more, notes + said
        for path in copies:
            more, said = copy_observations(path, machine)
            found, notes = found + more, notes + said
    if traces and workload is None:
        raise InputError.single(traces[0], "a trace needs the WORKLOAD it is of")
    for path in traces:
        loaded = load(topology, str(workload), sets)
        more, said = kineto_observations(path, loaded.topology, loaded.workload, progress)
        found, notes = found + more, notes + said
    fitted: list[LoggedRun] = []
    job = topology, workload or "", sets
    timed = [_runs(path, *job, notes, progress) for path in measured]
    timed += [_logged(path, *job, notes) for path in log]
    for runs in timed:
        fitted += runs
        found += [run_observation(run) for run in distinct(runs, [o.group for o in found])]
    held: list[Observation] = []
    for path in holdout:
        runs = _runs(path, *job, notes, progress)
        _apart(runs, fitted, path)
        held += [run_observation(run) for run in runs]
    return found, held, notes


def _runs(
    path: str, topology: str, workload: str, sets: Sequence[str], notes: list[str],
    progress: Progress | None,
) -> list[LoggedRun]:  # fmt: skip
    """Runs of a list, or of a figure; a trainer's log, which is neither, is read as one."""
    try:
        return read_runs(path, topology, workload, sets, progress)
    except NoListError as error:
        if Path(path).suffix in _LISTS:
            raise
        try:
            rate_in(*log_text(path))
        except InputError as other:
            raise InputError([*error.faults, *other.faults]) from None
    return _logged(path, topology, workload, sets, notes)


def _logged(
    path: str, topology: str, workload: str, sets: Sequence[str], notes: list[str]
) -> list[LoggedRun]:
    """The run of a trainer's log."""
    rate, read = rate_in(*log_text(path))
    found = timed_run(rate, topology, workload, sets, path)
    notes.append(f"{path}: {rate} ({read})")
    return [found]


def _apart(held: Sequence[LoggedRun], fitted: Sequence[LoggedRun], source: str) -> None:
    """Refuse to hold out what is fitted: the error there would be the fit's own.

    Raises
    ------
    InputError
        With every such run.
    """
    known: dict[float, list[LoggedRun]] = {}
    for run in fitted:
        known.setdefault(run.step_time_s, []).append(run)
    message = "is among the runs of --measured too: what is fitted is not held out"
    faults = [
        Fault(source, None, None, f"[{i}]", f"{run.name} {message}")
        for i, run in enumerate(held)
        if any(run.workload == other.workload and run.topology == other.topology
               for other in known.get(run.step_time_s, ()))
    ]  # fmt: skip
    if faults:
        raise InputError(faults)


def _of_topology(text: str) -> bool:
    """Whether an override is of the topology (a log has no workload to take the others)."""
    first = text.partition("=")[0].strip().partition(".")[0].partition("[")[0]
    return first == "topology" or first in Topology.model_fields
