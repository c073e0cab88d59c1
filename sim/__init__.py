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

if TYPE_CHECKING:  # names one by one: `import *` would take what a module imports, too
    from sim.api.catalogue import diff as diff
    from sim.api.catalogue import doctor as doctor
    from sim.api.catalogue import entries as entries
    from sim.api.catalogue import entry as entry
    from sim.api.catalogue import explain_code as explain_code
    from sim.api.catalogue import init as init
    from sim.api.files import export as export
    from sim.api.files import import_job as import_job
    from sim.api.files import schema as schema
    from sim.api.jobs import config as config
    from sim.api.jobs import explain as explain
    from sim.api.jobs import improve as improve
    from sim.api.jobs import memory_of as memory_of
    from sim.api.jobs import posttrain as posttrain
    from sim.api.jobs import simulate as simulate
    from sim.api.jobs import support as support
    from sim.api.machines import collective as collective
    from sim.api.machines import prices_import as prices_import
    from sim.api.machines import prices_job as prices_job
    from sim.api.machines import prices_list as prices_list
    from sim.api.machines import prices_show as prices_show
    from sim.api.machines import topo_import as topo_import
    from sim.api.machines import topo_show as topo_show
    from sim.api.measurements import calibrate as calibrate
    from sim.api.measurements import confusion as confusion
    from sim.api.measurements import diagnose as diagnose
    from sim.api.measurements import validate as validate
    from sim.api.needs import need_bandwidth as need_bandwidth
    from sim.api.needs import need_context as need_context
    from sim.api.needs import need_gpus as need_gpus
    from sim.api.needs import need_price as need_price
    from sim.api.plans import compare_plans as compare_plans
    from sim.api.plans import plan as plan
    from sim.api.plans import run_study as run_study
    from sim.api.plans import studies as studies
    from sim.api.questions import compare as compare
    from sim.api.questions import size as size
    from sim.api.questions import sweep as sweep
    from sim.api.questions import sweep_grid as sweep_grid
    from sim.api.steps import stages as stages
    from sim.api.steps import timeline as timeline
    from sim.api.steps import trace as trace
    from sim.api.steps import trace_diff as trace_diff
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

if not TYPE_CHECKING:  # else a checker would take any name for one of ours

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
