"""Colour refinement against its definition, however its edges are looked through."""

import numpy as np
import pytest

from sim.fabric import refinement
from sim.fabric.refinement import codes_of, joint_codes, refine


def by_definition(colour, edges):
    """Colours told apart by all that each vertex sees, until nothing new is told."""
    now = list(colour)
    while True:
        seen = [[] for _ in now]
        for tail, head, weight in edges:
            seen[tail].append((0, weight, now[head]))
            seen[head].append((1, weight, now[tail]))
        signs = [(now[v], tuple(sorted(seen[v]))) for v in range(len(now))]
        number = {sign: i for i, sign in enumerate(sorted(set(signs)))}
        after = [number[sign] for sign in signs]
        if len(set(after)) == len(set(now)):
            return after
        now = after


def as_sets(colours):
    found = {}
    for v, colour in enumerate(colours):
        found.setdefault(colour, set()).add(v)
    return sorted(map(sorted, found.values()))


def two_paths(n):
    """Two like ones, whose first vertices are marked: a vertex is like that of the other path."""
    edges = [(p * n + i, p * n + i + 1, 1) for p in (0, 1) for i in range(n - 1)]
    return [int(v % n == 0) for v in range(2 * n)], edges


def some(seed):
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 2, 24)
    edges = [(*rng.integers(0, 24, 2).tolist(), int(rng.integers(1, 3))) for _ in range(20)]
    return colour.tolist(), edges


@pytest.mark.parametrize("graph", [two_paths(40), *map(some, range(6))])
@pytest.mark.parametrize("looks", [0, 2, 1000])  # put in order at once, later, never
def test_it_is_the_coarsest_that_tells_all_apart(graph, looks, monkeypatch):
    monkeypatch.setattr(refinement, "_LOOKS", looks)
    monkeypatch.setattr(refinement, "_BLOCK", 16)
    monkeypatch.setattr(refinement, "_VERTICES", 4)
    colour, edges = graph
    tail, head, weight = np.array(edges).T
    assert as_sets(refine(colour, tail, head, weight).tolist()) == as_sets(
        by_definition(colour, edges)
    )


def test_both_ends_of_a_long_path_are_told_apart():
    colour, edges = two_paths(40)
    found = refine(colour, *np.array(edges).T)
    assert len(set(found.tolist())) == 40


def test_codes_are_places_among_all_values(monkeypatch):
    monkeypatch.setattr(refinement, "_BLOCK", 8)
    monkeypatch.setattr(refinement, "_SAMPLE", 2)
    columns = [np.array([3.0, 1.0, 7.0] * 5), np.array([]), np.array([2.0, 7.0] * 9)]
    right = np.searchsorted([1.0, 2.0, 3.0, 7.0], np.concatenate(columns))
    assert joint_codes(columns).tolist() == right.tolist()
    assert codes_of([5, 5, -1]).tolist() == [1, 1, 0]
    assert codes_of([]).size == 0
