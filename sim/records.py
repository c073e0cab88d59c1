"""Dataclasses and named tuples that cost an import little: their methods are shared."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from operator import attrgetter
from reprlib import recursive_repr
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # says that it is handed on
    from inspect import Signature
    from typing import NamedTuple as NamedTuple
else:

    def dataclass(*, frozen: bool = False, slots: bool) -> Callable[[type], type]:
        """`dataclasses.dataclass` of slots, in a fifth of its time.

        Classes, instances, `dataclasses.fields`, `replace` and pickles are alike. Where the
        library writes a class's methods as text and compiles them, 0.5 ms a class, these are
        closures over its fields. A class of which many are made is given a compiled constructor
        then.

        Parameters
        ----------
        frozen : bool
            Whether fields cannot be set again; such records are hashed by them. [False]
        slots : bool
            True: classes without slots are left to the library.
        """

        def made(cls: type) -> type:
            own = frozenset(vars(cls))
            # of one that is frozen the library compiles two methods yet, half of what is left
            frozen_here = frozen and not any(map(dataclasses.is_dataclass, cls.__mro__))
            found = dataclasses.dataclass(
                frozen=frozen and not frozen_here, slots=slots, init=False, repr=False, eq=False
            )(cls)
            _furnish(found, own, frozen)
            if frozen_here:
                _freeze(found, own)
            return found

        return made


#: instances after which a class is worth a constructor of its own
MANY = 200


def _furnish(cls: Any, own: frozenset[str], frozen: bool) -> None:
    """Give a class the methods that it does not write itself."""
    fields = dataclasses.fields(cls)
    compared = _values([f.name for f in fields if f.compare])

    def same(self: Any, other: object) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return compared(self) == compared(other)

    methods: dict[str, Any] = {
        "__init__": _init(cls, fields, frozen),
        "__repr__": _repr([f.name for f in fields if f.repr]),
        "__eq__": same,
        "__hash__": (lambda self: hash(compared(self))) if frozen else None,
        "__signature__": _Signature(),
    }
    for name, method in methods.items():
        if name not in own:
            if callable(method):
                method.__name__ = name
                method.__qualname__ = f"{cls.__qualname__}.{name}"
            setattr(cls, name, method)


def _freeze(cls: Any, own: frozenset[str]) -> None:
    """Let no field of a class without a base be set or deleted."""
    names = [f.name for f in dataclasses.fields(cls)]
    puts = [getattr(cls, name).__set__ for name in names]
    values = _values(names)

    def set_state(self: Any, state: Sequence[Any]) -> None:
        for put, value in zip(puts, state, strict=True):
            put(self, value)

    cls.__dataclass_params__.frozen = True
    cls.__setattr__, cls.__delattr__ = _refuse_to_set, _refuse_to_delete
    if "__getstate__" not in own:  # what copies and pickles are made by
        cls.__getstate__ = lambda self: list(values(self))
    if "__setstate__" not in own:
        cls.__setstate__ = set_state


def _refuse_to_set(self: object, name: str, value: object) -> None:
    message = f"cannot assign to field {name!r}"
    raise dataclasses.FrozenInstanceError(message)


def _refuse_to_delete(self: object, name: str) -> None:
    message = f"cannot delete field {name!r}"
    raise dataclasses.FrozenInstanceError(message)


def _values(names: list[str]) -> Callable[[Any], Any]:
    """What reads these fields of an instance, as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple([getattr(self, name) for name in names])


def _init(
    cls: Any, fields: tuple[dataclasses.Field[Any], ...], frozen: bool
) -> Callable[..., None]:
    taken = [f for f in fields if f.init]
    names = [f.name for f in taken]
    most = len(names)
    puts = [getattr(cls, name).__set__ for name in names]
    missing = dataclasses.MISSING
    pairs = list(zip(names, puts, strict=True))
    defaults = {f.name: f.default for f in taken if f.default is not missing}
    makers: dict[str, Callable[[], Any]] = {
        f.name: f.default_factory for f in taken if f.default_factory is not missing
    }
    after = hasattr(cls, "__post_init__")
    left = MANY

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if not left and vars(cls).get("__init__") is init:
            cls.__init__ = _compiled_init(cls, taken, puts, after, frozen)
        rest = pairs
        if args:
            for put, value in zip(puts, args):  # noqa: B905  # `_refused` counts them
                put(self, value)
            rest = pairs[len(args) :]
        used = 0
        for name, put in rest:
            if name in kwargs:
                put(self, kwargs[name])
                used += 1
            elif name in defaults:
                put(self, defaults[name])
            elif name in makers:
                put(self, makers[name]())
            else:
                message = f"{cls.__name__}() lacks {name!r}"
                raise TypeError(message)
        if used < len(kwargs) or len(args) > most:
            raise TypeError(_refused(cls.__name__, names, len(args), kwargs))
        if after:
            self.__post_init__()

    return init


