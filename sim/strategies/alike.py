"""Plans of one structure: recorded once, their numbers worked out for each.

Shard sizes and the widths of a model decide how many bytes ops move, seldom which ops there are.
So a recording is made with traced numbers (`sim.strategies.traced`): the mesh, and the shapes of
parameters. For other ones the trace gives all numbers; where it would have gone another way, the
plan is recorded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from sim.blocks.modules import ModelTree
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.strategies.allocations import Allocations
from sim.strategies.plan import Like, Plan, PlanOp
from sim.strategies.traced import Untraceable, ValueTrace, filled, placed
from sim.strategies.tree_form import form_of, with_sizes

if TYPE_CHECKING:
    from sim.strategies.columns import Columns, LogPattern

#: records a plan
Record = Callable[[Workload, ModelTree, Mesh], Plan]
_new_op = tuple.__new__
_BYTES_IN, _BYTES = map(PlanOp._fields.index, ("bytes_in", "bytes"))
MAX_KEYS = 256  # structures of jobs, the last used ones
MAX_WAYS = 8  # that plans of a key go, by their numbers
MAX_HELD = 100_000  # ops and operations of traces, of all patterns: some 20 MB
_T = TypeVar("_T")


class _Unread:
    """A model of which only the shapes of parameters may be read."""

    def __getattr__(self, name: str) -> object:
        raise Untraceable


_UNREAD = _Unread()


class Later(Sequence[_T]):
    """A sequence that is made when somebody reads it."""

    def __init__(self, size: int, make: Callable[[], Sequence[_T]]) -> None:
        self._size, self._make = size, make
        self._made: Sequence[_T] | None = None

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> _T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[_T]: ...
    def __getitem__(self, place: int | slice) -> _T | Sequence[_T]:
        return self._whole()[place]

    def __iter__(self) -> Iterator[_T]:
        return iter(self._whole())

    def __eq__(self, other: object) -> bool:
        return self._whole() == (other._whole() if isinstance(other, Later) else other)

    __hash__ = None  # type: ignore[assignment]

    def _whole(self) -> Sequence[_T]:
        if self._made is None:
            self._made = self._make()
        return self._made


class Pattern:
    """What plans of one structure have in common.

    Parameters
    ----------
    record, workload, tree, mesh, sizes
        As for `Patterns.plan`.

    Raises
    ------
    Untraceable
        The recording needs to know more than how large something is.
    """

    def __init__(
        self, record: Record, workload: Workload, tree: ModelTree, mesh: Mesh, sizes: bool = True
    ) -> None:
        trace = self.trace = ValueTrace(mesh, *(form_of(tree).sizes if sizes else ()))
        traced_mesh, *traced = trace.inputs()
        job, shapes = workload, tree
        if sizes:
            job = workload.model_copy(update={"model": _UNREAD})
            shapes = with_sizes(tree, traced)
        plan = record(job, shapes, cast(Mesh, traced_mesh))
        log = plan.memory
        self._ops = _with(plan.issued, placed)
        self._derived: dict[Hashable, Any] = {}
        self._groups = {name: placed(groups) for name, groups in plan.groups.items()}
        self._owned = placed((plan.owned_numel, plan.owned_tensors, plan.owned_experts))
        self._on_host = plan.optimizer_on_host
        self._entries = len(log.log)
        self._ranks, self._layers = placed(log.ranks), log.layers
        self._host = placed(tuple(log.host))
        self._log: LogPattern | None = None
        if not self._ops:  # one of allocations alone, which are read
            from sim.strategies.columns import LogPattern  # apart: it needs numpy

            self._log = LogPattern(log, trace)
        self.weight = len(self._ops) + len(trace.values)
        self._first = Plan(self._ops, Allocations(()))

    def plan(self, values: Sequence[Any], recorded: Callable[[], Plan]) -> Plan:
        """The plan whose numbers these are; `recorded` makes it of itself."""
        numel, tensors, experts = filled(self._owned, values)
        found = Plan(
            Later(len(self._ops), lambda: self._written(values)),
            self._allocations(values, recorded),
            {name: filled(groups, values) for name, groups in self._groups.items()},
            numel, tensors, experts, self._on_host,
        )  # fmt: skip
        found.like = Like(self._first, self._ops, self._derived, values)
        return found

    def _written(self, values: Sequence[Any]) -> list[PlanOp]:
        return _with(self._ops, lambda value: filled(value, values))

    def _allocations(self, values: Sequence[Any], recorded: Callable[[], Plan]) -> Allocations:
        """Those of a plan, whose log is not written; beside ops hardly anybody asks for columns."""
        found, log = Allocations(()), self._log
        found.unwritten = self._entries
        found.ranks, found.layers = filled(self._ranks, values), self._layers
        found.host = list(filled(self._host, values))
        found.columns = lambda: _columns(recorded(), edges=False)
        found.edges = (
            (lambda: log.edges(values)) if log else (lambda: _columns(recorded(), edges=True))
        )
        return found


def _columns(plan: Plan, edges: bool) -> Columns:
    from sim.strategies.columns import columns_of, edges_of  # apart: it needs numpy

    return edges_of(plan.memory) if edges else columns_of(plan.memory)


def _with(ops: Sequence[PlanOp], of: Callable[[Any], Any]) -> list[PlanOp]:
    """Ops with what a function makes of those of their fields that may be traced.

    What several ops have is asked for once.
    """
    known: dict[int, Any] = {}  # by ids of what the ops hold

    def made(value: Any) -> Any:
        new = known.get(id(value))
        if new is None:
            new = known[id(value)] = of(value)
        return new

    found: list[PlanOp] = []
    for op in ops:
        ins, outs, size, calls = op.bytes_in, op.bytes_out, op.bytes, op.calls
        mine = made(ins), made(outs), made(size), made(calls)
        if mine[0] is ins and mine[1] is outs and mine[2] is size and mine[3] is calls:
            found.append(op)
            continue
        head, middle = op[:_BYTES_IN], op[_BYTES_IN + 2 : _BYTES]
        found.append(_new_op(PlanOp, (*head, *mine[:2], *middle, mine[2], op.comm, mine[3])))
    return found


class _Known:
    """What is known of a key."""

    __slots__ = ("patterns", "recorded", "traceable")

    def __init__(self) -> None:
        self.recorded = 0
        self.traceable = True
        self.patterns: list[Pattern] = []


class Patterns:
    """Patterns of plans that are asked for again and again, the last used ones."""

    def __init__(self) -> None:
        self._of: dict[Hashable, _Known] = {}

    def plan(
        self, key: Hashable, record: Record, workload: Workload, tree: ModelTree, mesh: Mesh,
        alone: int = 1, sizes: bool = True,
    ) -> Plan:  # fmt: skip
        """A plan; some are recorded, one is traced, later ones are like it.

        Parameters
        ----------
        key : hashable
            All that a recording depends on but the mesh and, unless not `sizes`, the shapes of
            parameters.
        record : callable
            Records it, of a job, a tree and a mesh.
        workload, tree, mesh
            Of which.
        alone : int
            How many are to be recorded first: tracing takes several times as long. [1]
        sizes : bool
            Whether plans of other shapes of parameters are alike too, not of other meshes alone.
        """
        structure, shapes = form_of(tree)
        inputs = (mesh, *(shapes if sizes else ()))
        key = structure, key
        known = self._of.pop(key) if key in self._of else _Known()
        self._of[key] = known  # the last used stands last

        def recorded() -> Plan:
            return record(workload, tree, mesh)

        for pattern in known.patterns:
            values = pattern.trace.at(*inputs)
            if values is not None:
                return pattern.plan(values, recorded)
        known.recorded += 1
        if len(self._of) > MAX_KEYS:
            del self._of[next(iter(self._of))]
        if known.recorded <= alone or not known.traceable or len(known.patterns) >= MAX_WAYS:
            return recorded()
        try:
            pattern = Pattern(record, workload, tree, mesh, sizes)
        except Untraceable:
            known.traceable = False
            return recorded()
        known.patterns.append(pattern)
        while len(self._of) > 1 and self._held() > MAX_HELD:
            del self._of[next(iter(self._of))]
        return pattern.plan(pattern.trace.values, recorded)

    def _held(self) -> int:
        return sum(pattern.weight for known in self._of.values() for pattern in known.patterns)
