"""What the names of a Python file stand for, where the file says so once.

A name has a value where every statement that binds it gives it the same: assignments, defaults of
parameters and what calls in the file pass to them. Loops, `with`, `+=`, imports and whatever else
binds a name leave it without one. Attributes (``args.batch``) are looked up among fields of the
file's classes, options of argparse, and assignments to attributes; what a command line gives to an
option or a field stands for its default.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from sim.records import NamedTuple

_CHANGES = {"update", "append", "extend", "insert", "remove", "clear", "setdefault", "pop"}
_STORED = {"store_true": False, "store_false": True}
#: what makes a command line of a function's parameters: ``fire.Fire(train)``
_ENTRIES = ("Fire", "typer.run", "tyro.cli", "jsonargparse.CLI", "auto_cli")
_FLAGS = {"true": True, "false": False}


class Value(NamedTuple):
    """An expression, and the scope that its names are looked up in; None where none is said."""

    node: ast.expr | None
    scope: Scope


class Scope:
    """Names that a function, a class or the module binds; a name without values has none said."""

    def __init__(self, parent: Scope | None, *, of_class: bool = False) -> None:
        self.parent, self.of_class = parent, of_class
        self.names: dict[str, list[Value]] = {}
        self.outer: set[str] = set()  # declared global or nonlocal

    def values(self, name: str) -> list[Value] | None:
        """What a name is bound to where it is seen from here; None where nothing binds it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name or an attribute; "" for what is neither."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


