"""Which divisions of a loss in a Python file reach its backward pass, as those that accumulate do.

A loss that is divided for a log, or for a mean over batches, says nothing of a step.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from sim.inputs.python_names import Names, Scope, dotted

_BACKWARD = ("backward", "manual_backward")  # the latter Lightning's
Division = ast.BinOp | ast.AugAssign
_BoundName = tuple[int, str]


def divided_losses(module: ast.Module, names: Names) -> set[Division]:
    """Divisions of what is called a loss whose result a call of ``backward`` is given.

    Parameters
    ----------
    module : ast.Module
        The file.
    names : Names
        What its names stand for.

    Returns
    -------
    set of ast.BinOp and ast.AugAssign
        ``loss / n`` within the call, or assigned to a name that reaches it, through methods
        (``scaler.scale(loss)``), products and functions of the file; no part of a sum.
    """
    found = _Reached(module, names)
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in _BACKWARD:
            found.follow([*node.args, *_owner(node)])
    return found.divisions


def _owner(node: ast.Call) -> list[ast.expr]:
    """What a method is called on."""
    return [node.func.value] if isinstance(node.func, ast.Attribute) else []


def _is_loss(node: ast.expr) -> bool:
    """What is called a loss, or a call of what is (``cross_entropy``, ``compute_loss``)."""
    name = dotted(node.func) if isinstance(node, ast.Call) else dotted(node)
    return name.lower().endswith(("loss", "cross_entropy"))


class _Reached:
    """Expressions that what is looked at is made of, each once."""

    def __init__(self, module: ast.Module, names: Names) -> None:
        self.divisions: set[Division] = set()
        self._names = names
        self._seen: set[ast.AST] = set()
        self._followed: set[_BoundName] = set()
        self._given: dict[_BoundName, list[ast.expr | ast.AugAssign]] = {}
        self._returned: dict[str, list[ast.expr]] = {}
        for node in ast.walk(module):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._give(target, node, node.value)
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                self._give(node.target, node, node.value)
            elif isinstance(node, ast.AugAssign):
                self._give(node.target, node, node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._returned.setdefault(node.name, []).extend(_returns(node))

    def follow(self, nodes: Iterable[ast.expr | ast.AugAssign]) -> None:
        """Note divisions in some expressions, and in what their names are given."""
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in self._seen:
                self._seen.add(node)
                waiting += self._parts(node)

    def _parts(self, node: ast.expr | ast.AugAssign) -> list[ast.expr | ast.AugAssign]:
        if isinstance(node, ast.AugAssign):
            if isinstance(node.op, ast.Div) and _is_loss(node.target):
                self.divisions.add(node)
            return []
        if isinstance(node, ast.BinOp):
            if isinstance(node.op, ast.Div) and _is_loss(node.left):
                self.divisions.add(node)
            return [node.left, node.right] if isinstance(node.op, ast.Mult | ast.Div) else []
        if isinstance(node, ast.IfExp):
            return [node.body, node.orelse]
        if isinstance(node, ast.Tuple | ast.List):
            return list(node.elts)
        if isinstance(node, ast.Call):
            called = dotted(node.func).rpartition(".")[2]
            return [*self._returned.pop(called, ()), *_owner(node), *node.args]
        if isinstance(node, ast.Name | ast.Attribute):
            return self._named(node)
        return []

    def _named(self, node: ast.Name | ast.Attribute) -> list[ast.expr | ast.AugAssign]:
        scope = self._names.scope(node)
        key = _key(node, scope)
        if key in self._followed:
            return []
        self._followed.add(key)
        found = self._given.get(key, [])
        if isinstance(node, ast.Name):  # what calls pass to a parameter, too
            values = scope.values(node.id) or []
            found = [
                *found,
                *(value.node for value in values if value.node is not None),
            ]
        return found

    def _give(self, target: ast.expr, stands: ast.AST, value: ast.expr | ast.AugAssign) -> None:
        scope = self._names.scope(stands)
        for part in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
            if dotted(part):
                self._given.setdefault(_key(part, scope), []).append(value)


def _key(node: ast.expr, scope: Scope) -> _BoundName:
    """A name where it is bound; attributes are those of the whole file."""
    name, bound = dotted(node), scope if isinstance(node, ast.Name) else None
    while bound is not None and name not in bound.names:
        bound = bound.parent
    return id(bound) if bound is not None else 0, name


def _returns(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    return [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and node.value is not None
    ]
