"""Quantities as text and as SI floats: "400 Gb/s" is 50e9 B/s.  The home of 8, 1024 and 3600.

A quantity is a number, an optional space and a unit.  Case matters (b is a bit, B a byte).
A bare number is refused, except 0: nothing is nothing in every unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Literal, cast

Dimension = Literal["B", "B/s", "s", "W", "J", "Hz", "FLOP/s", "USD", "USD/h", "USD/B", "kg/J", "1"]

KIB, MIB, GIB, TIB = 1024.0, 1024.0**2, 1024.0**3, 1024.0**4
BITS_PER_BYTE = 8
HOUR_S, DAY_S = 3600.0, 86400.0

#: bytes of an element, by the names that specs and plans use
DTYPE_BYTES = {
    "fp64": 8.0, "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp4": 0.5,
    "int64": 8.0, "int32": 4.0, "int16": 2.0, "int8": 1.0, "uint8": 1.0,
}  # fmt: skip

_SI = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_IEC = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5}
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_COUNT = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([KMBT]?)\Z")
_THOUSANDS = re.compile(r"\$[1-9]\d{0,2}(,\d{3})+(?![\d,])")
_APART = re.compile(r"(?<=[kKM])\s+(?=USD|\$)")
_COUNT_SUFFIX = {"": 0, "K": 3, "M": 6, "B": 9, "T": 12}

# one example a dimension, for messages
EXAMPLES: dict[str, str] = {
    "B": "80 GiB",
    "B/s": "400 Gb/s",
    "s": "30 min",
    "W": "700 W",
    "J": "3 kWh",
    "Hz": "1.83 GHz",
    "FLOP/s": "989 TFLOP/s",
    "USD": "2.95 USD",
    "USD/h": "2.95 USD/h",
    "USD/B": "0.09 USD/GB",
    "kg/J": "350 g/kWh",
    "1": "5 %",
}


class UnitError(ValueError):
    """A text that is no quantity of the wanted dimension; the message says what would be right."""


@cache
def _units(dimension: Dimension) -> dict[str, Decimal]:
    """Every unit of a dimension with its size in the SI unit."""
    ten, two_ten, eighth = Decimal(10), Decimal(1024), Decimal(1) / BITS_PER_BYTE
    sized = {p: ten**e for p, e in _SI.items()} | {p: two_ten**e for p, e in _IEC.items()}
    byte = {f"{p}B": s for p, s in sized.items()} | {"KB": ten**3, "bytes": ten**0}
    hour = Decimal(3600)
    if dimension == "B":
        return byte
    if dimension == "B/s":
        out = {f"{u}{per}": s for u, s in byte.items() if u != "bytes" for per in ("/s", "ps")}
        for prefix, size in [*sized.items(), ("K", ten**3)]:
            for name in ("b/s", "bps", "bit/s"):
                out[prefix + name] = size * eighth
        return out
    if dimension == "s":
        minute, micro = Decimal(60), Decimal(1) / ten**6
        return {
            "s": ten**0, "sec": ten**0, "second": ten**0, "seconds": ten**0,
            "min": minute, "minute": minute, "minutes": minute,
            "h": hour, "hour": hour, "hours": hour,
            "d": hour * 24, "day": hour * 24, "days": hour * 24,
            "week": hour * 168, "weeks": hour * 168,
            "ms": micro * 1000, "us": micro, "µs": micro, "μs": micro, "ns": micro / 1000,
        }  # fmt: skip
    if dimension == "W":
        return {"W": ten**0, "mW": Decimal("0.001"), "kW": ten**3, "MW": ten**6}
    if dimension == "J":
        out = {f"{p}J": ten**e for p, e in _SI.items()}
        return out | {f"{p}Wh": ten**e * hour for p, e in _SI.items()}
    if dimension == "Hz":
        return {f"{p}Hz": ten ** _SI[p] for p in ("", "k", "M", "G")}
    if dimension == "FLOP/s":
        names_ = ("FLOP/s", "FLOPS", "FLOPs", "FLOP/S", "flop/s", "OP/s", "OPS")
        return {f"{p}{name}": ten**e for p, e in _SI.items() for name in names_}
    if dimension == "USD":
        large = {"": ten**0, "k": ten**3, "K": ten**3, "M": ten**6}
        out = {f"{p}{u}": s for p, s in large.items() for u in ("USD", "$")}
        return out | {"cents": Decimal("0.01")}
    if dimension == "USD/h":
        out = {f"{u}/{h}": ten**0 for u in ("USD", "$") for h in ("h", "hr", "hour")}
        return out | {"USD/d": ten**0 / 24}
    if dimension == "USD/B":
        return {f"USD/{u}": 1 / s for u, s in byte.items()}
    if dimension == "kg/J":
        kwh = hour * 1000
        return {
            "g/kWh": Decimal("0.001") / kwh,
            "kg/kWh": 1 / kwh,
            "gCO2/kWh": Decimal("0.001") / kwh,
        }
    return {"": ten**0, "%": Decimal("0.01")}


def parse_any(text: str) -> float:
    """A quantity of any dimension in its SI unit.

    Raises
    ------
    UnitError
        No dimension has the unit.
    """
    for dimension in EXAMPLES:
        try:
            return parse(text, cast("Dimension", dimension))
        except UnitError:
            continue
    msg = f'"{text}" is no quantity; write a number, a share such as 40 %, or a unit as in 12 s'
    raise UnitError(msg)


def parse(text: str, dimension: Dimension) -> float:
    """A quantity in SI units.

    Parameters
    ----------
    text : str
        Number and unit, such as ``"400 Gb/s"``.
    dimension : Dimension
        The SI unit wanted, such as ``"B/s"``.

    Returns
    -------
    float
        The value in ``dimension``, rounded once.

    Raises
    ------
    UnitError
        With a message that says what was read and what would be right.
    """
    stripped = text.strip()
    if dimension.startswith("USD"):
        stripped = _dollars(stripped, dimension)
    match = _NUMBER.match(stripped)
    example = EXAMPLES[dimension]
    if match is None:
        msg = f'"{text}" is no quantity; write a number and a unit, such as "{example}"'
        raise UnitError(msg)
    unit = stripped[match.end() :].strip()
    units = _units(dimension)
    size = units.get(unit)
    if size is not None:
        return _finite(text, match[0], size)
    if not unit:
        if float(match[0]) == 0.0:
            return 0.0
        if dimension == "USD":  # there is but one that can be meant
            example = f"{stripped} USD"
        msg = f'{text} has no unit; write for example "{example}"'
        raise UnitError(msg)
    raise UnitError(_wrong_unit(text, unit, dimension))


def _dollars(text: str, dimension: Dimension) -> str:
    """Dollars as people write them, number first: ``$2,500``, ``50k USD``, ``$2.95/h``."""
    text = _APART.sub("", text)
    if not text.startswith("$"):
        return text
    if dimension == "USD" and _THOUSANDS.match(text):
        text = text.replace(",", "")
    number, per, rest = text[1:].partition("/")
    if not per and number[-1:].isdigit():
        rest = dimension[4:]
    return f"{number}USD/{rest}" if rest else f"{number}USD"


def _finite(text: str, number: str, size: Decimal) -> float:
    """Number times size; what no float holds is refused."""
    try:
        value = float(Decimal(number) * size)
    except (ArithmeticError, OverflowError):
        value = float("inf")
    if value - value != 0.0:
        msg = f'"{text}" is too large'
        raise UnitError(msg)
    return value


def _wrong_unit(text: str, unit: str, dimension: Dimension) -> str:
    """Message for a unit that the dimension does not have."""
    units = _units(dimension)
    hint = f'write for example "{EXAMPLES[dimension]}"'
    swapped = unit.replace("b", "B")
    same_letters = [u for u in units if u.lower() == unit.lower()]
    if dimension == "B" and unit.endswith("b") and swapped in units:
        hint = f'{unit} counts bits; did you mean "{swapped}"?'
    elif dimension == "s" and unit == "m":
        hint = 'did you mean "min" or "ms"?'
    elif dimension == "USD" and unit.startswith(","):  # thousands to some, tenths to others
        hint = 'write for example "2500 USD", "$2,500" or "2.50 USD"'
    elif unit.endswith("T/s"):
        hint = "GT/s counts transfers of one lane; give the rate of the whole link in GB/s"
    elif same_letters:
        hint = "did you mean " + " or ".join(f'"{u}"' for u in sorted(same_letters)) + "?"
    else:
        from difflib import get_close_matches

        near = get_close_matches(unit, units, n=1, cutoff=0.6)
        if near:
            hint = f'did you mean "{near[0]}"?'
    return f'"{text}": "{unit}" is no unit here; {hint}'


def parse_count(text: str) -> float:
    """A count: ``1e9``, ``1B``, ``500M``, ``2T``, ``12``; K, M, B, T are powers of 1000.

    Raises
    ------
    UnitError
        If the text is no number.
    """
    match = _COUNT.match(text.strip())
    if match is None:
        msg = f'"{text}" is no count; write a number such as 1e9 or 1B'
        raise UnitError(msg)
    return _finite(text, match[1], Decimal(10) ** _COUNT_SUFFIX[match[2]])


def whole(text: str) -> int | None:
    """A count in plain digits that 64 bits hold; None of any other text, of a longer one too."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


