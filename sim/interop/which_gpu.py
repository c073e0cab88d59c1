"""Which GPU a topology file is of: named beside the matrix, or told by the NVLinks it shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from sim.errors import InputError
from sim.inputs import catalogue
from sim.inputs.gpu import Gpu
from sim.inputs.spoken import gpu_named
from sim.interop.host import ImportedNode

_OPTION = "--gpu"
#: how nvidia-smi names a GPU: `-L`, `-q`, and the table it prints without options
_NAMED = re.compile(
    r"^GPU \d+: (?P<list>[^(\n]+?) \(UUID|Product Name\s*: (?P<query>[^\n]+)"
    r"|^\|\s+\d+\s+(?P<table>(?:NVIDIA|Tesla|GeForce|Quadro)[\w .-]+?)\s+(?:On|Off)\s*\|",
    re.M,
)
#: compute capability of a GPU in an NCCL topology: 80 is 8.0
_CAPABILITY = re.compile(r'<gpu\b[^>]*\bsm="(\d{2,3})"')


def which_gpu(data: bytes, source: str, read: Callable[[Gpu], ImportedNode]) -> tuple[Gpu, str]:
    """GPU of a file whose owner did not say it.

    Parameters
    ----------
    source : str
        Its name, for faults.
    read : callable
        Reads the file as a node of some GPU; an `InputError` where it cannot be one.

    Returns
    -------
    gpu : Gpu
        As named in the file, or the one chip of the catalogue that has as many NVLinks as it shows
        (with most memory, where chips differ in that alone).
    assumed : str
        What was supposed; "" where the file names it.

    Raises
    ------
    InputError
        Several GPUs named or possible, or none; a file that cannot be read.
    """
    text = data.decode("utf-8", "replace")
    said = {next(filter(None, m.groups())).strip() for m in _NAMED.finditer(text)}
    named = {gpu_named(word, catalogue.gpu_names()) or word for word in said}
    if len(named) > 1:
        message = f"names several GPUs ({', '.join(sorted(named))}); --gpu says which to take"
        raise InputError.single(source, message)
    if named:
        (name,) = named
        found = catalogue.gpu(name)
        if found is None:
            message = f"names the GPU {name!r}, which the catalogue has not; --gpu takes another"
            raise InputError.single(source, message)
        return found, ""
    _refuse_unread(read)
    capabilities = {int(m[1]) / 10 for m in _CAPABILITY.finditer(text)}
    fitting = [
        gpu
        for gpu in _catalogue()
        if capabilities <= {gpu.compute_capability} and _shows_all_of(read, gpu)
    ]
    chips = {gpu.name.rpartition("-")[0] for gpu in fitting}
    if len(chips) != 1:
        some = ", ".join(gpu.name for gpu in fitting)
        told = f"by its NVLinks one of {some}" if some else "such as h100-sxm-80gb"
        raise InputError.single(_OPTION, f"the file does not name its GPU; add it, {told}")
    best = max(fitting, key=lambda gpu: gpu.memory)
    others = ", ".join(gpu.name for gpu in fitting if gpu is not best)
    assumed = f"GPU {best.name}, by its {best.nvlink_links} NVLinks: the file does not name it"
    return best, assumed + f" (--gpu for {others})" * bool(others)


def _refuse_unread(read: Callable[[Gpu], ImportedNode]) -> None:
    """Raise what is wrong with a file whatever its GPU is."""
    for gpu in _catalogue():
        try:
            read(gpu)
        except InputError as error:
            if all(fault.path != _OPTION for fault in error.faults):
                raise
        else:
            return


def _catalogue() -> Iterator[Gpu]:
    for name in catalogue.gpu_names():
        found = catalogue.gpu(name)
        assert found is not None
        yield found


def _shows_all_of(read: Callable[[Gpu], ImportedNode], gpu: Gpu) -> bool:
    """Whether a file shows as many NVLinks as a GPU has, in a fabric that its form can have."""
    try:
        host = read(gpu)
    except InputError:
        return False
    ends = [end for pair in host.nvlinks for end in pair]
    links = host.nvswitch_links or max(
        (sum(c for pair, c in host.nvlinks.items() if end in pair) for end in ends), default=0
    )
    bridged = not host.nvswitch_links and all(ends.count(end) == 1 for end in ends)
    return (
        not host.seed and links == gpu.nvlink_links > 0 and (bridged or gpu.form_factor != "pcie")
    )
