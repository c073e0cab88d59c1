"""What is installed, and what that lets one do."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import sim
from sim.documents import SCHEMAS, Document
from sim.inputs import catalogue, models, offers
from sim.inputs.registry import FORMATS, STRATEGIES

_NEEDED = ("numpy", "numba", "simpy", "networkx", "pydantic", "click", "rich", "ruamel.yaml")
_OPTIONAL = {
    "pandas": "frames: to_frame()", "starlette": "serve", "uvicorn": "serve",
    "h11": "serve", "mcp": "mcp", "distributed": "sweep --workers",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkup(Document):
    """What is installed.

    Attributes
    ----------
    version, python : str
        Ours, and the interpreter's.
    parts : tuple of mappings
        ``name``, ``found`` (a version, a count; "" where it is not there), ``needed_for``.
    """

    schema = SCHEMAS["doctor"]
    version: str
    python: str
    parts: tuple[Mapping[str, Any], ...]

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a part."""
        return self.parts


def doctor() -> Checkup:
    """Look at what is installed."""
    parts = [_part(name, "") for name in _NEEDED]
    parts += [_part(name, use) for name, use in _OPTIONAL.items()]
    counts = {
        "GPUs": len(catalogue.gpu_names()), "models": len(models.model_names()),
        "machines": len(catalogue.names("topologies")), "jobs": len(catalogue.names("workloads")),
        "offers": len(offers.offers()), "strategies": len(list(STRATEGIES)),
        "formats read": len(list(FORMATS)),
    }  # fmt: skip
    parts += [{"name": n, "found": str(c), "needed_for": ""} for n, c in counts.items()]
    return Checkup(sim.__version__, platform.python_version(), tuple(parts))


def _part(name: str, use: str) -> dict[str, str]:
    try:
        return {"name": name, "found": version(name), "needed_for": use}
    except PackageNotFoundError:
        return {"name": name, "found": "", "needed_for": use}
