"""What a sharded strategy gathers and reduces at a time: units and their bytes.

A unit is the parameters of one `fully_shard` call (FSDP2) or one flat parameter (FSDP1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, prod

from sim.blocks.flops import checkpointed_layers
from sim.blocks.modules import Block, ModelTree, Module, OpRole, Parameter
from sim.blocks.parameters import ParameterShare, build_tree, share_of
from sim.inputs.dtypes import frozen_dtype, reduce_dtype
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.modelling import model_of
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.records import NamedTuple
from sim.units import DTYPE_BYTES

#: where an error says a knob was read
SOURCE = "workload"

#: bytes an element of a quantised base weight: two 4-bit values in a byte; scales stay on each rank
QUANTISED_BYTES = 0.5
#: of one of LLM.int8(), which no strategy shards
INT8_BYTES = DTYPE_BYTES["int8"]


#: groups of a plan that parameters are sharded over: those of experts over fewer ranks
SHARD, EXPERT_SHARD = "shard", "expert-shard"

#: what both FSDPs read of `Parallelism`
FSDP_KNOBS = frozenset((
    "wrap", "reduce_dtype", "forward_prefetch", "backward_prefetch", "gradient_sync", "replicate",
    "checkpoint_wrapper",
))  # fmt: skip


class Unit(NamedTuple):
    """Parameters that are gathered together. Element counts include padding, all shards together.

    Attributes
    ----------
    name : str
        As recordings name it: "root", "layers.3", "tok_embeddings", "norm, lm_head".
    block : int
        Block of its parameters, -1 for the root.
    numel : int
        Elements, padded.
    gather_bytes : float
        All-gather output. [B]
    gather_dtype : str
        Dtype of the all-gather as issued.
    master_bytes : float
        The sharded storage of all ranks together. [B]
    grad_numel : int
        Padded elements of the parameters that have a gradient.
    tensors, grad_tensors : int
        Parameters in it, and those with a gradient.
    partial : tuple of int
        Elements of each whose gradient tensor-parallel ranks have parts of.
    over : str
        Group of the plan that they are sharded over.
    cast : tuple of (float, float)
        Of what is cast before it is gathered, all ranks together: as stored, and as gathered. [B]
    """

    name: str
    block: int
    numel: int
    gather_bytes: float
    gather_dtype: str
    master_bytes: float
    grad_numel: int
    tensors: int
    grad_tensors: int
    partial: tuple[int, ...] = ()
    over: str = SHARD
    cast: tuple[float, float] = (0.0, 0.0)


class Dtypes(NamedTuple):
    """Dtypes of a run, as mixed-precision policies name them."""

    compute: str  # parameters as gathered, and gradients
    master: str  # trainable sharded parameters, and their gradients after reduction
    frozen: str  # frozen sharded parameters
    reduce: str  # gradients on the wire
    quantised: bool  # frozen matrices of the layers are stored in 4 bits, or 8
    packed: float  # bytes an element of such a matrix
    fp8_gather: bool  # matrices of the layers are gathered in FP8


@lru_cache(maxsize=64)
def dtypes(workload: Workload) -> Dtypes:
    """Dtypes that a workload's precision, method and parallelism ask for."""
    precision, method = workload.precision, workload.method
    compute = precision.activations
    master = "fp32" if compute == "fp32" or precision.master == "fp32" else "bf16"
    return Dtypes(
        compute=compute,
        master=master,
        frozen=frozen_dtype(workload) if method.frozen else master,
        reduce=reduce_dtype(workload),
        quantised=method.quantised,
        packed=INT8_BYTES if method.quantization == "int8" else QUANTISED_BYTES,
        fp8_gather=precision.kind == "fp8" and precision.all_gather == "fp8",
    )


def sharers(mesh: Mesh) -> dict[str, int]:
    """Ranks that share a unit, by its group. [1]"""
    return {SHARD: mesh.size("fsdp"), EXPERT_SHARD: mesh.efsdp}


