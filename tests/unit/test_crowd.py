"""Ranks that share their columns run as ranks with columns of their own do."""

import _thread
import threading
from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from sim.engine import crowd as engine
from sim.engine.kernel import simulate
from sim.engine.lookahead import is_alike
from sim.engine.machine import checked
from sim.engine.shared import MOST, grid
from sim.engine.state import ALIKE, LINKED, alike, prepare
from sim.errors import EngineError, InputError
from sim.inputs.loader import load
from sim.lowering.crowd import gathered, gathers
from sim.lowering.frames import lowered
from sim.program import assemble
from sim.program.crowd import ClassKind, Crowd
from sim.step import bounds
from sim.step.ready import ready_of
from sim.step.run import run_replicas
from sim.step.step import step
from sim.step.variation import Slow, Variation
from tests.clock import HANG_S

crowds = pytest.mark.skipif(checked(), reason="the compiled engine alone has crowds")


def figures(found, path=""):
    """Every number of a report by its place."""
    if is_dataclass(found):
        for field in fields(found):
            yield from figures(getattr(found, field.name), f"{path}.{field.name}")
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from figures(value, f"{path}[{key}]")
    elif isinstance(found, tuple):
        for i, value in enumerate(found):
            yield from figures(value, f"{path}[{i}]")
    elif isinstance(found, (int, float, str, np.ndarray)):
        yield path, np.asarray(found).tolist()


def test_marks_of_alike_ops_are_what_the_kernel_finds():
    pair = load("dgx-h100", "llama3-8b-sft", ["nodes=2", "model.layers=2"])
    jittered = Variation(jitter=0.05)
    ready = ready_of(pair.topology, pair.workload, pair.workload, jittered, "ranks", None)
    one = gathered(ready.priced).crowd.kinds[0]
    state = prepare(one.program)
    marks = alike(one.program, state.kind)
    linked = np.flatnonzero(state.kind & LINKED)
    assert not np.delete(marks, linked).any()
    found = [is_alike(one.program, state, o, o + 1) for o in linked.tolist()]
    assert (marks[linked] == ALIKE).tolist() == found
    assert any(found)
    assert not all(found)


SLOW = (Slow("rank", "3", 0.8), Slow("rank", "9", 0.9))


@crowds
@pytest.mark.parametrize(
    ("machine", "job", "sets", "variation"),
    [
        ("dgx-h100", "llama3-70b-full", ["nodes=2"], Variation()),
        ("dgx-h100", "llama3-8b-sft", ["nodes=2"], Variation(jitter=0.05, slow=SLOW)),
        (
            "dgx-h100", "llama3-8b-sft", ["nodes=2", "parallelism.replicate=2"],
            Variation(jitter=0.03, replicas=3),
        ),
        ("mixed-h100-a100", "llama3-8b-sft", [], Variation(jitter=0.03)),
        ("dgx-a100", "llama3-8b-sft", ["nodes=2", "network.oversubscription=4"], Variation()),
        (
            "dgx-h100", "llama3-8b-sft", ["parallelism.tensor_parallel=2"],
            Variation(slow=(Slow("link", "n0/gpu2>n0/nvswitch", 0.5),)),
        ),
    ],
)  # fmt: skip
def test_every_figure_is_the_same(monkeypatch, machine, job, sets, variation):
    pair = load(machine, job, [*sets, "gradient_accumulation=2", "model.layers=3"])
    reports = []
    for least in (10**12, 0):
        monkeypatch.setattr(bounds, "CROWD_OPS", least)
        reports.append(
            step(
                pair.topology, pair.workload, engine="compiled", level="ranks", variation=variation
            )
        )
    apart, together = (dict(figures(report)) for report in reports)
    assert len(apart) > 100
    assert together == apart


class _Bounded(np.ndarray):
    """An array whose indices do not count from the end."""

    def __getitem__(self, i):
        assert 0 <= i < len(self)
        return super().__getitem__(i)


class _Shared:
    """A shared column as plain Python: what its `item` says at an index."""

    def __init__(self, column):
        arrays = {k: v for k, v in column._asdict().items() if isinstance(v, np.ndarray)}
        self.column = column._replace(**{k: v.view(_Bounded) for k, v in arrays.items()})

    def __getitem__(self, i):
        return self.column.item(int(i))


def _as_python(columns):
    named = columns._asdict().items()
    shared = {k: _Shared(v) for k, v in named if isinstance(v, tuple) and hasattr(v, "item")}
    return columns._replace(**shared)


def test_shared_columns_are_read_within_their_bounds():
    """Compiled, they are bare addresses, which no mode of numba's checks."""
    pair = load("dgx-h100", "llama3-8b-sft", ["nodes=2", "model.layers=2"])
    variation = Variation(slow=SLOW)
    ready = ready_of(pair.topology, pair.workload, pair.workload, variation, "ranks", None)
    crowd = gathered(ready.priced).crowd
    said = simulate(*map(_as_python, engine._prepared(crowd)))
    assert said[2] == crowd.ops


