"""Models by catalogue name or Hugging Face config."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sim.data import DATA
from sim.errors import InputError
from sim.files import is_file
from sim.inputs.hf import model_from_config, read_config
from sim.inputs.model import Model


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Names in the catalogue, aliases left out."""
    return tuple(
        sorted(
            f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml")
        )
    )


@lru_cache(maxsize=256)
def catalogue_model(name: str) -> Model | None:
    """Model of a catalogue name or alias; None if there is none."""
    key = name.lower()
    if key in model_names():
        return Model.model_construct(**_entry(key))
    alias = _aliases().get(key)
    return Model.model_construct(**_entry(alias)) if alias else None


def resolve_model(
    model: str | Path | Mapping[str, Any] | Model,
    *,
    source: str = "model",
    relative_to: Path | None = None,
) -> Model:
    """Model that a workload's ``model:`` names.

    Parameters
    ----------
    model : str, Path, mapping or Model
        Catalogue name, path to a Hugging Face ``config.json`` (or the folder it is in), or its
        keys.
    source : str
        File to name in faults.
    relative_to : Path, optional
        Folder that relative paths start from, tried before the current one.

    Returns
    -------
    Model
        The frozen spec.

    Raises
    ------
    InputError
        Unknown name, unreadable file, or a kind that cannot be modelled.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, Mapping):
        return model_from_config(model, source=source)
    name = str(model)
    found = catalogue_model(name)
    if found is not None:
        return found
    for folder in (relative_to, Path()):
        path = Path(name) if folder is None else folder / name
        if is_file(path / "config.json"):
            path = path / "config.json"
        if is_file(path):
            return model_from_config(read_config(path), source=str(path))
    if name.endswith(".json") or "/" in name or "\\" in name:
        message = f"{name!r}: no such file, and no such name in the catalogue"
    else:
        message = f"{name!r} is not in the catalogue"
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), [*model_names(), *_aliases()], n=1)
    hint = (
        f'; did you mean "{near[0]}"?'
        if near
        else "; give a catalogue name, a config.json or a mapping"
    )
    raise InputError.single(source, message + hint, "model")


def _folder() -> Any:
    return DATA / "models"


@lru_cache(maxsize=256)
def _entry(name: str) -> dict[str, Any]:
    entry = tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    entry.pop("aliases", None)
    return entry


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    """Alias -> name; reads the whole catalogue, so only for names that are not file names."""
    found = {}
    for name in model_names():
        for alias in tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8")).get(
            "aliases", ()
        ):
            found[alias] = name
    return found
