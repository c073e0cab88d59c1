"""Reads a tree into a spec class: types, units and bounds from the class, all faults collected.

The annotations of the spec classes are the schema.  `Binder.read` walks a class and a tree side by
side; short forms such as ``method: {lora: {rank: 16}}`` are put into the shape of their class first
(`sim.inputs.forms`).  What the class has and the tree lacks is recorded as assumed.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar, cast

from sim.choices import BOUNDS
from sim.errors import Fault
from sim.inputs.base import Spec
from sim.inputs.fields import Alternative, FieldPlan, plan_of, wanted
from sim.inputs.nearest import MISNOMERS, did_you_mean
from sim.inputs.scalars import SCALARS, Misread, described
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree
from sim.records import NamedTuple, dataclass

S = TypeVar("S", bound=Spec)

_NULLS = ("", "~", "null", "Null", "NULL")


Form = Callable[["Binder", Tree, str], "Branch | Spec | None"]
"""Puts a short form into the shape of its class: a table, a finished spec, or None (faulty)."""


class Assumption(NamedTuple):
    """A key left out, and the default it took."""

    path: str
    value: Any


#: top-level keys of which none is ours: a file of somebody else's, not one full of slips
_FOREIGN = 4


@dataclass(slots=True)
class Binder:
    """One reading of one or two files: where faults, origins and assumptions are gathered.

    It knows a class by its fields alone; `sim.inputs.reader.Reader` adds the short forms.
    """

    forms: typing.ClassVar[Mapping[str, Form]] = {}

    folder: Path | None = None  # relative paths in the file start here
    faults: list[Fault] = field(default_factory=list)
    assumed: list[Assumption] = field(default_factory=list)
    given: dict[str, Place] = field(default_factory=dict)  # path -> where its value was written
    quiet: bool = False  # catalogue entries record neither

    def fault(self, place: Place, path: str, message: str) -> None:
        """Record a fault."""
        self.faults.append(place.fault(path, message))

    def read(self, cls: type[S], tree: Tree, path: str) -> S | None:
        """A spec of `cls`, or None after recording why not."""
        if isinstance(tree, Leaf) and isinstance(tree.value, cls):
            self.given[path] = tree.place
            return tree.value
        form = self.forms.get(cls.__name__)
        if form is not None:
            shaped = form(self, tree, path)
            if shaped is None or isinstance(shaped, Spec):
                return cast("S | None", shaped)
            tree = shaped
        if not isinstance(tree, Branch):
            keys = ", ".join(list(plan_of(cls))[:4])
            # a whole file that is none of ours may be anybody's, and is not repeated
            what = described(tree) if path or tree.place.line is None else "what it says"
            self.fault(tree.place, path, f"{what} is no mapping of {keys}, ...")
            return None
        return self.read_table(cls, tree, path)

    def read_table(self, cls: type[S], table: Branch, path: str) -> S | None:
        """A spec of `cls` from a mapping of its own fields."""
        plan = plan_of(cls)
        before = len(self.faults)
        others = [*table.entries.keys() - plan.keys()]
        if not path and len(others) >= _FOREIGN and plan.keys() & table.entries <= {"name"}:
            ours = ", ".join([*plan][:8])
            message = f"none of its {len(others)} keys is one of {ours}, ..."
            self.fault(table.place, "", f"is another kind of file: {message}")
            return None
        values: dict[str, Any] = {}
        misspelt = []
        for key, sub in table.entries.items():
            where = f"{path}.{key}" if path else key
            known = plan.get(key)
            if known is None:
                place = table.keys.get(key, sub.place)
                below = "" if MISNOMERS.get(key) in plan else _below(key, plan)
                hint = f'; did you mean "{below}"?' if below else did_you_mean(key, plan)
                misspelt.append(hint)
                self.fault(place, where, "unknown key" + hint)
            else:
                if isinstance(sub, Leaf) and _is_null(sub):
                    sub = Leaf(None, table.keys.get(key, sub.place))  # "key:" ends a line too late
                values[key] = self.value(known, sub, where)
        for key, known in plan.items():
            if key in table.entries:
                continue
            where = f"{path}.{key}" if path else key
            if known.required:
                if not any(f'"{key}"' in hint for hint in misspelt):
                    self.fault(table.place, where, "is missing")
            elif not self.quiet:
                self.assumed.append(Assumption(where, known.default))
        if len(self.faults) > before:
            return None
        return cls.model_construct(**values)

    def partial(self, cls: type[Spec], table: Branch, keys: typing.Iterable[str]) -> dict[str, Any]:
        """Some top-level fields of `cls`, a key that is left out taking its default."""
        plan = plan_of(cls)
        values: dict[str, Any] = {}
        for key in keys:
            sub, known = table.entries.get(key), plan.get(key)
            if known is None:
                assert sub is not None
                self.fault(sub.place, key, "unknown key" + did_you_mean(key, plan))
            elif sub is not None:
                values[key] = self.value(known, sub, key)
            elif known.required:
                self.fault(table.place, key, "is missing")
            else:
                self.assumed.append(Assumption(key, known.default))
                values[key] = known.default
        return values

    def value(self, known: FieldPlan, tree: Tree, path: str) -> Any:
        """The value of one field; faults are recorded."""
        kinds = {a.kind: a for a in known.alternatives}
        self.given[path] = tree.place
        if isinstance(tree, Leaf) and _is_null(tree):
            if "none" in kinds:
                return None
            if "spec" in kinds or "tuple" in kinds or not known.required:
                message = "is empty; give it a value or leave the key out"
            else:
                message = "is empty"
            self.fault(tree.place, path, message)
            return None
        if "spec" in kinds:
            return self.read(kinds["spec"].detail, tree, path)
        if "tuple" in kinds:
            return self.items(kinds["tuple"].detail, tree, path)
        if not isinstance(tree, Leaf):
            self.fault(tree.place, path, f"{described(tree)} is not {wanted(known.alternatives)}")
            return None
        return self.scalar(known.alternatives, tree, path)

    def scalar(self, alternatives: tuple[Alternative, ...], leaf: Leaf, path: str) -> Any:
        """A scalar read by the first alternative that takes it."""
        messages: list[str] = []
        for alternative in alternatives:
            if alternative.kind == "none":
                continue
            try:
                value = SCALARS[alternative.kind](leaf, alternative.detail)
            except Misread as no:
                messages.append(str(no))
                continue
            for name, limit in alternative.bounds:
                words, holds = BOUNDS[name]
                if not holds(value, limit):
                    self.fault(leaf.place, path, f"{described(leaf)} is not {words} {limit:g}")
                    return None
            return value
        message = messages[0]
        if len(messages) > 1:
            message = f"{described(leaf)} is not {wanted(alternatives)}"
            hint = next((m for m in messages if ";" in m), "")
            message += hint and ";" + hint.partition(";")[2]
        self.fault(leaf.place, path, message)
        return None

    def items(self, alternatives: tuple[Alternative, ...], tree: Tree, path: str) -> Any:
        """A tuple; a lone text or number is a tuple of one."""
        if isinstance(tree, Leaf) and alternatives[0].kind in ("str", "int"):
            return (self.scalar(alternatives, tree, path),)
        if not isinstance(tree, Items):
            self.fault(tree.place, path, f"{described(tree)} is no list")
            return None
        known = FieldPlan(alternatives, True, None)
        return tuple(self.value(known, sub, f"{path}[{i}]") for i, sub in enumerate(tree.items))


def _is_null(leaf: Leaf) -> bool:
    return leaf.value is None or (not leaf.quoted and leaf.value in _NULLS)


def _below(key: str, plan: Mapping[str, FieldPlan]) -> str:
    """The dotted path of a key of this name, or of what others call so, one level down."""
    wanted_key = MISNOMERS.get(key, key)
    for name, known in plan.items():
        for kind, detail, _ in known.alternatives:
            if kind == "spec" and wanted_key in plan_of(detail):
                return f"{name}.{wanted_key}"
    return ""
