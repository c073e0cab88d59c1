"""Model and method to module tree: parameters as registered, modules as forward runs them.

Names are those of the reference Llama: ``wq wk wv wo w1 w2 w3 attention_norm ffn_norm`` (``w1``
gate, ``w3`` up, ``w2`` down; a plain FFN has ``w1`` up and ``w2`` down). Fused matrices are
``wqkv`` and ``w13``. An adapter stands beside its frozen base as ``wq.A`` and ``wq.B``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from sim.blocks.modules import Block, ModelTree, Module, Parameter
from sim.inputs.model import Model
from sim.inputs.workload import Method

#: adapter target -> module of the reference model; a fused matrix serves all of its targets
TARGET_MODULES = {
    "q": "wq",
    "k": "wk",
    "v": "wv",
    "o": "wo",
    "gate": "w1",
    "up": "w3",
    "down": "w2",
}
GATED = ("swiglu", "geglu")
LinearMaker = Callable[[str, int, int, bool], list[Module]]


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameter totals of a tree.

    Attributes
    ----------
    total : int
        All parameters, a tied embedding once. [1]
    active : int
        Those one token meets: as `total`, but only the routed experts. [1]
    trainable : int
        Those with a gradient. [1]
    embedding : int
        Token and position tables; looked up, not multiplied, unless tied to the head. [1]
    non_embedding : int
        ``total - embedding``, plus the tied table, which the head multiplies by. [1]
    active_non_embedding : int
        The same of `active`: N of the 6 N convention. [1]
    tensors : int
        Parameter tensors. [1]
    """

    total: int
    active: int
    trainable: int
    embedding: int
    non_embedding: int
    active_non_embedding: int
    tensors: int


def head_dims(model: Model) -> tuple[int, int]:
    """Width of all query heads and of all key (or value) heads."""
    return model.heads * model.head_dim, model.kv_heads * model.head_dim


def layer_kind(model: Model, index: int) -> str:
    """Template key of a layer.

    ``layer``, with ``.dense`` in a mixture's dense layers and ``.sliding`` where a window applies.
    """
    kind = "layer"
    if model.experts and index < model.dense_layers:
        kind += ".dense"
    if model.sliding_window and (
        model.sliding_window_pattern <= 1 or (index + 1) % model.sliding_window_pattern
    ):
        kind += ".sliding"
    return kind


@lru_cache(maxsize=64)
def build_tree(model: Model, method: Method | None = None) -> ModelTree:
    """Module tree of a model under a training method.

    Parameters
    ----------
    model : Model
        Shape of the transformer.
    method : Method, optional
        LoRA and QLoRA freeze the base and add adapters. Default: full fine-tuning.

    Returns
    -------
    ModelTree
        Blocks of one kind share one tuple of modules.
    """
    method = method or Method()
    full = method.kind == "full"
    d = model.hidden_size
    embedding = [_module("embedding", full, weight=(model.vocab_size, d))]
    if model.positions == "learned":
        embedding.append(_module("positions", full, weight=(model.max_positions, d)))
    if model.embedding_norm:
        embedding.append(_norm("embedding_norm", model, d, full))
    head = [_norm("norm", model, d, full)]
    if not model.tied_embeddings:
        head.append(_linear("head", d, model.vocab_size, model.head_bias, full))
    templates: dict[str, Block] = {}
    layers = []
    for index in range(model.layers):
        kind = layer_kind(model, index)
        if kind not in templates:
            templates[kind] = _layer(model, method, kind)
        t = templates[kind]
        layers.append(Block(f"layers.{index}", kind, t.modules, t.forward_order))
    order = ("norm", "head")
    return ModelTree(
        embedding=Block(
            "embedding", "embedding", tuple(embedding), tuple(m.name for m in embedding)
        ),
        layers=tuple(layers),
        head=Block("head", "head", tuple(head), order),
        tied=model.tied_embeddings,
    )


@lru_cache(maxsize=64)
def count_parameters(model: Model, method: Method | None = None) -> ParameterCounts:
    """Parameter totals of a model under a method."""
    tree = build_tree(model, method)
    total = trainable = tensors = idle = 0
    by_kind: dict[str, tuple[int, int, int, int]] = {}
    for block in (tree.embedding, *tree.layers, tree.head):
        if block.kind not in by_kind:
            experts = sum(
                p.numel for m in block.modules if m.name.startswith("experts") for p in m.parameters
            )
            unused = (
                experts * (model.experts - model.experts_per_token) // model.experts
                if model.experts
                else 0
            )
            by_kind[block.kind] = (
                numel(block.modules),
                numel(block.modules, trainable=True),
                sum(len(m.parameters) for m in block.modules),
                unused,
            )
        n, t, c, u = by_kind[block.kind]
        total, trainable, tensors, idle = total + n, trainable + t, tensors + c, idle + u
    table = sum(
        m.parameters[0].numel
        for m in tree.embedding.modules
        if m.name in ("embedding", "positions")
    )
    lookup = table - (tree.embedding.modules[0].parameters[0].numel if tree.tied else 0)
    return ParameterCounts(
        total=total,
        active=total - idle,
        trainable=trainable,
        embedding=table,
        non_embedding=total - lookup,
        active_non_embedding=total - idle - lookup,
        tensors=tensors,
    )


def numel(modules: Iterable[Module], trainable: bool | None = None) -> int:
    """Elements of the modules' parameters, or of the trainable (frozen) ones alone."""
    return sum(
        p.numel
        for m in modules
        for p in m.parameters
        if trainable is None or p.trainable == trainable
    )


