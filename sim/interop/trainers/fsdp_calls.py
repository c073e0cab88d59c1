"""PyTorch's FSDP, either version, and DDP, as loops of one's own call them, and meshes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from sim.inputs.tree import Items, Leaf, Tree
from sim.interop.trainers import fsdp_keys
from sim.interop.trainers.keys import WHY_NO_MATTER, Keys
from sim.interop.trainers.script_calls import ScriptCall

_MESHES = ("mesh", "device_mesh")
_AXES = re.compile(r"\[(.*)\]")
_REPLICAS = (frozenset({"parallelism.replicate"}),)
_LEFT_OUT = ("ignored_modules", "ignored_states", "ignored_params")
#: arguments that say something whatever they are worth
RAW = frozenset((*_MESHES, *_LEFT_OUT, "process_group"))
_READ_ELSEWHERE = "auto_wrap_policy mixed_precision cpu_offload mp_policy offload_policy"


def fsdp1(wrapped: Keys, by: Mapping[str, ScriptCall], originals: bool = False) -> None:
    """`FullyShardedDataParallel`, or what passes its arguments on.

    Parameters
    ----------
    wrapped : Keys
        Arguments of the call.
    by : mapping of ScriptCall
        The script's calls by kind.
    originals : bool
        ``use_orig_params`` where it is left out.
    """
    job, place = wrapped.job, wrapped.branch.place
    job.take("parallelism.strategy", "fsdp1", place, f"{wrapped.prefix.rstrip('.')}()")
    _mesh(wrapped, by)
    fsdp_keys.reshard(wrapped, 1, [])
    prefetch = fsdp_keys.PREFETCH.get(wrapped.text("backward_prefetch").lower())
    if prefetch:
        wrapped.put("parallelism.backward_prefetch", prefetch, "backward_prefetch")
    wrapped.put_on("parallelism.forward_prefetch", "forward_prefetch", value=1)
    wrapped.put_flag("parallelism.use_orig_params", "use_orig_params", default=originals)
    wrapped.put_flag("parallelism.limit_all_gathers", "limit_all_gathers")
    offload(wrapped, by)
    _rest(wrapped)


def fsdp2(wrapped: Keys, by: Mapping[str, ScriptCall]) -> None:
    """`fully_shard`."""
    job, name = wrapped.job, "reshard_after_forward"
    job.take("parallelism.strategy", "fsdp2", wrapped.branch.place, "fully_shard()")
    _mesh(wrapped, by)
    if wrapped.text(name) in ("true", "false"):
        wrapped.put_flag(f"parallelism.{name}", name)
    elif wrapped.has(name):  # a number of GPUs
        wrapped.matters("a part of the ranks is not modelled: resharded over all", name)
    offload(wrapped, by)
    _rest(wrapped)


def offload(keys: Keys, by: Mapping[str, ScriptCall]) -> None:
    """Parameters in host memory, of FSDP's either version."""
    said = by.get("offload")
    if said is None:
        return
    on = said.text("offload_params") or said.text("0")
    if said.last == "CPUOffloadPolicy" or on == "True":
        keys.job.take("parallelism.offload", "all", said.branch.place, f"{said.last}()")
    elif on not in ("", "False"):
        why = f"{on.strip('${}')} is known only at run time"
        keys.job.skip(said.branch.place, f"{said.last}.offload_params", why, True)


def ddp(given: Keys) -> None:
    """`DistributedDataParallel`, or what passes its arguments on."""
    place, said = given.branch.place, f"{given.prefix.rstrip('.')}()"
    given.job.take("parallelism.strategy", "ddp", place, said)
    given.put_flag("parallelism.gradient_as_bucket_view", "gradient_as_bucket_view")
    if size := given.number("bucket_cap_mb"):
        given.put("parallelism.bucket_cap_mb", size, "bucket_cap_mb")
    given.leave(
        WHY_NO_MATTER,
        "device_ids output_device find_unused_parameters static_graph broadcast_buffers module "
        "process_group_backend timeout start_method",
    )
    given.rest("Python scripts'")


def _rest(wrapped: Keys) -> None:
    for name in _LEFT_OUT:
        if name in wrapped.branch.entries:
            wrapped.matters("what FSDP leaves out is not followed: taken as sharded", name)
    if wrapped.has("process_group"):
        wrapped.matters("a group of ranks is not followed: taken as all", "process_group")
    wrapped.leave("read above", _READ_ELSEWHERE)
    wrapped.leave(WHY_NO_MATTER, "device_id sync_module_states param_init_fn module")
    wrapped.rest("Python scripts'")


def _mesh(wrapped: Keys, by: Mapping[str, ScriptCall]) -> None:
    """Replicas of a mesh that the file spells out: the first of two dimensions."""
    job, said = wrapped.job, wrapped.text(*_MESHES)
    if not said:
        return
    made = by.get("mesh")
    sizes = _sizes(made)
    if made is None or not sizes:
        why = "a mesh that the file does not spell out: taken as one group of all GPUs"
        job.skip(wrapped.place(*_MESHES), wrapped.named(*_MESHES), why, True, _REPLICAS)
        return
    place, shape = made.branch.place, ", ".join(str(n or "?") for n in sizes)
    known = [n for n in sizes if n]
    if len(known) == len(sizes):
        job.world = (math.prod(known), place)
    taken = _taken(said, made, sizes)
    if len(taken) > 2:
        why = f"a mesh of {shape}: how its dimensions are used is not followed; one group of all"
        job.skip(place, "init_device_mesh()", why, True, _REPLICAS)
    elif len(taken) == 2 and taken[0] is None:
        why = f"a mesh of {shape}: add --set parallelism.replicate=N, which only a run knows"
        job.skip(place, "init_device_mesh()", why, True, _REPLICAS)
    elif len(taken) == 2 and taken[0] != 1:
        job.take("parallelism.replicate", taken[0], place, "init_device_mesh()", f"({shape})")


def _sizes(made: ScriptCall | None) -> list[int | None]:
    """Ranks of each dimension of a mesh; None where only a run knows, none at all without any."""
    found = _argument(made, "1", "mesh_shape")
    if not isinstance(found, Items):
        return []
    values = [x.value if isinstance(x, Leaf) else None for x in found.items]
    return [n if isinstance(n, int) and n > 0 else None for n in values]


def _taken(said: str, made: ScriptCall, sizes: list[int | None]) -> list[int | None]:
    """Of the dimensions those that a call is given by their names, ``mesh["dp"]``, or all."""
    picked = _AXES.search(said) if "init_device_mesh" not in said else None
    if picked is None:
        return sizes
    found = _argument(made, "mesh_dim_names")
    names = [str(x.value) for x in found.items if isinstance(x, Leaf)] if found else []
    words = re.findall(r"\w+", picked[1])
    if len(names) == len(sizes) and set(words) <= set(names):
        return [sizes[names.index(word)] for word in words]
    return sizes


def _argument(made: ScriptCall | None, *names: str) -> Items | None:
    entries: dict[str, Tree] = made.branch.entries if made is not None else {}
    found = next((entries[name] for name in names if name in entries), None)
    return found if isinstance(found, Items) else None
