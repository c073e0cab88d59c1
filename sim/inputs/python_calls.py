"""Calls of a Python file or notebook with what it passes to them, which is read and never run.

    tree = from_calls(text, "train.py")
    tree.entries["TrainingArguments"].items[0].entries["bf16"]  # Leaf(True, ...)

What a name stands for, `sim.inputs.python_names` knows, and what an expression is worth
`sim.inputs.python_values`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

from sim.errors import Fault, InputError
from sim.inputs.notebooks import cells, is_notebook
from sim.inputs.python_losses import divided_losses
from sim.inputs.python_names import Names, Scope, default_of, dotted
from sim.inputs.python_options import Options, options_of
from sim.inputs.python_values import TooMuch, Values
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree

CONDITION = "(if)"  # the key of the conditions that a call stands under, as no argument is called
NAME = "(name)"  # and of the name that its result is given; of an argument's, after its own
LOSS_OVER = "loss /"  # what is called where a loss is divided on its way to backward
_FREEZES = re.compile(r"\.requires_grad$")  # told as a call of ``requires_grad_``
PARSED = "(parsed)"  # of what a command line's parser makes, by its class's defaults
_HERE = f"{sys.version_info.major}.{sys.version_info.minor}, which reads it here"
_TOO_DEEP = "is not Python: nested too deeply to be read"
LATER = "="  # how the key of an attribute ends that is set where it cannot be followed


def from_calls(text: str, name: str, options: Mapping[str, str] | None = None) -> Branch:
    """The calls of a file, by what they call: of each the calls in order, as mappings of arguments.

    Parameters
    ----------
    text : str
        Python, or a notebook of it.
    name : str
        The file, as faults call it.
    options : mapping of str to str, optional
        What a command line gives to it: ``{"batch-size": "2"}``.

    Returns
    -------
    Branch
        Dotted names of what is called, and of switches of torch's (``torch.backends... = value``,
        ``p.requires_grad = value``), each with `Items` of `Branch`. Arguments without a name are
        ``0``, ``1``, a mapping of them that the file does not say is ``**``; what only a run knows
        is a text that begins with `sim.inputs.python_values.UNKNOWN`. Attributes that are set on
        what a call returns count as its arguments. What a parser makes of a command line
        (``HfArgumentParser``) is a call of the class that it fills, with the file's defaults.
        Calls under an ``if`` that the file says is false are left out.

    Raises
    ------
    InputError
        No Python of this release, or names that stand for too much.
    """
    module, lines = _module(text, name)
    try:
        calls = _Calls(module, name, lines, options)
        calls.visit(module)
        calls.parsed(options_of(module))
    except TooMuch as error:
        raise InputError.single(name, str(error)) from None
    except (RecursionError, MemoryError, ValueError):
        raise InputError.single(name, _TOO_DEEP) from None
    return Branch(dict(calls.found), Place(name))


def _module(text: str, name: str) -> tuple[ast.Module, list[int] | None]:
    """The file's tree, and of a notebook the lines of its own."""
    code, lines = cells(text, name) if is_notebook(text, name) else (text, None)
    try:
        return ast.parse(code), lines
    except SyntaxError as error:
        line = _line(error.lineno or 1, lines)
        raise InputError(
            [Fault(name, line, None, "", f"is not Python {_HERE}: {error.msg}")]
        ) from None
    except (RecursionError, MemoryError, ValueError):
        raise InputError.single(name, _TOO_DEEP) from None


def declared(text: str, name: str) -> frozenset[str]:
    """Options that a file's parsers take from a command line, with underscores.

    Raises
    ------
    InputError
        As `from_calls`.
    """
    return options_of(_module(text, name)[0]).names


def calls_of(tree: Branch) -> Iterator[tuple[str, Branch]]:
    """Each call of what `from_calls` gives, by what is called: its name and its arguments."""
    for name, calls in tree.entries.items():
        for call in calls.items if isinstance(calls, Items) else ():
            if isinstance(call, Branch):
                yield name, call


def _line(line: int, lines: list[int] | None) -> int:
    return lines[min(line, len(lines)) - 1] if lines else line


