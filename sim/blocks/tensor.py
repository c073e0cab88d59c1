"""Tensor parallelism inside a block: what a pair of split matrices reads, and what leaves it.

The first matrices of a branch are split by columns, its last by rows, so that only the branch's
input and output are exchanged. With sequence parallelism the residual stream is split by positions:
its part is gathered before the branch and the branch's partial sums are reduce-scattered. Without,
all ranks hold the whole stream, and the partial sums are all-reduced, in backward those of the
input's gradient. Every exchange is waited for by what comes next.

Three styles: ``dtensor`` keeps the gathered input, and orders what it gathered along the sequence
by a copy; ``megatron`` has the sequence as outermost dimension, keeps the part alone and gathers it
again in backward beside the gradients of inputs; those are then reduced beside the gradients of
weights; ``nanotron`` does the same, but keeps what it gathered.

Source: torchtitan's `parallelize_module` plan; Megatron-LM, core/tensor_parallel/layers.py,
`LinearWithGradAccumulationAndAsyncCommunication`; nanotron, parallel/tensor_parallel/functional.py,
`_ColumnLinearAsyncCommunication`; arXiv 2105.04473 and 2205.05198.
"""

from __future__ import annotations

from collections.abc import Callable

from sim.blocks.modules import OpRole
from sim.blocks.ops import Exchange, Map, When
from sim.blocks.tape import Tape

AXIS = "tp"


def enter(t: Tape, x: int, module: str, last: str = "", *, late: bool = False) -> int:
    """The input of matrices split by columns; its tensor.

    Parameters
    ----------
    t, x
        The tape, and what the matrices read.
    module, last : str
        The first of them as forward runs them, and the last; "" where there is one. [1]
    late : bool
        Its gradient is added to another branch's, and not needed before that is there.
    """
    s = t.setting
    if s.tensor == 1:
        return x
    reduces = When.BESIDE_WEIGHTS if s.reduces_beside else When.LATE if late else When.AFTER
    if not s.splits_stream:
        whole = t.sizes[x]
        back = Exchange("all_reduce", AXIS, whole, whole, reduces, True)
        t.unseen("tp.enter", (), _copies(t, whole), module=module, exchanges=(back,))
        return x
    part, whole = t.sizes[x], t.sizes[x] * s.tensor
    # a gather along the sequence is put in order by a copy, so are chunks before a reduction
    gathered = t.op(
        "tp.gather", (x,), whole, (), _copies(t, whole), _copies(t, whole), module=module,
        exchanges=(
            Exchange("all_gather", AXIS, part, whole, When.BEFORE),
            Exchange("reduce_scatter", AXIS, whole, part, reduces, True),
        ),
    )  # fmt: skip
    if s.regathers:
        t.kept[gathered] = x
        again = Exchange("all_gather", AXIS, part, whole, When.BESIDE_INPUTS, True)
        t.unseen("tp.again", module=last or module, exchanges=(again,))
    return gathered


def read_by(t: Tape, x: int, first: str, last: str = "") -> Callable[[str], int]:
    """What each of the matrices split by columns reads, by its name: one tensor, or its own copy.

    Parameters
    ----------
    t, x, first, last
        As for `enter`.
    """
    if t.setting.gathers_apart:
        return lambda module: enter(t, x, module)
    whole = enter(t, x, first, last)
    return lambda _: whole


def summed_tokens(t: Tape) -> int:
    """Tokens of the gradients that matrices with one input add to each other's. [1]"""
    return t.setting.stream_tokens if t.setting.gathers_apart else t.setting.tokens


def whole_stream(t: Tape, x: int) -> int:
    """All positions of what the module made, where nobody reads a part of it; its tensor.

    Gathered before the module's parameters are given back, and its gradient reduced when they are
    there again: the hidden states of a loss in chunks.
    """
    s = t.setting
    if s.tensor == 1:
        return x
    if not s.splits_stream:
        whole = t.sizes[x]
        back = Exchange("all_reduce", AXIS, whole, whole, When.BEFORE, True)
        t.unseen("tp.whole", (), _copies(t, whole), exchanges=(back,))
        return x
    part, whole = t.sizes[x], t.sizes[x] * s.tensor
    return t.op(
        "tp.whole", (x,), whole, (), _copies(t, whole), _copies(t, whole),
        exchanges=(
            Exchange("all_gather", AXIS, part, whole, When.AFTER),
            Exchange("reduce_scatter", AXIS, whole, part, When.BEFORE, True),
        ),
    )  # fmt: skip


def scores_back(t: Tape, top: int, module: str) -> None:
    """The gradients of a router's scores are summed, each rank's for its part of the positions."""
    s = t.setting
    if s.splits_stream:
        whole = t.size(top)
        back = Exchange("reduce_scatter", AXIS, whole, whole / s.tensor, When.BEFORE, True)
        t.unseen("tp.scores", (), [_copy(whole)], module=module, exchanges=(back,))


def leave(t: Tape, y: int) -> int:
    """What is added to the stream of the partial sums that the last module made; its tensor."""
    s = t.setting
    if s.tensor == 1:
        return y
    whole = t.sizes[y]
    if not s.splits_stream:
        return t.op(
            "tp.sum", (y,), whole, (), _copies(t, whole), passes=True,
            exchanges=(Exchange("all_reduce", AXIS, whole, whole, When.AFTER),),
        )  # fmt: skip
    part = whole / s.tensor
    return t.op(
        "tp.scatter", (y,), part, (), _copies(t, whole), _copies(t, whole), kept_by_policy=True,
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
    return _sums(4.0 * s.tokens)


def chunk_sums(t: Tape, logits: float, parts: int) -> tuple[Exchange, ...]:
    """What a loss in so many chunks exchanges, chunk by chunk; `logits` of all columns. [B]"""
    s = t.setting
    if s.tensor == 1:
        return ()
    if s.loss_parallel:
        return _sums(4.0 * s.tokens / parts) * parts
    part, whole = logits / s.tensor / parts, logits / parts
    return (Exchange("all_gather", AXIS, part, whole, When.AFTER, phase="loss"),) * parts


def _sums(size: float) -> tuple[Exchange, ...]:
    return (Exchange("all_reduce", AXIS, size, size, When.AFTER, dtype="fp32", phase="loss"),) * 3


def _copy(size: float) -> Map:
    return Map("tp.copy", 2 * size, 1, "strided", "copy")


def _copies(t: Tape, size: float) -> list[Map]:
    """What puts positions in order, where the sequence is not the outermost dimension."""
    return [] if t.setting.reduces_beside else [_copy(size)]
