"""Plans for one machine: nodes, micro-batch, strategy, checkpointing, offload at a fixed batch."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator

from sim.errors import InputError
from sim.inputs import checks
from sim.inputs.check_mesh import workload_findings
from sim.inputs.check_pipeline import micro_batches
from sim.inputs.loader import Loaded, Prepared
from sim.inputs.shares import batch_on
from sim.inputs.strategy import strategy_named, strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Checkpointing, Parallelism, Workload
from sim.records import NamedTuple, dataclass
from sim.result.advice import changes as advised
from sim.step.kept import machine_key
from sim.step.variation import Stop, never
from sim.study.axes import Changes, Grid
from sim.study.layouts import Knobs, layouts, least_form, warned
from sim.study.machines import Machine

NODES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
MICRO_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
#: keys that a plan has its own values of, whatever the job says
CHOSEN = frozenset({
    "nodes", "micro_batch", "gradient_accumulation", "global_batch", "activation_checkpointing",
    "activation_checkpointing.kind", "parallelism.strategy", "parallelism.replicate",
    "parallelism.shard", "parallelism.offload",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan: a machine of a size and a job laid out for it.

    Attributes
    ----------
    machine : Machine
        What is rented.
    topology, workload : specs
        Ready to simulate.
    extra : tuple
        What else was varied, ``(key, value)``.
    """

    machine: Machine
    topology: Topology
    workload: Workload
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.topology.world_size


@dataclass(frozen=True, slots=True)
class Space:
    """What may be chosen.

    Attributes
    ----------
    global_batch : int
        Sequences a step, the same for every plan.
    most_gpus : int
        GPUs in all.
    strategies, checkpointing, offload : tuple of str
        Names of strategies, of `CHECKPOINTING`, of `OFFLOAD`.
    extra : Grid
        Further axes over any key (precision, NIC rate, ...).
    layouts : bool
        Cut the model in every way that goes, not only as the workload does.
    gpus : int or None
        GPUs in all, exactly.
    tuned : bool
        Also with every faster implementation of the same training that the machine takes.
    given : frozenset of str
        Keys that were set by hand, which stay as they are.
    """

    global_batch: int
    most_gpus: int
    strategies: tuple[str, ...]
    checkpointing: tuple[str, ...]
    offload: tuple[str, ...]
    extra: Grid
    layouts: bool = False
    gpus: int | None = None
    tuned: bool = False
    given: frozenset[str] = frozenset()


#: checkpointing that is tried, by the kind that names it
POLICIES = {
    "none": Checkpointing(kind="none"),
    "selective-op": Checkpointing(kind="selective-op"),
    "full": Checkpointing(kind="full"),
}
CHECKPOINTING = tuple(POLICIES)
SAVING = ("full", "selective-op", "none")  # most first
OFFLOAD = ("none", "optimizer", "all")


def family(workload: Workload) -> tuple[str, ...]:
    """Strategies to try for a job: those of the library that it names."""
    strategy = strategy_of(workload)
    return strategy.family or (strategy.name,)


def saves_as_much(policy: Checkpointing, other: Checkpointing) -> bool:
    """Whether a policy keeps no more activations than another, as far as their kinds tell."""
    if policy == other:
        return True
    if not {policy.kind, other.kind} <= set(SAVING):
        return False
    return SAVING.index(policy.kind) < SAVING.index(other.kind)


def frugal_form(workload: Workload) -> Workload:
    """A job cut in the same way, with what needs least memory: if it has no room, none has.

    One sequence a micro-batch, blocks checkpointed, parameters sharded over all ranks and gathered
    again in backward; of a pipeline its `least_form`.
    """
    least = least_form(workload)
    p, policy = least.parallelism, least.activation_checkpointing
    knobs: Knobs = {"reshard_after_forward": True}
    if p.shard is None:
        knobs["replicate"] = 1
    most = POLICIES[SAVING[0]]
    update = {
        "parallelism": p.model_copy(update=knobs),
        "activation_checkpointing": most if saves_as_much(most, policy) else policy,
        "micro_batch": 1,
        "global_batch": None,
    }
    return least.model_copy(update=update)


ChangedJob = tuple[Topology, Workload, Changes]


