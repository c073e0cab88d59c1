"""Phases of a job on machines of their own: light ones need not hold the training cluster.

Preprocessing runs on CPU cores, at the workload's rate of one loader process each. Evaluation runs
forward passes on one node, kernel by kernel; the weights must fit beside each other's shards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.blocks.parameters import count_parameters
from sim.errors import InfeasibleError
from sim.inputs.loader import Prepared
from sim.inputs.shares import batch_on
from sim.inputs.workload import Phase, Workload
from sim.job.basis import job_steps, terms_of
from sim.memory.report import machine as memory_of
from sim.records import dataclass
from sim.study.generation import forward_s
from sim.study.machines import Machine
from sim.units import HOUR_S

#: bytes of a weight in evaluation (bf16), and the share of a GPU's memory they may take: the rest
#: is for activations, logits and the CUDA context
_WEIGHT_BYTES, _SHARE = 2.0, 0.7


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """A phase on its machine.

    Attributes
    ----------
    name, kind : str
        Of the phase.
    machine : str
        Where it runs; "" for the training cluster.
    detail : str
        What of the machine it uses.
    wall_s : float
        [s]
    cost_usd : float
        [USD]
    """

    name: str
    kind: str
    machine: str
    detail: str
    wall_s: float
    cost_usd: float


def light_phases(
    workload: Workload,
    machines: Sequence[Machine],
    bases: dict[int, Prepared],
    limit_s: float | None,
) -> list[PhasePlan]:
    """The cheapest machine for every phase but training.

    Parameters
    ----------
    workload : Workload
        With its phases.
    machines : sequence of Machine
        What can be rented.
    bases : dict of int to Prepared
        The workload checked beside each machine, by index.
    limit_s : float, optional
        Time that one phase may take; the fastest machine where none keeps it. [s]

    Raises
    ------
    InfeasibleError
        No machine can run a phase.
    """
    found = []
    for phase in workload.phases:
        if phase.kind == "train":
            continue
        if phase.kind == "preprocess":
            options = _preprocess(workload, phase, machines)
        else:
            options = _evaluate(workload, phase, machines, bases)
        if not options:
            message = f"no machine can run the phase {phase.name}"
            raise InfeasibleError(message)
        in_time = [o for o in options if limit_s is None or o.wall_s <= limit_s]
        if in_time:
            found.append(min(in_time, key=lambda o: (o.cost_usd, o.wall_s)))
        else:
            found.append(min(options, key=lambda o: o.wall_s))
    return found


def _tokens(workload: Workload, phase: Phase) -> float:
    length = job_steps(workload, 8)
    return phase.tokens or (length[1] if length else 0.0)


def _preprocess(workload: Workload, phase: Phase, machines: Sequence[Machine]) -> list[PhasePlan]:
    tokens = _tokens(workload, phase)
    rate = workload.data.preprocess_tokens_per_s_per_worker
    if phase.price_per_hour is not None:
        seconds = tokens / (rate * phase.cores)
        return [_on("your own", f"{phase.cores} cores", phase, seconds, phase.price_per_hour)]
    options = []
    for machine in machines:
        node, hourly = machine.topology.node, _hourly(machine)
        if node is None or hourly is None:
            continue
        cores = min(phase.cores, node.cpu.cores)
        seconds = tokens / (rate * cores)
        options.append(_on(machine.name, f"{cores} cores", phase, seconds, hourly))
    return options


def _evaluate(
    workload: Workload, phase: Phase, machines: Sequence[Machine], bases: dict[int, Prepared]
) -> list[PhasePlan]:
    tokens = _tokens(workload, phase)
    weights = _WEIGHT_BYTES * count_parameters(workload.model, workload.method).total
    if workload.method.kind == "qlora":
        weights /= 4.0
    options: list[PhasePlan] = []
    speeds: dict[object, float] = {}
    for i, machine in enumerate(machines):
        node, hourly = machine.topology.node, _hourly(machine)
        if i not in bases or node is None or hourly is None:
            continue
        if weights / node.gpus > _SHARE * memory_of(machine.topology)[0]:
            continue
        key = (node.gpu, node.gpus)
        if key not in speeds:
            alone = {"gradient_accumulation": 1, "global_batch": None}
            job = bases[i].loaded().workload.model_copy(update=alone)
            speeds[key] = forward_s(job, node.gpu) / batch_on(job, node.gpus).tokens
        what = f"{node.gpus} {node.gpu.name}"
        options.append(_on(machine.name, what, phase, tokens * speeds[key], hourly))
    return options


def _on(machine: str, detail: str, phase: Phase, seconds: float, hourly_usd: float) -> PhasePlan:
    cost = hourly_usd * seconds / HOUR_S
    return PhasePlan(phase.name, phase.kind, machine, detail, seconds, cost)


def _hourly(machine: Machine) -> float | None:
    """Price of one node. [USD/h]"""
    terms, node = terms_of(machine.topology.offer), machine.topology.node
    if terms is None or node is None:
        return None
    return terms.price_per_gpu_hour_usd * node.gpus


def idle_cost(phases: Sequence[PhasePlan], hourly_usd: float) -> float:
    """What it would cost to hold a cluster of this price through the light phases. [USD]"""
    return math.fsum(p.wall_s for p in phases) / HOUR_S * hourly_usd
