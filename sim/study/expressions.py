"""Conditions over names and numbers: ``nodes * micro_batch <= 64``, ``fits and mfu > 0.4``.

A small part of Python's expressions: numbers, quantities (``40 %``, ``12 s``), texts, dotted names,
arithmetic, comparisons, ``and``, ``or``, ``not``, ``in`` with a list. Nothing can be
called and nothing assigned.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from sim.errors import InputError

Lookup = Callable[[str], Any]  # raises KeyError for a name it does not have
_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNARY: dict[type[ast.AST], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
LONGEST = 2000
_PLAIN = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
#: a number with its unit, and an operator or the end behind it: `7 % nodes` is a remainder
_QUANTITY = re.compile(
    r"""(?<![\w.])(?:\$\s*{n}|{n}\s*(?!(?:and|or|not|in|if|is|else)\b|[eE][+-]?\d)(?:%|[^\W\d_][\w/$]*))
    (?=\s*(?:$|[)\],<>=!+*-]|(?:and|or)\b))""".replace("{n}", _PLAIN),
    re.VERBOSE,
)


_ASSIGNS = re.compile(r"(?<![<>=!:])=(?!=)")


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition; `names` are the dotted names in it."""

    text: str
    source: str
    names: tuple[str, ...]
    body: ast.expr

    @property
    def compared(self) -> list[tuple[str, str]]:
        """Names that are asked to be equal, or unequal, to another name."""
        pairs = [
            (_dotted(node.left), _dotted(node.comparators[0]))
            for node in ast.walk(self.body)
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq)
        ]
        return [(left, right) for left, right in pairs if left and right]

    def holds(self, lookup: Lookup) -> bool:
        """Whether it holds; a name without a value (None) makes it false."""
        try:
            return bool(_value(self.body, lookup))
        except KeyError as error:
            raise InputError.single(
                self.source, f"no such name: {error.args[0]}", self.text
            ) from None
        except ZeroDivisionError:
            return False
        except TypeError as error:
            if "NoneType" in str(error):
                return False
            raise self._unlike(error) from None

    def over(self, lookup: Lookup) -> Any:
        """Where it holds; names are columns of equal length, not a number for no value."""
        try:
            return _over(self.body, lookup)
        except TypeError as error:
            raise self._unlike(error) from None

    def _unlike(self, error: TypeError) -> InputError:
        return InputError.single(self.source, f"compares unlike things: {error}", self.text)


def parse_condition(text: str, source: str, known: set[str] | None = None) -> Condition:
    """Read a condition.

    Parameters
    ----------
    text : str
        Such as ``"fits and mfu > 0.4"``.
    source : str
        Named in faults.
    known : set of str, optional
        Names that exist; another one is a fault with the nearest of them.

    Raises
    ------
    InputError
        What was read and what is allowed.
    """
    if len(text) > LONGEST:
        raise InputError.single(source, f"is longer than {LONGEST} characters")
    try:
        body = ast.parse(_in_si(text.strip(), source), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        if _ASSIGNS.search(text):
            message = 'what is equal is written with ==, words in quotes: verdict == "fits"'
        else:
            message = 'cannot be read; write for example "fits and mfu > 0.4"'
        raise InputError.single(source, message, text) from None
    names: list[str] = []
    _check(body, names, source, text)
    for name in names:
        if known is not None and name not in known:
            near = get_close_matches(name, known, 1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise InputError.single(source, f"no such name: {name}{hint}", text)
    return Condition(text, source, tuple(dict.fromkeys(names)), body)


def _in_si(text: str, source: str) -> str:
    """The text with its quantities as plain numbers."""
    from sim import units

    def number(match: re.Match[str]) -> str:
        try:
            return repr(units.parse_any(match[0]))
        except units.UnitError as no:
            raise InputError.single(source, str(no), text) from None

    return _QUANTITY.sub(number, text)


def _check(node: ast.expr, names: list[str], source: str, text: str) -> None:
    """Refuse whatever is not of the small language; collect names."""
    name = _dotted(node)
    if name is not None:
        names.append(name)
        return
    children: list[ast.expr]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        return
    if isinstance(node, ast.BoolOp):
        children = node.values
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        children = [node.operand]
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        children = [node.left, node.right]
    elif isinstance(node, ast.Compare) and all(type(op) in _BINARY for op in node.ops):
        children = [node.left, *node.comparators]
    elif isinstance(node, ast.List | ast.Tuple):
        children = node.elts
    else:
        part = ast.unparse(node)
        message = f"{part!r} is not allowed; names, numbers, texts, comparisons and arithmetic are"
        raise InputError.single(source, message, text)
    for child in children:
        _check(child, names, source, text)


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return {"true": None, "false": None}.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else None
    return None


def _value(node: ast.expr, lookup: Lookup) -> Any:
    name = _dotted(node)
    if name is not None:
        return lookup(name)
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BoolOp):
        wanted = isinstance(node.op, ast.Or)
        for part in node.values:
            if bool(_value(part, lookup)) is wanted:
                return wanted
        return not wanted
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)](_value(node.operand, lookup))
    if isinstance(node, ast.BinOp):
        sides = _value(node.left, lookup), _value(node.right, lookup)
        if any(isinstance(side, str | list) for side in sides):  # 'x' * 10 ** 9 fills the memory
            message = "arithmetic is of numbers"
            raise TypeError(message)
        return _BINARY[type(node.op)](*sides)
    if isinstance(node, ast.Compare):
        left = _value(node.left, lookup)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = _value(comparator, lookup)
            if not _BINARY[type(op)](left, right):
                return False
            left = right
        return True
    assert isinstance(node, ast.List | ast.Tuple)
    return [_value(item, lookup) for item in node.elts]


def _over(node: ast.expr, lookup: Lookup) -> Any:
    """As `_value`, of columns."""
    if isinstance(node, ast.BoolOp):
        parts = [_over(part, lookup) for part in node.values]
        every = isinstance(node.op, ast.And)
        return (np.logical_and if every else np.logical_or).reduce(np.broadcast_arrays(*parts))
    if isinstance(node, ast.UnaryOp):
        value = _over(node.operand, lookup)
        turned = np.logical_not if isinstance(node.op, ast.Not) else _UNARY[type(node.op)]
        return turned(value)
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_over(node.left, lookup), _over(node.right, lookup))
    if isinstance(node, ast.Compare):
        sides = [_over(side, lookup) for side in (node.left, *node.comparators)]
        found = np.ones((), bool)
        for op, left, right in zip(node.ops, sides, sides[1:], strict=False):
            if isinstance(op, ast.In | ast.NotIn):
                held = np.isin(left, right, invert=isinstance(op, ast.NotIn))
            else:
                held = _BINARY[type(op)](left, right)
            found = np.asarray(np.logical_and(found, held))
        return found
    return _value(node, lookup)
