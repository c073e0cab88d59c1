"""Types that docstrings name are those of the signatures, so that a type is renamed in both."""

import ast
import re
from pathlib import Path

import pytest

SIM = Path(__file__).parents[2] / "sim"
_ENTRY = re.compile(r"^(\w[\w, ]*) : (.*)$", re.M)
_TYPE = re.compile(r"\b(?!None\b|True\b|False\b)[A-Z][a-z]\w+")


def annotations(node):
    """Annotations of a function's arguments, or of a class's fields and constructor, by name."""
    if isinstance(node, ast.FunctionDef):
        arguments = [*node.args.args, *node.args.kwonlyargs]
        return {a.arg: ast.unparse(a.annotation) for a in arguments if a.annotation}
    found = {
        b.target.id: ast.unparse(b.annotation) for b in node.body if isinstance(b, ast.AnnAssign)
    }
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            found |= annotations(method)
    return found


@pytest.mark.parametrize("folder", sorted(p.name for p in SIM.iterdir() if p.is_dir()))
def test_types_in_docstrings(folder):
    told = []
    for path in sorted((SIM / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            types = annotations(node)
            for names, kind in _ENTRY.findall(ast.get_docstring(node) or ""):
                written = [types[n] for n in names.split(", ") if types.get(n, "Any") != "Any"]
                known = set(re.findall(r"\w+", " ".join(written)))
                if written and set(_TYPE.findall(kind)) - known:
                    told.append(f"{path.name}:{node.lineno} {names} : {kind}, not {written[0]}")
    assert told == []
