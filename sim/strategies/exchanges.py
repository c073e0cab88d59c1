"""A block with the communication inside it: what its operations need of ranks that share it.

Under context parallelism each rank holds a part of every sequence and attends to all of it; under
tensor parallelism, a part of every matrix; under expert parallelism, some of the experts. What is
exchanged, with whom and when a block's description says; here it is issued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sim.blocks.modules import Block
from sim.blocks.ops import BUFFERS, COPIES, Exchange, When
from sim.blocks.unroll import exchanges, order_of
from sim.inputs.modelling import ASYNC, tensor_style
from sim.inputs.workload import Workload
from sim.mesh import Groups, Mesh
from sim.mesh.routing import parts_met
from sim.strategies.plan import together
from sim.strategies.recorder import Recorder
from sim.strategies.units import dtypes

#: mesh axis -> the plan's group of that name, and the stream its collectives run on
GROUPS = {"cp": "context", "tp": "tensor", "ep": "expert"}


#: groups of tensor-parallel ranks that reach into each other's memory, and the way of NCCL's that
#: moves bytes as they do (`Stack.nccl_path`)
COPYING, BUFFERED = "tensor copies", "tensor buffers"
DIRECT = {COPYING: "copy-engine", BUFFERED: "symmetric"}


#: groups of expert-parallel ranks where tokens cross nodes once: same places of nodes, and a node
NODES, NODE = "expert-nodes", "expert-node"


def groups_within(workload: Workload, mesh: Mesh) -> dict[str, Groups]:
    """Groups whose ranks share blocks, by the name that a plan gives them."""
    found = {name: mesh.groups(axis) for axis, name in GROUPS.items() if mesh.size(axis) > 1}
    if tensor_style(workload) == ASYNC:
        found[COPYING] = found[GROUPS["tp"]]
    if mesh.tp > 1 and workload.parallelism.tp_comm_overlap:
        found |= dict.fromkeys(DIRECT, found[GROUPS["tp"]])
    if near := by_node(workload, mesh):
        found[NODES] = mesh.groups("ep").outer(near)
        found[NODE] = mesh.groups("ep").inner(near)
    return found


_EARLY = (When.BEFORE, When.BESIDE, When.ALONG)
_LATER = (When.LATE, When.ALONG)  # waited for by another module

#: segments that run a block's modules from the last to the first
REVERSED = ("backward", "input", "weight")


SEGMENT, WAIT, COLLECTIVE = range(3)
#: phases that `play` is told: of a block's compute, and of what comes after a recompute
WHERE, AHEAD = "(where)", "(ahead)"

Act = tuple[int, str, str, str, float, float, str]
"""`SEGMENT` (name, module), `WAIT` (stream, on what) or `COLLECTIVE` (group, what, phase, bytes
sent and received, dtype)."""


class _Script:
    """A recorder of a block whose number, unit and phase are still open."""

    def __init__(self) -> None:
        self.acts: list[Act] = []

    def segment(self, name: str, module: str) -> None:
        self.acts.append((SEGMENT, name, module, "", 0.0, 0.0, ""))

    def wait_stream(self, stream: str, on: str) -> None:
        self.acts.append((WAIT, stream, on, "", 0.0, 0.0, ""))

    def collective(
        self, group: str, what: str, phase: str, sent: float, received: float, dtype: str
    ) -> None:
        self.acts.append((COLLECTIVE, group, what, phase, sent, received, dtype))


class Exchanging:
    """Plays a block's segments module by module, with their exchanges.

    Parameters
    ----------
    workload : Workload
        Shapes and parallelism.
    mesh : Mesh
        Of the job.
    """

    def __init__(self, workload: Workload, mesh: Mesh) -> None:
        self.workload = workload
        self.dtype = dtypes(workload).compute
        self._inside: dict[str, bool] = {}  # by kind of block
        self._scripts: dict[tuple[str, str, bool, str], tuple[Act, ...]] = {}
        # groups that an axis's exchanges run in, and the share of their bytes in each
        self.ways: dict[str, tuple[tuple[str, float], ...]]
        self.ways = {axis: ((name, 1.0),) for axis, name in GROUPS.items()}
        self.ways |= {COPIES: ((COPYING, 1.0),), BUFFERS: ((BUFFERED, 1.0),)}
        if by_node(workload, mesh):
            self.ways["ep"] = _by_node(workload, mesh)

    @classmethod
    def of(cls, workload: Workload, mesh: Mesh) -> Exchanging | None:
        """What plays a job's blocks; None where no ranks share one."""
        return cls(workload, mesh) if max(mesh.cp, mesh.tp, mesh.ep) > 1 else None

    def inside(self, block: Block) -> bool:
        """Whether a block has communication inside."""
        found = self._inside.get(block.kind)
        if found is None:
            phases = ("forward", "backward")
            found = any(exchanges(self.workload, block.kind, p) for p in phases)
            self._inside[block.kind] = found
        return found

    def play(
        self, r: Recorder, name: str, phase: str, number: int, block: Block, unit: str,
        *, again: bool = False, only: str = "",
    ) -> None:  # fmt: skip
        """One block forward, again or backward.

        Parameters
        ----------
        r : Recorder
            Where it runs.
        name, phase : str
            Of the segments (``forward``, ``recompute``, ``backward``, or its parts ``input`` and
            ``weight``), and of the collectives.
        number : int
            Of the block.
        block : Block
            The block.
        unit : str
            Whose parameters it uses.
        again : bool
            Backward follows a recompute of the block, or this is it. The gradient of the block's
            output is gathered before the recompute, which autograd starts when it meets the first
            saved tensor.
        only : str
            One module of the block, with parts that follow it; "" for all.
        """
        if r.quiet:  # nothing of it allocates
            return
        script = self.script(block.kind, name, again=again, only=only)
        phases = {AHEAD: phase, WHERE: "recompute" if name == "recompute" else phase}
        for what, one, two, when, sent, received, dtype in script:
            if what == SEGMENT:
                r.segment(one, phase, number, two, unit)
            elif what == WAIT:
                r.wait_stream(one, two)
            else:
                when = phases.get(when, when)
                r.collective(one, two, when, one, sent, received, dtype, unit, number)

    def script(
        self, kind: str, name: str, *, again: bool = False, only: str = ""
    ) -> tuple[Act, ...]:  # fmt: skip
        """What `play` does with a kind of block, in order; some phases are left open."""
        key = (kind, name, again, only)
        found = self._scripts.get(key)
        if found is None:
            written = _Script()
            self._write(written, *key)
            found = self._scripts[key] = tuple(written.acts)
        return found

    def _write(self, r: _Script, kind: str, name: str, again: bool, only: str) -> None:
        """Write `script`."""
        backward = name in REVERSED
        every = exchanges(self.workload, kind, "backward" if name == "input" else name)
        order = order_of(self.workload, kind, only)
        ahead = exchanges(self.workload, kind, "backward").get(order[-1], ()) if again else ()
        ahead = tuple(x for x in ahead if x.when in _EARLY)
        if name == "recompute":
            self._issue(r, ahead, AHEAD)
        run: list[str] = []  # modules with nothing to exchange between them: one segment

        def compute() -> None:
            if run:
                r.segment(name, together(run))
                run.clear()

        for module in reversed(order) if backward else order:
            own = every.get(module, ())
            early = tuple(x for x in own if x.when in _EARLY)
            behind = tuple(x for x in own if x.when in (When.AFTER, When.LATE))
            if backward and again and module == order[-1]:
                self._wait(r, ahead)
                early = ()
            if not own:
                run.append(module)
                continue
            if early:
                compute()
            self._issue(r, early)
            if any(x.when is When.BEFORE for x in early):
                self._wait(r, early)
            inputs, weights = (
                tuple(x for x in own if x.when is when)
                for when in (When.BESIDE_INPUTS, When.BESIDE_WEIGHTS)
            )
            if inputs or weights:
                compute()
                self._in_parts(r, module, inputs, weights)
            else:
                run.append(module)
                if all(x.when is When.BEFORE for x in own):
                    continue
                compute()
            self._issue(r, behind)
            self._wait(r, tuple(x for x in own if x.when not in _LATER))
        compute()

    def _in_parts(
        self, r: _Script, module: str, inputs: tuple[Exchange, ...], weights: tuple[Exchange, ...]
    ) -> None:
        """A module's backward: gradients of inputs, then of weights, with exchanges beside them."""
        self._issue(r, inputs)
        r.segment("input", module)
        self._wait(r, inputs)
        self._issue(r, weights)
        r.segment("weight", module)

    def _issue(self, r: _Script, found: tuple[Exchange, ...], phase: str = WHERE) -> None:
        for x in found:
            for group, share in self.ways[x.over] if x.collective else ():
                r.wait_stream(group, "compute")
                r.collective(
                    group, x.collective, x.phase or phase, share * x.sent, share * x.received,
                    x.dtype or self.dtype,
                )  # fmt: skip

    def _wait(self, r: _Script, found: tuple[Exchange, ...]) -> None:
        for axis in dict.fromkeys(x.over for x in found):
            for group, _ in self.ways[axis]:
                r.wait_stream("compute", group)