def padded_numel(shape: Sequence[int], ranks: int, along: int = 0) -> int:
    """Elements after FSDP2 pads a dimension (the first) to a multiple of `ranks`."""
    rows = shape[along] if shape else 1
    return ceil(rows / ranks) * ranks * (prod(shape) // rows)


def sharded_numel(module: Module, parameter: Parameter, ranks: int) -> int:
    """Elements of a parameter with padding, all of its `ranks` shards together.

    Fewer experts than ranks are cut along the second dimension, so that none is padding.
    Source: torchtitan, ``apply_fsdp``, ``shard_placement_fn`` of the experts.
    """
    shape = parameter.shape
    return padded_numel(shape, ranks, int(module.expert and ranks > shape[0]))


def is_matrix(module: Module, parameter: Parameter) -> bool:
    """Whether this is a weight of a linear layer: what FP8 and 4-bit methods replace."""
    two = len(parameter.shape) == 2 and not parameter.name.endswith(
        "bias"
    )  # of experts, a row each
    return module.role is OpRole.LINEAR and two


def fsdp2_unit(
    name: str, block: int, modules: Sequence[Module], ranks: int, types: Dtypes, over: str = SHARD
) -> Unit:
    """One `fully_shard` group over modules.

    Equation: per parameter ceil(d0/S) S (numel/d0) elements.
    """
    numel = grad_numel = tensors = grad_tensors = 0
    gather = master = before = after = 0.0
    compute = DTYPE_BYTES[types.compute]
    mixed = False
    for module in modules:
        for parameter in module.parameters:
            n = sharded_numel(module, parameter, ranks)
            numel += n
            tensors += 1
            matrix = is_matrix(module, parameter)
            if parameter.trainable:
                grad_numel += n
                grad_tensors += 1
                stored, sent = DTYPE_BYTES[types.master], compute
            elif types.quantised and matrix:
                stored = sent = QUANTISED_BYTES
                mixed = True
            else:
                stored, sent = DTYPE_BYTES[types.frozen], compute
            if types.fp8_gather and matrix:
                sent, mixed = 1.0, True
            gather += n * sent
            master += n * stored
            if sent != stored:  # a policy's dtype that parameters have is none (`_fsdp_param.py`)
                before, after = before + n * stored, after + n * sent
    dtype = "uint8" if mixed else types.compute
    partial = tuple(q.numel for m in modules if m.partial for q in m.parameters if q.trainable)
    return Unit(
        name, block, numel, gather, dtype, master, grad_numel, tensors, grad_tensors, partial,
        over, (before, after),
    )  # fmt: skip


def trainable(block: Block) -> bool:
    """Whether any parameter of a block has a gradient."""
    return any(p.trainable for m in block.modules for p in m.parameters)


def equal_layers(workload: Workload, tree: ModelTree) -> bool:
    """Whether all layers have equal parameters and all or none recompute."""
    templates = {b.kind: b.modules for b in tree.layers}
    first = tree.layers[0].modules
    if any(modules is not first and modules != first for modules in templates.values()):
        return False
    return len(set(checkpointed_layers(workload.activation_checkpointing, len(tree.layers)))) == 1


def input_grads(workload: Workload) -> bool:
    """Whether the embedding's output is made to require a gradient though its weight is frozen.

    Reentrant checkpointing needs it, the other kind does not.
    """
    asked = workload.method.input_require_grads
    if asked is not None:
        return asked
    policy = workload.activation_checkpointing
    return policy.kind != "none" and policy.reentrant


def tree_blocks(tree: ModelTree) -> tuple[Block, ...]:
    """Blocks by number: embedding, layers, head."""
    return (tree.embedding, *tree.layers, tree.head)


def trainable_elements(workload: Workload, ranks: int) -> tuple[float, int, float, float]:
    """Padded trainable elements of a shard, tensors, largest shard of one, Adafactor's factors.

    FSDP2 cuts along a dimension, others a flat tensor: eight experts over 64 ranks are not padded.
    """
    rows = strategy_of(workload).fsdp_version == 2
    return _trainable_elements(model_of(workload), workload.method, ranks, share_of(workload), rows)


@lru_cache(maxsize=64)
def _trainable_elements(
    model: Model, method: Method, ranks: int, share: ParameterShare, rows: bool
) -> tuple[float, int, float, float]:
    tree = build_tree(model, method, share)
    elements = largest = factors = 0.0
    tensors = 0
    seen: dict[str, tuple[float, int, float, float]] = {}
    for block in (tree.embedding, *tree.layers, tree.head):
        if block.kind not in seen:
            e = big = f = 0.0
            count = 0
            for module in block.modules:
                apart = max(1, ranks * share.tensor // share.expert)
                own = apart if module.expert else ranks
                for parameter in module.parameters:
                    if not parameter.trainable:
                        continue
                    n = float(ceil(parameter.numel / own))
                    if rows:
                        n = sharded_numel(module, parameter, own) / own
                    e, big, count = e + n, max(big, n), count + 1
                    # a row and a column vector for a matrix, the whole second moment for a vector
                    *many, last = parameter.shape
                    f += prod(many[:-1]) * (many[-1] + last) if many else last
            seen[block.kind] = (e, count, big, f)
        e, count, big, f = seen[block.kind]
        elements, tensors, factors = elements + e, tensors + count, factors + f
        largest = max(largest, big)
    return elements, tensors, largest, factors / ranks


def stored_bytes(tree: ModelTree, types: Dtypes, trained: str) -> float:
    """All parameters as they are kept: quantised ones packed, trained ones in `trained`. [B]"""
    by_kind: dict[str, float] = {}
    for block in tree_blocks(tree):
        if block.kind not in by_kind:
            size = 0.0
            for module in block.modules:
                for q in module.parameters:
                    if q.trainable:
                        each = DTYPE_BYTES[trained]
                    elif types.quantised and is_matrix(module, q):
                        each = types.packed
                    else:
                        each = DTYPE_BYTES[types.frozen]
                    size += each * q.numel
            by_kind[block.kind] = size
    return sum(by_kind[block.kind] for block in tree_blocks(tree))
