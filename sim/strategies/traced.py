"""Numbers that remember how they came about, so that they can be worked out anew.

Code that is run on traced values leaves a `ValueTrace`: every operation, in order, and every
decision that a value led to. `ValueTrace.at` repeats the operations on other inputs; where a
decision would be another one it says so, since the code would have done something else. So one
formula serves all.

What would lose the trace (turning a value into a plain number, a key or text) is refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sim.records import NamedTuple


class Untraceable(Exception):  # never seen by a caller: the code is run as it is
    """Code asked of a value what can not be repeated."""


#: place, function, places of its arguments; see `ValueTrace`
_TraceStep = tuple[int, Callable[..., Any], tuple[int, ...]]


class ValueTrace:
    """Operations on some inputs.

    Parameters
    ----------
    *inputs : object
        What code is run on first.
    """

    def __init__(self, *inputs: Any) -> None:
        self.values: list[Any] = list(inputs)  # with the inputs that it was made with
        self._inputs, self._others = len(inputs), inputs[1:]
        #: place, function, places of its arguments; a place below 0 is a decision: its complement
        #: is True or False, that of the only argument
        self._steps: list[_TraceStep] = []
        self._first: list[_TraceStep] | None = None
        self._made: dict[tuple[Any, ...], Traced] = {}
        self._constants: dict[tuple[type, Any], int] = {}
        self._decided: set[int] = set()

    def _of_first(self) -> list[_TraceStep]:
        """Operations that go back to the first input, once all are known."""
        if self._first is None:
            changed, self._first = {0}, []
            for operation in self._steps:
                if changed.intersection(operation[2]):
                    changed.add(operation[0])
                    self._first.append(operation)
        return self._first

    def inputs(self) -> list[Any]:
        """Traced values of the inputs."""
        return [Traced(self, place) for place in range(self._inputs)]

    def place(self, value: Any) -> int:
        """Where a value stands, traced or constant."""
        if type(value) is Traced:
            return value.place
        if value.__hash__ is None:
            raise Untraceable
        key = type(value), value
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = len(self.values)
            self.values.append(value)
        return found

    def of(self, function: Callable[..., Any], *arguments: Any) -> Traced:
        """What a function returns, some of whose arguments are traced."""
        return self.of_places(function, *[self.place(argument) for argument in arguments])

    def of_places(self, function: Callable[..., Any], *places: int) -> Traced:
        """The same, of arguments that stand there."""
        found = self._made.get((function, places))
        if found is None:
            value = function(*[self.values[place] for place in places])
            found = self._made[function, places] = Traced(self, len(self.values))
            self._steps.append((found.place, function, places))
            self.values.append(value)
        return found

    def decided(self, value: Traced) -> bool:
        """Whether a value is true, which code is about to depend on."""
        place, true = value.place, bool(self.values[value.place])
        if place not in self._decided:
            self._decided.add(place)
            self._steps.append((~true, bool, (place,)))
        return true

    def at(self, *inputs: Any) -> list[Any] | None:
        """All values with other inputs; None where a decision would be another one."""
        values = self.values.copy()
        steps = self._steps
        if inputs[1:] == self._others:
            steps = self._of_first()
        values[: self._inputs] = inputs
        for place, function, places in steps:
            if len(places) == 2:
                a, b = places
                values[place] = function(values[a], values[b])
            elif place >= 0:
                values[place] = function(*[values[i] for i in places])
            elif function(values[places[0]]) != ~place:
                return None
        return values


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Traced, Any], Traced]:
    def made(self: Traced, other: Any) -> Traced:
        trace = self.trace
        place = other.place if type(other) is Traced else trace.place(other)
        return trace.of_places(function, self.place, place)

    return made


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[[Traced, Any], Traced]:
    def made(self: Traced, other: Any) -> Traced:
        return self.trace.of_places(function, self.trace.place(other), self.place)

    return made


def _compared(function: Callable[[Any, Any], Any]) -> Callable[[Traced, Any], bool]:
    return lambda self, other: self.trace.decided(self.trace.of(function, self, other))


def _unary(function: Callable[..., Any]) -> Callable[..., Traced]:
    return lambda self, *more: self.trace.of(function, self, *more)


def _refused(self: Traced, *_: Any) -> NoReturn:
    raise Untraceable


class Traced:
    """A value of a trace: a number, a mesh, a group of ranks."""

    __slots__ = ("place", "trace")

    def __init__(self, trace: ValueTrace, place: int) -> None:
        self.trace, self.place = trace, place

    def __getattr__(self, name: str) -> Traced:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.trace.of(getattr, self, name)

    def __call__(self, *arguments: Any) -> Traced:
        """What it returns, of a method of a traced value."""
        return self.trace.of(operator.call, self, *arguments)

    def __bool__(self) -> bool:
        return self.trace.decided(self)

    __add__, __radd__ = _binary(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _binary(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _binary(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _binary(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _binary(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _binary(operator.mod), _reflected(operator.mod)
    __neg__, __ceil__, __round__ = _unary(operator.neg), _unary(math.ceil), _unary(round)
    __lt__, __le__ = _compared(operator.lt), _compared(operator.le)
    __gt__, __ge__ = _compared(operator.gt), _compared(operator.ge)
    __eq__, __ne__ = _compared(operator.eq), _compared(operator.ne)
    __hash__ = __iter__ = __len__ = __index__ = __int__ = __float__ = _refused
    __str__ = __repr__ = __format__ = __reduce__ = _refused
    __contains__ = __getitem__ = _refused


def traced(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function of plain numbers, called with numbers some of which may be traced.

    Its own decisions are its own: with other inputs it is called again.
    """
    for argument in arguments:
        if type(argument) is Traced:
            return argument.trace.of(function, *arguments)
    return function(*arguments)


class ValuePlace(NamedTuple):
    """Where a value stands in its trace."""

    at: int


def placed(value: Any) -> Any:
    """A value, or tuples in which there are some, with places for traced ones."""
    if type(value) is Traced:
        return ValuePlace(value.place)
    if not isinstance(value, tuple):
        return value
    inner = [placed(each) for each in value]
    if all(map(operator.is_, inner, value)):
        return value
    return tuple.__new__(type(value), inner)


def filled(value: Any, values: Sequence[Any]) -> Any:
    """The same with values for places."""
    if type(value) is ValuePlace:
        return values[value.at]
    if not isinstance(value, tuple):
        return value
    inner = [
        values[each.at] if type(each) is ValuePlace
        else filled(each, values) if type(each) is tuple and each
        else each
        for each in value
    ]  # fmt: skip
    return tuple.__new__(type(value), inner)


def varies(value: Any) -> bool:
    """Whether `placed` left places in a value."""
    if isinstance(value, tuple) and type(value) is not ValuePlace:
        return any(map(varies, value))
    return type(value) is ValuePlace
