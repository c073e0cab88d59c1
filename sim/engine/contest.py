"""The next event: lanes that have one contend in pairs, the earlier goes on to the next round.

Of a tree with `n_leaves` leaves, a power of two, leaf i stands at n_leaves + i, and what goes on
from places 2 i and 2 i + 1 at i. A lane has a leaf while it has an event. Leaves are taken from the
left, so that the last round in which anybody contends is at `top`: there the next event is.

A heap takes no more rounds, but which way it goes down no processor can foretell, and the next step
waits for it; here the way up is known from the start.
"""

from __future__ import annotations

import math

from sim.engine.state import State

INFINITY = math.inf


def place_lanes(
    s: State, n_moved: int, top: int, n_taken: int, n_free: int, hole: int
) -> tuple[int, int, int]:
    """Let lanes with a new event time contend, ties to the lower lane.

    Parameters
    ----------
    s : State
        Lanes `moved`, whose time in the tree is to become `due`.
    n_moved : int
        How many they are.
    top : int
        Place of the last round.
    n_taken, n_free : int, int
        Leaves that a lane has or had, and those of them that are free again.
    hole : int
        Leaf of a lane whose event was taken, or -1: it goes to one that comes in, or is free.

    Returns
    -------
    top, n_taken, n_free : int, int, int
        As they are then.
    """
    key, earliest, leaf = s.key, s.earliest, s.leaf
    m = 0
    while m < n_moved or hole >= 0:
        if m < n_moved:
            at = s.moved[m]
            m += 1
            t = s.due[at]
            i = leaf[at]
            if i < 0:
                if hole >= 0:
                    i = hole
                    hole = -1
                elif n_free > 0:
                    n_free -= 1
                    i = s.free_leaf[n_free]
                else:
                    i = n_taken
                    n_taken += 1
                    if i * top >= s.n_leaves:
                        top >>= 1
                leaf[at] = i
        else:
            at = s.n_lanes  # nobody
            t = INFINITY
            i = hole
            hole = -1
            s.free_leaf[n_free] = i
            n_free += 1
        i += s.n_leaves
        key[i] = t
        earliest[i] = at
        while i > top:
            u = key[i ^ 1]
            b = earliest[i ^ 1]
            # Which is earlier no processor can foretell: compiled, this takes no branch.
            if u < t or (u == t and b < at):
                at = b
            t = u if u < t else t
            i >>= 1
            key[i] = t
            earliest[i] = at
    return top, n_taken, n_free
