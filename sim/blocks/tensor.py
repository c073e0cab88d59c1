"""Tensor parallelism inside a block: what a pair of split matrices reads, and what leaves it.

The first matrices of a branch are split by columns, its last by rows, so that only the branch's
input and output are exchanged. With sequence parallelism the residual stream is split by positions:
its part is gathered before the branch and the branch's partial sums are reduce-scattered. Without,
all ranks hold the whole stream, and the partial sums are all-reduced, in backward those of the
input's gradient. Every exchange is waited for by what comes next.

Styles: ``dtensor`` keeps the gathered input, and orders what it gathered along the sequence
by a copy; ``megatron`` has the sequence as outermost dimension, keeps the part alone and gathers it
again in backward beside the gradients of inputs; those are then reduced beside the gradients of
weights; ``nanotron`` does the same, but keeps what it gathered.

``dtensor-async`` is ``dtensor`` compiled with asynchronous tensor parallelism: a gather and the
product that reads it, or a product and the reduction of what it makes, become one operation in as
many pieces as there are ranks. Beside the product of a piece, copy engines bring another from the
memory of its rank; what a reduction brings is added up at the end. The first piece of a gather is
the rank's own, the last of a reduction too. The sum of gradients of several matrices that read one
input is no product, and is reduced as ever.

``megatron`` with `Setting.tensor_overlap` is Transformer Engine's `userbuffers` as it is set up if
nobody says other. A gather before matrices, and that of the gradient of what a branch made, pass
parts round a ring by copy engines, beside the products of parts that are there. A sum that leaves a
branch is reduced in four runs of columns, each beside the product of the next, the last behind
them. What backward gathers again, and the sum of gradients of inputs, are in whole beside a
product, as ``megatron`` has them anyway, but by kernels on the buffers of all ranks. Products of
parts run on several streams, so that one fills the SMs that another leaves: their waves are those
of the whole. Limits: a product slower than its exchange starts with it, not a part before; SMs that
are set aside all along (16 of products beside kernels) are lost while these run.

Source: torchtitan's `parallelize_module` plan; Megatron-LM, core/tensor_parallel/layers.py,
`LinearWithGradAccumulationAndAsyncCommunication`; nanotron, parallel/tensor_parallel/functional.py,
`_ColumnLinearAsyncCommunication`; arXiv 2105.04473 and 2205.05198; PyTorch, torch/_inductor/
fx_passes/micro_pipeline_tp.py and torch/distributed/_symmetric_memory; Transformer Engine 2.8,
pytorch/module/base.py (`initialize_ub`), layernorm_linear.py, linear.py; common/comm_gemm_overlap.
"""

from __future__ import annotations

from collections.abc import Callable

from sim.blocks.lowprec import reads_part
from sim.blocks.modules import OpRole, Position
from sim.blocks.ops import BUFFERS, COPIES, Exchange, Map, When, joined
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.units import DTYPE_BYTES

AXIS = "tp"
SPLITS = 4  # runs of columns of a sum that is reduced beside the product


def enter(
    t: Tape,
    x: int,
    module: str,
    last: str = "",
    *,
    late: bool = False,
    products: tuple[str, ...] = (),
    low: bool = False,
) -> int:
    """The input of matrices split by columns; its tensor.

    Parameters
    ----------
    t, x
        The tape, and what the matrices read.
    module, last : str
        The first of them as forward runs them, and the last; "" where there is one. [1]
    late : bool
        Its gradient is added to another branch's, and not needed before that is there.
    products : tuple of str
        The matrices, if all that is done with what they read is to multiply it.
    low : bool
        They are a library's for FP8, if the job has any: what is gathered for them may be FP8, and
        the exchange may run beside them.
    """
    s = t.setting
    if s.tensor == 1:
        return x
    if products and s.pieces > 1:
        return _enter_in_pieces(t, x, products)
    reduces = When.BESIDE_WEIGHTS if s.reduces_beside else When.LATE if late else When.AFTER
    if not s.splits_stream:
        whole = t.sizes[x]
        back = Exchange("all_reduce", AXIS, whole, whole, reduces, True)
        t.unseen("tp.enter", (), _copies(t, whole), module=module, exchanges=(back,))
        return x
    part, whole = t.sizes[x], t.sizes[x] * s.tensor
    gather = _gather(t, part, whole, When.BEFORE, low and s.keeps_fp8)
    over = AXIS
    if low and s.tensor_overlap:
        over = BUFFERS
        gather = gather._replace(over=COPIES, when=When.ALONG if last else When.BESIDE)
    # a gather along the sequence is put in order by a copy, so are chunks before a reduction
    gathered = t.op(
        "tp.gather", (x,), whole, (), _copies(t, whole), _copies(t, whole), module=module,
        exchanges=(
            gather,
            Exchange("reduce_scatter", over, whole, part, reduces, True),
        ),
    )  # fmt: skip
    if gather.when is When.ALONG:
        t.unseen("tp.joined", module=last, exchanges=(joined(COPIES, When.AFTER, backward=False),))
    if s.regathers:
        t.kept[gathered] = x
        again = gather._replace(over=over, when=When.BESIDE_INPUTS, backward=True)
        t.unseen("tp.again", module=last or module, exchanges=(again,))
    return gathered


