"""The readings of a block's description against each other and against what is known without them.

Every catalogue model, by shape, x method x checkpointing x compiler x loss x attention: parameters,
kernels, bytes saved and FLOPs are four readings of one description and may not disagree.
"""

import json
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from sim.blocks.flops import token_flops
from sim.blocks.footprint import checkpoint_policy, head_footprint, layer_footprint
from sim.blocks.from_workload import setting_of
from sim.blocks.layer import HEAD, block_kinds, describe, layer_kinds
from sim.blocks.modules import OpRole, Position
from sim.blocks.parameters import build_tree, count_parameters, numel
from sim.blocks.setting import Setting
from sim.blocks.unroll import unroll
from sim.inputs.method import Method
from sim.inputs.models import model_names, resolve_model
from sim.inputs.workload import Checkpointing, Stack, Workload

#: losses whose backward runs in forward, chunk by chunk
IN_FORWARD = ("fused-linear", "chunked")
LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
METHODS = {
    "full": Method(),
    "lora": Method(kind="lora", rank=16, targets=LINEARS, dropout=0.1),
    "lora-qv": Method(kind="lora", rank=8, targets=("q", "v")),
    "qlora": Method(kind="qlora", rank=16, targets=LINEARS, quantization="nf4"),
    "gptq": Method(kind="qlora", rank=16, targets=LINEARS, quantization="gptq-int4"),
}
POLICIES = {
    "none": Checkpointing(),
    "full": Checkpointing(kind="full"),
    "reentrant": Checkpointing(kind="full", reentrant=True),
    "per-op": Checkpointing(kind="selective-op"),
    "every-2nd": Checkpointing(kind="selective-blocks", every=2),
}
STYLES = (
    {"compile": False, "loss": "eager", "attention": "flash2"},
    {"compile": False, "loss": "huggingface", "attention": "eager"},
    {"compile": True, "loss": "eager", "attention": "sdpa"},
    {"compile": True, "loss": "compiled", "attention": "cudnn"},
    {"compile": False, "loss": "fused-linear", "attention": "flash3"},
    {"compile": False, "loss": "chunked", "attention": "triton"},
)
#: routed rows fill the experts evenly: 1024 x 2 tokens
LENGTH = 1280  # twice this, the tokens, divides evenly among 40 and 160 experts as well
KNOWN = json.loads((Path(__file__).parents[1] / "data" / "model_params.json").read_text())


@cache
def shapes():
    """One model of each shape of layer."""
    found = {}
    for name in model_names():
        model = resolve_model(name)
        same = (
            "name", "layers", "source", "notes", "hidden_size", "ffn_size", "vocab_size", "heads",
            "kv_heads", "head_dim", "max_positions", "expert_ffn_size", "kv_lora_rank",
        )  # fmt: skip
        shape = tuple(v for k, v in model if k not in same)
        groups = model.kv_heads < model.heads, model.kv_lora_rank > 0
        found.setdefault((*shape, groups), name)
    return tuple(found.values())


@cache
def shallow(name):
    """Four layers: dense ones of a mixture, sliding and global ones are among them."""
    return resolve_model(name).model_copy(update={"layers": 4})


def job(name, **keys):
    """Tokens that its experts, if any, share out evenly: kernels round up to whole ones."""
    model = shallow(name)
    even = 2 * LENGTH * model.experts_per_token % (model.experts or 1) == 0
    micro_batch = 2 if even else 18
    return Workload(name="w", model=model, sequence_length=LENGTH, micro_batch=micro_batch, **keys)


def products(kernels):
    """FLOPs of matrix products, attention's own and scans left out."""
    apart = (OpRole.ATTENTION, OpRole.MIXER)
    return sum(k.flops for k in kernels if k.kind == "gemm" and k.role not in apart)


def scores(workload, kinds, kept):
    """Scans, and attention's two products where it is not kept, by the convention."""
    model, setting = workload.model, setting_of(workload)
    width = 2.0 * model.heads * (model.head_dim + (model.v_head_dim or model.head_dim))
    attend = (k for k in kinds if k.attends and not kept)
    ops = (op for kind in kinds for op in describe(setting, kind).ops if op.role is OpRole.MIXER)
    scans = sum(op.flops for op in ops) / setting.tokens
    return scans + sum(width * min(LENGTH, kind.window or LENGTH) for kind in attend)


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_the_weights_that_kernels_read(name, method):
    """Rows of a product with one weight each: its n k is a parameter's, experts by the batch."""
    model, method = resolve_model(name), METHODS[method]
    tree = build_tree(model, method)
    setting = Setting(model.model_copy(update={"layers": 1}), method, tokens=model.experts or 1)
    for block in (*{b.kind: b for b in tree.layers}.values(), tree.head):
        read = trained = 0
        for op in describe(setting, block_kinds(model)[block.kind]).ops:
            if op.role is OpRole.ATTENTION:
                continue
            trained += op.weight_gradient
            if op.role is OpRole.MIXER:
                continue
            read += sum(
                k.shape[1] * k.shape[2] * k.shape[3]
                for k in op.kernels("forward", "bf16")
                if k.shape
            )
        matrices = sum(
            p.numel for m in block.modules for p in m.parameters
            if m.role is not OpRole.NORM and len(p.shape) == 2
        )  # fmt: skip
        table = model.vocab_size * model.hidden_size if block is tree.head and tree.tied else 0
        assert read == matrices + table
        assert trained / setting.element == numel(block.modules, trainable=True) + table * (
            method.kind == "full"
        )


@pytest.mark.parametrize("name", model_names())
def test_parameters_are_known(name):
    if name in KNOWN:
        assert count_parameters(resolve_model(name)).total == KNOWN[name]


