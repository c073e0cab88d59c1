"""Calls of a Python file or notebook with what it passes to them, which is read and never run.

    tree = from_calls(text, "train.py")
    tree.entries["TrainingArguments"].entries["bf16"]  # Leaf(True, ...)

What a name stands for is found where the file says so once, by a plain value: an assignment, the
default of a function's parameter, of a field of a data class or of an option of argparse.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sim.errors import Fault, InputError
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree

UNKNOWN = "$"  # how the text of what only a run knows begins
_DEEPEST = 12  # of values within values
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv, ast.Div: operator.truediv,
}  # fmt: skip
_MAGIC = re.compile(r"^(\s*)[%!?].*")
#: what asks a GPU whether it has bf16: Ampere and later, so those that train in it
_HAS_BF16 = re.compile(r"is_bf(?:loat)?16_supported$")


def from_calls(text: str, name: str) -> Branch:
    """The calls of a file, by what they call, each a mapping of its arguments.

    Parameters
    ----------
    text : str
        Python, or a notebook of it.
    name : str
        The file, as faults call it; ``.ipynb`` is a notebook.

    Returns
    -------
    Branch
        Dotted names of what is called, and of switches of torch's, each a call with its value; of
        several calls of one the first to pass an argument counts. Arguments without a name are
        ``0``, ``1``, a mapping of them that the file does not say is ``**``; what only a run knows
        is a text that begins with `UNKNOWN`.

    Raises
    ------
    InputError
        No Python of this release.
    """
    code, lines = _cells(text, name) if name.endswith(".ipynb") else (text, None)
    try:
        module = ast.parse(code)
    except SyntaxError as error:
        line = _line(error.lineno or 1, lines)
        raise InputError([Fault(name, line, None, "", f"is not Python: {error.msg}")]) from None
    except (RecursionError, MemoryError, ValueError):
        raise InputError.single(name, "is not Python: nested too deeply to be read") from None
    known = _names(module)
    found: dict[str, Branch] = {}
    for node in ast.walk(module):
        for called, at, arguments in _calls(node, known):
            place = Place(name, _line(at, lines))
            branch = found.setdefault(called, Branch({}, place))
            for key, value in arguments:
                if key not in branch.entries:
                    there = Place(name, _line(value.lineno, lines))
                    branch.entries[key] = _tree(value, known, there)
                    branch.keys[key] = there
    return Branch(dict(found), Place(name))


def _calls(
    node: ast.AST, known: dict[str, ast.expr]
) -> Iterator[tuple[str, int, Iterable[tuple[str, ast.expr]]]]:
    """What a node calls, its line and arguments; ``torch.backends... = value`` calls too."""
    if isinstance(node, ast.Call) and (called := _dotted(node.func)):
        yield called, node.lineno, _arguments(node, known)
    elif isinstance(node, ast.Assign):
        for name in map(_dotted, node.targets):
            if name.startswith("torch.backends."):
                yield name, node.lineno, [("0", node.value)]


def _cells(text: str, name: str) -> tuple[str, list[int]]:
    """The code of a notebook, and the line of the file that each of its lines is written in."""
    try:
        cells = json.loads(text)["cells"]
        sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError.single(name, "is no notebook: it has no cells") from None
    code, lines, at = [], [], 0
    for source in sources:
        for line in "".join(source).splitlines():
            at = max(at, text.find(json.dumps(line, ensure_ascii=False)[1:-1], at))
            lines.append(1 + text.count("\n", 0, at))
            code.append(_MAGIC.sub(r"\1pass", line))
    return "\n".join(code), lines


def _line(line: int, lines: list[int] | None) -> int:
    return lines[min(line, len(lines)) - 1] if lines else line


def _names(module: ast.Module) -> dict[str, ast.expr]:
    """Values of names that have one."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(module):
        for name, value in _said(node):
            found.setdefault(name, []).append(value)
    return {
        name: values[0] for name, values in found.items()
        if all(ast.dump(value) == ast.dump(values[0]) for value in values[1:])
    }  # fmt: skip


def _said(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names that a statement gives a value."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id, _default(node.value) or node.value
    elif isinstance(node, ast.arguments):
        last = node.args[len(node.args) - len(node.defaults) :]
        for argument, value in zip(
            [*last, *node.kwonlyargs], [*node.defaults, *node.kw_defaults], strict=True
        ):
            if value is not None:
                yield argument.arg, value
    elif isinstance(node, ast.Call) and _dotted(node.func).endswith("add_argument"):
        option = node.args[0] if node.args else None
        value = _default(node)
        if isinstance(option, ast.Constant) and value is not None:
            yield str(option.value).lstrip("-").replace("-", "_"), value


def _default(node: ast.expr) -> ast.expr | None:
    """The ``default`` of a call: of ``field`` or ``add_argument``."""
    keywords = node.keywords if isinstance(node, ast.Call) else []
    return next((k.value for k in keywords if k.arg == "default"), None)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def _arguments(node: ast.Call, known: dict[str, ast.expr]) -> Iterator[tuple[str, ast.expr]]:
    for i, value in enumerate(node.args):
        yield str(i), value
    for keyword in node.keywords:
        if keyword.arg is not None:
            yield keyword.arg, keyword.value
            continue
        inner = keyword.value
        if isinstance(inner, ast.Name):
            inner = known.get(inner.id, inner)
        if isinstance(inner, ast.Dict):
            for key, value in zip(inner.keys, inner.values, strict=True):
                if isinstance(key, ast.Constant):
                    yield str(key.value), value
        elif isinstance(inner, ast.Call) and _dotted(inner.func) == "dict":
            yield from ((k.arg, k.value) for k in inner.keywords if k.arg is not None)
        else:
            yield "**", keyword.value


def _tree(node: ast.expr, known: dict[str, ast.expr], place: Place, depth: int = 0) -> Tree:
    """What an expression is worth, as far as the file says."""
    if depth <= _DEEPEST:
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return Items([_tree(item, known, place, depth + 1) for item in node.elts], place)
        if isinstance(node, ast.Dict):
            return Branch({
                str(key.value): _tree(value, known, place, depth + 1)
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)
            }, place)  # fmt: skip
        if isinstance(node, ast.Name | ast.Attribute):
            named = node.id if isinstance(node, ast.Name) else node.attr
            dotted = _dotted(node)
            if dotted.startswith("torch."):
                return Leaf(dotted, place)
            if named in known:
                return _tree(known[named], known, place, depth + 1)
        value = _value(node, known, place, depth)
        if value is not UNKNOWN:
            return Leaf(value, place)
    return Leaf(f"{UNKNOWN}{{{ast.unparse(node)[:80]}}}", place)


def _value(node: ast.expr, known: dict[str, ast.expr], place: Place, depth: int) -> Any:
    """A scalar; `UNKNOWN` where the file does not say it."""

    def of(inner: ast.expr) -> Any:
        found = _tree(inner, known, place, depth + 1)
        if isinstance(found, Leaf) and not str(found.value).startswith(UNKNOWN):
            return found.value
        return UNKNOWN

    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.Call) and _HAS_BF16.search(_dotted(node.func)):
        return True
    if isinstance(node, ast.UnaryOp):
        value = of(node.operand)
        if isinstance(node.op, ast.Not) and isinstance(value, bool):
            return not value
        if isinstance(node.op, ast.USub) and isinstance(value, int | float):
            return -value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        sides = of(node.left), of(node.right)
        if all(isinstance(side, int | float) and abs(side) < 1e12 for side in sides):
            try:
                return _OPERATORS[type(node.op)](*sides)
            except ArithmeticError:
                return UNKNOWN
    return UNKNOWN