class _Calls(ast.NodeVisitor):
    """Calls in the order of the file, less those that it says are not made."""

    def __init__(
        self, module: ast.Module, name: str, lines: list[int] | None,
        options: Mapping[str, str] | None,
    ) -> None:  # fmt: skip
        names = Names(module, options)
        self.found: dict[str, Items] = {}
        self._names, self._values = names, Values(names)
        self._name, self._lines = name, lines
        self._under: list[str] = []  # conditions that only a run knows
        self._read: dict[ast.AST, tuple[Branch, list[str]]] = {}
        self._called: dict[ast.AST, str] = {}
        self._divided = divided_losses(module, names)

    def visit_If(self, node: ast.If) -> None:
        """Both branches, or the one that is taken."""
        self._either(node.test, node.body, node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """As the statement."""
        self._either(node.test, [node.body], [node.orelse])

    def visit_Assign(self, node: ast.Assign) -> None:
        """What a call's result is called, and attributes that are set on it."""
        for target in node.targets:
            first = target.elts[0] if isinstance(target, ast.Tuple) and target.elts else target
            if isinstance(first, ast.Name):
                self._called[node.value] = first.id
            elif (name := dotted(target)).startswith("torch.backends.") or _FREEZES.search(name):
                self._call(name, node, [("0", node.value)])
            elif isinstance(target, ast.Attribute):
                self._set(target, node, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """As an assignment."""
        if node.value is not None and isinstance(node.target, ast.Name):
            self._called[node.value] = node.target.id
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """As an assignment of what is not known."""
        if isinstance(node.target, ast.Attribute):
            self._set(node.target, node, None)
        if node in self._divided:
            self._call(LOSS_OVER, node, [("0", node.value)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """A loss that is divided for its backward."""
        if node in self._divided:
            self._call(LOSS_OVER, node, [("0", node.right)])
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """A call and its arguments, then those within it."""
        if called := dotted(node.func):
            self._call(called, node, self._arguments(node, self._names.scope(node)))
            self._changed(called.rpartition(".")[2], node)
        self.generic_visit(node)

    def _changed(self, called: str, node: ast.Call) -> None:
        """Attributes that ``setattr(made, "name", value)`` and ``replace(made, name=...)`` set."""
        given: list[tuple[str, ast.expr | None]] = []
        if called == "setattr" and len(node.args) == 3 and isinstance(node.args[1], ast.Constant):
            given = [(str(node.args[1].value), node.args[2])]
        elif called == "replace" and node.args and isinstance(node.args[0], ast.Name):
            given = [(keyword.arg, None) for keyword in node.keywords if keyword.arg]
        for name, value in given:
            self._set(ast.Attribute(node.args[0], name), node, value)

    def parsed(self, options: Options) -> None:
        """What a parser makes of a command line: calls with the defaults of the file's fields."""
        for made in options.made:
            given = [
                (key, default_of(value) or value) for key, value in made.fields.items()
                if value is not None and not (isinstance(value, ast.Call) and not default_of(value))
            ]  # fmt: skip
            self._call(made.outer, made.node, given)
            self._put(self._read[made.node][0], PARSED, Leaf(True, self._place(made.node)),
                      self._place(made.node))  # fmt: skip

    def _call(
        self, called: str, node: ast.expr | ast.stmt, arguments: Iterable[tuple[str, ast.expr]]
    ) -> None:
        scope, place = self._names.scope(node), self._place(node)
        branch = Branch({}, place)
        for key, value in arguments:
            if key not in branch.entries:
                there = self._place(value)
                self._put(branch, key, self._values.tree(value, scope, there), there)
                if isinstance(value, ast.Name):
                    self._put(branch, key + NAME, Leaf(value.id, there), there)
        if self._under:
            self._put(branch, CONDITION, Leaf(" and ".join(self._under), place), place)
        if node in self._called:
            self._put(branch, NAME, Leaf(self._called[node], place), place)
        self.found.setdefault(called, Items([], place)).items.append(branch)
        self._read[node] = branch, list(self._under)

    def _either(
        self, test: ast.expr, body: list[ast.stmt] | list[ast.expr],
        orelse: list[ast.stmt] | list[ast.expr],
    ) -> None:  # fmt: skip
        self.visit(test)
        holds, said = self._values.truth(test, self._names.scope(test)), ast.unparse(test)[:60]
        for nodes, on, words in ((body, holds, said), (orelse, not holds, f"not ({said})")):
            if holds is None:
                self._under.append(words)
            if holds is None or on:
                for node in nodes:
                    self.visit(node)
            if holds is None:
                self._under.pop()

    def _set(
        self, target: ast.Attribute, node: ast.stmt | ast.expr, value: ast.expr | None
    ) -> None:
        """An attribute of a call's result: an argument of it, or what cannot be followed."""
        place, scope = self._place(node), self._names.scope(target.value)
        base = dotted(target.value)
        values = scope.values(base) or []
        later = Leaf(ast.unparse(node)[:80], place)
        made = [self._read[v.node] for v in values if v.node in self._read]
        for branch, under in made:
            alone = len(values) == 1 and values[0].scope is scope and under == self._under
            if alone and value is not None:
                found = self._values.tree(value, scope, place)
                self._put(branch, target.attr, found, place)
            else:
                self._put(branch, target.attr + LATER, later, place)
        if base.endswith(".args"):  # a trainer's
            self.found.setdefault(".args", Items([], place)).items.append(
                Branch({target.attr + LATER: later}, place)
            )

    def _place(self, node: ast.expr | ast.stmt) -> Place:
        return Place(self._name, _line(node.lineno, self._lines))

    @staticmethod
    def _put(branch: Branch, key: str, tree: Tree, place: Place) -> None:
        branch.entries[key] = tree
        branch.keys[key] = place

    def _arguments(self, node: ast.Call, scope: Scope) -> Iterator[tuple[str, ast.expr]]:
        for i, value in enumerate(node.args):
            yield str(i), value
        for keyword in node.keywords:
            if keyword.arg is not None:
                yield keyword.arg, keyword.value
            else:
                yield from self._values.entries(keyword.value, scope)
