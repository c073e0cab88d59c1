"""What a shell completes: names of the catalogue, files, keys of both files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click
from click.shell_completion import CompletionItem

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
_FILES = frozenset({"machines", "jobs"})  # kinds that may be files too


def _names(kind: str) -> tuple[str, ...]:
    from sim.inputs import catalogue, models
    from sim.inputs.codes import codes
    from sim.inputs.registry import STRATEGIES

    if kind == "machines":
        return catalogue.names("topologies")
    if kind == "jobs":
        return catalogue.names("workloads")
    if kind == "gpus":
        return catalogue.gpu_names()
    if kind == "models":
        return models.model_names()
    return tuple(STRATEGIES) if kind == "strategies" else tuple(c.code for c in codes())


def _completed(*kinds: str) -> Completion:
    """Names of these kinds that begin as the word does, and files where one may be meant."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = (name for kind in kinds for name in _names(kind))
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        if _FILES & set(kinds):
            found.append(CompletionItem(incomplete, type="file"))
        return found

    return complete


MACHINES, JOBS, GPUS, MODELS = (_completed(k) for k in ("machines", "jobs", "gpus", "models"))
INPUTS = _completed("machines", "jobs")
CODES = _completed("codes", "machines")
ENTRIES = _completed("gpus", "models", "machines", "jobs", "strategies")


def settings(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """``key=`` of both files that begin as the word does; below a mapping only once it is named."""
    from sim.inputs.schema import SIDES

    depth = incomplete.count(".")
    found = (key for spec in SIDES.values() for key in _keys(spec, "", depth))
    return [CompletionItem(key) for key in dict.fromkeys(found) if key.startswith(incomplete)]


def _keys(spec: type, above: str, depth: int) -> Iterator[str]:
    """Keys with ``=``, and mappings with a dot, of a spec down to a depth."""
    from sim.inputs.fields import plan_of

    for name, field in plan_of(spec).items():
        inner = [detail for kind, detail, _ in field.alternatives if kind == "spec"]
        yield f"{above}{name}="
        for below in inner:
            yield f"{above}{name}."
            if depth > above.count("."):
                yield from _keys(below, f"{above}{name}.", depth)
