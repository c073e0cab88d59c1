"""Corners of lowering: what its tables say where no program looks."""

from types import SimpleNamespace

import numpy as np

from sim.cost.nccl.loads import Demands
from sim.fabric.fabric import compile_fabric
from sim.fabric.held import let_go
from sim.inputs.loader import load
from sim.lowering import classes, collectives
from sim.lowering.flights import flights_of
from sim.lowering.parts import Wire, roles_of
from sim.lowering.pricing import LAUNCH_S, Pricing
from sim.lowering.rows import RowTable
from sim.lowering.slack import _own_may_bind
from sim.lowering.teams import Draws
from sim.step.run import run_step
from sim.strategies.plan import COLLECTIVE
from tests.unit import test_fsdp_schedules as fsdp
from tests.unit.machines import pcie_box


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
    let_go()  # of what other tests have asked
    run_step(found.topology, found.workload)
    *arguments, _ = asked[0]
    apart = usual(*arguments, np.array([0.5] + [1.0] * 31).tobytes())
    assert len(apart.classes.ranks) > 2
    small = arguments[3]
    assert small
    for key in small:
        resource, amount = apart.orbits[key].demands.of(0)
        assert resource.size > 0
        assert (amount > 0.0).all()


def test_a_slow_gpu_of_one_stage_is_no_fast_one_of_another():
    """Stage 0 has GPU 1 at half speed, stage 1 GPU 2: nothing else tells them apart."""
    fabric, speed = compile_fabric(pcie_box(gpus=4)), np.array([1.0, 0.5, 0.5, 1.0])
    found = classes.compile_classes(fabric, "folded", {}, roles_of(fabric, 2), speed=speed).classes
    assert found.of.tolist() == [0, 1, 2, 3]
    assert found.speed.tolist() == speed.tolist()
    assert found.role.tolist() == [0, 0, 1, 1]


def test_all_gpus_of_a_node_share_its_storage():
    """8 GB/s to read are 1 GB/s for each of eight GPUs: 2 GB take two seconds and a launch."""
    storage = SimpleNamespace(read=8e9, write=4e9)
    role = SimpleNamespace(host=SimpleNamespace(storage=storage, gpus=8))
    priced, table = SimpleNamespace(role=role, _calls_s=lambda op: 2e-6), RowTable()
    Pricing._storage(priced, table, SimpleNamespace(name="nvme_read", bytes=2e9))
    (row,) = table.columns
    assert row == (LAUNCH_S, 2e9, 1e9, 1e9, -1, 0, LAUNCH_S + 2e-6, LAUNCH_S + 2.0)


def test_what_an_op_may_fill_with_all_that_runs_beside_it():
    """Of 15 and 35 in use its stream draws 5 and 5: 10 + 20 > 25, 30 + 10 < 60, 30 + 40 > 60."""
    rows = SimpleNamespace(
        work=np.zeros(2), bound=np.array([10.0, 10.0]), demand_ptr=np.array([0, 2, 3]),
        demand_amount=np.array([2.0, 1.0, 4.0]), demand_local=np.array([0, 1, 1]),
    )  # fmt: skip
    found = _own_may_bind(
        SimpleNamespace(rows=rows), np.array([[0, 1]]), np.ones((1, 2)),
        {"compute": np.array([5.0, 5.0])}, np.array([15.0, 35.0]), np.array([25.0, 60.0]),
    )  # fmt: skip
    assert found.tolist() == [True, False, True]


def test_a_shorter_route_is_padded_with_what_is_never_full():
    """GPU 0 copies over resources 3 and 4, GPU 1 over 5 alone: its third place is nobody's."""
    fabric = compile_fabric(pcie_box(gpus=2))
    n, speed = fabric.capacity.size, np.ones(2)
    routes = Demands.each([(np.array([3, 4]), speed), (np.array([5]), speed[:1])])
    found, there, back = classes._classes(
        range(2), np.arange(2), [1, 1], speed, fabric, roles_of(fabric), fabric.capacity,
        fabric.hbm_of(range(2)), [routes],
    )  # fmt: skip
    assert found.local[:, 1:].tolist() == [[3, 4], [5, n + 2]]
    assert found.capacity[:n].tolist() == fabric.capacity.tolist()
    assert (found.capacity[n:] == classes.ENDLESS).all()
    assert (there, back) == (slice(1, 3), slice(3, 3))


def test_collectives_are_alike_where_equal_amounts_are_equal_in_both():
    """Of a ring's all-gather and its reduction: 1, 1, 2 and 3, 3, 5 of the same three resources."""

    def drawn(*amount):
        return Draws.of([[0, 1]], [(np.arange(3), np.array(amount, dtype=float))])

    one = drawn(1, 1, 2)
    assert classes._like(one, drawn(3, 3, 5))
    assert not classes._like(one, drawn(3, 4, 5))
    assert not classes._like(one, drawn(3, 3, 3))
    assert not classes._like(one, drawn(3, 5, 5))
