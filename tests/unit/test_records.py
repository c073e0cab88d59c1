"""Records are dataclasses, or named tuples, in all that one sees of them."""

import copy
import dataclasses
import inspect
import pickle
import typing
from pathlib import Path

import pytest

import sim
from sim.records import MANY, NamedTuple, dataclass


@dataclass(frozen=True, slots=True)
class Frozen:
    """A record."""

    a: int
    b: float = 1.5
    c: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Wider(Frozen):
    """A record of more, one field of which it makes itself."""

    d: list[int] = dataclasses.field(default_factory=list)
    e: int = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "e", self.a + len(self.d))


@dataclass(slots=True)
class Open:
    """A record that changes."""

    a: int = 0


@dataclass(frozen=True, slots=True)
class Odd:
    """A record with a method of its own in place of one that it would be given."""

    a: int

    def __repr__(self):
        return "odd"

    def __hash__(self):
        return 7


#: the same by the library, class by class
LIBRARY = {
    cls: dataclasses.make_dataclass(
        cls.__name__,
        [(f.name, f.type, dataclasses.field(**options)) for f, options in fields],
        frozen=cls is not Open, slots=True,
    )
    for cls, fields in (
        (Frozen, [(f, {}) if f.name == "a" else (f, {"default": f.default, "compare": f.compare,
                                                  "repr": f.repr})
                  for f in dataclasses.fields(Frozen)]),
        (Open, [(f, {"default": 0}) for f in dataclasses.fields(Open)]),
    )
}  # fmt: skip


@pytest.mark.parametrize("frozen", [True, False])
def test_a_class_of_which_many_are_made_makes_them_as_before(frozen):
    @dataclass(frozen=frozen, slots=True)
    class Many:
        a: int
        b: float = 1.5
        c: list[int] = dataclasses.field(default_factory=list)
        d: int = dataclasses.field(init=False)

        def __post_init__(self):
            object.__setattr__(self, "d", self.a + len(self.c))

    def made():
        return [Many(3), Many(a=4, c=[7, 8]), Many(1, 2.0, [3])]

    before, slow = made(), Many.__init__
    for _ in range(MANY):
        Many(5)
    assert Many.__init__ is not slow
    assert made() == before
    assert repr(made()) == repr(before)
    assert Many(1).c is not Many(1).c
    for args, kwargs in (((), {}), ((1, 2, [], 4), {}), ((1,), {"a": 1}), ((1,), {"x": 1})):
        with pytest.raises(TypeError):
            Many(*args, **kwargs)


@pytest.mark.parametrize("cls", list(LIBRARY))
def test_instances_are_as_the_library_makes_them(cls):
    mine, theirs = cls(3), LIBRARY[cls](3)
    assert repr(mine) == repr(theirs)
    assert dataclasses.asdict(mine) == dataclasses.asdict(theirs)
    mine_takes, theirs_take = inspect.signature(cls), inspect.signature(LIBRARY[cls])
    assert mine_takes.parameters == theirs_take.parameters
    assert cls.__match_args__ == LIBRARY[cls].__match_args__
    assert (cls.__hash__ is None) == (LIBRARY[cls].__hash__ is None)
    assert not hasattr(mine, "__dict__")
    assert mine == cls(a=3) != cls(a=4)
    assert mine != theirs
    for other in (copy.copy(mine), copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert other == mine
    assert dataclasses.replace(mine, a=5) == cls(5)


def test_what_is_left_out_of_comparing():
    assert Frozen(1, c=(1,)) == Frozen(1, c=(2,))
    assert hash(Frozen(1, c=(1,))) == hash(Frozen(1, 1.5))
    assert repr(Frozen(1, c=(1,))) == "Frozen(a=1, b=1.5)"


def test_defaults_inheritance_and_what_a_class_says_itself():
    wide = Wider(1, 2.0, d=[1, 2])
    assert (wide.c, wide.e) == ((), 3)
    assert Wider(1).d is not Wider(1).d
    assert wide != Frozen(1, 2.0)
    assert repr(Odd(1)) == "odd"
    assert hash(Odd(1)) == 7
    assert Odd(1) == Odd(1)


def test_frozen_ones_cannot_be_set_and_open_ones_can():
    for cls in (Frozen, LIBRARY[Frozen], Wider):
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'a'"):
            cls(1).a = 2
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'a'"):
            del cls(1).a
        assert cls.__dataclass_params__.frozen
    with pytest.raises(AttributeError):
        Open().b = 2
    record = Open()
    record.a = 4
    assert record == Open(4)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "Frozen() lacks 'a'"),
        ((1, 2, 3, 4), {}, "Frozen() takes 3 arguments, not 4"),
        ((1,), {"a": 2}, "Frozen() is given 'a' twice"),
        ((1,), {"x": 2}, "Frozen() takes no 'x'; it takes a, b, c"),
    ],
)
def test_wrong_arguments(args, kwargs, says):
    with pytest.raises(TypeError) as caught:
        Frozen(*args, **kwargs)
    assert str(caught.value) == says