class Names(ast.NodeVisitor):
    """Names and attributes of a module, and what options a command line gives to it, as texts."""

    def __init__(self, module: ast.Module, options: Mapping[str, str] | None = None) -> None:
        self._options = {k.replace("-", "_"): v for k, v in (options or {}).items()}
        self._started = {
            node.args[0].id
            for node in ast.walk(module)
            if isinstance(node, ast.Call) and dotted(node.func).endswith(_ENTRIES)
            and node.args and isinstance(node.args[0], ast.Name)
        } if self._options else set()  # fmt: skip
        self._scopes: dict[ast.AST, Scope] = {}
        self._fields: dict[str, list[Value]] = {}
        self._imported: set[str] = set()
        self._made: dict[str, list[tuple[list[str], dict[str, list[Value]]]]] = {}
        self._changed: list[tuple[Scope, str]] = []
        self._known: dict[int, Value | None] = {}  # by the list of what a name is bound to
        self._here = self._top = Scope(None)
        self.visit(module)
        self._pass()

    def of(self, node: ast.expr, scope: Scope) -> Value | None:
        """What a name or an attribute stands for; None where the file does not say."""
        values: list[Value] | None = None
        if isinstance(node, ast.Name):
            values = scope.values(node.id)
        elif isinstance(node, ast.Attribute) and (path := dotted(node)):
            root = path.partition(".")[0]
            values = None if root in self._imported else self._fields.get(node.attr)
        if not values:
            return None
        if id(values) not in self._known:
            self._known[id(values)] = _agreed(values)
        return self._known[id(values)]

    def scope(self, node: ast.AST) -> Scope:
        """The scope that a node stands in."""
        return self._scopes.get(node, self._top)

    def visit(self, node: ast.AST) -> None:
        """Note where a node stands, and what it binds."""
        self._scopes[node] = self._here
        super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """A function: its name, and its parameters within."""
        self._bind(node.name, None)
        for part in node.decorator_list:
            self.visit(part)
        self._function(node.args, node.body, node.name)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """As any function."""
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """A function without a name."""
        self._function(node.args, [node.body], "")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class, whose fields are attributes."""
        self._bind(node.name, None)
        for part in (*node.bases, *node.decorator_list):
            self.visit(part)
        fields = [
            inner.target.id for inner in node.body
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name)
        ]  # fmt: skip
        self._made.setdefault(node.name, []).append((fields, self._fields))
        self._within(Scope(self._here, of_class=True), node.body)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Each target has the value."""
        self.visit(node.value)
        for target in node.targets:
            self._target(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """A field without a default has no value; a mere annotation elsewhere binds nothing."""
        if node.value is not None:
            self.visit(node.value)
            value: ast.expr | None = default_of(node.value) or node.value
            field = isinstance(node.target, ast.Name) and self._here.of_class
            if isinstance(node.target, ast.Name) and field and node.target.id in self._options:
                value = _given(self._options[node.target.id], node.annotation, value)
            self._target(node.target, value)
        elif self._here.of_class:
            self._target(node.target, None)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """As an assignment."""
        self.visit(node.value)
        self._target(node.target, node.value)

    def visit_Name(self, node: ast.Name) -> None:
        """Bound by anything but an assignment."""
        if not isinstance(node.ctx, ast.Load):
            self._bind(node.id, None)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """As names."""
        if not isinstance(node.ctx, ast.Load):
            self._fields.setdefault(node.attr, []).append(Value(None, self._here))
        self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """An entry that is set changes what it is in."""
        if not isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name):
            self._changed.append((self._here, node.value.id))
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        """What is imported has no value here."""
        name = (node.asname or node.name).partition(".")[0]
        self._imported.add(name)
        self._bind(name, None)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Of its name."""
        if node.name:
            self._bind(node.name, None)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        """Of its name."""
        if node.name:
            self._bind(node.name, None)
        self.generic_visit(node)

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        """Names that are bound further out."""
        self._here.outer.update(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        """As `global`."""
        self.visit_Global(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Options of argparse, and methods that change what they are called on."""
        called = dotted(node.func)
        option = node.args[0] if node.args else None
        if called.endswith("add_argument") and isinstance(option, ast.Constant):
            self._option(node)
        elif called.endswith(("set_defaults", "Namespace")):
            for keyword in node.keywords:
                if keyword.arg:
                    self._field(keyword.arg, keyword.value)
        elif called.rpartition(".")[2] in _CHANGES and called.count(".") == 1:
            self._changed.append((self._here, called.partition(".")[0]))
        self.generic_visit(node)

    def _option(self, node: ast.Call) -> None:
        words = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
        said = {k.arg: k.value for k in node.keywords if k.arg}
        name = next((word for word in words if word.startswith("--")), words[0]).lstrip("-")
        if isinstance(dest := said.get("dest"), ast.Constant):
            name = str(dest.value)
        value = said.get("default")
        action = said.get("action")
        if value is None and isinstance(action, ast.Constant) and str(action.value) in _STORED:
            value = ast.Constant(_STORED[str(action.value)])
            ast.copy_location(value, node)
        given = next((n for n in map(_dest, [*words, name]) if n in self._options), None)
        if given is not None:
            text = self._options[given]
            value = None if "nargs" in said else _given(text, said.get("type"), value)
        self._field(_dest(name), value)

    def _field(self, name: str, value: ast.expr | None) -> None:
        self._fields.setdefault(name, []).append(Value(value, self._here))

    def _target(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self._bind(target.id, value)
        elif isinstance(target, ast.Attribute):
            self._field(target.attr, value)
            self.visit(target.value)
        elif isinstance(target, ast.Tuple | ast.List):
            parts: list[ast.expr | None] = [None] * len(target.elts)
            given = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            starred = any(isinstance(e, ast.Starred) for e in (*target.elts, *given))
            if len(given) == len(parts) and not starred:
                parts = list(given)
            for inner, part in zip(target.elts, parts, strict=True):
                self._target(inner, part)
        else:
            self.visit(target)

    def _bind(self, name: str, value: ast.expr | None) -> None:
        scope = self._here
        while name in scope.outer and scope.parent is not None:
            scope = scope.parent
        scope.names.setdefault(name, []).append(Value(value, self._here))
        if scope.of_class:
            self._field(name, value)

    def _function(
        self, args: ast.arguments, body: list[ast.stmt] | list[ast.expr], name: str
    ) -> None:
        named = [*args.posonlyargs, *args.args]
        none: list[ast.expr | None] = [None] * (len(named) - len(args.defaults))
        outer, method = self._here, self._here.of_class
        inner = Scope(outer.parent if method else outer)
        for argument, value in zip(
            [*named, *args.kwonlyargs], [*none, *args.defaults, *args.kw_defaults], strict=True
        ):
            if name in self._started and argument.arg in self._options:
                value = _given(self._options[argument.arg], argument.annotation, value)
            inner.names[argument.arg] = [] if value is None else [Value(value, outer)]
            if value is not None:
                self.visit(value)
        for more in (args.vararg, args.kwarg):
            if more is not None:
                inner.names[more.arg] = []
        if name and not method:
            self._made.setdefault(name, []).append(([a.arg for a in named], inner.names))
        self._within(inner, body)

    def _within(self, scope: Scope, body: list[ast.stmt] | list[ast.expr]) -> None:
        before, self._here = self._here, scope
        for node in body:
            self.visit(node)
        self._here = before

    def _pass(self) -> None:
        """What calls pass to functions and classes of the file, and what changes lists."""
        for node, scope in list(self._scopes.items()):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            for names, values in self._made.get(node.func.id, ()):
                said = [*zip(names, node.args, strict=False),
                        *((k.arg, k.value) for k in node.keywords if k.arg)]  # fmt: skip
                for name, value in said:
                    if isinstance(value, ast.Starred):
                        break
                    values.setdefault(name, []).append(Value(value, scope))
        for scope, name in self._changed:
            values_ = scope.values(name)
            if values_ is not None:
                values_.append(Value(None, scope))


def _dest(word: str) -> str:
    """Where argparse puts an option: ``--batch-size`` in ``batch_size``."""
    return word.lstrip("-").replace("-", "_")


def _given(text: str, kind: ast.expr | None, default: ast.expr | None) -> ast.expr | None:
    """What a command line gives to an option; None where a shell knows it.

    Of a flag it is true, and a number where its type, or its default, is one.
    """
    if "$" in text:
        return None
    number = isinstance(default, ast.Constant) and type(default.value) in (int, float)
    value: str | float | bool = text
    if number or dotted(kind or ast.Constant(None)) in ("int", "float"):
        try:
            value = float(text) if set(text) & set(".eE") else int(text)
        except ValueError:
            return None
    elif dotted(kind or ast.Constant(None)) != "str":
        value = _FLAGS.get(text.lower(), text)
    found = ast.Constant(value)
    return ast.copy_location(found, default) if default is not None else found


def _agreed(values: list[Value]) -> Value | None:
    """The one value of several that are the same."""
    first = values[0]
    if first.node is None:
        return None
    said = ast.dump(first.node)
    alike = all(
        v.node is not None
        and ast.dump(v.node) == said
        and (v.scope is first.scope or isinstance(v.node, ast.Constant))
        for v in values[1:]
    )
    return first if alike else None


def default_of(node: ast.expr) -> ast.expr | None:
    """The ``default`` of a call of ``field``."""
    keywords = node.keywords if isinstance(node, ast.Call) else []
    return next((k.value for k in keywords if k.arg == "default"), None)
