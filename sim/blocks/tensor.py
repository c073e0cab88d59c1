"""Tensor parallelism inside a block: what a pair of split matrices reads, and what leaves it.

The first matrices of a branch are split by columns, its last by rows, so that only the branch's
input and output are exchanged. With sequence parallelism the residual stream is split by positions:
its part is gathered before the branch and the branch's partial sums are reduce-scattered. Without,
all ranks hold the whole stream, and the partial sums are all-reduced, in backward those of the
input's gradient. Every exchange is waited for by what comes next.

Source: torchtitan's `parallelize_module` plan; Megatron-LM, arXiv 2105.04473 and 2205.05198.
"""

from __future__ import annotations

from sim.blocks.modules import OpRole
from sim.blocks.ops import Exchange, Map, When
from sim.blocks.tape import Tape

AXIS = "tp"


def enter(t: Tape, x: int, module: str) -> int:
    """The input of matrices split by columns, the first of which is `module`; its tensor."""
    s = t.setting
    if s.tensor == 1:
        return x
    if not s.splits_stream:
        whole = t.sizes[x]
        back = Exchange("all_reduce", AXIS, whole, whole, When.AFTER, True)
        t.unseen("tp.enter", (), [_copy(whole)], module=module, exchanges=(back,))
        return x
    part, whole = t.sizes[x], t.sizes[x] * s.tensor
    # a gather along the sequence is put in order by a copy, so are chunks before a reduction
    return t.op(
        "tp.gather", (x,), whole, (), [_copy(whole)], [_copy(whole)], module=module,
        exchanges=(
            Exchange("all_gather", AXIS, part, whole, When.BEFORE),
            Exchange("reduce_scatter", AXIS, whole, part, When.AFTER, True),
        ),
    )  # fmt: skip


def leave(t: Tape, y: int) -> int:
    """What is added to the stream of the partial sums that the last module made; its tensor."""
    s = t.setting
    if s.tensor == 1:
        return y
    whole = t.sizes[y]
    if not s.splits_stream:
        return t.op(
            "tp.sum", (y,), whole, (), [_copy(whole)], passes=True,
            exchanges=(Exchange("all_reduce", AXIS, whole, whole, When.AFTER),),
        )  # fmt: skip
    part = whole / s.tensor
    return t.op(
        "tp.scatter", (y,), part, (), [_copy(whole)], [_copy(whole)], kept_by_policy=True,
        exchanges=(
            Exchange("reduce_scatter", AXIS, whole, part, When.AFTER),
            Exchange("all_gather", AXIS, part, whole, When.BEFORE, True),
        ),
    )  # fmt: skip


def gather_logits(t: Tape, logits: int, width: int) -> int:
    """All columns of the logits on every rank, where the loss is not computed in parallel."""
    s = t.setting
    if s.tensor == 1 or s.loss_parallel:
        return logits
    part, whole = t.sizes[logits], t.size(width)
    return t.op(
        "tp.logits", (logits,), whole, (), [_copy(whole)], role=OpRole.HEAD,
        exchanges=(Exchange("all_gather", AXIS, part, whole, When.AFTER),),
    )  # fmt: skip


def loss_sums(t: Tape) -> tuple[Exchange, ...]:
    """Maximum, sum of exponentials and picked logit of each token, over the parts of its row."""
    s = t.setting
    if s.tensor == 1 or not s.loss_parallel:
        return ()
    size = 4.0 * s.tokens
    return (Exchange("all_reduce", AXIS, size, size, When.AFTER, dtype="fp32", phase="loss"),) * 3


def _copy(size: float) -> Map:
    return Map("tp.copy", 2 * size, 1, "strided", "copy")
