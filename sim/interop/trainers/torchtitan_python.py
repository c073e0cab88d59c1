"""torchtitan's configurations in Python (``config_registry.py``, since 2026), as its tables.

They are read, not run: each ``Trainer.Config(...)`` and the configurations within it.
"""

from __future__ import annotations

import re

from sim.inputs.models import shape_named
from sim.inputs.python_calls import calls_of
from sim.inputs.python_values import is_unknown
from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Leaf, Place
from sim.interop.trainers import torchtitan
from sim.interop.trainers.common import TrainerFormat

_WHOLE = re.compile(r"(?:^|\.)(?:\w*Trainer\.Config|JobConfig)$")
#: configurations by the table that holds them
_TABLES = {
    "TrainingConfig": "training", "ParallelismConfig": "parallelism",
    "ActivationCheckpointConfig": "activation_checkpoint", "CompileConfig": "compile",
    "OptimizersContainer": "optimizer", "CheckpointManager": "checkpoint",
    "Float8LinearConverter": "float8", "DebugConfig": "debug",
}  # fmt: skip


def recognises(source: Source) -> bool:
    """A whole configuration, with its training."""
    names = {name.rpartition(".")[2] for name in source.keys}
    return any(map(_WHOLE.search, source.keys)) and "TrainingConfig" in names


def read(source: Source, job: Translation) -> None:
    """Read one configuration of the file as the tables that its classes are; name the others."""
    calls = sorted(calls_of(source.branch), key=lambda call: call[1].place.line or 0)
    starts = [i for i, (name, _) in enumerate(calls) if _WHOLE.search(name)]
    groups = [calls[a:b] for a, b in zip(starts, [*starts[1:], len(calls)], strict=True)]
    taken = next((group for group in groups if not _debugs(group)), groups[0])
    for group in groups:
        if group is not taken:
            why = f"left out: that of line {taken[0][1].place.line} is taken; name a file of one"
            job.skip(group[0][1].place, f"{group[0][0]}()", why, True)
    tables = {"training": Branch({}, taken[0][1].place)}
    for name, call in taken:
        if table := _table(name):
            known = {key: tree for key, tree in call.entries.items() if not is_unknown(tree)}
            tables[table] = Branch(known, call.place, call.keys)
    tree = Branch({**tables}, Place(source.name))
    if "float8" in tables:
        tree.entries["model"] = Branch({"converters": Leaf("float8", tables["float8"].place)},
                                       tables["float8"].place)  # fmt: skip
    torchtitan.read(Source(source.path, source.name, "", tree), job)
    _model(taken, job)


def _table(name: str) -> str:
    return next((_TABLES[part] for part in name.split(".") if part in _TABLES), "")


def _debugs(group: list[tuple[str, Branch]]) -> bool:
    """Whether a configuration is of the tiny model of torchtitan's tests."""
    return any("debug" in str(getattr(tree, "value", ""))
               for name, call in group if name.endswith("model_registry")
               for tree in call.entries.values())  # fmt: skip


def _model(group: list[tuple[str, Branch]], job: Translation) -> None:
    """The model by where its tokenizer lies, since its flavour does not say whose it is."""
    assets = group[0][1].entries.get("hf_assets_path")
    if isinstance(assets, Leaf) and (known := shape_named(str(assets.value))):
        job.take("model", known, assets.place, "hf_assets_path", str(assets.value))


FORMATS.register(
    TrainerFormat("torchtitan-python", "a torchtitan configuration in Python", recognises, read)
)