@pytest.mark.parametrize("name", shapes())
@pytest.mark.parametrize("method", METHODS)
def test_kernels_and_counting_agree(name, method):
    """FLOPs of products, forward, backward and repeated: by kernels and by counting, to the digit.

    Attention is counted in full by the convention, and its kernels skip what a mask hides.
    """
    for policy, style in product(POLICIES.values(), STYLES):
        workload = job(
            name, method=METHODS[method], activation_checkpointing=policy,
            **{**style, "loss": "eager" if style["loss"] in IN_FORWARD else style["loss"]},
        )  # fmt: skip
        t, counted = unroll(workload), token_flops(workload)
        kinds = layer_kinds(workload.model)
        again = [k for k, repeats in zip(kinds, t.checkpointed, strict=True) if repeats]
        per_op = policy.kind == "selective-op"
        expected = {
            "forward": counted.forward - scores(workload, kinds, False),
            "backward": counted.backward - 2 * scores(workload, kinds, False),
        }
        if not (per_op and style["attention"] == "eager"):  # every second of its products is kept
            expected["recompute"] = counted.recompute - scores(workload, again, per_op)
        for phase, flops in expected.items():
            blocks = t.layer_kinds
            if phase == "recompute":
                blocks = [k.key for k in again]
            total = sum(products(t.of(kind, phase)) for kind in blocks)
            total += products(t.of("head", phase))
            assert total / t.tokens == pytest.approx(flops, rel=1e-12), (policy, style, phase)


@pytest.mark.parametrize("name", shapes())
@pytest.mark.parametrize("method", METHODS)
def test_memory_is_what_operations_save(name, method):
    """Without checkpointing all they save; with it no more; what a repeat runs is what it lost."""
    for policy, style in product(POLICIES.values(), STYLES):
        workload = job(name, method=METHODS[method], activation_checkpointing=policy, **style)
        setting, kinds = setting_of(workload), block_kinds(workload.model)
        model = workload.model
        columns = model.rope_head_dim or model.head_dim
        positions = 2.0 * LENGTH * columns * (model.positions == "rope")
        for kind in dict.fromkeys(layer_kinds(workload.model)):
            described = describe(setting, kinds[kind.key])
            whole = layer_footprint(workload, kind.key)
            turned = positions * kind.attends
            assert whole.saved == described.saved_bytes + turned
            if policy.kind != "none":
                less = layer_footprint(workload, kind.key, checkpoint_policy(workload))
                kept = described.sizes[0] + turned
                assert kept <= less.saved <= whole.saved + described.sizes[0]
        head = head_footprint(workload)
        assert head.norm == describe(setting, HEAD).saved_bytes
        assert head.norm < head.saved <= head.backward_peak


def test_roles_and_places_of_a_layer():
    """Callers read what a module is from its type, never from its name."""
    tree = build_tree(resolve_model("qwen3-30b-a3b"), METHODS["lora"])
    layer = {m.name: m for m in tree.layers[0].modules}
    assert {m.base for m in layer.values() if m.role is OpRole.ADAPTER} >= {"wq", "experts"}
    assert layer["router"].role is OpRole.ROUTER
    assert layer["experts"].active == 8 / 128
    places = {
        "attention_norm": Position.STREAM, "wq": Position.BRANCH, "q_norm": Position.INNER,
        "wo": Position.OUTPUT, "router": Position.BRANCH, "experts": Position.WHOLE,
    }  # fmt: skip
    assert {name: layer[name].place for name in places} == places
    assert [m.role for m in tree.head.forward] == [OpRole.NORM, OpRole.HEAD]


def test_latent_attention_by_hand():
    """DeepSeek-V2-Lite, bytes and FLOPs a token of its dense layer, which has no experts."""
    d, heads, key, value, rank, turned, f = 2048, 16, 192, 128, 512, 64, 10944
    workload = job("deepseek-v2-lite", stack=Stack(torch="2.9"))
    joined = heads * (key - turned + value)  # keys' and values' own columns, one matrix
    weights = d * heads * key + d * (rank + turned) + rank * joined + heads * value * d + 3 * d * f
    t = unroll(workload)
    assert products(t.of("layer.dense", "forward")) == 2 * t.tokens * weights
    (core,) = (k for k in t.of("layer.dense", "forward") if k.kind == "attention")
    assert core.flops == 2 * 2 * heads * (key + value) * LENGTH**2 / 2
    # two norms and their inputs, the latent and its norm, q and k with turned columns, kv, output,
    # gate's four; three statistics and a log-sum-exp a head; cos and sin
    saved = 2 * (4 * d + (rank + turned) + rank + 2 * heads * key + joined + heads * value + 4 * f)
    footprint = layer_footprint(workload, "layer.dense")
    assert footprint.saved / t.tokens == saved + 4 * 3 + 4 * heads + 2 * turned / 2


def test_recompute_of_mixtures_and_windows():
    """A checkpointed mixture repeats its down projection, whose output the weighted sum saved."""

    def recompute(name, kind):
        return token_flops(job(name, activation_checkpointing=Checkpointing(kind=kind))).recompute

    d, kv, f, layers = 4096, 1024, 14336, 4
    # wq kept, wk not, wv kept, wo not, router kept, then w1 not, w3 kept, w2 not: 2 m n k each
    per_op = 2 * layers * (d * kv + d * d + 2 * 2 * d * f)
    assert recompute("mixtral-8x7b", "selective-op") == per_op
    full = 2 * layers * (2 * d * d + 2 * d * kv + 8 * d + 2 * 3 * d * f) + 4 * layers * d * LENGTH
    assert recompute("mixtral-8x7b", "full") == full
