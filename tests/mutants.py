"""Mutants: would a test notice if a line were another?

    python -m tests.mutants --seed 1203 --draw 20 sim/memory -- tests/unit/test_memory*.py

Draws changes of one number, comparison, sign or word of logic in the bodies of functions of some
files or folders, compiles all of them in, and switches on one at a time, in a fork of a process
that has collected the tests and has run none. First all tests run without any, which says which
line each runs and which fail by themselves; then those that run a mutant's line, the quickest
first, until one fails. What lives is printed, with how many tests ran it.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import copy
import importlib.abc
import importlib.machinery
import os
import pickle
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ENOUGH_S = 25.0  # of CPU that the tests of a mutant take when nothing is changed
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


class Mutant(NamedTuple):
    """A node of a file, and what it would be."""

    file: Path
    node: ast.expr
    other: ast.expr
    said: str  # the node is rewritten as its file is compiled


def others(node: ast.AST) -> Iterator[ast.expr]:
    """What an expression may be changed to."""

    def changed(**keys: Any) -> ast.expr:
        other: Any = copy.deepcopy(node)
        for key, value in keys.items():
            setattr(other, key, value)
        return other

    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield from (changed(value=node.value + by) for by in (1, -1))
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield from (changed(ops=[op()]) for op in COMPARISONS[type(node.ops[0])])
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        if not isinstance(node.left, ast.JoinedStr):
            yield changed(op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield changed(op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield copy.deepcopy(node.operand)


def mutants(file: Path, node: ast.AST, inside: bool = False) -> Iterator[Mutant]:
    """Of all bodies of functions: no annotations, no defaults, no text of an f-string."""
    if inside and isinstance(node, ast.expr):
        where = f"{file.relative_to(ROOT)}:{node.lineno}"
        for other in others(node):
            said = f"{where}  {ast.unparse(node)}  ->  {ast.unparse(other)}"
            yield Mutant(file, node, other, said)
    if isinstance(node, ast.FunctionDef):
        children: Sequence[ast.AST] = node.body
    elif isinstance(node, ast.AnnAssign):
        children = [node.value] if node.value else []
    elif isinstance(node, ast.FormattedValue):
        children = [node.value]
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from mutants(file, child, inside or isinstance(node, ast.FunctionDef))


class Switch(ast.NodeTransformer):
    """``a < b`` becomes ``(a <= b if __mutant__(7) else a < b)``."""

    def __init__(self, drawn: Sequence[Mutant]) -> None:
        self.of: dict[int, list[tuple[int, ast.expr]]] = {}
        for number, mutant in enumerate(drawn):
            self.of.setdefault(id(mutant.node), []).append((number, mutant.other))

    def visit(self, node: ast.AST) -> Any:
        """The node with its choices around it."""
        new: Any = self.generic_visit(node)
        for number, other in self.of.get(id(node), []):
            asked = ast.Call(ast.Name("__mutant__", ast.Load()), [ast.Constant(number)], [])
            new = ast.IfExp(asked, other, new)
        return new


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules with mutants in them, in place of their own."""

    def __init__(self, code: dict[str, CodeType]) -> None:
        self.code = code

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """As the file is found, but for who loads it."""
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin in self.code:
            spec.loader = self
            return spec
        return None

    def exec_module(self, module: Any) -> None:
        """Run the code with its switches."""
        exec(self.code[module.__spec__.origin], module.__dict__)


class Ran(NamedTuple):
    """A test without any mutant: the lines with mutants that it runs, its CPU seconds."""

    hit: frozenset[int]
    cpu_s: float
    failed: bool


class Runner:
    """Runs the tests of a session as often as there are mutants."""

    def __init__(self, drawn: Sequence[Mutant]) -> None:
        self.drawn, self.on, self.hit, self.failed = drawn, -1, set[int](), False
        vars(builtins)["__mutant__"] = self.switched

    def switched(self, number: int) -> bool:
        """Whether it is this one's turn."""
        self.hit.add(number)
        return number == self.on

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Remember whether any failed."""
        self.failed |= report.failed

    def pytest_runtestloop(self, session: Any) -> bool:
        """In place of pytest's own."""
        ran = self.without(session.items)
        mine = sum(one.failed for one in ran)
        print(f"\n{len(ran)} tests, {mine} of which fail as things are")
        killed = 0
        for number, mutant in enumerate(self.drawn):
            those = sorted(
                (one.cpu_s, at) for at, one in enumerate(ran)
                if number in one.hit and not one.failed
            )  # fmt: skip
            if self.dies(number, [(s, session.items[at]) for s, at in those]):
                killed += 1
            else:
                print(f"\nlives, run by {len(those)}: {mutant.said}", flush=True)
        print(f"\n{killed} of {len(self.drawn)} killed")
        return True

    def run(self, item: Any) -> None:
        """One test, and what it leaves."""
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        except BaseException:
            self.failed = True

    def without(self, items: Sequence[Any]) -> list[Ran]:
        """All tests as they are, in a fork, so that nothing is kept of them."""
        read, write = os.pipe()
        if not os.fork():
            found = []
            for item in items:
                forget()  # else the first test to ask runs a line for all
                self.hit, self.failed, began = set(), False, time.process_time()
                self.run(item)
                found.append(Ran(frozenset(self.hit), time.process_time() - began, self.failed))
            with os.fdopen(write, "wb") as out:
                pickle.dump(found, out)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as out:
            ran: list[Ran] = pickle.load(out)
        os.wait()
        return ran

    def dies(self, number: int, those: Sequence[tuple[float, Any]]) -> bool:
        """Whether a test fails with one mutant switched on, or takes several times as long."""
        pid = os.fork()
        if not pid:
            forget()
            self.on, self.failed, total = number, False, 0.0
            limit = int(8 + 3 * min(ENOUGH_S, sum(s for s, _ in those)))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 4))
            for cpu_s, item in those:
                total += cpu_s
                if self.failed or total > ENOUGH_S:
                    break
                self.run(item)
            os._exit(self.failed)
        return os.waitpid(pid, 0)[1] != 0


def forget() -> None:
    """What was kept while modules were imported knows of no mutant."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "sim":
            for value in list(vars(module).values()):
                if type(value).__name__ == "_lru_cache_wrapper":
                    value.cache_clear()


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, compile, collect, run."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--draw", type=int, required=True)
    parser.add_argument("code", nargs="+", type=Path, help="files or folders, then --")
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--")
    options, tests = parser.parse_args(words[:cut]), words[cut + 1 :]
    files = [f for p in options.code for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
    trees = {f.resolve(): ast.parse(f.read_text()) for f in files}
    every = [mutant for file, tree in trees.items() for mutant in mutants(file, tree)]
    drawn = random.Random(options.seed).sample(every, min(options.draw, len(every)))
    print(f"{len(drawn)} of {len(every)} mutants")
    switch, code = Switch(drawn), {}
    for file in {mutant.file for mutant in drawn}:
        tree = ast.fix_missing_locations(switch.visit(trees[file]))
        code[str(file)] = compile(tree, str(file), "exec", dont_inherit=True)
    sys.meta_path.insert(0, Finder(code))
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    return int(pytest.main(["-q", *plugins, *tests], plugins=[Runner(drawn)]))


if __name__ == "__main__":
    sys.exit(main())
