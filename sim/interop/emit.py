"""A plan as files of the tools that will run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.documents import SCHEMAS, Document
from sim.errors import InputError
from sim.files import is_taken, make_folder, write_whole
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.emit_accelerate import accelerate_yaml, beside_trainer
from sim.interop.emit_axolotl import axolotl_yaml
from sim.interop.emit_deepspeed import deepspeed_json
from sim.interop.emit_launch import sbatch_script, torchrun_script
from sim.interop.emit_llamafactory import llamafactory_yaml
from sim.interop.emit_megatron import megatron_script
from sim.interop.emit_torchtitan import torchtitan_toml
from sim.interop.emit_trl import trl_yaml
from sim.interop.emit_yaml import topology_yaml, workload_yaml
from sim.interop.roundtrip import lost, unsound

Emitter = Callable[[Topology, Workload], str]
_AXOLOTL = ("axolotl.yaml", axolotl_yaml)
_TRL = ("sft.yaml", trl_yaml)
FILES: dict[str, tuple[tuple[str, Emitter], ...]] = {
    "accelerate": (("accelerate.yaml", accelerate_yaml),),
    "deepspeed": (("ds_config.json", deepspeed_json),),
    "torchtitan": (("torchtitan.toml", torchtitan_toml),),
    "megatron": (("megatron.sh", megatron_script),),
    "axolotl": (_AXOLOTL,),
    "llamafactory": (("llamafactory.yaml", llamafactory_yaml),),
    "trl": (_TRL,),
    "sbatch": (("job.sbatch", sbatch_script), _TRL),
    "torchrun": (("torchrun.sh", torchrun_script), _TRL),
    "yaml": (("topology.yaml", lambda t, w: topology_yaml(t)),
             ("workload.yaml", lambda t, w: workload_yaml(w))),
}  # fmt: skip
#: Hugging Face's trainer runs what accelerate does
_AS_ACCELERATE = frozenset({"llamafactory", "trl", "sbatch", "torchrun"})
#: trainers that leave FSDP to the file of accelerate's launcher
_LAUNCHED = frozenset({"llamafactory", "trl", "sbatch"})


def texts_of(topology: Topology, workload: Workload, kind: str) -> dict[str, str]:
    """A plan's files for a tool, and those that they name.

    Parameters
    ----------
    topology, workload : specs
        The plan.
    kind : str
        A key of `FILES`.

    Returns
    -------
    dict of str to str
        Texts by file name.

    Raises
    ------
    InputError
        A tool that cannot run the plan's strategy, or whose file would mean another plan.
    """
    strategy = strategy_of(workload)
    able = {"yaml", *strategy.tools}
    if able & {"accelerate"}:
        able |= _AS_ACCELERATE
    if not strategy.deepspeed:  # its ZeRO stage that shards alike is another plan
        able -= {"deepspeed"}
    option = f"--emit {kind}"
    if kind not in able:
        others = _others(able, kind, topology, workload)
        message = f"{kind} cannot run {strategy.name}; emit {others} instead"
        raise InputError.single(option, message)
    texts, unsaid = _written(topology, workload, kind)
    if unsaid:
        others = _others(able, kind, topology, workload)
        message = f"{kind} cannot say {unsaid}; emit {others} instead"
        raise InputError.single(option, message)
    return texts


def _written(topology: Topology, workload: Workload, kind: str) -> tuple[dict[str, str], str]:
    """A plan's files for a tool that runs its strategy, and what they would say otherwise."""
    strategy = strategy_of(workload)
    texts = {name: emitter(topology, workload) for name, emitter in FILES[kind]}
    if kind == "yaml":
        return texts, ""
    if strategy.deepspeed:
        texts["ds_config.json"] = deepspeed_json(topology, workload)
    if kind == "sbatch" or (kind in _LAUNCHED and strategy.fsdp_version):
        texts["accelerate.yaml"] = beside_trainer(topology, workload)
    wrong, _ = lost(texts, workload)
    said = [f"{row.path} = {row.planned} (it would be {row.read})" for row in wrong]
    return texts, ", ".join(said or unsound(topology, texts, workload))


def _others(able: set[str], kind: str, topology: Topology, workload: Workload) -> str:
    """Tools that a plan may be written for instead: those that would not refuse it too."""
    found = []
    for other in sorted(able - {kind}):
        with suppress(InputError):
            if not _written(topology, workload, other)[1]:
                found.append(other)
    return " or ".join(found)


def write_plan(
    topology: Topology,
    workload: Workload,
    kinds: Iterable[str],
    folder: Path,
    *,
    overwrite: bool = False,
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
    overwrite : bool
        Replace files that are there.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        As `texts_of`; two tools that want one file otherwise, a file that is there already, or a
        folder that cannot be written.
    """
    texts: dict[str, str] = {}
    for kind in dict.fromkeys(kinds):
        for name, text in texts_of(topology, workload, kind).items():
            if name == "accelerate.yaml" and kind == "accelerate" and name in texts:
                continue  # beside a trainer it leaves checkpointing to that
            texts[name] = text
    there = [name for name in texts if is_taken(folder / name)]
    if there and not overwrite:
        message = f"{' and '.join(there)} is there already; name another folder, or add --force"
        raise InputError.single(str(folder), message)
    make_folder(folder)
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


@dataclass(frozen=True, slots=True)
class Exported(Document):
    """A plan's files.

    Attributes
    ----------
    paths : tuple of str
        What was written.
    unsaid : tuple of mappings
        ``tool``, ``key``, ``planned``, ``read``: knobs of the plan that no file of the tool says,
        or that it runs otherwise, and what they are read as.
    """

    schema = SCHEMAS["export"]
    paths: tuple[str, ...]
    unsaid: tuple[Mapping[str, Any], ...]

    def records(self) -> Sequence[Mapping[str, Any]]:
        """A row a file."""
        return [{"path": path} for path in self.paths]


def export(
    topology: Topology, workload: Workload, kinds: Sequence[str], folder: Path, overwrite: bool
) -> Exported:
    """`write_plan`, with what the files do not say."""
    paths = write_plan(topology, workload, kinds, folder, overwrite=overwrite)
    unsaid = [
        {"tool": kind, "key": row.path, "planned": row.planned, "read": row.read}
        for kind in dict.fromkeys(kinds)
        if kind != "yaml"
        for row in lost(texts_of(topology, workload, kind), workload)[1]
    ]
    return Exported(tuple(map(str, paths)), tuple(unsaid))
