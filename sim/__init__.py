"""Predict how distributed training will run on a GPU cluster.

>>> from sim import simulate
>>> result = simulate("dgx-h100", "llama3-8b-sft")
>>> result.step.time_s, result.throughput.mfu, result.memory.fits  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.api import simulate as simulate
    from sim.errors import InputError as InputError
    from sim.errors import ScalingSimError as ScalingSimError
    from sim.result.result import Result as Result
    from sim.study.compare import compare as compare

__version__ = "0.1.0"
__all__ = ["InputError", "Result", "ScalingSimError", "__version__", "compare", "simulate"]

# name -> module; imported on use: `scaling-sim --help` should not pay for the simulator
_HOMES = {
    "InputError": "sim.errors",
    "Result": "sim.result.result",
    "ScalingSimError": "sim.errors",
    "compare": "sim.study.compare",
    "simulate": "sim.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module 'sim' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(_HOMES[name]), name)
