"""The next event: an indexed heap of one event a lane, ties to the lower lane."""

from __future__ import annotations

from sim.engine.state import State


def place_lanes(s: State, n_moved: int, n_heap: int, hole: bool) -> int:
    """Put lanes with a new event time in their place.

    Parameters
    ----------
    s : State
        Lanes `moved`, whose time in the heap is to become `due`.
    n_moved, n_heap : int
        How many they are, and how many lanes are in the heap.
    hole : bool
        Whether the heap's first place is free: it goes to one that comes in, or to the last lane.

    Returns
    -------
    int
        Lanes in the heap.
    """
    heap, place, key, due, moved = s.heap, s.place, s.key, s.due, s.moved
    m = 0
    while m < n_moved or hole:
        if m < n_moved and not (hole and place[moved[m]] >= 0):
            at = moved[m]
            m += 1
            t = due[at]
            i = place[at]
            if hole:
                i = 0
                hole = False
            elif i < 0:
                i = n_heap
                n_heap += 1
        else:
            hole = False
            n_heap -= 1
            if n_heap == 0:
                continue
            at = heap[n_heap]
            t = key[n_heap]
            i = 0
        while i > 0:
            up = (i - 1) >> 1
            a = heap[up]
            if (t < key[up]) | ((t == key[up]) & (at < a)):
                heap[i] = a
                key[i] = key[up]
                place[a] = i
                i = up
            else:
                break
        while True:
            c = 2 * i + 1
            if c >= n_heap:
                break
            if c + 1 < n_heap:
                # Which child is earlier no processor can foretell: this takes no branch.
                tie = (key[c + 1] == key[c]) & (heap[c + 1] < heap[c])
                c += (key[c + 1] < key[c]) | tie
            a = heap[c]
            if (key[c] < t) | ((key[c] == t) & (a < at)):
                heap[i] = a
                key[i] = key[c]
                place[a] = i
                i = c
            else:
                break
        heap[i] = at
        key[i] = t
        place[at] = i
    return n_heap
