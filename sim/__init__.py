"""Predict how distributed training will run on a GPU cluster.

>>> from sim import simulate
>>> result = simulate("dgx-h100", "llama3-8b-sft")
>>> result.step.time_s, result.throughput.mfu, result.memory.fits  # doctest: +SKIP
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["InputError", "Result", "ScalingSimError", "__version__", "simulate"]


def __getattr__(name: str) -> object:
    # imported on use: `scaling-sim --help` should not pay for the simulator
    if name == "simulate":
        from sim.api import simulate

        return simulate
    if name == "Result":
        from sim.result.result import Result

        return Result
    if name in ("InputError", "ScalingSimError"):
        from sim import errors

        return getattr(errors, name)
    message = f"module 'sim' has no attribute {name!r}"
    raise AttributeError(message)
