"""Context parallelism inside a block: pieces of attention over a sequence that ranks share.

``ring``: torch's `context_parallel`. Keys and values pass round the ranks beside attention on those
that have arrived, partial outputs are merged in fp32, and in backward the gradients of keys and
values travel as well, in fp32, one turn more than keys and values. ``all-gather``: keys and values
are gathered one after the other before attention, their gradients reduce-scattered after its
backward (torchtitan; Llama 3, section 3.3.2). ``ulysses``: all-to-alls of queries, keys and values
turn parts of the sequence into parts of the heads before attention, and one of its output turns
them back; each is put in the order in which it is sent or read by a copy.

Source: torch 2.13, ``distributed/tensor/experimental/_context_parallel/_attention.py``, held to
recordings in ``tests/data/mesh_recordings.json``; deepspeed/sequence/layer.py, `_SeqAllToAll` and
`single_all_to_all`; arXiv 2407.21783; arXiv 2309.14509.
"""

from __future__ import annotations

from sim.blocks.ops import Exchange, Map, When
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.records import NamedTuple

AXIS = "cp"
#: what attention's own kernels stand under where ranks share sequences
CORE = "attention"


class TensorBytes(NamedTuple):
    """Of one rank's share of each tensor. [B]"""

    queries: float
    keys: float
    values: float
    outputs: float

    @property
    def pairs(self) -> float:
        """Keys and values together, as a ring sends them."""
        return self.keys + self.values


class AttentionCall(NamedTuple):
    """One call of the attention kernel.

    Attributes
    ----------
    queries, keys : int
        Of a sequence. [1]
    pairs : float
        Query-key pairs of a head and sequence that are not masked. [1]
    causal : bool
        Masked above its diagonal.
    heads : int
        Ranks that share its heads. [1]
    share : float
        Of the keys that the rank has at a time. [1]
    """

    queries: int
    keys: int
    pairs: float
    causal: bool = True
    heads: int = 1
    share: float = 1.0


def pairs_seen(queries: int, keys: int, window: int | None, fair: bool = True) -> float:
    """Query-key pairs of a head and sequence that a causal mask leaves; a window caps the keys.

    `queries` share `keys` fairly, as full sequences and balanced parts do, or are the last of them.
    Full causal attention counts half the square, as flash kernels do.
    """
    window = min(window or keys, keys)
    if fair:
        return queries / keys * (window * keys - window * window / 2)
    before = keys - queries
    rising = max(0, window - before)  # queries that see all there is before them
    return rising * before + rising * rising / 2 + (queries - rising) * window


def pieces(s: Setting, length: int, keys: int, window: int | None) -> tuple[AttentionCall, ...]:
    """Calls of the kernel on the rank with most to do: the last one of a ring.

    With load balance a rank holds chunks i and 2c - 1 - i of 2c, so that all have equal work: the
    last rank's later calls are of all queries against the first half of what arrives. Without, the
    last rank attends to all other parts whole, the first to its own alone.
    """
    if s.context == 1:
        return (AttentionCall(length, keys, pairs_seen(length, keys, window)),)
    if s.context_kind == "ulysses":
        return (AttentionCall(keys, keys, pairs_seen(keys, keys, window), heads=s.context),)
    if s.context_kind == "all-gather":
        return (AttentionCall(length, keys, pairs_seen(length, keys, window, s.context_balanced)),)
    arrived = length // 2 if s.context_balanced else length
    own = AttentionCall(length, length, pairs_seen(length, length, None))
    other = AttentionCall(length, arrived, float(length) * arrived, False, share=arrived / length)
    return (own,) + (other,) * (s.context - 1)


def part(s: Setting, call: int, backward: bool = False) -> str:
    """Where a call of the kernel stands in its block: "" with the rest of its operation."""
    if not travels(s):
        return ""
    # a block's parts run backwards in backward, a ring starts with its own keys both ways
    return f"{CORE}.{s.context - 1 - call if backward else call}"


def travels(s: Setting) -> bool:
    """Whether keys and values pass round a ring."""
    return s.context > 1 and s.context_kind == "ring"


def open_parts(t: Tape) -> None:
    """Kernels that follow are attention's own, which exchanges are around or between."""
    s = t.setting
    if s.context == 1:
        return
    for call in range(s.context if travels(s) else 0):
        t.part(part(s, call))
    if not travels(s):
        t.part(CORE)


def gathered(t: Tape, k: int, v: int, sizes: TensorBytes) -> tuple[int, int, TensorBytes]:
    """Keys and values of the whole sequence, where they are gathered; they are kept as such."""
    s = t.setting
    if s.context == 1 or s.context_kind != "all-gather":
        return k, v, sizes
    made = []
    for name, x, size in (("k", k, sizes.keys), ("v", v, sizes.values)):
        whole = s.context * size
        moves = (
            Exchange("all_gather", AXIS, size, whole, When.BEFORE),
            Exchange("reduce_scatter", AXIS, whole, size, When.AFTER, True),
        )
        made.append(t.op(f"cp.gather.{name}", (x,), whole, exchanges=moves))
    k, v = made
    more = TensorBytes(
        sizes.queries, s.context * sizes.keys, s.context * sizes.values, sizes.outputs
    )
    return k, v, more