def _enter_in_pieces(t: Tape, x: int, products: tuple[str, ...]) -> int:
    """`enter`, with the products beside the copies that bring what they read."""
    parts, (first, *others) = t.setting.pieces, products
    part, whole = t.sizes[x], t.sizes[x] * parts
    alone = not others
    t.cut.update(dict.fromkeys(products, parts))
    ready = _copy(part)  # to where others read it
    if alone:
        t.cut[f"{first}.dgrad"] = parts
        back = Exchange("all_to_all", COPIES, whole, whole, When.BESIDE_INPUTS, True)
    else:
        back = Exchange("reduce_scatter", AXIS, whole, part, When.AFTER, True)
    gather = Exchange("all_gather", COPIES, part, whole, When.BESIDE if alone else When.ALONG)
    gathered = t.op(
        "tp.gather", (x,), whole, (), [ready], [_added(part, parts) if alone else _copy(whole)],
        module=first, exchanges=(gather, back),
    )  # fmt: skip
    if others:
        end = joined(COPIES, When.AFTER, backward=False)
        t.unseen("tp.joined", module=others[-1], exchanges=(end,))
    return gathered


def read_by(t: Tape, x: int, *modules: str) -> Callable[[str], int]:
    """What each of the matrices split by columns reads, by its name: one tensor, or its own copy.

    Parameters
    ----------
    t, x
        As for `enter`.
    modules : str
        The matrices, as forward runs them. [1]
    """
    if t.setting.gathers_apart:
        return lambda module: enter(t, x, module)
    first, *others = modules
    whole = enter(t, x, first, others[-1] if others else "", products=modules, low=True)
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


def makes_sums(t: Tape, product: str) -> None:
    """Say, before it is played, that a product makes what will `leave` the branch."""
    if t.setting.pieces > 1:
        t.cut |= {product: t.setting.pieces, f"{product}.dgrad": t.setting.pieces}


def leave(t: Tape, y: int) -> int:
    """What is added to the stream of the partial sums that the last module made; its tensor."""
    s = t.setting
    if s.tensor == 1:
        return y
    whole = t.sizes[y]
    if t.module in t.cut:
        part = whole / s.pieces
        return t.op(
            "tp.scatter", (y,), part, (), [_added(part, s.pieces)], [_copy(part)],
            kept_by_policy=True,
            exchanges=(
                Exchange("all_to_all", COPIES, whole, whole, When.BESIDE),
                Exchange("all_gather", COPIES, part, whole, When.BESIDE_INPUTS, True),
            ),
        )  # fmt: skip
    if not s.splits_stream:
        return t.op(
            "tp.sum", (y,), whole, (), _copies(t, whole), passes=True,
            exchanges=(Exchange("all_reduce", AXIS, whole, whole, When.AFTER),),
        )  # fmt: skip
    part = whole / s.tensor
    summed = Exchange("reduce_scatter", AXIS, whole, part, When.AFTER)
    sums = [summed]
    gather = _gather(t, part, whole, When.BEFORE, reads_part(t))._replace(backward=True)
    if s.tensor_overlap and t.modules[-1].place is Position.OUTPUT:
        sums = [
            summed._replace(over=BUFFERS, sent=share * whole, received=share * part, when=when)
            for share, when in ((1 - 1 / SPLITS, When.BESIDE), (1 / SPLITS, When.AFTER))
        ]
        gather = gather._replace(over=COPIES, when=When.BESIDE_INPUTS)
    return t.op(
        "tp.scatter", (y,), part, (), _copies(t, whole), _copies(t, whole), kept_by_policy=True,
        exchanges=(*sums, gather),
    )  # fmt: skip


def _gather(t: Tape, part: float, whole: float, when: When, low: bool) -> Exchange:
    """Of activations, or of what they are in FP8."""
    if not low:
        return Exchange("all_gather", AXIS, part, whole, when)
    element = t.setting.element
    return Exchange("all_gather", AXIS, part / element, whole / element, when, dtype="fp8")


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


def workspace_bytes(setting: Setting) -> float:
    """Memory that ranks show each other for exchanges, beside PyTorch's allocator. [B]

    Of pieces two of a reduction, a gather shows one. Userbuffers are of all positions, for each of
    six gathers (two before matrices, again in backward, and of a branch's gradient) and four sums.
    """
    s = setting
    if s.tensor_overlap:
        gathered = DTYPE_BYTES["fp8"] if s.keeps_fp8 else s.product
        return (6.0 * gathered + 4.0 * s.product) * s.tokens * s.model.hidden_size
    shown = 2.0 * s.stream_tokens * s.model.hidden_size * s.product
    return shown if s.pieces > 1 else 0.0


def _added(part: float, parts: int) -> Map:
    """The sum of what so many ranks made of a part."""
    return Map("tp.added", (parts + 1) * part, 1, "", "reduction")


def _copy(size: float) -> Map:
    return Map("tp.copy", 2 * size, 1, "strided", "copy")


def _copies(t: Tape, size: float) -> list[Map]:
    """What puts positions in order, where the sequence is not the outermost dimension."""
    return [] if t.setting.reduces_beside else [_copy(size)]
