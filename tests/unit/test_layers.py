"""Layers import downwards only (docs/architecture): a walk over every import in sim/."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "sim"
ORDER = [
    "errors", "units", "data", "inputs", "mesh", "fabric", "blocks", "cost", "program",
    "strategies", "lowering", "memory", "engine", "step", "result", "job", "api", "study",
    "calibration", "interop", "report", "web", "commands", "cli",
]  # fmt: skip


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