def exchanged(s: Setting, sizes: TensorBytes, kv_heads: int) -> tuple[Exchange, ...]:
    """What ranks send each other around and between calls of the kernel."""
    if s.context == 1 or s.context_kind == "all-gather":
        return ()
    if travels(s):
        return tuple(_turns(s, sizes.pairs))
    *there, back = _turned(s, sizes, kv_heads)
    return tuple(
        Exchange("all_to_all", AXIS, size, size, when, backward)
        for turned, when, backward in (
            (there, When.BEFORE, False), ([back], When.AFTER, False),
            ([back], When.BEFORE, True), (there, When.AFTER, True),
        )
        for size in turned
    )  # fmt: skip


def _turned(s: Setting, sizes: TensorBytes, kv_heads: int) -> tuple[float, ...]:
    """Queries, keys, values and outputs as a rank turns them; it needs whole heads. [B]"""
    more = max(1.0, s.context / kv_heads)
    return sizes.queries, more * sizes.keys, more * sizes.values, sizes.outputs


def turns(s: Setting, sizes: TensorBytes, kv_heads: int) -> list[Map]:
    """Copies around the all-to-alls of a direction."""
    if s.context == 1 or s.context_kind != "ulysses":
        return []
    copied = _turned(s, sizes, kv_heads)
    return [Map("cp.turn", 2.0 * size, 1, "strided", "copy") for size in copied]


def _turns(s: Setting, pairs: float) -> list[Exchange]:
    """Of a ring: what runs beside each call of the kernel, in the order of issue."""
    c, wide = s.context, pairs * 4.0 / s.product
    whole = s.context_rotation == "all-gather"

    def moved(call: int, backward: bool) -> list[Exchange]:
        where = part(s, call, backward)
        if whole:
            size = ("all_gather", AXIS, pairs, c * pairs)
            return [Exchange(*size, When.BESIDE, backward, part=where)] if call == 0 else []
        size = ("send_recv", AXIS, pairs, pairs)
        return [Exchange(*size, When.BESIDE, backward, part=where)] if call < c - 1 else []

    found = [x for call in range(c) for x in moved(call, False)]
    for call in range(c):
        if call:  # gradients of the call before this one
            where = part(s, call, True)
            found.append(_gradients(wide, When.BESIDE, where))
        found += moved(call, True)
    return [*found, _gradients(wide, When.AFTER, part(s, c - 1, True))]


def _gradients(wide: float, when: When, where: str) -> Exchange:
    return Exchange("send_recv", AXIS, wide, wide, when, True, dtype="fp32", part=where)


def merged(s: Setting, call: int, sizes: TensorBytes) -> list[Map]:
    """Kernels around a call forward: keys and values as one message, outputs merged.

    Partial outputs are cast to fp32, then out - sigmoid(lse' - lse) (out - out') in eager steps
    (`_SDPAMerger`); the result is cast back.
    """
    if not travels(s):
        return []
    where, n = part(s, call), sizes.outputs / s.product
    wide = s.product + 4.0
    rows = [Map("cp.cast", wide * n, 1, "cast", part=where)]
    if call < s.context - 1:
        rows.append(Map("cp.join", 2.0 * sizes.pairs, 1, "strided", "copy", part=where))
    if call:
        # difference, product and sum of outputs; five kernels of one number a row and head
        rows.append(Map("cp.merge", 32.0 * n, 8, part=where))
    if call == s.context - 1:
        rows.append(Map("cp.cast", wide * n, 1, "cast", part=where))
    return rows


def added(s: Setting, call: int, sizes: TensorBytes) -> list[Map]:
    """Kernels after a call backward: gradients added in fp32, and made one message."""
    if not travels(s):
        return []
    where = part(s, call, True)
    queries, pairs = sizes.queries / s.product, sizes.pairs / s.product
    sums = (s.product + 8.0) * (queries + pairs)
    rows = [Map("cp.add", sums, 3, part=where)]
    if not call:
        rows.insert(0, Map("cp.zero", 4.0 * (queries + pairs), 3, part=where))
    elif s.context_balanced:  # half of the keys and values, put beside the other half
        rows = [Map("cp.add", sums - (s.product + 8.0) * pairs / 2 + 8.0 * pairs, 5, part=where)]
    if call < s.context - 1:
        rows.append(Map("cp.join", 2.0 * sizes.pairs, 1, "strided", "copy", part=where))
    rows.append(Map("cp.join", 8.0 * pairs, 1, "strided", "copy", part=where))
    if call == s.context - 1:
        rows.append(Map("cp.cast", (s.product + 4.0) * (queries + pairs), 3, "cast", part=where))
    return rows


def buffers(s: Setting, sizes: TensorBytes) -> tuple[float, float]:
    """Buffers of the exchanges, alive while attention runs forward and backward. [B]

    Ring: what arrives (all parts or, turn by turn, what is sent and what comes); forward the fp32
    outputs before and after a merge, the piece and their difference; backward fp32 gradients of
    queries, keys and values, and those of keys and values that arrive. Ulysses: the four tensors by
    heads instead of positions.
    """
    if s.context == 1 or s.context_kind == "all-gather":
        return 0.0, 0.0
    if not travels(s):
        size = sizes.queries + sizes.pairs + sizes.outputs
        return size, size
    turned = (s.context if s.context_rotation == "all-gather" else 2.0) * sizes.pairs
    wide = 4.0 / s.product
    forward = 4.0 * wide * sizes.outputs
    return turned + forward, turned + wide * (sizes.queries + 2.0 * sizes.pairs)
