"""What is kept by key, up to a size."""

import pytest

from sim.shelf import Shelf


def test_the_last_used_are_kept_up_to_a_size():
    shelf, made = Shelf(10, len), []

    def get(size):
        return shelf.get((size,), lambda: made.append(size) or "x" * size)

    assert [len(get(size)) for size in (4, 5, 4, 1)] == [4, 5, 4, 1]
    assert made == [4, 5, 1]
    get(2)  # 5 was used longest ago
    assert [key for (key,) in shelf.of] == [4, 1, 2]
    assert shelf.held == 7
    assert shelf.find((5,)) is None
    assert shelf.find((4,)) == "xxxx"
    get(5)
    assert [key for (key,) in shelf.of] == [4, 5]  # as it was asked for, 4 stays


def test_one_that_is_larger_is_kept_alone_or_not_at_all():
    alone, others = Shelf(10, len), Shelf(10, len, larger=False)
    for shelf in (alone, others):
        for size in (3, 4, 11):
            assert len(shelf.get((size,), lambda n=size: "x" * n)) == size
    assert (list(alone.of), alone.held) == ([(11,)], 11)
    assert (list(others.of), others.held) == ([(3,), (4,)], 7)
    alone.get((2,), lambda: "xx")
    assert (list(alone.of), alone.held) == ([(2,)], 2)


def test_what_could_not_be_made_is_made_again():
    shelf = Shelf(10, len)
    with pytest.raises(ZeroDivisionError):
        shelf.get(("key",), lambda: "x" * (1 // 0))
    assert (shelf.of, shelf.held) == ({}, 0)
    assert shelf.get(("key",), lambda: "x") == "x"


def test_what_two_make_at_once_counts_once():
    """As two threads do that find nothing and both keep."""
    shelf = Shelf(10, len)
    assert shelf.get(("key",), lambda: shelf.keep(("key",), "xxx") + "") == "xxx"
    assert (shelf.of, shelf.held) == ({("key",): "xxx"}, 3)