class Row(NamedTuple):
    """A row."""

    a: int
    b: float = 1.5
    c: tuple[int, ...] = ()

    @property
    def sum(self):
        return self.a + self.b

    @classmethod
    def of(cls, a):
        return cls(a, 2.0)


class Keyed(NamedTuple):
    """A row with a method of its own in place of one that it would be given."""

    a: int
    b: list

    def __hash__(self):
        return super().__hash__() if isinstance(self.b, tuple) else self.a


class TheirRow(typing.NamedTuple):
    """A row."""

    a: int
    b: float = 1.5
    c: tuple[int, ...] = ()


TheirRow.__name__ = TheirRow.__qualname__ = "Row"


def test_named_tuples_are_as_the_library_makes_them():
    assert Row._fields == Row.__match_args__ == TheirRow._fields
    assert Row._field_defaults == TheirRow._field_defaults
    assert list(inspect.signature(Row).parameters) == ["a", "b", "c"]
    for name, theirs in inspect.signature(TheirRow).parameters.items():
        assert inspect.signature(Row).parameters[name].default == theirs.default
    assert list(Row.__annotations__) == list(TheirRow.__annotations__)
    assert typing.get_type_hints(Row) == typing.get_type_hints(TheirRow)
    assert (Row.__doc__, Row.a.__doc__) == (TheirRow.__doc__, TheirRow.a.__doc__)
    for args, kwargs in (((1,), {}), ((1, 2.0, (3,)), {}), ((), {"c": (1,), "a": 4})):
        mine, theirs = Row(*args, **kwargs), TheirRow(*args, **kwargs)
        assert isinstance(mine, tuple)
        assert mine == theirs
        assert hash(mine) == hash(theirs)
        assert repr(mine) == repr(theirs)
        assert mine._asdict() == theirs._asdict()
        assert (mine.a, mine.b, mine.c) == (theirs.a, theirs.b, theirs.c)
        assert mine._replace(b=9.0) == theirs._replace(b=9.0)
        assert not hasattr(mine, "__dict__")
        for other in (mine._replace(), Row._make(list(mine)), copy.copy(mine), copy.deepcopy(mine),
                      pickle.loads(pickle.dumps(mine))):  # fmt: skip
            assert other == mine
            assert type(other) is Row


@pytest.mark.parametrize(
    "wrong",
    [
        lambda row: row(), lambda row: row(1, 2.0, (), 4), lambda row: row(1, a=2),
        lambda row: row(1, x=2), lambda row: row._make([1]), lambda row: row(1)._replace(x=2),
        lambda row: setattr(row(1), "a", 2), lambda row: setattr(row(1), "x", 2),
    ],
)  # fmt: skip
def test_wrong_uses_of_a_named_tuple_are_told_as_by_the_library(wrong):
    said = []
    for row in (Row, TheirRow):
        with pytest.raises((TypeError, ValueError, AttributeError)) as caught:
            wrong(row)
        said.append((caught.type, str(caught.value).replace("TheirRow", "Row")))
    assert said[0] == said[1]


def test_what_a_named_tuple_says_itself():
    assert Row(1).sum == 2.5
    assert Row.of(3) == (3, 2.0, ())
    assert hash(Keyed(7, [])) == 7
    assert hash(Keyed(7, ())) == hash((7, ()))
    match Row(1, 2.0, (3,)):
        case Row(a, c=(third,)):
            assert (a, third) == (1, 3)

    class Longer(Row):
        """One that inherits from it."""

        def sum_of_all(self):
            return self.sum + sum(self.c)

    assert Longer(1, 2.0, (3,)).sum_of_all() == 6.0
    assert Longer(1)._replace(c=(2,)).sum_of_all() == 4.5


def test_named_tuples_of_no_field_and_of_one():
    class One(NamedTuple):
        a: int

    class Nothing(NamedTuple):
        pass

    assert One(3) == (3,)
    assert repr((One(3), Nothing())) == "(One(a=3), Nothing())"
    assert Nothing() == ()


def test_no_module_pays_for_the_librarys():
    files = Path(sim.__file__).parent.rglob("*.py")
    theirs = [
        file.name for file in files
        for line in file.read_text("utf-8").splitlines()
        if line.startswith("from typing import") and "NamedTuple" in line
    ]  # fmt: skip
    assert theirs == []
