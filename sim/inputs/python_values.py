"""What expressions of a Python file are worth, as far as the file says; nothing is run."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

from sim.inputs.python_names import Names, Scope, dotted
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree

UNKNOWN = "$"  # how the text of what only a run knows begins
_DEEPEST = 12  # of values within values
_MOST = 200_000  # values of a file, those that names stand for among them, at 10 us each
_LARGEST, _HIGHEST = 1e12, 64  # of numbers that are worked with, and of powers
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Div: operator.truediv, ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}  # fmt: skip
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_MADE: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "str": str}
#: what asks a GPU whether it has bf16: Ampere and later, so those that train in it
_HAS_BF16 = re.compile(r"is_bf(?:loat)?16_supported$")
_ENVIRONMENT = ("os.environ.get", "environ.get", "os.getenv", "getenv")


class TooMuch(ValueError):
    """Names that stand for lists of names that stand for lists: more than anybody writes."""

    def __init__(self) -> None:
        super().__init__(f"its names stand for more than {_MOST:,} values; write what they hold")


def is_unknown(tree: Tree | None) -> bool:
    """Whether a value is one that only a run knows."""
    return isinstance(tree, Leaf) and str(tree.value).startswith(UNKNOWN)


class Values:
    """Values of a file's expressions, by its names; all that it is asked raise `TooMuch`."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._left = _MOST

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooMuch

    def tree(self, node: ast.expr, scope: Scope, place: Place, depth: int = 0) -> Tree:
        """What an expression is worth; a text that begins with `UNKNOWN` where none is said."""
        self._count()
        if depth <= _DEEPEST:
            if isinstance(node, ast.List | ast.Tuple | ast.Set):
                return Items([self.tree(x, scope, place, depth + 1) for x in node.elts], place)
            if isinstance(node, ast.Dict):
                return Branch({
                    key: self.tree(value, scope, place, depth + 1)
                    for key, value in self.entries(node, scope)
                }, place)  # fmt: skip
            if isinstance(node, ast.Name | ast.Attribute):
                if (path := dotted(node)).startswith("torch."):
                    return Leaf(path, place)
                if found := self.names.of(node, scope):
                    assert found.node is not None
                    return self.tree(found.node, found.scope, place, depth + 1)
            if isinstance(node, ast.IfExp):
                on = self.truth(node.test, scope, depth + 1)
                if on is not None:
                    taken = node.body if on else node.orelse
                    return self.tree(taken, scope, place, depth + 1)
            value = self._scalar(node, scope, depth)
            if value is not UNKNOWN:
                return Leaf(value, place)
        return Leaf(f"{UNKNOWN}{{{ast.unparse(node)[:80]}}}", place)

    def entries(
        self, node: ast.expr, scope: Scope, depth: int = 0
    ) -> Iterator[tuple[str, ast.expr]]:
        """Keys and values of a mapping, also by its name; ``**`` and what the file does not say."""
        self._count()
        found = self.names.of(node, scope)
        if found is not None and found.node is not None and depth <= _DEEPEST:
            yield from self.entries(found.node, found.scope, depth + 1)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is None:
                    yield from self.entries(value, scope, depth + 1)
                else:
                    yield str(key.value) if isinstance(key, ast.Constant) else "**", value
        elif isinstance(node, ast.Call) and dotted(node.func) == "dict" and not node.args:
            for keyword in node.keywords:
                if keyword.arg is None:
                    yield from self.entries(keyword.value, scope, depth + 1)
                else:
                    yield keyword.arg, keyword.value
        else:
            yield "**", node

    def truth(self, node: ast.expr, scope: Scope, depth: int = 0) -> bool | None:
        """Whether a condition holds; None where only a run knows."""
        if depth > _DEEPEST:
            return None
        if isinstance(node, ast.BoolOp):
            sides = [self.truth(side, scope, depth + 1) for side in node.values]
            ends = isinstance(node.op, ast.Or)  # the value that decides whatever the others are
            return ends if ends in sides else None if None in sides else not ends
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.truth(node.operand, scope, depth + 1)
            return None if inner is None else not inner
        value = self._known(node, scope, depth)
        return None if value is UNKNOWN else bool(value)

    def _known(self, node: ast.expr, scope: Scope, depth: int) -> Any:
        found = self.tree(node, scope, Place(""), depth + 1)
        return found.value if isinstance(found, Leaf) and not is_unknown(found) else UNKNOWN

    def _scalar(self, node: ast.expr, scope: Scope, depth: int) -> Any:
        """A scalar; `UNKNOWN` where the file does not say it."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
            return node.value
        if isinstance(node, ast.Name) and node.id == "__name__":
            return "__main__"
        if isinstance(node, ast.Call):
            return self._call(node, scope, depth)
        if isinstance(node, ast.UnaryOp):
            if isinstance(node.op, ast.Not):
                value = self.truth(node, scope, depth)
                return UNKNOWN if value is None else value
            value = self._known(node.operand, scope, depth)
            if isinstance(node.op, ast.USub) and isinstance(value, int | float):
                return -value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return self._sum(node, scope, depth)
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            sides = [self._known(x, scope, depth) for x in (node.left, node.comparators[0])]
            compare = _COMPARED.get(type(node.ops[0]))
            if compare is not None and not any(side is UNKNOWN for side in sides):
                try:
                    return bool(compare(*sides))
                except TypeError:
                    return UNKNOWN
        return UNKNOWN

    def _call(self, node: ast.Call, scope: Scope, depth: int) -> Any:
        """Calls whose result the file says: numbers of texts, defaults of the environment."""
        called, given = dotted(node.func), node.args
        if _HAS_BF16.search(called):
            return True
        if called in _ENVIRONMENT and len(given) == 2:
            return self._known(given[1], scope, depth)
        if called in _MADE and len(given) == 1 and not node.keywords:
            value = self._known(given[0], scope, depth)
            if value is not UNKNOWN and value is not None:
                try:
                    return _MADE[called](value)
                except (ValueError, OverflowError):
                    return UNKNOWN
        return UNKNOWN

    def _sum(self, node: ast.BinOp, scope: Scope, depth: int) -> Any:
        sides = self._known(node.left, scope, depth), self._known(node.right, scope, depth)
        if not all(isinstance(side, int | float) and abs(side) < _LARGEST for side in sides):
            return UNKNOWN
        if isinstance(node.op, ast.Pow) and abs(sides[1]) > _HIGHEST:
            return UNKNOWN
        try:
            value = _OPERATORS[type(node.op)](*sides)
        except ArithmeticError:
            return UNKNOWN
        return value if isinstance(value, int | float) else UNKNOWN
