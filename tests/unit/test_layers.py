"""Layers import downwards only (docs/architecture.md): a walk over every import in sim/."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[2] / "sim"
PAGE = ROOT.parent / "docs" / "architecture.md"
ROOMS = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", PAGE.read_text(), re.M))
ORDER = [*ROOMS]


def test_the_page_says_what_the_rooms_say():
    for room, says in ROOMS.items():
        path = ROOT / room / "__init__.py"
        path = path if path.is_file() else ROOT / f"{room}.py"
        assert ast.get_docstring(ast.parse(path.read_text())).splitlines()[0] == says


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sim."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("sim."))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_lower_layers(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in ORDER, f"{own} has no place in the order of layers"
    upward = [m for m in imports(path) if ORDER.index(layer(m)) > ORDER.index(own)]
    assert upward == []


def modules(path: Path):
    """Modules of ours that a file imports, those for types alone and those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sim":
            for name in node.names:
                inner = ROOT.parent / node.module.replace(".", "/") / name.name
                known = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield f"{node.module}.{name.name}" if known else node.module


def test_no_modules_import_each_other_in_a_circle():
    graph = nx.DiGraph()
    for path in ROOT.rglob("*.py"):
        own = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        own = own.removesuffix(".__init__")
        graph.add_edges_from((own, other) for other in modules(path) if other != own)
    graph.remove_node("sim")  # the face names its verbs, and everyone may ask it for the version
    circles = [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1]
    assert circles == []


def test_no_two_types_share_a_name():
    """One word, one meaning, of classes and of aliases of types."""
    homes = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            name = ""
            if isinstance(node, ast.ClassDef):
                name = node.name
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
                name = ast.unparse(node.targets[0])
            if re.fullmatch(r"_?[A-Z]\w*[a-z]\w*", name):
                homes[name].append(str(path.relative_to(ROOT)))
    assert {name: at for name, at in homes.items() if len(at) > 1} == {}
