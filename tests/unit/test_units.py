"""Quantities: expected values by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import units
from sim.units import EXAMPLES, UnitError, parse, parse_any, parse_count, show, whole, write


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
        ("$2,500", "USD", 2500.0),
        ("$1,250,000.50", "USD", 1250000.5),
        ("$50k", "USD", 50e3),
        ("50 k$", "USD", 50e3),
        ("50K USD", "USD", 50e3),
        ("$2.95/h", "USD/h", 2.95),
        ("2.95 USD/hour", "USD/h", 2.95),
        ("$2.95/hr", "USD/h", 2.95),
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
        ("2500", "USD", "2500 USD"),
        ("2,500 USD", "USD", '2,500" or "2.50 USD"'),  # 2.5 to some
        ("$0,125", "USD", ",125USD"),
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
    with pytest.raises(UnitError, match=f'"{text}" is no count; write a number such as'):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("08", 8), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("9" * 5000, None),
     ("\u00b2", None), ("\u0663", None), ("-1", None), ("1.0", None), (" 1", None), ("", None)],
)  # fmt: skip
def test_whole_numbers_are_plain_digits(text, value):
    assert whole(text) == value


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


def test_powers_times_and_elements_are_what_they_are_called():
    assert tuple(2.0**e for e in (10, 20, 30, 40)) == (units.KIB, units.MIB, units.GIB, units.TIB)
    assert (units.HOUR_S, units.DAY_S) == (60.0 * 60, 24.0 * 60 * 60)
    assert units.BITS_PER_BYTE == 8
    for name, size in units.DTYPE_BYTES.items():
        bits = "".join(c for c in name if c.isdigit())
        assert size == (4.0 if name == "tf32" else int(bits) / 8), name


#: what one of each unit is in the SI unit, by hand
EVERY = {
    "B": {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15, "EB": 1e18,
          "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "bytes": 1},
    "B/s": {"B/s": 1, "MB/s": 1e6, "GBps": 1e9, "GiB/s": 2**30, "b/s": 0.125, "Mbit/s": 125e3,
            "Gbps": 125e6, "Tb/s": 125e9, "Kbps": 125.0, "Gib/s": 2**27},
    "s": {"s": 1, "sec": 1, "second": 1, "seconds": 1, "min": 60, "minute": 60, "minutes": 60,
          "h": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400,
          "week": 604800, "weeks": 604800, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9},
    "W": {"W": 1, "mW": 1e-3, "kW": 1e3, "MW": 1e6},
    "J": {"J": 1, "kJ": 1e3, "MJ": 1e6, "GJ": 1e9, "Wh": 3600, "kWh": 3.6e6, "MWh": 3.6e9},
    "Hz": {"Hz": 1, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9},
    "FLOP/s": {"FLOP/s": 1, "GFLOPS": 1e9, "TFLOP/s": 1e12, "PFLOPs": 1e15, "TOPS": 1e12,
               "EFLOP/s": 1e18, "kflop/s": 1e3, "MOP/s": 1e6},
    "USD": {"USD": 1, "$": 1, "cents": 0.01},
    "USD/h": {"USD/h": 1, "$/h": 1, "USD/d": 1 / 24},
    "USD/B": {"USD/GB": 1e-9, "USD/TB": 1e-12, "USD/GiB": 2.0**-30},
    "kg/J": {"g/kWh": 1e-3 / 3.6e6, "kg/kWh": 1 / 3.6e6, "gCO2/kWh": 1e-3 / 3.6e6},
    "1": {"": 1, "%": 0.01},
}  # fmt: skip


@pytest.mark.parametrize("dimension", EVERY)
def test_every_unit_has_its_size(dimension):
    assert set(EVERY) == set(EXAMPLES)
    for unit, size in EVERY[dimension].items():
        assert parse(f"3 {unit}", dimension) == pytest.approx(3 * size, rel=1e-15), unit
        assert parse_any(f"3 {unit}") == parse(f"3 {unit}", dimension)


@pytest.mark.parametrize(("value", "dimension", "text"), [
    (0.0, "B", "0 B"), (0.0, "B/s", "0 B/s"), (0.25, "B", "0.25 B"), (59.0, "s", "59 s"),
    (60.0, "s", "1 min"), (3600.0, "s", "1 h"), (1e-3, "s", "1 ms"), (999.0, "B", "999 B"),
    (1000.0, "B", "1 kB"), (0.05, "1", "0.05"),
])  # fmt: skip
def test_show_takes_the_largest_unit_that_is_not_larger(value, dimension, text):
    assert show(value, dimension) == text


@pytest.mark.parametrize(("value", "dimension", "text"), [
    (0.0, "s", "0 s"), (90.0, "s", "1.5 min"), (50e9, "B/s", "50 GB/s"), (1500.0, "W", "1.5 kW"),
    (0.05, "1", "0.05"),
])  # fmt: skip
def test_what_is_written(value, dimension, text):
    assert write(value, dimension) == text


def test_a_quantity_of_no_dimension():
    with pytest.raises(UnitError, match="is no quantity; write a number"):
        parse_any("3 parsecs")


def test_less_than_the_smallest_unit_is_a_part_of_it():
    assert show(1e-12, "s") == "0.001 ns"
    assert show(-2e-9, "s") == "-2 ns"
    assert write(1e-12, "s") == "1e-12 s"
    assert write(1 / 3, "s") == "333.3333333333333 ms"


@pytest.mark.parametrize(("text", "dimension", "told"), [
    ("80 Gb", "B", 'Gb counts bits; did you mean "GB"'),
    ("80 Gib", "B", 'Gib counts bits; did you mean "GiB"'),
    ("80 gb", "B", 'no unit here; did you mean "GB"'),
    ("5 m", "s", 'did you mean "min" or "ms"'),
    ("16 GT/s", "B/s", "GT/s counts transfers of one lane"),
])  # fmt: skip
def test_what_a_wrong_unit_may_mean(text, dimension, told):
    with pytest.raises(UnitError, match=told):
        parse(text, dimension)
