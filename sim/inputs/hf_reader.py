"""Values of a ``config.json`` by type, its faults collected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.errors import Fault, InputError


class HfReader:
    """Values of a config by type, its faults collected."""

    def __init__(self, values: Mapping[str, Any], kind: str, source: str) -> None:
        self.values, self.kind, self.source = values, kind, source
        self.faults: list[Fault] = []

    def fault(self, key: str, message: str) -> None:
        """Note a fault of a key."""
        self.faults.append(Fault(self.source, None, None, key, message))

    def within(self, key: str) -> HfReader:
        """Values of a mapping in it, nothing where there is none; faults are noted here."""
        inner = self.values.get(key)
        found = HfReader(inner if isinstance(inner, Mapping) else {}, self.kind, self.source)
        found.faults = self.faults
        return found

    def has(self, *keys: str) -> bool:
        """Whether any of `keys` has a value."""
        return any(self.values.get(k) is not None for k in keys)

    def count(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        """First present of `keys` as a whole number."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                self.fault(key, f"{value!r} is not a whole number")
            elif value < least:
                self.fault(key, f"{value} is not at least {least}")
            elif value > 10**9:
                self.fault(key, f"{value} is absurdly large")
            else:
                return value
            return least
        if default is None:
            self.fault(keys[0], "required key is missing")
            return least
        return default

    def number(self, *keys: str, default: float, most: float) -> float:
        """First present of `keys` as a number from 0 to `most`."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                self.fault(key, f"{value!r} is not a number")
                return default
            if not 0 <= value <= most:  # nor is NaN, which JSON of Python may have
                self.fault(key, f"{value} is not between 0 and {most:g}")
                return default
            return float(value)
        return default

    def flag(self, key: str, default: bool) -> bool:
        """Whether a key is set."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fault(key, f"{value!r} is not true or false")
            return default
        return value

    def refuse(self, key: str, what: str, *, given: bool = True) -> None:
        """Note a fault where a flag, else the opposite, is `given`, and so the kind has `what`."""
        if self.flag(key, not given) is given:
            self.fault(key, f"{self.kind} {what} is not modelled")

    def done(self) -> None:
        """Raise what was found wrong."""
        if self.faults:
            raise InputError(self.faults)
