"""Predict how distributed training will run on a GPU cluster.

One function a verb of the command line, each of which returns a typed document
(``docs/python.md``).

>>> from sim import simulate
>>> result = simulate("dgx-h100", "llama3-8b-sft")
>>> result.step.time_s, result.throughput.mfu, result.memory.fits  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.api.catalogue import *  # noqa: F403
    from sim.api.files import *  # noqa: F403
    from sim.api.jobs import *  # noqa: F403
    from sim.api.machines import *  # noqa: F403
    from sim.api.measurements import *  # noqa: F403
    from sim.api.needs import *  # noqa: F403
    from sim.api.plans import *  # noqa: F403
    from sim.api.questions import *  # noqa: F403
    from sim.api.steps import *  # noqa: F403
    from sim.documents import Document as Document
    from sim.errors import InfeasibleError as InfeasibleError
    from sim.errors import InputError as InputError
    from sim.errors import ScalingSimError as ScalingSimError
    from sim.page.face import plot as plot
    from sim.page.face import report_page as report_page
    from sim.result.result import Result as Result

__version__ = "0.1.0"

# module -> what it gives; imported on use: `scaling-sim --help` should not pay for the simulator
_GIVEN = {
    "sim.api.catalogue": ("diff", "doctor", "entries", "entry", "explain_code", "init"),
    "sim.api.files": ("export", "import_job", "schema"),
    "sim.api.jobs": (
        "config", "explain", "improve", "memory_of", "posttrain", "simulate", "support",
    ),
    "sim.api.machines": (
        "collective", "prices_import", "prices_job", "prices_list", "prices_show", "topo_import",
        "topo_show",
    ),
    "sim.api.measurements": ("calibrate", "confusion", "diagnose", "validate"),
    "sim.api.needs": ("need_bandwidth", "need_context", "need_gpus", "need_price"),
    "sim.api.plans": ("compare_plans", "plan", "run_study", "studies"),
    "sim.api.questions": ("compare", "size", "sweep", "sweep_grid"),
    "sim.api.steps": ("stages", "timeline", "trace", "trace_diff"),
    "sim.documents": ("Document",),
    "sim.page.face": ("plot", "report_page"),
    "sim.errors": ("InfeasibleError", "InputError", "ScalingSimError"),
    "sim.result.result": ("Result",),
}  # fmt: skip
_HOMES = {name: module for module, names in _GIVEN.items() for name in names}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module 'sim' has no attribute {name!r}"
        raise AttributeError(message)
    found = getattr(importlib.import_module(_HOMES[name]), name)
    if inspect.isfunction(found):
        from sim.api.checked import checked

        found = checked(found)
    globals()[name] = found
    return found
