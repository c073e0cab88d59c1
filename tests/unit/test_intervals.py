"""Interval measures against a brute-force count on an integer grid."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.step.intervals import Coverage, between, gaps, union

INTERVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12)


def cells(pairs):
    covered = np.zeros(40, dtype=bool)
    for a, b in pairs:
        covered[a:b] = True
    return covered


def arrays(pairs):
    a = np.array([p[0] for p in pairs], dtype=float)
    b = np.array([p[1] for p in pairs], dtype=float)
    return a, b


@given(INTERVALS)
def test_union_covers_the_same_cells(pairs):
    start, end = union(*arrays(pairs))
    assert (cells(list(zip(start.astype(int), end.astype(int), strict=True))) == cells(pairs)).all()
    assert (start[1:] > end[:-1]).all()


@given(INTERVALS, st.integers(0, 35), st.integers(0, 35))
def test_coverage_counts_cells(pairs, a, b):
    a, b = min(a, b), max(a, b)
    measured = Coverage(*arrays(pairs)).inside(np.array([float(a)]), np.array([float(b)]))[0]
    assert measured == cells(pairs)[a:b].sum()


@given(INTERVALS)
def test_gaps_and_union_partition_the_window(pairs):
    start, end = gaps(*arrays(pairs), 0.0, 32.0)
    idle = cells(list(zip(start.astype(int), end.astype(int), strict=True)))
    assert (idle[:32] == ~cells(pairs)[:32]).all()


@given(INTERVALS, INTERVALS)
def test_what_a_coverage_touches_is_all_that_it_covers_some_of(pairs, others):
    start, end = union(*arrays(others))
    covers = Coverage(*arrays(pairs))
    found = covers.touched(start, end)
    assert found.tolist() == np.flatnonzero(covers.inside(start, end) > 0.0).tolist()


def test_an_interval_of_no_length_parts_a_gap():
    start, end = np.array([0.0, 3.0, 5.0]), np.array([2.0, 3.0, 6.0])
    assert [each.tolist() for each in between(start, end, 0.0, 6.0)] == [[2.0, 3.0], [3.0, 5.0]]