def test_the_slow_are_kinds_of_their_own():
    pair = load("dgx-h100", "llama3-8b-sft", ["nodes=2", "model.layers=2"])
    ready = ready_of(
        pair.topology, pair.workload, pair.workload, Variation(slow=SLOW), "ranks", None
    )  # fmt: skip
    crowd = gathered(ready.priced).crowd
    assert len(crowd.kinds) == 3
    assert np.bincount(crowd.kind).tolist().count(1) == 2
    assert crowd.ops == lowered(ready.priced).program.lane.size


@pytest.mark.parametrize(
    ("sets", "level"),
    [
        (["parallelism.offload=all"], "ranks"),
        (["parallelism.pipeline_parallel=2"], "ranks"),
        ([], "folded"),
    ],
)
def test_who_is_no_crowd(sets, level):
    pair = load("dgx-h100", "llama3-8b-sft", [*sets, "model.layers=2"])
    ready = ready_of(pair.topology, pair.workload, pair.workload, Variation(), level, None)
    assert not gathers(ready.priced)


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 255, 256, 9_418, 1_000_003, MOST - 1])
def test_division_by_a_stride_is_exact(stride):
    magic, shift, _ = grid(stride, 0)
    for i in (0, 1, stride - 1, stride, stride + 1, 5 * stride - 1, 5 * stride, MOST - 1):
        if i < MOST:
            assert (i * magic) >> shift == i // stride
    assert (MOST - 1) * magic < 2**63


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(bounds, "CROWD_OPS", 0)
    pair = load("dgx-h100", "llama3-8b-sft", ["nodes=2", "model.layers=2"])
    return pair.topology, pair.workload


@crowds
def test_a_large_step_says_how_far_it_is(large):
    said = []
    outcome, _ = run_replicas(
        *large, Variation(), every_rank=False, progress=lambda *done: said.append(done)
    )
    ops = outcome.crowd.gathering.crowd.kinds[0].program.lane.size
    assert said[-1] == (ops, ops)
    assert outcome.ops > 15 * ops


@crowds
def test_an_interrupt_is_heard(monkeypatch, large):
    code = engine.machine()
    code.load()
    endless = Endless(code)
    monkeypatch.setattr(engine, "machine", lambda: endless)
    with pytest.raises(KeyboardInterrupt):
        run_replicas(*large, Variation(), every_rank=False)
    assert not endless.end.is_set()  # it was not waited for
    endless.end.set()


class Endless:
    """An engine that runs on, and is interrupted in it."""

    def __init__(self, code):
        self.like, self.load = code.like, code.load
        self.end = threading.Event()

    def __call__(self, where):
        _thread.interrupt_main()
        self.end.wait(HANG_S)
        self.end.set()
        return np.zeros((1, 6))


@crowds
def test_too_many_are_refused_with_the_figure():
    pair = load("dgx-h100", "llama3-70b-full", ["nodes=8192", "gradient_accumulation=1"])
    with pytest.raises(InputError, match=r"65,536 ranks .* 6e\+08 ops, which need 13\.4 GiB"):
        run_replicas(pair.topology, pair.workload, Variation(), every_rank=False)


@crowds
def test_what_cannot_be_counted_is_refused(monkeypatch, large):
    monkeypatch.setattr(engine, "MOST_OPS", 100)
    with pytest.raises(EngineError, match="ops are more than 1e"):
        run_replicas(*large, Variation(), every_rank=False)


@crowds
def test_seventy_thousand_ranks_in_one_collective():
    # each computes for 1 s, the last for 3; 20 B over a link of 10 B/s from then on; 0.5 s more
    ranks = 70_000
    alone = assemble(lane=[0, 0], latency=[0.0, 0.5], work=[1.0, 0.0], bound=1.0)[0]
    pace = np.append(np.ones(ranks - 1), 3.0)
    nought, first = np.zeros(ranks, np.int64), np.zeros(1, np.int32)
    crowd = Crowd(
        kinds=(ClassKind(alone, arrive=np.array([0]), paced=np.array([True, False])),),
        kind=nought, pace=pace, wire=nought[:, None].astype(np.int32),
        route=nought.astype(np.int32), wire_lane=first, wire_latency=np.zeros(1),
        wire_work=np.array([20.0]), wire_bound=np.array([np.inf]), wire_route=first + 1,
        demand_ptr=np.array([0, 0, 1], np.int32), demand_resource=first, demand_amount=np.ones(1),
        capacity=np.array([10.0]), hold_capacity=nought.astype(np.int32),
    )  # fmt: skip
    line = engine.play(crowd)
    ops = line.end[: crowd.split].reshape(ranks, crowd.stride)
    assert ops[:, 0].tolist() == pace.tolist()
    assert (line.start[crowd.split], line.end[crowd.split]) == (3.0, 5.0)
    assert np.unique(ops[:, 1]).tolist() == [5.5]
