"""What a strategy says of itself: its name, its knobs, and answers to what other layers ask.

Nobody compares a strategy's name. Whoever needs to know something asks the object, so that one
file, ours or another package's, adds a strategy (docs/add-a-strategy.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from sim.errors import InputError
from sim.inputs.fields import either
from sim.inputs.finding import Finding
from sim.inputs.notes import Message
from sim.inputs.registry import STRATEGIES
from sim.inputs.workload import Parallelism, Workload
from sim.mesh import Mesh
from sim.records import NamedTuple

SOURCE = "workload"

#: knobs that every strategy has; `knobs` names those of one
COMMON = frozenset((
    "strategy", "shard", "context_parallel", "context_parallel_kind",
    "context_parallel_rotation", "context_parallel_load_balance", "tensor_parallel",
    "sequence_parallel", "loss_parallel", "tensor_parallel_style", "expert_parallel",
    "expert_dispatch", "pipeline_parallel", "pipeline_schedule", "pipeline_split",
    "pipeline_layers",
    "virtual_stages", "pipeline_first_stage_less_layers", "pipeline_last_stage_less_layers",
    "pipeline_defer_receives", "pipeline_reshard_after_forward",
    "offload", "offload_device",
    "cpu_ram_efficient_loading", "clip_gradients", "loss_all_reduce",
))  # fmt: skip


class Trial(NamedTuple):
    """Knobs that a search tries together."""

    knobs: Mapping[str, Any]
    offload: bool = True  # worth trying with offloading too


class BlockRhythm(NamedTuple):
    """How blocks of a deep model that are alike follow each other in a step.

    Attributes
    ----------
    forward, backward : int
        How many run in either before each is issued as the one before, three at least.
    layers : int
        The fewest blocks of which that is true.
    """

    forward: int
    backward: int
    layers: int


#: every block is issued like the next
EACH_BLOCK = BlockRhythm(2, 2, 8)


class Strategy:
    """A way of spreading training over ranks.

    A subclass gives `name` and `build`, and overrides what differs from a plain replica per rank.
    """

    #: as ``parallelism.strategy`` writes it
    name: str
    #: as reports write it
    title: str
    #: fields of `Parallelism` that it reads beside `COMMON`; any other is a fault if set
    knobs: frozenset[str] = frozenset()
    #: what it calls the wish behind a knob that is another's: the hint of that fault
    instead: ClassVar[Mapping[str, str]] = {}
    #: values of ``wrap`` that it takes: where it draws its units
    wraps: tuple[str, ...] = ("block+root",)
    #: values of ``offload`` that it grants, "none" aside
    offloads: tuple[str, ...] = ()
    #: where it offloads to
    offload_devices: tuple[str, ...] = ("cpu",)
    #: entry of data/constants/versions.toml with the software that it needs
    feature: str = ""
    #: files of `sim.interop.emit.FILES` that can ask a tool for it
    tools: frozenset[str] = frozenset()
    #: strategies that a search tries for a job that names this one, in order; empty: itself alone
    family: tuple[str, ...] = ()
    #: one that also spreads what this one repeats on each rank
    shards_more: str = ""
    #: one that trains the same job on more GPUs, if this one is for one GPU alone
    spreads_as: str = ""
    #: one of whose published runs are like its own
    measured_as: str = ""

    #: ranks hold parts of parameters, gradients or states, not all of them each
    shards = True
    #: every block gathers its parameters, so that ranks wait for each other block by block
    gathers_blocks = False
    #: every block of a step is issued like the next, so that a step of few stands for one of many
    blocks_alike = False
    #: on one GPU they are, where nothing is reduced in buckets of many blocks
    blocks_alike_alone = False
    #: blocks cast their floating inputs, so that each keeps tables of positions of its own
    casts_inputs = False
    #: parameters are kept in the compute dtype, beside fp32 masters
    casts_model = False
    #: gathered parameters pass from stream to stream, so that the allocator holds two sets
    record_streams = False
    #: recordings of one step can be traced: it asks a mesh and shapes of parameters for numbers,
    #: reckons with these and compares them, and does nothing else with what that gives
    traceable = False
    #: which ops there are follows from sizes of parameters (what fills a bucket, say): recordings
    #: are traced for other meshes alone, and `build` may do with a model whatever it likes
    ordered_by_sizes = False
    #: what is offloaded takes its gradients of further micro-steps in host memory
    accumulates_on_host = False
    #: sequences can be split over ranks
    context_parallel = False
    #: and how their ranks may exchange keys and values
    context_kinds: tuple[str, ...] = ("ring", "all-gather", "ulysses")
    #: matrices can be split over ranks
    tensor_parallel = False
    #: whose linear layers its ranks share matrices with, unless the job says
    tensor_style = "dtensor"
    #: experts can be spread over ranks
    expert_parallel = False
    #: layers can be split over ranks: `build_stage` plays one of them
    pipeline_parallel = False
    #: 1F1B takes fewer micro-batches than ranks, which PyTorch's does not
    short_pipelines = False
    #: first and last stage can share a table, each with a copy of its own
    ties_stages = False
    #: layers that the embedding, and norm and head, stand for where layers are split over ranks
    ends_as_layers = 1
    #: its code asserts that every stage has as many of them
    even_stages = False
    #: recipe under which parameters can be gathered in FP8, "" for none
    gathers_fp8: ClassVar[str] = ""
    #: checkpointed inputs of blocks can go to host memory
    offloads_inputs = False
    #: its jobs may run a frozen model beside the one that is trained (``reference``)
    takes_reference = True
    #: a hook may step each parameter as soon as backward has its gradient
    steps_in_backward = False
    #: DeepSpeed runs it: flat fp32 partitions of the optimizer, a ds_config.json
    deepspeed = False
    #: version of `fully_shard`'s family: 1 `FullyShardedDataParallel`, 2 `fully_shard`, 0 neither
    fsdp_version = 0

    def replicates(self, knobs: Parallelism) -> bool:
        """Whether every rank holds the whole model and the whole optimizer."""
        return True

    def block_rhythm(self, workload: Workload, mesh: Mesh) -> BlockRhythm | None:
        """In which rhythm a step runs blocks that are alike; None if in none, or none known."""
        alone = self.blocks_alike_alone and mesh.world == 1
        return EACH_BLOCK if self.blocks_alike or alone else None

    def counts_missing(self, knobs: Parallelism) -> bool:
        """Whether plans of a few blocks end as those of many do but for what the blocks do.

        `build` then counts `ModelTree.missing` layers among those that are updated, and nothing
        else outside a block grows with their number.
        """
        return False

    def zero_stage(self, knobs: Parallelism) -> int:
        """ZeRO stage of DeepSpeed that shards as this does."""
        return 0

    def trainer(self, workload: Workload) -> str:
        """Name of the trainer that it mostly runs under.

        Of adapters Hugging Face's; but it has no loss in chunks, which torchtune's recipes have
        (`CEWithChunkedOutputLoss`).
        """
        if not workload.method.frozen:
            return "accelerate"
        return "torchtune" if workload.loss == "chunked" else "huggingface"

    def findings(self, workload: Workload) -> Iterable[Finding]:
        """What is wrong with a workload, beyond knobs that are another's."""
        return ()

    def memory_warnings(self, workload: Workload, tree: Any, mesh: Mesh) -> Iterable[Message]:
        """Known traps of memory that a job steps into; `tree` as for `build`."""
        return ()

    def trials(self, nodes: int) -> Iterator[Trial]:
        """Knobs worth trying on some number of nodes, plain ones first."""
        yield Trial({})

    def build(
        self, workload: Workload, tree: Any, mesh: Mesh, *, steps: int, cold: bool, recorder: Any
    ) -> Any:
        """What one rank issues in a step.

        Parameters
        ----------
        tree : ModelTree
            Every parameter of the model (`sim.blocks.modules`).
        steps : int
            Optimizer steps, one after the other. [1]
        cold : bool
            The first is a run's first, where that differs.
        recorder : type of Recorder
            What to record with: all, or allocations alone.

        Returns
        -------
        Plan
            As a recorder has it (`sim.strategies.recorder`).
        """
        raise NotImplementedError

    def build_stage(
        self, workload: Workload, tree: Any, mesh: Mesh, rank: int, *, recorder: Any
    ) -> Any:
        """What a rank of a pipeline issues in a step; as `build`, of ranks `pipeline_parallel`."""
        raise NotImplementedError


