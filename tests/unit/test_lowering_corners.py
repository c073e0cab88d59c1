"""Corners of lowering: what its tables say where no program looks."""

import numpy as np

from sim.inputs.loader import load
from sim.lowering import collectives
from sim.lowering.flights import flights_of
from sim.lowering.parts import Wire
from sim.lowering.rows import RowTable
from sim.step.run import run_step
from sim.strategies.plan import COLLECTIVE
from tests.unit import test_fsdp_schedules as fsdp


def held(sms):
    table = RowTable()
    table.add(hold=sms)
    return table.block().kinds


def test_one_channel_holds_an_sm():
    """Equal kinds are one object, and so tell which rows hold any: one SM as well as many."""
    assert held(1) is not held(0)
    assert held(1) is held(24)


def test_collectives_on_no_wire_are_no_flights():
    """Two blocks and the root: of what they gather and reduce, reductions alone are on a wire."""
    plan = fsdp.plan_of(layers=2, accumulate=1)
    ops = [(i, op) for i, op in enumerate(plan.ops) if op.kind == COLLECTIVE]
    reduces = [i for i, op in ops if op.collective == "reduce_scatter"]
    assert 0 < len(reduces) < len(ops)
    kinds = {}

    def wire(plan, op):
        if op.collective != "reduce_scatter":
            return None
        return kinds.setdefault(op.bytes_in, Wire(op.comm, None, 0, 1e-6, op.bytes_in, 1e9))

    found = flights_of([plan], [0], wire)
    assert found.wires == tuple(kinds.values())
    assert found.ops.ravel().tolist() == reduces
    works = [found.wires[w].work for w in found.of.tolist()]
    assert works == [plan.ops[i].bytes_in for i in reduces]


def test_norms_draw_where_they_alone_tell_no_ranks_apart(monkeypatch):
    """Two stages on four nodes; a slow GPU is a class of its own, whatever a norm draws on."""
    asked = []

    def spy(*arguments):
        asked.append(arguments)
        return usual(*arguments)

    usual = collectives._classes
    monkeypatch.setattr(collectives, "_classes", spy)
    split = ["nodes=4", "model.layers=4", "parallelism.pipeline_parallel=2"]
    found = load("dgx-h100", "llama3-8b-sft", split)
    run_step(found.topology, found.workload)
    fabric, level, kinds, small, stages, copies, _ = asked[0]
    assert small
    pace = np.ones(fabric.n_ranks)
    pace[0] = 0.5
    apart = usual(fabric, level, kinds, small, stages, copies, pace.tobytes())
    assert len(apart.classes.ranks) > stages
    for key in small:
        resource, amount = apart.orbits[key].demands.of(0)
        assert resource.size > 0
        assert (amount > 0.0).all()
