"""Models by catalogue name or Hugging Face config."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sim.data import DATA
from sim.errors import InputError, cut
from sim.files import is_file, is_there
from sim.inputs.hf import NO_TOWERS, model_from_config, read_config
from sim.inputs.hf_refused import named_part, refusal
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
    if not alias:
        return None
    entry = _entry(alias)
    if key in _with_towers():
        entry = entry | {"notes": (*entry.get("notes", ()), NO_TOWERS)}
    return Model.model_construct(**entry)


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
        return _of_repository(name, found)
    for folder in (relative_to, Path()):
        path = Path(name) if folder is None else folder / name
        if is_file(path / "config.json"):
            path = path / "config.json"
        if is_there(path):
            return model_from_config(read_config(path), source=str(path))
    shape = catalogue_model(spoken(name))
    if shape is not None:
        return _of_repository(name, shape)
    if reason := refused(name):
        raise InputError.single(source, reason, "model")
    if name.endswith(".json") or "/" in name or "\\" in name:
        message = f"{cut(name)!r}: no such file, and no such name in the catalogue"
    else:
        message = f"{cut(name)!r} is not in the catalogue"
    near = _near(name)
    hint = f'; did you mean "{near}"? If not, give' if near else "; give"
    raise InputError.single(source, f"{message}{hint} its config.json or its shape", "model")


def refused(name: str) -> str:
    """Why the model of a name that the catalogue lacks cannot be modelled; "": not known."""
    part = named_part(name)
    if not part:
        return ""
    said = refusal(repr(cut(name)), part)
    blocks = shape_named(_TRAINED_FOR.sub("", name))
    return f'{said}; "{blocks}" has its blocks' if blocks else said


def _near(name: str) -> str:
    """The name that was perhaps meant, of a family that is called alike; "" where there is none."""
    from difflib import get_close_matches

    bare = name.lower().rstrip("/").rpartition("/")[2]
    families: dict[str, list[str]] = {}
    for known in [*model_names(), *_aliases()]:
        families.setdefault(_family(known), []).append(known)
    alike = get_close_matches(_family(bare), list(families), n=8, cutoff=0.75)
    kin = [member for family in alike for member in families[family]]
    return next(iter(get_close_matches(bare, kin, n=1)), "")


def _family(name: str) -> str:
    return re.split(r"[-_. 0-9]", name, maxsplit=1)[0]


_HUB, _SHAPED = "https://huggingface.co/", ", shaped as "


def repository(model: Model) -> str:
    """The hub's name of a model, or its own."""
    source = model.source.split(" ")[0].rstrip(",")
    return source.removeprefix(_HUB) if source.startswith(_HUB) else model.name


def borrowed_shape(model: Model) -> bool:
    """Whether a model is a repository's that has the shape of another one in the catalogue."""
    return _SHAPED in model.source


def _of_repository(name: str, shape: Model) -> Model:
    """A shape of the catalogue that remembers whose weights were meant, for files written out."""
    if name.count("/") != 1 or repository(shape) == name:
        return shape
    source = f"{_HUB}{name}{_SHAPED}{shape.source}"
    return shape.model_copy(update={"source": source})


#: words of a decoder's name that say for what other than text its weights were trained
_TRAINED_FOR = re.compile(r"-(?:embedding|reranker)", re.IGNORECASE)
#: words of a repository's name that say how weights were trained or stored, not their shape
_NO_SHAPE = re.compile(
    r"(?:^|-)(?:instruct|chat|base|hf|it|pt|sft|dpo|rlhf|thinking|text|bnb|nf4|unsloth|gptq|awq"
    r"|quantized|unquantized|qat|q4-0|dynamic|preview|deduped|abliterated"
    r"|fp16|bf16|fp8|fp4|nvfp4|mxfp4|gguf|[48]bit|int[48]|w[48]a16|2[3-6]\d\d|20\d\d\d\d)(?=-|$)"
)


def shape_named(name: str) -> str | None:
    """The catalogue's name of a repository's: ``meta-llama/Meta-Llama-3.1-8B-Instruct``.

    As `spoken`, which says what does not matter.
    """
    key = spoken(name)
    return (key if key in model_names() else _aliases()[key]) if key else None


def spoken(name: str) -> str:
    """The name or alias in the catalogue that a repository's comes to; "" where there is none.

    Organisation, case and punctuation do not matter, nor do words that say how the weights were
    trained or stored; every other word must be the same.
    """
    path = name.strip().replace("\\", "/")  # of Windows
    bare = path.rstrip("/").rpartition("/")[2].lower().replace("_", "-").replace(" ", "-")
    known = _folded()
    cut, shorter = "", bare.removeprefix("meta-")
    while shorter != cut:
        cut = shorter
        if cut in model_names() or cut in _aliases():
            return cut  # opt-1.3b, without punctuation, is opt-13b
        if _fold(cut) in known:
            return known[_fold(cut)]
        shorter = _NO_SHAPE.sub("", cut, count=1).strip("-")
    return ""


def _fold(name: str) -> str:
    return re.sub(r"[-_. ]", "", name)


@lru_cache(maxsize=1)
def _folded() -> dict[str, str]:
    """Names and aliases by how they read without punctuation; one that would be two is none."""
    found: dict[str, str] = {}
    shapes = {name: name for name in model_names()} | _aliases()
    for word, shape in shapes.items():
        kept = found.setdefault(_fold(word), word)
        if kept and shapes[kept] != shape:
            found[_fold(word)] = ""
    return {key: word for key, word in found.items() if word}


def _folder() -> Any:
    return DATA / "models"


@lru_cache(maxsize=256)
def _entry(name: str) -> dict[str, Any]:
    entry = tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))
    for key in _ALSO:
        entry.pop(key, None)
    entry.update({key: tuple(value) for key, value in entry.items() if isinstance(value, list)})
    return entry


#: other names of a shape, and those of models of several parts whose text decoder has it
_ALSO = ("aliases", "decoder_of")


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    """Alias -> name; reads the whole catalogue, so only for names that are not file names."""
    return {alias: name for key in _ALSO for alias, name in _listed(key)}


@lru_cache(maxsize=1)
def _with_towers() -> frozenset[str]:
    """Names of models of several parts whose text decoder is another model's."""
    return frozenset(alias for alias, _ in _listed(_ALSO[1]))


@lru_cache(maxsize=len(_ALSO))
def _listed(key: str) -> tuple[tuple[str, str], ...]:
    files = ((name, _folder() / f"{name}.toml") for name in model_names())
    read = ((name, tomllib.loads(file.read_text(encoding="utf-8"))) for name, file in files)
    return tuple((alias, name) for name, entry in read for alias in entry.get(key, ()))