# units for people, largest first; the last one takes whatever is left
_SHOWN: dict[str, tuple[str, ...]] = {
    "B": ("PB", "TB", "GB", "MB", "kB", "B"),
    "B/s": ("TB/s", "GB/s", "MB/s", "kB/s", "B/s"),
    "s": ("d", "h", "min", "s", "ms", "us", "ns"),
    "W": ("MW", "kW", "W"),
    "J": ("MWh", "kWh", "Wh", "J"),
    "Hz": ("GHz", "MHz", "Hz"),
    "FLOP/s": ("PFLOP/s", "TFLOP/s", "GFLOP/s", "FLOP/s"),
    "USD": ("USD",),
    "USD/h": ("USD/h",),
    "USD/B": ("USD/GB",),
    "kg/J": ("g/kWh",),
    "1": ("",),
}
_BINARY = ("TiB", "GiB", "MiB", "KiB", "B")
_LONG = 10  # characters of bytes, from which the other units are tried


def show(value: float, dimension: Dimension, digits: int = 3, binary: bool = False) -> str:
    """A quantity for people, rounded: ``show(50e9, "B/s")`` is ``"50 GB/s"``.

    Parameters
    ----------
    value : float
        In SI units of ``dimension``.
    dimension : Dimension
        The SI unit.
    digits : int
        Significant digits.
    binary : bool
        Bytes in KiB, MiB, GiB.
    """
    units = _units(dimension)
    names = _BINARY if binary and dimension == "B" else _SHOWN[dimension]
    size = abs(value)
    # the smallest unit that is not the sole one also takes zero and whatever lies below it
    floor = "s" if size == 0.0 and dimension == "s" else names[-1]
    unit = next((n for n in names if size >= float(units[n]) and size > 0.0), floor)
    number = f"{value / float(units[unit]):.{digits}g}"
    if "e" in number:
        number = f"{value / float(units[unit]):.0f}"
    return f"{number} {unit}".rstrip()


def write(value: float, dimension: Dimension) -> str:
    """A quantity as text that `parse` reads back to the very same float."""
    exact = Decimal(repr(float(value)))
    if not exact:
        return "0" if dimension == "1" else f"0 {dimension}"
    found = _written(exact, value, dimension, _SHOWN[dimension])
    if dimension == "B" and len(found) > _LONG:  # 79.6 GiB are 85.4698491904 GB
        found = min(found, _written(exact, value, dimension, _BINARY), key=len)
    return found


def _written(exact: Decimal, value: float, dimension: Dimension, names: Sequence[str]) -> str:
    """In the first of some units, largest first, that reads back as it was."""
    units = _units(dimension)
    for name in names:
        if abs(exact) < units[name]:
            continue
        number = (exact / units[name]).normalize()
        text = f"{number:f} {name}".rstrip()
        if len(text) <= 24 and parse(text or "0", dimension) == value:
            return text
    return f"{float(value)!r} {dimension}" if dimension != "1" else repr(float(value))
