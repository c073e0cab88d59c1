"""Records are dataclasses in all that one sees of them."""

import copy
import dataclasses
import inspect
import pickle

import pytest

from sim.records import MANY, dataclass


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
