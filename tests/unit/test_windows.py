"""Windows of a step, and how often each goes into it."""

import numpy as np

from sim.step.windows import Window, Windows


def test_windows_are_added_as_often_as_they_are_to_be_counted():
    whole, middle = Window(0.0, 9.0, 1), Window(3.0, 5.0, 4, 1)
    block = Window(3.5, 4.0, 10, 2)  # twice in the middle, which comes four times and is in `whole`
    found = Windows.of([[whole, middle, block], [whole]])
    assert found.counts.tolist() == [3, 1]
    assert found.begin.tolist() == [[0.0, 3.0, 3.5], [0.0, 0.0, 0.0]]
    assert found.finish.tolist() == [[9.0, 5.0, 4.0], [9.0, 0.0, 0.0]]
    lasts = (found.finish - found.begin)[..., None]
    # 9 + 4 * 2 + 10 * 0.5 of the step, 2 + 2 * 0.5 of its middle; the other has none
    assert found.added(lasts) == [[[22.0], [3.0]], [[9.0]]]


def test_every_sum_of_a_window_is_added():
    found = Windows.of([[Window(0.0, 1.0, 1), Window(0.0, 1.0, 2, 1)]])
    sums = np.array([[[1.0, 2.0, 3.0], [10.0, 0.0, -1.0]]])
    assert found.added(sums) == [[[21.0, 2.0, 1.0], [10.0, 0.0, -1.0]]]
