"""Keys and values that trainers take, read from their own source without running it.

`Schema` is the fields of a class of a package, those of its bases too, as its annotations have
them: pydantic models, dataclasses. Packages are fetched by pip without what they depend on (torch
alone is gigabytes), so that this takes seconds.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def fetch(requirement: str, folder: Path, timeout_s: float = 60.0) -> Path:
    """A package's files; raises OSError with the reason where there are none to be had.

    Nothing is installed; of a source archive pip runs the setup, to learn its name.
    """
    home = folder / requirement
    if home.is_dir():
        return home
    home.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    try:
        subprocess.run(
            [*pip, "--dest", str(home), requirement], check=True, timeout=timeout_s,
            capture_output=True, text=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or "pip failed").splitlines()[-1]
        raise OSError(said) from None
    except subprocess.TimeoutExpired:
        message = f"took more than {timeout_s:.0f} s"
        raise OSError(message) from None
    (archive,) = home.iterdir()
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(home)
    else:
        with tarfile.open(archive) as source:
            if hasattr(tarfile, "data_filter"):  # not yet in 3.11.3
                source.extractall(home, filter="data")
            else:
                source.extractall(home)
    return home


class Package:
    """The classes of some packages by name; of two of one name the last read."""

    def __init__(self, homes: Mapping[Path, tuple[str, ...]]) -> None:
        self.classes: dict[str, ast.ClassDef] = {}
        self.texts: list[str] = []
        for home, patterns in homes.items():
            for pattern in patterns:
                for path in sorted(home.rglob(pattern)):
                    self.texts.append(path.read_text(encoding="utf-8"))
                    tree = ast.parse(self.texts[-1])
                    found = (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef))
                    self.classes |= {node.name: node for node in found}

    def fields(self, name: str) -> dict[str, ast.expr]:
        """Annotations of a class by field, its bases' too; pydantic's aliases count as fields."""
        node = self.classes[name]
        found: dict[str, ast.expr] = {}
        for base in node.bases:
            known = ast.unparse(base).rpartition(".")[2].removeprefix("Base")
            for candidate in (ast.unparse(base).rpartition(".")[2], known):
                if candidate in self.classes and candidate != name:
                    found |= self.fields(candidate)
                    break
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                found[item.target.id] = item.annotation
                found |= dict.fromkeys(_aliases(item.value), item.annotation)
        return found

    def complaints(self, name: str, keys: Mapping[str, Any], above: str = "") -> Iterator[str]:
        """What a class would not take of a mapping."""
        known = self.fields(name)
        for key, value in keys.items():
            if key not in known:
                yield f"{above}{key}: {name} has no such field"
                continue
            annotation = known[key]
            inner = next((c for c in _names(annotation) if c in self.classes), None)
            if isinstance(value, dict) and inner is not None:
                yield from self.complaints(inner, value, f"{above}{key}.")
            allowed = _literals(annotation)
            if allowed and not isinstance(value, list) and value not in (*allowed, None):
                yield f"{above}{key}: {value!r} is none of {allowed}"

    def says(self, text: str) -> bool:
        """Whether any of its files has a text."""
        return any(text in source for source in self.texts)


def _aliases(value: ast.expr | None) -> Iterator[str]:
    """Names that pydantic's ``validation_alias`` and ``alias`` add to a field's own."""
    if isinstance(value, ast.Call):
        for keyword in value.keywords:
            if keyword.arg in {"alias", "validation_alias"}:
                yield from (
                    n.value
                    for n in ast.walk(keyword.value)
                    if isinstance(n, ast.Constant) and isinstance(n.value, str)
                )


def _names(annotation: ast.expr) -> list[str]:
    text = annotation
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        text = ast.parse(text.value, mode="eval").body
    return [n.id for n in ast.walk(text) if isinstance(n, ast.Name)]


def _literals(annotation: ast.expr) -> tuple[Any, ...]:
    """Values of an annotation that is ``Literal[...]`` or that and None; of others nothing."""
    parts = [annotation]
    while parts and isinstance(parts[0], ast.BinOp):
        first = parts.pop(0)
        parts = [first.left, first.right, *parts]
    found: list[Any] = []
    for part in parts:
        if isinstance(part, ast.Constant) and part.value is None:
            continue
        if not (isinstance(part, ast.Subscript) and ast.unparse(part.value).endswith("Literal")):
            return ()
        found += [n.value for n in ast.walk(part.slice) if isinstance(n, ast.Constant)]
    return tuple(found)