def register(strategy: Strategy) -> Strategy:
    """Make a strategy known, in this process.

    Raises
    ------
    ValueError
        If there is one of that name.
    """
    found: Strategy = STRATEGIES.register(strategy)
    return found


def strategy_named(name: str) -> Strategy:
    """The strategy of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        found: Strategy = STRATEGIES[name]
    except KeyError:
        message = f'"{name}" is not one of {", ".join(STRATEGIES)}'
        raise InputError.single(SOURCE, message, "parallelism.strategy") from None
    return found


def strategy_of(workload: Workload) -> Strategy:
    """The strategy that a workload names."""
    return strategy_named(workload.parallelism.strategy)


class NotModelled(NamedTuple):
    """A way to split a model that a strategy does not take."""

    message: str
    hint: str  # which do


def not_modelled(strategy: Strategy, what: str, trait: str) -> NotModelled | None:
    """What to say where a strategy lacks a trait; None where it has it.

    Parameters
    ----------
    strategy : Strategy
    what : str
        The way in words and its verb, ``tensor parallelism is``.
    trait : str
        Attribute of a strategy that says whether it takes it.
    """
    if getattr(strategy, trait):
        return None
    able = either(name for name in STRATEGIES if getattr(strategy_named(name), trait))
    message = f"{what} modelled with {able}, not with {strategy.name}"
    return NotModelled(message, f"write strategy: {able}")


def having(knob: str) -> list[str]:
    """Names of the strategies that have a knob."""
    return [name for name in STRATEGIES if knob in strategy_named(name).knobs]
