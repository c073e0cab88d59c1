"""What is lowered: the parts that ranks play, with the cost of every op, and who plays them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim.fabric.fabric import Fabric
from sim.fabric.held import goes_with_machines
from sim.fabric.role import Role, Roles
from sim.lowering.teams import Team
from sim.records import NamedTuple
from sim.strategies.plan import Plan

F8 = npt.NDArray[np.float64]
I1 = npt.NDArray[np.int8]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]
B1 = npt.NDArray[np.bool_]

CATEGORIES = (
    "gemm", "attention", "norm", "elementwise", "reduction", "embedding", "loss",
    "optimizer", "copy", "quantize", "collective", "host", "scan",
)  # fmt: skip
#: categories of ops that a GPU's pace does not change
NOT_KERNELS = (CATEGORIES.index("collective"), CATEGORIES.index("host"))

HOST_SYNC_S = 5e-6  # cudaEventSynchronize after the event has happened: CUDA driver, order of


class RowKinds:
    """What rows are, apart from numbers; also which of them hold SMs. The same if it is one."""

    __slots__ = ("category", "waits")

    def __init__(self, category: I1, waits: B1) -> None:
        self.category, self.waits = category, waits


class RowDraws:
    """What rows draw on: the same if it is one."""

    __slots__ = ("local", "ptr")

    def __init__(self, ptr: I4, local: I4) -> None:
        self.ptr, self.local = ptr, local


class Rows(NamedTuple):
    """Cost of each distinct op, columns of length n_rows; plan ops point at runs of rows.

    Demands name *local* resources: `Classes.local` maps them to resources class by class.
    """

    latency_s: F8  # fixed, unshared [s]
    work: F8
    bound: F8  # rate alone [work/s]
    weight: F8
    curve: I4  # row of `curves`, -1 none
    hold: I4  # SMs taken, 0 none
    host_s: F8  # CPU time to launch [s]
    alone_s: F8  # duration with nothing beside it [s]
    kinds: RowKinds
    draws: RowDraws
    demand_amount: F8
    curves: F8  # (n_curves, max_units + 1)

    @property
    def category(self) -> I1:
        """Of what the time of each goes on."""
        return self.kinds.category

    @property
    def waits(self) -> B1:
        """The host waits for its end before it launches what follows."""
        return self.kinds.waits

    @property
    def demand_ptr(self) -> I4:
        """Where the demands of each begin, and the last one's end."""
        return self.draws.ptr

    @property
    def demand_local(self) -> I4:
        """Which resource each demand is for."""
        return self.draws.local


class RowRuns:
    """Which rows ops of a plan are, (P,) each, and how many in all: the same if it is one.

    A collective has one row where one class takes part, else two (arrive, finish) and its wire ops
    in `Flights`.
    """

    __slots__ = ("count", "rows", "start")

    def __init__(self, start: I8, count: I8) -> None:
        self.start, self.count, self.rows = start, count, int(count.sum())


class Part(NamedTuple):
    """What ranks of one role run, and what it costs them."""

    role: Role
    plan: Plan  # of its pipeline stage
    rows: Rows
    runs: RowRuns

    @property
    def row_start(self) -> I8:
        """First row of each plan op."""
        return self.runs.start

    @property
    def row_count(self) -> I8:
        """Rows of each plan op."""
        return self.runs.count


class Classes(NamedTuple):
    """Classes of equal ranks and the resources they draw on."""

    ranks: tuple[int, ...]  # representative rank of each class
    of: I8  # (n_ranks,) class of each rank
    multiplicity: I4  # (n_classes,)
    role: I8  # (n_classes,) which part they play
    speed: F8  # (n_classes,) relative kernel speed (stragglers), 1 as a rule
    local: I4  # (n_classes, n_local) local resource -> resource
    scale: F8  # (n_classes, n_local) demand multiplier (equal ranks folded onto one resource)
    capacity: F8  # (n_resources,) [unit/s]
    sms: I4  # (n_classes,) countable units

    def only(self, some: I8) -> Classes:
        """Some of them, (n,) which."""
        if some.size == len(self.ranks):
            return self
        return self._replace(
            ranks=tuple(self.ranks[c] for c in some.tolist()),
            multiplicity=self.multiplicity[some], role=self.role[some], speed=self.speed[some],
            local=self.local[some], scale=self.scale[some], sms=self.sms[some],
        )  # fmt: skip


class Wire(NamedTuple):
    """Collectives of one kind on the wire, in all groups."""

    comm: str  # collectives of one communicator follow each other
    team: Team
    lane: int  # wire lane of its first op; each op has its own
    latency_s: float
    work: float  # [B]
    bound: float  # [B/s]


class Flights(NamedTuple):
    """Collectives of the step on the wire, in plan order; none where all ranks are one class."""

    wires: tuple[Wire, ...]
    of: I8  # (n,) which of `wires` each is
    ops: I4  # (n, n_parts) which op of a part's plan it is; -1 where it takes no part


@lru_cache(maxsize=128)
def roles_of(fabric: Fabric, stages: int = 1) -> Roles:
    """What each rank of a machine is.

    Parameters
    ----------
    fabric : Fabric
        Ranks are told apart by their GPU and by the host around it.
    stages : int
        Pipeline stages, each a run of equally many ranks: the outermost axis of the mesh. [1]
    """
    index: dict[Role, int] = {}
    known: dict[tuple[int, tuple[int, ...]], list[int]] = {}  # equal nodes share a shape
    of: list[int] = []
    for node, shape in enumerate(fabric.shapes):
        stage = tuple(rank * stages // fabric.n_ranks for rank in fabric.ranks_of(node))
        key = (id(shape), stage)
        if key not in known:
            host = fabric.host(node)
            roles = (Role(gpu, host, at) for gpu, at in zip(shape.gpu_specs, stage, strict=True))
            known[key] = [index.setdefault(role, len(index)) for role in roles]
        of += known[key]
    return Roles(tuple(index), tuple(of))


goes_with_machines(roles_of.cache_clear)


#: where all ranks are one class
NO_FLIGHTS = Flights((), np.zeros(0, dtype=np.int64), np.zeros((0, 1), dtype=np.int32))
