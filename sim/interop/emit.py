"""A plan as files of the tools that will run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from sim.errors import InputError
from sim.files import make_folder, write_whole
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.emit_accelerate import accelerate_yaml
from sim.interop.emit_axolotl import axolotl_yaml
from sim.interop.emit_deepspeed import deepspeed_json
from sim.interop.emit_torchtitan import torchtitan_toml
from sim.interop.emit_yaml import topology_yaml, workload_yaml

Emitter = Callable[[Topology, Workload], str]
FILES: dict[str, tuple[tuple[str, Emitter], ...]] = {
    "accelerate": (("accelerate.yaml", accelerate_yaml),),
    "deepspeed": (("ds_config.json", deepspeed_json),),
    "torchtitan": (("torchtitan.toml", torchtitan_toml),),
    "axolotl": (("axolotl.yaml", axolotl_yaml),),
    "yaml": (("topology.yaml", lambda t, w: topology_yaml(t)),
             ("workload.yaml", lambda t, w: workload_yaml(w))),
}  # fmt: skip

#: axes that a tool's file cannot ask for
LACKS = {
    "accelerate": ("expert_parallel", "pipeline_parallel"), "axolotl": ("pipeline_parallel",),
}  # fmt: skip


def write_plan(
    topology: Topology, workload: Workload, kinds: Iterable[str], folder: Path
) -> list[Path]:
    """Write a plan's files.

    Parameters
    ----------
    topology, workload : specs
        The plan.
    kinds : iterable of str
        Keys of `FILES`.
    folder : Path
        Created if it is not there.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        A tool that cannot run the plan's strategy or axes, or a folder that cannot be written.
    """
    strategy = strategy_of(workload)
    texts: list[tuple[str, str]] = []
    for kind in dict.fromkeys(kinds):
        if kind not in {"yaml", *strategy.tools}:
            able = " or ".join(sorted({"yaml", *strategy.tools}))
            message = f"{kind} cannot run {strategy.name}; emit {able} instead"
            option = f"--emit {kind}"
            raise InputError.single(option, message)
        for axis in LACKS.get(kind, ()):
            if getattr(workload.parallelism, axis) > 1:
                message = f"{kind}'s file has no {axis}; emit torchtitan instead"
                option = f"--emit {kind}"
                raise InputError.single(option, message)
        texts.extend((name, emitter(topology, workload)) for name, emitter in FILES[kind])
        if kind in ("accelerate", "axolotl") and strategy.deepspeed:
            texts.append(("ds_config.json", deepspeed_json(topology, workload)))
    written = []
    make_folder(folder)
    for name, text in dict(texts).items():
        write_whole(folder / name, text)
        written.append(folder / name)
    return written