class Player(Protocol):
    """Plays a block, or a module of it, as `Exchanging.play` does."""

    def __call__(
        self, r: Recorder, name: str, phase: str, number: int, module: str, unit: str,
        again: bool = False,
    ) -> None:  # fmt: skip
        """Module "" is the whole block."""


def whole(
    r: Recorder, name: str, phase: str, number: int, module: str, unit: str, again: bool = False
) -> None:
    """A `Player` of blocks with no communication inside."""
    r.segment(name, phase, number, module, unit)


def player(workload: Workload, blocks: Mapping[int, Block] | Sequence[Block], mesh: Mesh) -> Player:
    """Plays blocks or modules, each with what it exchanges with ranks that share its block."""
    exchanging = Exchanging.of(workload, mesh)
    if exchanging is None:
        return whole

    def play(
        r: Recorder, name: str, phase: str, number: int, module: str, unit: str,
        again: bool = False,
    ) -> None:  # fmt: skip
        block = blocks[number]
        if exchanging.inside(block):
            exchanging.play(r, name, phase, number, block, unit, again=again, only=module)
        else:
            r.segment(name, phase, number, module, unit)

    return play


def by_node(workload: Workload, mesh: Mesh) -> int:
    """Ranks of a node that hold different experts, where tokens cross nodes once; else 0."""
    near = mesh.gpus_per_node or mesh.world
    whole = mesh.ep > near and mesh.ep % near == 0
    return near if whole and workload.parallelism.expert_dispatch == "deepep" else 0


def _by_node(workload: Workload, mesh: Mesh) -> tuple[tuple[str, float], ...]:
    """Groups that a token takes to its ranks, and the share of what a rank sends in each.

    Once to the rank of its own place in each node that it has an expert in, and from there to the
    node's ranks; both at the same time, part by part.
    """
    m = workload.model
    nodes = mesh.ep // by_node(workload, mesh)
    met = (parts_met(m.experts, parts, m.experts_per_token) for parts in (nodes, mesh.ep))
    across, within = met
    return ((NODES, across / within), (NODE, 1.0))
