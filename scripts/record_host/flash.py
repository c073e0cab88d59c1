"""flash-attn 2.7 as its Python side runs, around two operators that stand for its kernels.

What launches in flash-attn's own Python (flash_attn_interface.py, bert_padding.py) is written out;
the CUDA extension is one operator forward and one backward, the latter of three kernels and one
more for each of dk and dv where key heads are shared (flash_api.cpp, ``mha_bwd``: ``at::sum_out``).
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import torch
import torch.nn.functional as F

LIB = torch.library.Library("record_host", "DEF")
LIB.define("flash_forward(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
LIB.define("flash_backward(Tensor g, Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor, Tensor)")
LIB.define("sum_heads(Tensor x, int groups) -> Tensor")


def _forward(q: Any, k: Any, v: Any) -> Any:
    return torch.zeros_like(q), q.new_zeros(q.shape[:-1], dtype=torch.float32)


def _backward(g: Any, q: Any, k: Any, v: Any) -> Any:
    return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)


for _key in ("CPU", "Meta"):
    LIB.impl("flash_forward", _forward, _key)
    LIB.impl("flash_backward", _backward, _key)
    LIB.impl("sum_heads", lambda x, groups: x.clone(), _key)


class Flash(torch.autograd.Function):
    """``FlashAttnFunc``."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        out, lse = torch.ops.record_host.flash_forward(q, k, v)

        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        q, k, v, _, _ = ctx.saved_tensors
        if g.stride(-1) != 1:
            g = g.contiguous()
        dq, dk, dv = torch.ops.record_host.flash_backward(g, q, k, v)
        if k.shape[-2] != q.shape[-2]:
            groups = q.shape[-2] // k.shape[-2]
            dk = torch.ops.record_host.sum_heads(dk, groups)
            dv = torch.ops.record_host.sum_heads(dv, groups)
        return dq, dk, dv


def flash_attn_func(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> Any:
    """As imported from flash_attn."""
    return Flash.apply(q, k, v)


def flash_attn_varlen_func(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> Any:
    """As imported from flash_attn."""
    return Flash.apply(q, k, v)


class IndexFirstAxis(torch.autograd.Function):
    """bert_padding.py, ``IndexFirstAxis``."""

    @staticmethod
    def forward(ctx: Any, x: Any, indices: Any) -> Any:
        ctx.save_for_backward(indices)
        ctx.first, other = x.shape[0], x.shape[1:]
        width = other.numel()
        rows = indices[:, None].expand(-1, width)
        return torch.gather(x.reshape(ctx.first, width), 0, rows).reshape(-1, *other)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (indices,) = ctx.saved_tensors
        other = g.shape[1:]
        g = g.reshape(g.shape[0], -1)
        out = torch.zeros([ctx.first, g.shape[1]], device=g.device, dtype=g.dtype)
        out.scatter_(0, indices[:, None].expand(-1, g.shape[1]), g)
        return out.reshape(ctx.first, *other), None


class IndexPutFirstAxis(torch.autograd.Function):
    """bert_padding.py, ``IndexPutFirstAxis``."""

    @staticmethod
    def forward(ctx: Any, x: Any, indices: Any, first: int) -> Any:
        ctx.save_for_backward(indices)
        out = torch.zeros(first, *x.shape[1:], device=x.device, dtype=x.dtype)
        out[indices] = x
        return out

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (indices,) = ctx.saved_tensors
        return g[indices], None, None


def pad_input(x: Any, indices: Any, batch: int, length: int) -> Any:
    """bert_padding.py."""
    return IndexPutFirstAxis.apply(x, indices, batch * length).reshape(batch, length, *x.shape[1:])


def unpad_input(x: Any, mask: Any) -> Any:
    """bert_padding.py; transformers calls it for queries shorter than keys only."""
    lengths = mask.sum(dim=-1, dtype=torch.int32)
    indices = torch.nonzero(mask.flatten(), as_tuple=False).flatten()
    longest = lengths.max().item()
    ends = F.pad(torch.cumsum(lengths, dim=0, dtype=torch.int32), (1, 0))
    flat = x.reshape(-1, *x.shape[2:])
    return IndexFirstAxis.apply(flat, indices), indices, ends, longest


def one_hot(x: Any, num_classes: int) -> Any:
    """As on CUDA, where the values are not looked at (Onehot.cpp)."""
    out = torch.zeros(*x.shape, num_classes, dtype=torch.int64, device=x.device)
    return out.scatter_(-1, x.unsqueeze(-1), 1)


def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """As on CUDA, where it is one kernel (Dropout.cpp, ``is_fused_kernel_acceptable``)."""
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


def install() -> None:
    """Let transformers believe that flash-attn 2.7 is there; before it is imported."""
    package, padding = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.bert_padding")
    package.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    package.__version__ = "2.7.0"  # type: ignore[attr-defined]
    for name in ("flash_attn_func", "flash_attn_varlen_func"):
        setattr(package, name, globals()[name])
    padding.index_first_axis = IndexFirstAxis.apply  # type: ignore[attr-defined]
    padding.pad_input, padding.unpad_input = pad_input, unpad_input  # type: ignore[attr-defined]
    package.bert_padding = padding  # type: ignore[attr-defined]
    sys.modules.update({"flash_attn": package, "flash_attn.bert_padding": padding})
    F.one_hot, F.dropout = one_hot, dropout  # type: ignore[assignment]
    import transformers.utils
    import transformers.utils.import_utils as found

    for name in (
        "is_flash_attn_2_available", "is_flash_attn_greater_or_equal_2_10",
        "is_flash_attn_greater_or_equal",
    ):  # fmt: skip
        for where in (found, transformers.utils):
            setattr(where, name, lambda *_: True)
    import transformers.modeling_utils as base

    base.PreTrainedModel._check_and_enable_flash_attn_2 = classmethod(  # type: ignore[method-assign]
        lambda cls, config, **_: config
    )
