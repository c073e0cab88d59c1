"""What `tests.mutants` changes, and that a change is on alone and when it is asked for."""

import ast
from pathlib import Path

from tests.mutants import ROOT, Runner, Switch, mutants

TEXT = '''
LIMIT: int = 3
def least(a: int, b: int = 4, *, c=5) -> "int":
    """Text."""
    d: list[1] = a * 2
    return d if a < b and not c else f"{a + 1:>7}"
'''


def test_bodies_alone_are_changed():
    drawn = list(mutants(Path(ROOT, "x.py"), ast.parse(TEXT)))
    assert sorted(mutant.said for mutant in drawn) == sorted(
        f"x.py:{line}  {old}  ->  {new}"
        for line, old, new in (
            (5, "a * 2", "a / 2"), (5, "2", "3"), (5, "2", "1"),
            (6, "a < b and (not c)", "a < b or not c"), (6, "a < b", "a <= b"),
            (6, "a < b", "a > b"), (6, "not c", "c"), (6, "a + 1", "a - 1"), (6, "1", "2"),
            (6, "1", "0"),
        )
    )  # fmt: skip


def test_one_is_on_at_a_time():
    tree = ast.parse("def f(a):\n    return a * 2 < 7\n")
    drawn = list(mutants(Path(ROOT, "x.py"), tree))
    code = compile(ast.fix_missing_locations(Switch(drawn).visit(tree)), "x", "exec")
    runner, scope = Runner(drawn), {}
    scope["__mutant__"] = runner.switched
    exec(code, scope)
    results = {}
    for number, mutant in enumerate(drawn):
        runner.on = number
        results[mutant.said.partition("  ")[2]] = [scope["f"](a) for a in (2, 3, 3.5, 4, 16)]
    runner.on = -1
    assert [scope["f"](a) for a in (2, 3, 3.5, 4, 16)] == [True, True, False, False, False]
    assert results == {
        "a * 2 < 7  ->  a * 2 <= 7": [True, True, True, False, False],
        "a * 2 < 7  ->  a * 2 > 7": [False, False, False, True, True],
        "a * 2  ->  a / 2": [True, True, True, True, False],
        "2  ->  3": [True, False, False, False, False],
        "2  ->  1": [True, True, True, True, False],
        "7  ->  8": [True, True, True, False, False],
        "7  ->  6": [True, False, False, False, False],
    }
