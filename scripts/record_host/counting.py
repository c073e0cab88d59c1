"""Count what Python asks of a GPU: kernels, dispatched operators, waits, module calls.

Real code runs on tiny CPU tensors under a dispatch mode. An operator that would launch nothing on
CUDA (a view, an allocation) counts as an operator only; one that launches several kernels there
counts as so many (`LAUNCHES`, each with its place in PyTorch's CUDA sources); one after which the
host knows a device value counts as a wait (`WAITS`).
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: operators without alias annotation that launch nothing
QUIET = {
    "aten::_unsafe_view", "aten::empty.memory_format", "aten::empty_like", "aten::new_empty",
    "aten::empty_strided", "aten::new_empty_strided", "aten::lift_fresh", "aten::detach",
    "aten::_local_scalar_dense", "aten::set_.source_Tensor", "aten::resize_",
    "aten::is_same_size", "aten::record_stream", "aten::_has_compatible_shallow_copy_type",
    "aten::set_.source_Storage_storage_offset", "aten::is_pinned",
    "profiler::_record_function_enter_new", "profiler::_record_function_exit",
}  # fmt: skip
#: kernels of operators that launch more than one on CUDA (aten/src/ATen/native/cuda unless said)
LAUNCHES = {
    "aten::slice_backward": 2,  # FunctionsManual.cpp: zeros, then a copy into the slice
    "aten::select_backward": 2,  # the same
    "aten::constant_pad_nd": 2,  # fill, copy
    "aten::nll_loss_backward": 2,  # NLLLoss.cu: zero, then rows
    "aten::embedding_dense_backward": 2,  # Embedding.cu: zero, rows (> 3072 tokens: a sort)
    "aten::nonzero": 3,  # Nonzero.cu: cub reduce, cub select, coordinates
    "aten::topk": 2,  # TensorTopK.cu: gatherTopK, then sort of what it found
    "aten::cumsum": 2,  # cub scan
    # Indexing.cu, index_put_with_sort_kernel: wrap, divide, number, sort (cub: 2), add rows
    "aten::index_put": 6,
    "aten::index_put_": 6,
    "aten::_index_put_impl_": 6,
    "aten::native_layer_norm_backward": 2,  # layer_norm_kernel.cu: input, then weight and bias
    "aten::_fused_rms_norm_backward": 2,
    "aten::convolution_backward": 2,
    # flash-attn 2.7 flash_bwd_launch_template.h: dot_do_o, dq_dk_dv, convert_dq
    "record_host::flash_backward": 3,
}
#: operators that make the host wait for the device
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select",
         "aten::unique_dim", "aten::_unique2")  # fmt: skip
#: c10d operators by what they are; gathers take a list of tensors where the device is the CPU
COLLECTIVES = {
    "allgather_": "all_gather", "_allgather_base_": "all_gather", "allreduce_": "all_reduce",
    "_reduce_scatter_base_": "reduce_scatter", "reduce_scatter_": "reduce_scatter",
    "broadcast_": "broadcast", "allgather_into_tensor_coalesced_": "all_gather",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
}  # fmt: skip
GEMM = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear")


def name_of(func: Any) -> str:
    """``namespace::operator``; the overload only where it tells apart (``empty.memory_format``)."""
    name: str = func._schema.name
    full = f"{name}.{func._schema.overload_name}"
    return full if full in QUIET else name


def quiet(func: Any) -> bool:
    """Whether it launches nothing: a view, an allocation, a look at the host."""
    if name_of(func) in QUIET:
        return True
    returns = func._schema.returns
    alias = [r.alias_info for r in returns if r.alias_info is not None]
    return bool(alias) and not any(a.is_write for a in alias)


class Watch(TorchDispatchMode):
    """Operators by phase; `phase` is set by whoever drives the step."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        self.kernels: dict[str, Counter[str]] = {}
        self.operators: Counter[str] = Counter()
        self.collectives: dict[str, Counter[str]] = {}
        self.waits: Counter[tuple[str, str]] = Counter()
        self.modules: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.phase:
            name = name_of(func)
            self.operators[self.phase] += 1
            if func.namespace in ("c10d", "_c10d_functional"):
                short = COLLECTIVES.get(name.split("::")[1], name)
                self.collectives.setdefault(self.phase, Counter())[short] += 1
            elif not quiet(func):
                count = LAUNCHES.get(name, 1)
                if "index_put" in name and not (len(args) > 3 and args[3]):
                    count = 1  # it does not accumulate, so it need not sort
                short = name.removeprefix("aten::").removeprefix("record_host::")
                self.kernels.setdefault(self.phase, Counter())[short] += count
            if name in WAITS:
                self.waits[self.phase, place()] += 1
        return func(*args, **(kwargs or {}))

    def called(self, module: Any, _args: Any) -> None:
        """A forward pre-hook of every module."""
        if self.phase:
            self.modules[self.phase] += 1


def place() -> str:
    """The innermost caller outside torch and this package: ``file:function``."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if "site-packages" in path and "/torch/" not in path:
            where = path.split("site-packages/")[-1]
            return f"{where}:{frame.f_code.co_qualname}"
        frame = frame.f_back  # type: ignore[assignment]
    return "the loop"


@contextlib.contextmanager
def counted(watch: Watch) -> Iterator[Watch]:
    """With module calls counted as well."""
    hook = torch.nn.modules.module.register_module_forward_pre_hook(watch.called)
    try:
        with watch:
            yield watch
    finally:
        hook.remove()


def again(watch: Watch, layers: Any) -> None:
    """From now on a layer that is called in backward plays phase ``recompute``."""
    for layer in layers:
        layer.forward = _recomputing(watch, layer.forward)


def _recomputing(watch: Watch, forward: Any) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before = watch.phase
        if before.endswith("backward"):
            watch.phase = before.removesuffix("backward") + "recompute"
        try:
            return forward(*args, **kwargs)
        finally:
            watch.phase = before

    return wrapped


def nodes(loss: torch.Tensor) -> int:
    """Nodes of the graph that backward runs through, gradient accumulators included."""
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [n for n, _ in node.next_functions]
    return len(seen)