def _compiled_init(
    cls: Any, taken: Sequence[dataclasses.Field[Any]], puts: Sequence[Callable[..., None]],
    after: bool, frozen: bool,
) -> Any:  # fmt: skip
    """The same as text, which is compiled: 0.3 ms, and three times as fast."""
    missing = dataclasses.MISSING
    known: dict[str, Any] = {"missing": missing}
    heads, lines = [], []
    for i, f in enumerate(taken):
        known |= {f"put{i}": puts[i], f"given{i}": f.default, f"make{i}": f.default_factory}
        value = f.name
        if f.default_factory is not missing:
            heads.append(f"{f.name}=missing")
            value = f"make{i}() if {f.name} is missing else {f.name}"
        else:
            heads.append(f.name if f.default is missing else f"{f.name}=given{i}")
        lines.append(f" put{i}(self, {value})" if frozen else f" self.{f.name} = {value}")
    lines += [" self.__post_init__()"] * after
    exec("\n".join((f"def init(self, {', '.join(heads)}):", *lines)), known)
    method = known["init"]
    method.__name__, method.__qualname__ = "__init__", f"{cls.__qualname__}.__init__"
    return method


def _refused(cls: str, names: list[str], given: int, kwargs: dict[str, Any]) -> str:
    """Why arguments cannot be."""
    if given > len(names):
        return f"{cls}() takes {len(names)} arguments, not {given}"
    twice = [name for name in names[:given] if name in kwargs]
    if twice:
        return f"{cls}() is given {twice[0]!r} twice"
    unknown = ", ".join(repr(name) for name in kwargs if name not in names)
    return f"{cls}() takes no {unknown}; it takes {', '.join(names)}"


def _repr(names: list[str]) -> Callable[[Any], str]:
    @recursive_repr()
    def shown(self: Any) -> str:
        parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({parts})"

    return shown


class _Signature:
    """What `inspect` and `help` say of a class, worked out when they ask."""

    def __get__(self, instance: object, cls: Any) -> Signature:
        from inspect import Parameter, Signature

        return Signature(list(_parameters(cls, Parameter)))


def _parameters(cls: Any, parameter: Any) -> Iterator[Any]:
    for f in dataclasses.fields(cls):
        if f.init:
            default = f.default
            if default is dataclasses.MISSING:
                made = f.default_factory is not dataclasses.MISSING
                default = ... if made else parameter.empty
            kind = parameter.POSITIONAL_OR_KEYWORD
            yield parameter(f.name, kind, default=default, annotation=f.type)


_new = tuple.__new__
_known = {"_new": _new, "__name__": __name__}
#: what reads a field by its place, as the library's named tuples have it
_Reader: Any = type(vars(namedtuple("_One", "field"))["field"])


@cache
def _reader(place: int) -> Any:
    return _Reader(place, f"Alias for field number {place}")


@cache
def _constructor(many: int) -> CodeType:
    """Code of a constructor of so many fields, which are yet to be named."""
    fields = "".join(f"field{i}, " for i in range(many))
    code: CodeType = eval(f"lambda _cls, {fields}: _new(_cls, ({fields}))").__code__
    return code


class _Named(tuple[Any, ...]):
    """What named tuples have in common."""

    __slots__ = ()
    if TYPE_CHECKING:  # an annotation is a field to who asks for type hints
        _fields: tuple[str, ...]

    @classmethod
    def _make(cls, values: Iterable[Any]) -> Any:
        """One of these values."""
        found = _new(cls, values)
        if len(found) != len(cls._fields):
            message = f"Expected {len(cls._fields)} arguments, got {len(found)}"
            raise TypeError(message)
        return found

    def _replace(self, /, **changes: Any) -> Any:
        """A tuple with other values of some fields."""
        found = _new(self.__class__, map(changes.pop, self._fields, self))
        if changes:
            message = f"Got unexpected field names: {list(changes)!r}"
            raise ValueError(message)
        return found

    __replace__ = _replace  # of `copy.replace`

    def _asdict(self) -> dict[str, Any]:
        """Values by field."""
        return dict(zip(self._fields, self, strict=True))

    def __repr__(self) -> str:
        """It with the names of its fields."""
        parts = ", ".join(f"{n}={v!r}" for n, v in zip(self._fields, self, strict=True))
        return f"{self.__class__.__name__}({parts})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What copies and pickles are made of."""
        return tuple(self)


class _Naming(type):
    """Makes a named tuple of a class."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        del bases  # `NamedTuple`, which is none of its own
        fields = tuple(body.get("__annotations__", ()))
        defaults = {field: body.pop(field) for field in fields if field in body}
        code = _constructor(len(fields)).replace(
            co_varnames=("_cls", *fields), co_name="__new__",
            co_qualname=f"{body['__qualname__']}.__new__",
        )  # fmt: skip
        own: dict[str, Any] = {
            "__slots__": (), "_fields": fields, "__match_args__": fields,
            "_field_defaults": defaults,
            "__new__": FunctionType(code, _known, "__new__", tuple(defaults.values())),
        }  # fmt: skip
        own |= {field: _reader(place) for place, field in enumerate(fields)}
        return type(name, (_Named,), own | body)


if not TYPE_CHECKING:
    #: `typing.NamedTuple` in a tenth of its time: that compiles each annotation and a constructor
    NamedTuple = type.__new__(_Naming, "NamedTuple", (), {})
