"""Charts of a page: axes, stairs, cursors, bars."""

import re
from itertools import pairwise

import pytest

from sim.page.charts.axes import ChartAxis, ChartLine, Cursor, axes, ceiling
from sim.page.charts.bars import Slice, stacked
from sim.page.charts.canvas import stairs_of


def test_axes_end_at_round_numbers_and_stairs_tell_only_changes():
    assert [ceiling(v) for v in (0, 0.7, 1.01, 79.3, 9.9e9)] == [1, 0.8, 1.2, 80, 1e10]
    assert stairs_of([(0, 5), (1, 5), (2, 3), (4, 3)]) == "M0 5H2V3H4"
    x = ChartAxis("GPUs", 8, 64, "{:.0f}".format, logarithmic=True)
    assert x.ticks(9) == [8, 16, 32, 64]
    y = ChartAxis("GiB", 0, 80 * 2**30, str, unit=2**30)
    assert y.ticks(9)[1] == 10 * 2**30
    drawn = axes(920, x, y, [ChartLine([(8, 0), (64, 80 * 2**30)], "line")], "a line")
    assert 'aria-label="a line"' in drawn


def test_a_cursor_says_what_stands_at_each_place():
    x, y = ChartAxis("layer", 0, 4, str), ChartAxis("time", 0, 1, str)
    points = [(float(n), f"layer {n}") for n in range(5)]
    drawn = axes(920, x, y, [Cursor(points)], "layers")
    columns = re.findall(
        r'x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="[\d.]+" class="cursor"><title>([^<]*)',
        drawn,
    )
    assert [text for _, _, text in columns] == [text for _, text in points]
    ends = [(float(left), float(left) + float(wide)) for left, wide, _ in columns]
    assert all(a[1] == pytest.approx(b[0], abs=0.11) for a, b in pairwise(ends))  # no gaps
    assert 'class="cursor"' not in axes(400, x, y, [Cursor(points)], "layers")
    many = [(float(n), "") for n in range(1000)]
    assert axes(920, ChartAxis("t", 0, 999, str), y, [Cursor(many)], "t").count('"cursor"') <= 120


def test_bars_share_one_scale():
    drawn = stacked(
        100, [("a", [Slice("x", 1, "s0", "")]), ("b", [Slice("y", 4, "s1", "")])], "two"
    )
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height="34"', drawn)]
    assert widths == [24, 99]
