"""Jobs as files: those of other tools read and written, and the schema of our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.api.arguments import Overrides, read
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.inputs.schema import FileSchema
    from sim.interop.emit import Exported
    from sim.interop.imported import ImportedJob


def export(
    topology: Argument,
    workload: Argument,
    *,
    emit: Sequence[str],
    folder: File = "plan",
    overwrite: bool = False,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
) -> Exported:
    """Write a job as configurations of the tools that will run it.

    Parameters
    ----------
    topology, workload, overrides, calibration
        As for `simulate`.
    emit : sequence of str
        ``accelerate``, ``deepspeed``, ``torchtitan``, ``axolotl``, ``llamafactory``, ``trl``,
        ``sbatch``, ``torchrun``, ``yaml``.
    folder : path
        Where to; files that are there are kept unless `overwrite`.

    Raises
    ------
    InputError
        A tool whose file would mean another plan, or a file that is there already.
    """
    machine, job, _ = read(topology, workload, overrides, calibration)
    from sim.interop.emit import export

    return export(machine, job, emit, Path(folder), overwrite)


def import_job(*files: File) -> ImportedJob:
    """Read the files of one job as other tools have them.

    Parameters
    ----------
    *files : paths
        In any order: a trainer's file, a launcher's, an adapter's. `simulate` and the others take
        such a file, or a tuple of them, as it is.

    Raises
    ------
    InputError
        A file that is no tool's known here, or two that contradict each other.
    """
    from sim.interop.imported import import_job

    return import_job(files)


def schema(side: str) -> FileSchema:
    """JSON Schema of a kind of file, for editors that complete and check YAML.

    Parameters
    ----------
    side : str
        ``topology`` or ``workload``.
    """
    from sim.inputs.schema import SIDES, file_schema

    if side not in SIDES:
        argument = "schema"
        raise InputError.single(argument, f"{side!r} is not one of {', '.join(SIDES)}", "side")
    return file_schema(side)
