"""Searches side by side: who goes on when, who wins, and what is left of the others."""

import math

import pytest

from sim.study.bounds import Bounds
from sim.study.race import Need, Race, promising


def search(name, scores, best, asked):
    """A search whose promises rise to what it finds; told to end, it says how far it came."""
    for least in scores:
        asked.append((name, least))
        if (yield Need(least=least)):
            return name, math.inf
    return name, best


def raced(several, **knobs):
    asked = []
    searches = [
        promising(search(name, scores, best, asked), lambda least: (0, False, least))
        for name, scores, best in several
    ]
    race = Race(searches, Bounds(), rank=lambda found: (0, False, found[1]), **knobs)
    return race, asked


def test_none_goes_on_that_promises_less_than_the_best_found():
    race, asked = raced(
        [("dear", (5, 8, 9), 9.0), ("cheap", (1, 2, 3), 4.0), ("near", (3, 6), 7.0)]
    )
    assert asked == [("dear", 5), ("cheap", 1), ("near", 3)]
    assert race.decide() == ("cheap", 4.0)
    assert asked[3:] == [("cheap", 2), ("cheap", 3), ("near", 6)]
    race.finish()
    assert race.found == {0: ("dear", 9.0), 1: ("cheap", 4.0), 2: ("near", 7.0)}


@pytest.mark.parametrize("places", [(0, 1), (1, 0)])
def test_the_first_of_equals_wins(places):
    both = [("short", (1,), 4.0), ("long", (1, 2, 3, 4), 4.0)]
    race, _ = raced([both[i] for i in places])
    assert race.decide() == (both[places[0]][0], 4.0)


def test_others_end_when_enough_was_spent_on_them():
    race, _ = raced([(name, range(40), 40.0) for name in "abcdefghij"] + [("best", (0,), -1.0)])
    assert race.decide() == ("best", -1.0)
    race.finish(4 * 41)  # four go on at a time, the first of them
    ended = [name for name, best in race.found.values() if best < math.inf]
    assert set(ended) == {*"abcd", "best"}
    assert len(race.found) == 11


def test_those_that_did_not_begin_are_not_found():
    calls = iter([False, True])
    race, asked = raced([("one", (1,), 1.0), ("two", (1,), 1.0)], stop=lambda: next(calls, True))
    assert asked == [("one", 1)]
    assert race.found == {0: ("one", math.inf)}
    assert race.decide() == ("one", math.inf)