def variants(base: Prepared, space: Space, halted: Stop = never) -> Iterator[ChangedJob]:
    """Machine and job with each combination of the further axes that makes sense on the machine."""
    for changes in space.extra.points():
        if halted():
            return
        try:
            loaded = (base.vary(changes) if changes else base).loaded()
        except InputError as error:
            if any(fault.unknown_key for fault in error.faults):
                raise
            continue  # FP8 on an A100 is no variant of it
        yield loaded.topology, loaded.workload, changes
        faster = _faster(space, loaded, changes) if space.tuned else {}
        if faster:
            changes = {**changes, **faster}
            loaded = base.vary(changes).loaded()
            yield loaded.topology, loaded.workload, changes


#: keys that change how a job is computed and not what it learns
IMPLEMENTATION = ("compile", "attention", "loss")


def _faster(space: Space, loaded: Loaded, changes: Changes) -> Changes:
    """Settings of `IMPLEMENTATION` that make steps faster; one that was given by hand stays."""
    found: Changes = {}
    for change in advised(loaded.topology, loaded.workload, "faster"):
        new = change.settings
        kept = space.given | changes.keys() | found.keys()
        if not change.changes_training and new.keys() <= set(IMPLEMENTATION) - kept:
            found |= {key: _written(value) for key, value in new.items()}
    return found


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Sound(NamedTuple):
    """Jobs of one number of GPUs that nothing is wrong with but on some machine, a list a cut."""

    cuts: list[list[Workload]]
    taken: dict[Hashable, list[Workload]]  # those that a machine takes, by what of it says so


SoundJobs = dict[tuple[Workload, int, int], _Sound]
"""By the job that they are of, nodes and GPUs of a node."""


def plans(
    machine: Machine,
    pairs: Iterable[ChangedJob],
    space: Space,
    sound: SoundJobs,
    halted: Stop = never,
) -> Iterator[Candidate]:
    """Every plan of a machine; those whose numbers do not divide are no plans.

    Parameters
    ----------
    machine : Machine
        What is rented.
    pairs : iterable of ChangedJob
        Machine and job with each of the further changes.
    space : Space
        What may be chosen.
    sound : dict
        What was found for other machines, added to; of spaces that differ in GPUs alone.
    halted : callable, optional
        Whether to end, asked between cuts.
    """
    for one, workload, changes in pairs:
        extra = tuple((k, str(v)) for k, v in changes.items())
        for nodes, per_node in _clusters(machine, space):
            topology = one.model_copy(update={"nodes": nodes})
            key = workload, nodes, per_node
            if key not in sound:
                listed = list(itertools.takewhile(lambda _: not halted(), _sound(*key, space)))
                if halted():
                    return
                sound[key] = _Sound(listed, {})
            cuts, taken = sound[key]
            kind = machine_key(topology), topology.reliability
            if kind not in taken:
                going: list[Workload] = []
                for jobs in cuts:
                    if halted():
                        return
                    going += _going(topology, jobs, space)
                taken[kind] = going
            for job in taken[kind]:
                yield Candidate(machine, topology, job, extra)


def refusal(machine: Machine, pairs: Iterable[ChangedJob], space: Space) -> str:
    """What is wrong with a plan that divides the batch, where a machine has none; "" if none does.

    Arguments are those of `plans`. Of the job's own strategy before those of others.
    """
    faults = (
        (cut.parallelism.strategy != workload.parallelism.strategy, f"{fault.path}: {fault.text}")
        for one, workload, _ in pairs
        for nodes, per_node in _clusters(machine, space)
        for cut in _cuts(workload, space, nodes, per_node)
        for job in _divided(cut, nodes * per_node, space)
        for fault in checks.check(one.model_copy(update={"nodes": nodes}), job)
        if fault.error
    )
    return min(faults, key=lambda found: found[0], default=(False, ""))[1]


