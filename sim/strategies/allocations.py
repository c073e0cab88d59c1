"""What a step allocates and frees, written down beside its ops by the same hooks.

A plan serves jobs that differ only in costs, while activations, logits and optimizer states depend
on those. So a size is a coefficient times a *quantity*: `BYTES` for what the plan itself knows, or
one that `sim.memory.ledger` measures for the job at hand. Sizes in between are linear in them.

Time is counted in *instants*, the points at which the CPU thread has just allocated: what was added
since the last one lives from here on, what `mark` is given lives for this instant alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

I8 = npt.NDArray[np.int64]

MOMENTS = ("init", "forward", "backward", "optimizer", "save")
INIT, FORWARD, BACKWARD, OPTIMIZER, SAVE = range(len(MOMENTS))


class Term(NamedTuple):
    """What bytes are for.

    Attributes
    ----------
    name : str
        As reports show it.
    category : str
        One of PyTorch's FSDPMemTracker, which calls temporary whatever backward made and no hook
        has taken over yet.
    pool : str
        Other streams than the compute stream allocate it, or it is freed into a pool of sizes of
        its own: the caching allocator never hands its memory to the compute stream.
    """

    name: str
    category: str
    pool: str = "compute"


TERMS = (
    Term("sharded parameters", "sharded_parameters"),
    Term("quantisation scales", "unsharded_parameters"),
    Term("unsharded parameters", "unsharded_parameters"),
    Term("sharded gradients", "sharded_gradients", "reduced"),
    Term("unsharded gradients", "unsharded_gradients"),
    Term("optimizer states", "optimizer_states"),
    Term("saved activations", "activations"),
    Term("logits and loss", "activations"),
    Term("all-gather buffers", "all_gather_buffers", "gather"),
    Term("reduce-scatter buffers", "reduce_scatter_buffers", "reduce"),
    Term("gradients of logits", "temporaries"),
    Term("recomputed activations and their gradients", "temporaries"),
    Term("gradients waiting for their unit", "temporaries"),
    Term("last reduce-scatter's input", "temporaries", "reduce"),
    Term("optimizer temporaries", "temporaries"),
    Term("checkpoint staging", "temporaries"),
    Term("inputs", "inputs"),
)
(
    SHARDED, SCALES, UNSHARDED, GRADIENTS, FULL_GRADIENTS, STATES, SAVED, LOGITS, GATHERS, SCATTERS,
    LOGIT_GRADIENTS, RECOMPUTED, WAITING, LAST_SCATTER, SCRATCH, STAGING, INPUTS,
) = range(len(TERMS))  # fmt: skip

#: quantities of the job, then those of the head and its loss (`HeadFootprint`)
(
    BYTES, SCALE_BYTES, STATE_BYTES, SCRATCH_BYTES, INPUT_BYTES, FULL_SAVE, CLONED_SAVE, STAGED,
    HIDDEN, NORM, LOGIT_BYTES, LOSS_FORWARD, LOSS_SAVED, LOSS_BACKWARD, HEAD_BACKWARD, HELD,
) = range(JOB_QUANTITIES := 16)  # fmt: skip
#: quantities of a layer: kept until backward; at most in forward; of what was saved, gone by the
#: peak of backward; all else there; input that comes back from the host
RESIDENT, LAYER_FORWARD, GONE, LAYER_BACKWARD, FETCHED = range(LAYER_QUANTITIES := 5)

_ADD, _PUT, _MARK = range(3)

Amount = tuple[int, float, int, int]
"""Term, coefficient, quantity, and the layer it is one of (0: of the job)."""


class Style(NamedTuple):
    """Layers of one style have equal quantities."""

    kind: str
    recomputed: bool


class Stretch(NamedTuple):
    """A layer of a recording behind which equal ones are missing, by positions in its log."""

    since: int
    until: int
    step: int  # layers from one to the next: 1 forward, -1 backward
    ops: int  # it issues


@dataclass(frozen=True, slots=True)
class Columns:
    """Allocations of a whole step, to be summed.

    Attributes
    ----------
    instant, term, quantity : (n,) int64
        Of each allocation. A quantity at or past `JOB_QUANTITIES` is of a style of layer.
    coefficient : (n,) float64
        What the quantity is multiplied by; negative where it is freed.
    moment, before : (instants,) int64
        Index into `MOMENTS`, and the op that is issued next.
    """

    instant: I8
    term: I8
    quantity: I8
    coefficient: npt.NDArray[np.float64]
    moment: I8
    before: I8


class Allocations:
    """The allocator's side of a recorded step: a log, made sense of once it is asked for.

    Parameters
    ----------
    ops : sequence
        The plan's ops as they are issued: an instant stands before the next one.
    """

    def __init__(self, ops: Sequence[object]) -> None:
        self._ops = ops
        self.moment = INIT
        self.ranks = 1  # that share the optimizer's states
        self.layers: Sequence[Style] = ()  # of the full model, from layer 1
        self.host: list[tuple[str, float, int, int]] = []  # name, then as in an `Amount`
        self.log: list[tuple[Any, ...]] = []
        self.stretches: Sequence[Stretch] = ()
        self.extra = 0  # layers missing behind each stretch
        self._columns: Columns | None = None

    def add(self, term: int, size: float, quantity: int = BYTES, layer: int = 0) -> None:
        """Allocate (or with a negative size free), seen from the next instant on."""
        self.log.append((_ADD, term, size, quantity, layer))

    def put(self, term: int, size: float = 0.0, quantity: int = BYTES) -> None:
        """Make a term this large, whatever it is; not for what layers hold."""
        self.log.append((_PUT, term, size, quantity, 0))

    def mark(self, *amounts: Amount) -> None:
        """An instant, with what lives only now."""
        self.log.append((_MARK, self.moment, len(self._ops), amounts))

    def keep_on_host(self, name: str, size: float, quantity: int = BYTES, layer: int = 0) -> None:
        """Host memory that this rank holds from the first step on."""
        self.host.append((name, size, quantity, layer))

    def lengthen(self, stretches: Sequence[Stretch], extra: int) -> None:
        """Say which layers are missing, as `repeat.lengthen` is told for the ops."""
        self.stretches, self.extra = stretches, extra

    def offsets(self) -> list[int]:
        """Where the quantities of the job (0) and of each layer start."""
        styles = {style: at for at, style in enumerate(dict.fromkeys(self.layers))}
        return [0, *(JOB_QUANTITIES + LAYER_QUANTITIES * styles[style] for style in self.layers)]

    def columns(self) -> Columns:
        """All allocations of the full model, in no order."""
        if self._columns is None:
            self._columns = _Log(self).columns()
        return self._columns


class _Log:
    """Reads a log: what `put` frees depends on all before it, missing layers included."""

    def __init__(self, a: Allocations) -> None:
        self.a = a
        self.events: list[tuple[int, int, float, int, int]] = []  # instant, then an `Amount`
        self.instants: list[tuple[int, int]] = []  # moment, next op
        self.live: list[dict[int, float]] = [{} for _ in TERMS]  # coefficients, but for layers'
        self.bounds: list[tuple[int, int]] = []  # instants of each stretch
        self.inside: list[tuple[int, int]] = []  # and its events
        at = 0
        for s in a.stretches:
            self._read(at, s.since)
            before = [held.copy() for held in self.live]
            since, first = len(self.instants), len(self.events)
            self._read(s.since, s.until)
            self.bounds.append((since, len(self.instants)))
            self.inside.append((first, len(self.events)))
            self._repeat(before)
            at = s.until
        self._read(at, len(a.log))

    def _read(self, start: int, stop: int) -> None:
        events, instants = self.events, self.instants
        for entry in self.a.log[start:stop]:
            kind, term, size, rest = entry[0], entry[1], entry[2], entry[3]
            if kind == _MARK:
                now = len(instants)
                for what, much, quantity, layer in rest:
                    if much:
                        events.append((now, what, much, quantity, layer))
                        events.append((now + 1, what, -much, quantity, layer))
                instants.append((term, size))
            elif kind == _ADD:
                self._add(term, size, rest, entry[4])
            else:
                for other, held in self.live[term].items():
                    if other != rest:
                        self._add(term, -held, other)
                self._add(term, size - self.live[term].get(rest, 0.0), rest)

    def _add(self, term: int, size: float, quantity: int, layer: int = 0) -> None:
        if size:
            self.events.append((len(self.instants), term, size, quantity, layer))
            if not layer:
                held = self.live[term]
                held[quantity] = held.get(quantity, 0.0) + size

    def _repeat(self, before: list[dict[int, float]]) -> None:
        """The missing layers change what lives as this one has."""
        for held, then in zip(self.live, before, strict=True):
            for quantity, size in held.items():
                change = size - then.get(quantity, 0.0)
                if change:
                    held[quantity] = size + self.a.extra * change

    def columns(self) -> Columns:
        """As arrays, with the missing layers."""
        rows = np.array(self.events, dtype=np.float64).reshape(-1, 5)
        instant, term, _, quantity, layer = rows.T.astype(np.int64)
        coefficient = rows[:, 2].copy()
        moment, before = np.array(self.instants, dtype=np.int64).reshape(-1, 2).T
        if self.a.extra:
            instant, layer, source = self._inserted(instant, layer)
            term, quantity, coefficient = term[source], quantity[source], coefficient[source]
            moment, before = self._inserted_instants(moment, before)
        quantity = quantity + np.array(self.a.offsets())[layer]
        inside = instant < moment.size  # what the last instant alone held is freed after it
        return Columns(
            instant[inside], term[inside], quantity[inside], coefficient[inside], moment, before
        )

    def _inserted(self, instant: I8, layer: I8) -> tuple[I8, I8, I8]:
        """Instants and layers of the full model's events, and which recorded event each is of."""
        extra, stretches = self.a.extra, self.a.stretches
        number = np.arange(instant.size)
        passed = np.searchsorted([stop for _, stop in self.inside], number, side="right")
        periods = [until - since for since, until in self.bounds]
        shift = extra * np.concatenate(([0], np.cumsum(periods)))
        # between a forward and a backward stretch stand the layers behind the inserted ones
        behind = np.array([s.step < 0 for s in stretches] + [False])
        layer = layer + np.where((layer > 0) & behind[passed], extra, 0)
        instant = instant + shift[passed]
        moved, layers, sources = [instant], [layer], [number]
        copies = np.arange(1, extra + 1)[:, None]
        for (start, stop), period, stretch in zip(self.inside, periods, stretches, strict=True):
            moved.append((instant[start:stop] + copies * period).ravel())
            own = layer[start:stop]
            layers.append(np.where(own > 0, own + copies * stretch.step, 0).ravel())
            sources.append(np.tile(number[start:stop], extra))
        return np.concatenate(moved), np.concatenate(layers), np.concatenate(sources)

    def _inserted_instants(self, moment: I8, before: I8) -> tuple[I8, I8]:
        """Moments and next ops of the full model's instants."""
        extra = self.a.extra
        moments, befores = [], []
        at = ops = 0
        copies = np.arange(1, extra + 1)[:, None]
        for (since, until), s in zip(self.bounds, self.a.stretches, strict=True):
            moments += [moment[at:until], np.tile(moment[since:until], extra)]
            befores += [
                before[at:until] + ops,
                (before[since:until] + ops + copies * s.ops).ravel(),
            ]
            at, ops = until, ops + extra * s.ops
        moments.append(moment[at:])
        befores.append(before[at:] + ops)
        return np.concatenate(moments), np.concatenate(befores)