def adapted(model: Model, method: Method) -> frozenset[str]:
    """Names of the modules that carry an adapter."""
    if method.kind == "full":
        return frozenset()
    names = set()
    for target in method.targets:
        name = TARGET_MODULES[target]
        if model.fused_qkv and target in ("q", "k", "v"):
            name = "wqkv"
        elif target in ("gate", "up"):
            if model.ffn not in GATED:
                name = "w1"
            elif model.fused_gate_up:
                name = "w13"
        names.add(name)
    return frozenset(names)


def _layer(model: Model, method: Method, kind: str) -> Block:
    d = model.hidden_size
    q, kv = head_dims(model)
    full = method.kind == "full"
    targets = adapted(model, method)
    qkv_bias, output_bias = model.bias or model.qkv_bias, model.bias or model.output_bias

    def linear(name: str, n_in: int, n_out: int, bias: bool) -> list[Module]:
        base = _linear(name, n_in, n_out, bias, full)
        if name not in targets:
            return [base]
        return [base, *_adapter(name, n_in, n_out, method.rank)]

    attention: list[Module] = []
    if model.fused_qkv:
        attention += linear("wqkv", d, q + 2 * kv, qkv_bias)
    else:
        attention += (
            linear("wq", d, q, qkv_bias)
            + linear("wk", d, kv, qkv_bias)
            + linear("wv", d, kv, qkv_bias)
        )
    output = linear("wo", q, d, output_bias)
    qk_norms = (
        [_norm(n, model, model.head_dim, full) for n in ("q_norm", "k_norm")]
        if model.qk_norm
        else []
    )
    ffn, ffn_order = _ffn(model, method, kind, linear)
    before = [_norm("attention_norm", model, d, full)]
    after_attention: list[Module] = []
    before_ffn: list[Module] = []
    after_ffn: list[Module] = []
    if model.norms_per_layer >= 2:
        before_ffn = [_norm("ffn_norm", model, d, full)]
    if model.norms_per_layer == 4:
        after_attention = [_norm("post_attention_norm", model, d, full)]
        after_ffn = [_norm("post_ffn_norm", model, d, full)]
    registered = (
        *attention,
        *output,
        *qk_norms,
        *ffn,
        *before,
        *after_attention,
        *before_ffn,
        *after_ffn,
    )
    run = (*before, *attention, *qk_norms, *output, *after_attention, *before_ffn)
    order = (*(m.name for m in run), *ffn_order, *(m.name for m in after_ffn))
    return Block("layers", kind, registered, order)


def _ffn(
    model: Model, method: Method, kind: str, linear: LinearMaker
) -> tuple[list[Module], list[str]]:
    d, gated = model.hidden_size, model.ffn in GATED
    bias = model.bias or model.mlp_bias
    if model.experts and ".dense" not in kind:
        return _experts(model, method)
    f = model.ffn_size
    down = linear("w2", f, d, bias)
    if not gated:
        up = linear("w1", d, f, bias)
        return [*up, *down], [m.name for m in (*up, *down)]
    if model.fused_gate_up:
        both = linear("w13", d, 2 * f, bias)
        return [*both, *down], [m.name for m in (*both, *down)]
    gate, up = linear("w1", d, f, bias), linear("w3", d, f, bias)
    return [*gate, *down, *up], [m.name for m in (*gate, *up, *down)]


def _experts(model: Model, method: Method) -> tuple[list[Module], list[str]]:
    """Router, then all experts as one module: schedules fetch a mixture's FFN as a whole."""
    d, f = model.hidden_size, model.expert_ffn_size or model.ffn_size
    full, targets = method.kind == "full", adapted(model, method)
    names = ("w1", "w2", "w3") if model.ffn in GATED else ("w1", "w2")
    shape = {"w1": (f, d), "w2": (d, f), "w3": (f, d)}
    modules = [
        _module("router", full, weight=(model.experts, d)),
        Module(
            "experts",
            tuple(
                Parameter(f"{e}.{n}", shape[n], full) for e in range(model.experts) for n in names
            ),
        ),
    ]
    adapters = [n for n in names if n in targets]
    for suffix in "AB" if adapters else "":
        low = {
            n: (method.rank, shape[n][1]) if suffix == "A" else (shape[n][0], method.rank)
            for n in adapters
        }
        parameters = (Parameter(f"{e}.{n}", low[n]) for e in range(model.experts) for n in adapters)
        modules.append(Module(f"experts.{suffix}", tuple(parameters)))
    if model.shared_experts:
        wide = model.shared_experts * f
        shape = {"w1": (wide, d), "w2": (d, wide), "w3": (wide, d)}
        modules.append(Module("shared_experts", tuple(Parameter(n, shape[n], full) for n in names)))
    return modules, [m.name for m in modules]


def _module(name: str, trainable: bool, **shapes: tuple[int, ...]) -> Module:
    return Module(name, tuple(Parameter(n, s, trainable) for n, s in shapes.items()))


def _linear(name: str, n_in: int, n_out: int, bias: bool, trainable: bool) -> Module:
    if bias:
        return _module(name, trainable, weight=(n_out, n_in), bias=(n_out,))
    return _module(name, trainable, weight=(n_out, n_in))


def _norm(name: str, model: Model, width: int, trainable: bool) -> Module:
    with_bias = model.norm == "layernorm" and (
        model.bias if model.norm_bias is None else model.norm_bias
    )
    if with_bias:
        return _module(name, trainable, weight=(width,), bias=(width,))
    return _module(name, trainable, weight=(width,))


def _adapter(name: str, n_in: int, n_out: int, rank: int) -> list[Module]:
    return [
        Module(f"{name}.A", (Parameter("weight", (rank, n_in)),)),
        Module(f"{name}.B", (Parameter("weight", (n_out, rank)),)),
    ]
