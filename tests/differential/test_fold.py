"""Folded max-min rates against the unfolded ones, on random machines and random rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.fabric import compile_fabric, fold
from tests.unit.machines import dgx_a100, dgx_h100, pcie_box


def max_min(capacity, ptr, resource, amount, count):
    """Progressive filling; ``count[row]`` flows share each row's demand, all at one rate."""
    n = len(ptr) - 1
    rate, fixed = np.zeros(n), np.zeros(n, bool)
    rows = np.repeat(np.arange(n), np.diff(ptr))
    level = 0.0
    while not fixed.all():
        live = ~fixed[rows]
        taken = np.bincount(resource, amount * rate[rows], minlength=len(capacity))
        slope = np.bincount(resource[live], amount[live], minlength=len(capacity))
        busy = slope > 0
        if not busy.any():
            rate[~fixed] = np.inf
            break
        # all live rows stand at `level`; how much further until a resource is full
        room = capacity[busy] - taken[busy]
        step = np.min(room / slope[busy])
        level += step
        rate[~fixed] = level
        tight = np.zeros(len(capacity), bool)
        tight[np.flatnonzero(busy)[room / slope[busy] <= step * (1 + 1e-12)]] = True
        fixed[rows[live & tight[resource]]] = True
    return rate


def csr(rows):
    ptr = np.concatenate(([0], np.cumsum([len(r) for r, _ in rows])))
    resource = np.concatenate([np.asarray(r, np.int64) for r, _ in rows])
    return ptr.astype(np.int64), resource, np.concatenate([np.asarray(a, float) for _, a in rows])


def check(capacity, rows):
    ptr, resource, amount = csr(rows)
    folded = fold(capacity, [(ptr, resource, amount)])
    whole = max_min(capacity, ptr, resource, amount, None)
    part = max_min(folded.capacity, folded.ptr, folded.resource, folded.amount, folded.row_count)
    np.testing.assert_allclose(part[folded.row_class], whole, rtol=1e-9)
    return folded


MACHINES = [
    dgx_h100(2),
    dgx_a100(2),
    dgx_h100(2, nics=4),
    pcie_box(),
    pcie_box(gpus=6, per_switch=4),
    pcie_box(per_switch=2, fabric="pairs"),
]


@settings(max_examples=60)
@given(st.data())
def test_folded_rates_on_machines(data):
    fabric = compile_fabric(data.draw(st.sampled_from(MACHINES)))
    n = fabric.n_ranks
    rows = []
    for rank in range(n):
        route = fabric.offload_route(rank, "to-host")
        rows.append((route.resource, route.demand))
    shift = data.draw(st.integers(1, n - 1))
    for rank in range(n):
        route = fabric.route(rank, (rank + shift) % n)
        rows.append((route.resource, route.demand))
    if data.draw(st.booleans()):
        load = fabric.ring_load(range(n))
        rows.append((load.resource, load.demand))
    for src, dst in data.draw(
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=3)
    ):
        if src != dst:
            route = fabric.route(src, dst)
            rows.append((route.resource, route.demand))
    check(fabric.capacity, rows)


@settings(max_examples=60)
@given(st.data())
def test_folded_rates_on_random_rows(data):
    n_resources = data.draw(st.integers(1, 8))
    capacity = np.array(
        data.draw(st.lists(st.sampled_from([1.0, 2.0]), min_size=n_resources, max_size=n_resources))
    )
    rows = []
    for _ in range(data.draw(st.integers(1, 10))):
        touched = data.draw(
            st.lists(st.integers(0, n_resources - 1), min_size=1, max_size=3, unique=True)
        )
        rows.append((touched, [data.draw(st.sampled_from([1.0, 3.0])) for _ in touched]))
    check(capacity, rows)


def test_symmetric_machine_folds_to_one_row():
    fabric = compile_fabric(dgx_h100(4))
    rows = [(r.resource, r.demand) for r in (fabric.offload_route(k, "to-host") for k in range(32))]
    folded = check(fabric.capacity, rows)
    assert folded.row_count.tolist() == [32]
    # four GPUs share a socket's memory: demand multiplied, not weight
    memory = folded.resource_class[fabric.index("n0/cpu0 memory")]
    assert folded.amount[folded.resource == memory].tolist() == [4.0]
    assert folded.resource_count[memory] == 8


def test_rank_classes():
    assert set(compile_fabric(dgx_h100(4)).rank_classes().tolist()) == {0}
    # six GPUs, four under the first switch and two under the second
    uneven = compile_fabric(pcie_box(gpus=6, per_switch=4)).rank_classes()
    assert uneven.tolist() == [0, 0, 0, 0, 1, 1]
    # four NICs for eight GPUs: with and without a NIC beside it
    assert compile_fabric(dgx_h100(2, nics=4)).rank_classes().tolist() == [0, 1] * 8


def test_ties_split_rows_that_share_no_resource():
    capacity = np.array([1.0, 1.0, 1.0, 1.0])
    ptr, resource = np.arange(5), np.arange(4)
    amount = np.ones(4)
    alike = fold(capacity, [(ptr, resource, amount)])
    assert alike.row_count.tolist() == [4]
    tied = fold(capacity, [(ptr, resource, amount)], ties=(np.array([0]), np.array([1])))
    assert tied.row_class.tolist() == [0, 1, 2, 2]
