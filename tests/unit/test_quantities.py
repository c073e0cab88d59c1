"""Numbers as a reader would say them, at the edges of each unit."""

import pytest

from sim.quantities import count, counted, duration, gib, percent, usd


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 s"), (4.2e-5, "42 us"), (0.0724, "72 ms"), (10.604, "10.60 s"),
        (120.0, "2 min"), (171.3, "2 min 51 s"), (3540.0, "59 min"), (3599.7, "1 h"),
        (3600.0, "1 h"), (3660.0, "1 h 01 min"),
        (172_799.0, "2.0 days"), (3.7e5, "4.3 days"), (float("inf"), "never"),
    ],
)  # fmt: skip
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_counts_bytes_shares_and_dollars():
    counts = [count(x) for x in (0, 999, 49_500, 8.03e9, 2e12)]
    assert counts == ["0", "999", "49.5 k", "8.03 B", "2 T"]
    assert gib(1.5 * 2**30) == "1.5 GiB"
    assert [percent(0.0336), percent(-0.25, 0, "+"), percent(0.25, 0, "+")] == [
        "3.4 %", "-25 %", "+25 %",
    ]  # fmt: skip
    nothing = [percent(-0.0004), percent(-0.004, 0), percent(-0.004, 0, "+")]
    assert nothing == ["0.0 %", "0 %", "+0 %"]
    sums = [usd(x) for x in (2.949, 99.994, 1068.2, float("inf"))]
    assert sums == ["$2.95", "$99.99", "$1,068", "-"]


def test_one_is_not_many():
    assert [counted(n, "node") for n in (0, 1, 2, 1024)] == [
        "0 nodes", "1 node", "2 nodes", "1,024 nodes",
    ]  # fmt: skip
