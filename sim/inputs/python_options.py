"""Options that a Python file takes from a command line: whose parser reads them, and into what."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from sim.inputs.python_names import dotted
from sim.records import NamedTuple

#: what fills classes or a function's parameters: transformers', TRL's, and others of like use
_PARSERS = (
    "HfArgumentParser", "TrlParser", "H4ArgumentParser", "Fire", "typer.run", "tyro.cli",
    "jsonargparse.CLI", "auto_cli", "add_arguments", "simple_parsing.parse", "draccus.parse",
    "pyrallis.parse",
)  # fmt: skip
#: decorators that fill the first parameter of a function, of the class that it is annotated with
_WRAPS = ("draccus.wrap", "pyrallis.wrap", "hydra_zen.zen")
_OPTIONS = ("option", "argument")  # click's


class Filled(NamedTuple):
    """What a parser makes: the class outside the file that it derives from, or its own.

    `fields` are those that the file has, with what stands after them; `node` is where.
    """

    outer: str
    fields: dict[str, ast.expr | None]
    node: ast.expr | ast.stmt


class Options(NamedTuple):
    """Names that a command line may give, with underscores, and what parsers make of it."""

    names: frozenset[str]
    made: tuple[Filled, ...]


def options_of(module: ast.Module) -> Options:
    """What a file takes from its command line; nothing is run."""
    nodes = list(ast.walk(module))
    classes = {n.name: n for n in nodes if isinstance(n, ast.ClassDef)}
    functions = {n.name: n for n in nodes if isinstance(n, ast.FunctionDef)}
    names: set[str] = set()
    made: list[Filled] = []
    for node in nodes:
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            names.update(_said(node, called))
            for part in _parts(node) if called.endswith(_PARSERS) else ():
                if part in functions:
                    of = functions[part].args
                    names.update(a.arg for a in (*of.posonlyargs, *of.args, *of.kwonlyargs))
                else:
                    made.append(_made(part, node, classes))
        elif isinstance(node, ast.FunctionDef) and node.args.args:
            wraps = [dotted(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list]
            first = node.args.args[0].annotation
            if first is not None and any(wrap.endswith(_WRAPS) for wrap in wraps):
                made.append(_made(dotted(first), first, classes))
    names.update(*(m.fields for m in made))
    return Options(frozenset(names), tuple(made))


def _said(call: ast.Call, called: str) -> Iterable[str]:
    """Options that a call declares by name: of argparse, click, absl."""
    texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    last = called.rpartition(".")[2]
    if last.startswith("DEFINE_"):
        return {text.replace("-", "_") for text in texts[:1]}
    if last == "add_argument" or last in _OPTIONS:
        dest = [k.value.value for k in call.keywords
                if k.arg == "dest" and isinstance(k.value, ast.Constant)]  # fmt: skip
        words = [t for text in texts for t in text.split("/") if t.startswith("--")] + dest
        return {str(word).lstrip("-").replace("-", "_") for word in words}
    return ()


def _parts(call: ast.Call) -> Iterator[str]:
    """Names of what a parser fills: one class or function, or a tuple of classes."""
    given = [*call.args[:1], *(k.value for k in call.keywords if k.arg == "dataclass_types")]
    for value in given:
        for part in value.elts if isinstance(value, ast.Tuple | ast.List) else [value]:
            if name := dotted(part):
                yield name


def _made(name: str, node: ast.expr, classes: dict[str, ast.ClassDef]) -> Filled:
    """A class that a parser fills, by name: fields of it and of its bases in the file."""
    fields: dict[str, ast.expr | None] = {}
    outer, at = name.rpartition(".")[2], classes.get(name)
    place: ast.expr | ast.stmt = at or node
    seen: set[str] = set()
    while at is not None and at.name not in seen:
        seen.add(at.name)
        for item in at.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                fields.setdefault(item.target.id, item.value)
        bases = [dotted(base) for base in at.bases]
        outside = [base for base in bases if base not in classes]
        outer = outside[-1].rpartition(".")[2] if outside else outer
        at = next((classes[base] for base in bases if base in classes), None)
    return Filled(outer, fields, place)
