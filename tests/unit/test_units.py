"""Quantities: expected values by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.units import EXAMPLES, UnitError, parse, parse_count, show, write


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("400 Gb/s", "B/s", 50e9),  # 400e9 / 8
        ("400Gb/s", "B/s", 50e9),
        ("400 Gbps", "B/s", 50e9),
        ("400 Gbit/s", "B/s", 50e9),
        ("3.35 TB/s", "B/s", 3.35e12),
        ("80 GiB", "B", 80 * 1024**3),
        ("80 GB", "B", 80e9),
        ("512 KiB", "B", 524288.0),
        ("0.6 us", "s", 0.6e-6),
        ("0.6 µs", "s", 0.6e-6),
        ("30 min", "s", 1800.0),
        ("1.5 h", "s", 5400.0),
        ("2 d", "s", 172800.0),
        ("700 W", "W", 700.0),
        ("0.7 kW", "W", 700.0),
        ("3 kWh", "J", 10.8e6),
        ("1.83 GHz", "Hz", 1.83e9),
        ("989.4 TFLOP/s", "FLOP/s", 989.4e12),
        ("989.4 TFLOPS", "FLOP/s", 989.4e12),
        ("2.95 USD", "USD", 2.95),
        ("$2.95", "USD", 2.95),
        ("0.09 USD/GB", "USD/B", 0.09e-9),
        ("5 %", "1", 0.05),
        ("0.05", "1", 0.05),
        ("0", "B/s", 0.0),  # nothing is nothing in every unit
        ("  8 GB ", "B", 8e9),
        ("1e3 MB", "B", 1e9),
        (".5 GB", "B", 0.5e9),
    ],
)
def test_parse(text, dimension, value):
    assert parse(text, dimension) == pytest.approx(value, rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("text", "dimension", "says"),
    [
        ("400", "B/s", "no unit"),
        ("80 Gb", "B", '"GB"'),
        ("3 m", "s", '"min"'),
        ("16 GT/s", "B/s", "lane"),
        ("3 gb/s", "B/s", '"GB/s" or "Gb/s"'),
        ("fast", "W", "700 W"),
        ("", "W", "700 W"),
        ("nan W", "W", "700 W"),
        ("1_000 W", "W", "no unit here"),
        ("5 EUR", "USD", "2.95 USD"),
        ("1e999999999999999999999 W", "W", "too large"),
    ],
)
def test_refused(text, dimension, says):
    with pytest.raises(UnitError, match=says):
        parse(text, dimension)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1B", 1e9),
        ("500M", 5e8),
        ("2T", 2e12),
        ("12", 12.0),
        ("2e5", 2e5),
        ("1.5 B", 1.5e9),
    ],
)
def test_counts(text, value):
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["1e9x", "one", "", "1 000", "0x10", "1_000", "1e9 tokens", "inf"])
def test_no_counts(text):
    with pytest.raises(UnitError):
        parse_count(text)


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (50e9, "B/s", "50 GB/s"),
        (1800.0, "s", "30 min"),
        (6.84, "s", "6.84 s"),
        (0.0, "s", "0 s"),
        (600e-9, "s", "600 ns"),
        (700.0, "W", "700 W"),
        (-3e9, "B", "-3 GB"),
        (123456.0, "USD", "123456 USD"),
    ],
)
def test_show(value, dimension, text):
    assert show(value, dimension) == text


def test_show_binary():
    assert show(80 * 1024**3, "B", binary=True) == "80 GiB"


@pytest.mark.parametrize("dimension", EXAMPLES)
def test_examples_are_right(dimension):
    assert parse(EXAMPLES[dimension], dimension) > 0


@given(
    st.floats(min_value=1e-12, max_value=1e18),
    st.sampled_from(["B", "B/s", "s", "W", "J", "Hz", "FLOP/s", "USD", "USD/h", "1"]),
)
def test_written_reads_back_the_same(value, dimension):
    assert parse(write(value, dimension), dimension) == value