def _clusters(machine: Machine, space: Space) -> Iterator[tuple[int, int]]:
    """Nodes, and GPUs of each, of every cluster that may be rented."""
    assert machine.topology.node is not None
    per_node = machine.topology.node.gpus
    sizes: tuple[int, ...] = NODES
    if space.gpus is not None:
        sizes = (space.gpus // per_node,) if space.gpus % per_node == 0 else ()
    for nodes in sizes:
        if nodes > machine.most_nodes or nodes * per_node > space.most_gpus:
            return
        yield nodes, per_node


def _sound(workload: Workload, nodes: int, per_node: int, space: Space) -> Iterator[list[Workload]]:
    """Of each cut the global batch in every micro-batch that divides it, if sound by itself."""
    for cut in _cuts(workload, space, nodes, per_node):
        jobs = list(_batches(cut, nodes * per_node, space))
        if jobs:
            yield jobs


def _cuts(workload: Workload, space: Space, nodes: int, per_node: int) -> Iterator[Workload]:
    for laid_out, saving in _trials(workload, space, nodes, per_node):
        kept = workload.activation_checkpointing
        policy = kept if kept.kind == saving else POLICIES[saving]
        yield workload.model_copy(
            update={"parallelism": laid_out, "activation_checkpointing": policy}
        )


def _anew(workload: Workload, space: Space) -> bool:
    """Whether a cut is the search's own, which is not to be one that is warned of."""
    return space.layouts and workload.parallelism.sharing > 1


def _batches(workload: Workload, world: int, space: Space) -> Iterator[Workload]:
    """Those of `_divided` that are sound: but for `micro_batches`, what more pass, fewer do too."""
    jobs, anew = list(_divided(workload, world, space)), _anew(workload, space)
    passed = False
    if not jobs or not _passes(jobs[-1], anew):
        return
    for job in jobs:
        passed = passed or _passes(job, anew)
        if passed and not any(True for _ in micro_batches(job)):
            yield job


def _passes(job: Workload, anew: bool) -> bool:
    """Whether a job is sound but for how many micro-batches it has; what is told soonest first."""
    allowed = list(micro_batches(job))
    if anew and not all(f in allowed for f in workload_findings(job)):
        return False
    return all(f in allowed for f in checks.check_one(job) if f.error)


def _divided(workload: Workload, world: int, space: Space) -> Iterator[Workload]:
    """A cut in every micro-batch that the global batch is a multiple of."""
    batch = batch_on(workload, world)
    for micro_batch in MICRO_BATCHES:
        steps, rest = batch.accumulated(space.global_batch, micro_batch)
        if not rest and steps:
            update = {
                "micro_batch": micro_batch,
                "gradient_accumulation": steps,
                "global_batch": space.global_batch,
            }
            yield workload.model_copy(update=update)


def _going(topology: Topology, jobs: list[Workload], space: Space) -> Iterator[Workload]:
    """Those of a cut that a machine takes: all or none, since the batch is divided already."""
    first = jobs[0]
    if checks.goes(topology, first) and not (_anew(first, space) and warned(topology, first)):
        yield from jobs


def _trials(
    workload: Workload, space: Space, nodes: int, per_node: int
) -> Iterator[tuple[Parallelism, str]]:
    """Knobs of every strategy with a checkpointing policy.

    On one GPU only the plain trial of strategies that shard everything, the others are the same,
    and none at all: either may be quicker (casts of FSDP2 against those of autocast).
    """
    base, world = workload.parallelism, nodes * per_node
    for name in space.strategies:
        strategy = strategy_named(name)
        kept = base if name == base.strategy else Parallelism()
        trials = list(strategy.trials(nodes))
        if world == 1:
            alone = strategy.gathers_blocks or len(space.strategies) == 1
            trials = trials[:1] if alone else []
        cuts: Iterable[Knobs] = ({},)
        if space.layouts:
            cuts = layouts(workload, strategy, per_node, world)
        for cut, trial, saving, offload in itertools.product(
            cuts, trials, space.checkpointing, space.offload
        ):
            if offload != "none" and not (trial.offload and offload in strategy.offloads):
                continue
            if cut.get("pipeline_parallel", 1) > 1 and not trial.offload:
                continue  # its stages keep what they gathered as it is
            update = {"strategy": name, "offload": offload, "replicate": 1, "shard": None}
            if not strategy.context_parallel:
                update["context_parallel"] = 1
            if world == 1 and offload == "none" and strategy.gathers_blocks:
                clips = base.clip_gradients
                yield checks.ONE_GPU.model_copy(update={"clip_gradients": clips}), saving
            yield kept.model_copy(update={**update, **cut, **trial.knobs}), saving
