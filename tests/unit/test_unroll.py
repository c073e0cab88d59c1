"""Kernels of a step against closed forms: FLOPs, what is recomputed, who trains, module order."""

import pytest

from sim.blocks.parameters import build_tree
from sim.blocks.unroll import unroll
from sim.blocks.update import Shard, clip_kernels, optimizer_kernels
from sim.inputs.method import Method
from sim.inputs.workload import Checkpointing, Parallelism, Precision, Stack, Workload
from tests.unit.decoders import LLAMA, MIXTRAL, MPT

ALL = ("q", "k", "v", "o", "gate", "up", "down")
LORA = Method(kind="lora", rank=16, targets=ALL)


def job(model=LLAMA, **keys):
    return Workload(name="t", model=model, **{"sequence_length": 4096, "micro_batch": 2, **keys})


def gemm_flops(kernels):
    return sum(k.flops for k in kernels if k.kind == "gemm")


def attention_flops(kernels):
    return sum(k.flops for k in kernels if k.kind == "attention")


def test_llama_layer_flops():
    t = unroll(job())
    tokens = 2 * 4096
    # wq, wo: 4096^2; wk, wv: 4096 x 1024; w1, w2, w3: 4096 x 14336
    weights = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    forward, backward = t.of("layer", "forward"), t.of("layer", "backward")
    assert gemm_flops(forward) == 2 * tokens * weights
    assert gemm_flops(backward) == 4 * tokens * weights
    # two products of s x s x head_dim, half of them masked; backward has five
    attention = 2 * 32 * (2 * 2 * 4096 * 4096 * 128) / 2
    assert attention_flops(forward) == attention
    assert attention_flops(backward) == 2.5 * attention
    head = t.of("head", "forward")
    assert gemm_flops(head) == 2 * tokens * 4096 * 128256
    step = t.flops("forward")
    assert step == 2 * (2 * tokens * weights + attention) + 2 * tokens * 4096 * 128256


def test_sliding_window_counts_what_is_seen():
    model = LLAMA.model_copy(update={"sliding_window": 1024})
    t = unroll(job(model))
    # row i sees min(i, 1024) keys: 1024 x 4096 - 1024^2 / 2
    pairs = 1024 * 4096 - 1024**2 / 2
    assert attention_flops(t.of("layer.sliding", "forward")) == 4 * 2 * 32 * 128 * pairs


def test_eager_attention_computes_masked_scores_too():
    t = unroll(job(attention="eager"))
    products = [k for k in t.of("layer", "forward") if k.name in ("scores", "values")]
    assert sum(k.flops for k in products) == 2 * 2 * 32 * 2 * 4096 * 4096 * 128
    assert attention_flops(t.of("layer", "forward")) == 0
    # mask, scale, cast up, softmax, cast down: 10 + 18 bytes a score
    (softmax,) = (k for k in t.of("layer", "forward") if k.name == "softmax")
    assert softmax.bytes == (2 * 2 + 3 * 2 + 2 + 4 + 8 + 4 + 2) * 2 * 32 * 4096**2


@pytest.mark.parametrize(
    ("torch", "reentrant", "last"),
    [("2.5", False, "gate.mul"), ("2.5", True, "ffn.add"), ("2.0", False, "ffn.add")],
)
def test_full_recompute_stops_before_the_last_linear(torch, reentrant, last):
    ac = Checkpointing(kind="full", reentrant=reentrant)
    t = unroll(job(activation_checkpointing=ac, stack=Stack(torch=torch)))
    assert t.of("layer", "recompute")[-1].name == last
    assert all(t.checkpointed)


def test_selective_op_recomputes_every_other_product():
    t = unroll(job(activation_checkpointing=Checkpointing(kind="selective-op")))
    names = [k.name for k in t.of("layer", "recompute") if k.kind == "gemm"]
    assert names == ["wk", "wo", "w3"]  # wq, wv, w1 and w2 are saved, and so is attention
    assert attention_flops(t.of("layer", "recompute")) == 0


def test_selective_op_keeps_no_product_of_transformer_engine():
    """Its function calls cuBLAS itself: no aten.mm, which the policy asks for."""
    made = {}
    for recipe in ("te-delayed", "tensorwise"):
        t = unroll(
            job(
                precision=Precision(kind="fp8", recipe=recipe),
                activation_checkpointing=Checkpointing(kind="selective-op"),
            )
        )
        made[recipe] = [k.name for k in t.of("layer", "recompute") if k.kind == "gemm"]
        assert attention_flops(t.of("layer", "recompute")) == 0  # is kept
    assert made["te-delayed"] == ["wq", "wk", "wv", "wo", "w1", "w3"]  # nothing is saved after w2
    assert made["tensorwise"] == ["wk", "wo", "w3"]


def test_selective_op_runs_attention_of_transformer_engine_again():
    """A kernel of its own function, past torch's dispatcher: no operator of the policy's list."""
    flops = {}
    for attention in ("flash2", "cudnn", "te"):
        ac = Checkpointing(kind="selective-op")
        t = unroll(job(attention=attention, activation_checkpointing=ac))
        flops[attention] = attention_flops(t.of("layer", "recompute"))
    assert flops == {"flash2": 0, "cudnn": 0, "te": attention_flops(t.of("layer", "forward"))}


def test_selective_blocks():
    third = unroll(
        job(
            LLAMA.model_copy(update={"layers": 6}),
            activation_checkpointing=Checkpointing(kind="selective-blocks", every=3),
        )
    )
    assert third.checkpointed == (False, False, True, False, False, True)
    half = unroll(
        job(
            LLAMA.model_copy(update={"layers": 6}),
            activation_checkpointing=Checkpointing(kind="selective-blocks", fraction=0.5),
        )
    )
    assert sum(half.checkpointed) == 3


def test_lora_trains_adapters_alone():
    t = unroll(job(method=LORA))
    trained = [k.name for k in t.of("layer", "backward") if k.direction == "wgrad"]
    assert len(trained) == 14
    assert all(".A." in n or ".B." in n for n in trained)
    assert t.of("embedding", "backward") == ()


def test_qlora_dequantises_before_every_use():
    method = Method(kind="qlora", rank=16, targets=ALL, quantization="nf4")
    t = unroll(
        job(method=method, activation_checkpointing=Checkpointing(kind="full", reentrant=True))
    )
    for phase in ("forward", "recompute", "backward"):
        names = [k.name for k in t.of("layer", phase) if k.name.endswith("dequantise")]
        assert len(names) == 7


def test_fp8_casts_but_keeps_attention_and_head():
    t = unroll(job(precision=Precision(kind="fp8", recipe="tensorwise")))
    dtypes = {k.name: k.dtype for k in t.of("layer", "forward")}
    assert dtypes["wq"] == "fp8"
    assert dtypes["attention"] == "bf16"
    assert {k.dtype for k in t.of("head", "forward") if k.kind == "gemm"} == {"bf16"}
    gathered = unroll(job(precision=Precision(kind="fp8", recipe="tensorwise", all_gather="fp8")))
    casts = [
        sum(k.name.startswith("wq.weight") for k in x.of("layer", "forward")) for x in (t, gathered)
    ]
    assert casts == [2, 0]


def test_mixture_runs_its_chosen_experts():
    t = unroll(job(MIXTRAL))
    grouped = [k for k in t.of("layer", "forward") if k.module == "experts" and k.kind == "gemm"]
    # two of eight experts a token: 2 x 8192 rows through three matrices
    assert sum(k.flops for k in grouped) == 2 * (2 * 8192) * 3 * 4096 * 14336
    assert {k.shape[3] for k in grouped} == {8}


def test_context_parallel_takes_its_share():
    whole, half = unroll(job()), unroll(job(parallelism=Parallelism(context_parallel=2)))
    for phase in ("forward", "backward"):
        assert half.flops(phase) == whole.flops(phase) / 2


def test_compile_launches_and_moves_less():
    eager, fused = unroll(job()), unroll(job(compile=True, loss="compiled"))
    for kind, phase in (("layer", "forward"), ("layer", "backward"), ("head", "forward")):
        a, b = eager.of(kind, phase), fused.of(kind, phase)
        assert sum(k.launches for k in b) < sum(k.launches for k in a)
        assert sum(k.bytes for k in b) < sum(k.bytes for k in a)
        assert sum(k.flops for k in b) == sum(k.flops for k in a)


@pytest.mark.parametrize("method", [Method(), LORA], ids=["full", "lora"])
@pytest.mark.parametrize("model", [LLAMA, MPT, MIXTRAL], ids=["llama", "mpt", "mixtral"])
def test_kernels_follow_the_module_tree(model, method):
    """Schedules that fetch per module slice by tag: forward order, each module one run."""
    workload = job(model, method=method)
    tree = build_tree(model, method)
    t = unroll(workload)
    for block in (tree.embedding, tree.layers[0], tree.head):
        runs = list(dict.fromkeys(k.module for k in t.of(block.kind, "forward")))
        allowed = [m for m in (*block.forward_order, "head") if m in runs]
        assert runs == list(dict.fromkeys(allowed))


def test_loss_forms_agree_on_products():
    plain, fused = unroll(job()), unroll(job(loss="fused-linear"))
    both = [
        sum(gemm_flops(x.of("head", p)) for p in ("forward", "backward")) for x in (plain, fused)
    ]
    assert both[0] == both[1]


def test_a_fused_loss_reads_its_logits_twice_and_writes_once():
    t = unroll(job(loss="fused"))
    moved = [
        [k.bytes for k in t.of("head", phase) if k.kind == "loss"]
        for phase in ("forward", "backward")
    ]
    logits = 2 * 2 * 4096 * 128256
    assert moved == [[logits + 8 * 2 * 4096], [2 * logits]]


def test_a_compiled_model_has_the_loss_it_names():
    """Layers are compiled, the loss where it says so: what its memory is, its kernels are."""

    def losses(workload):
        return [k for k in unroll(workload).of("head", "forward") if k.kind == "loss"]

    assert losses(job(compile=True)) == losses(job())
    (fused,) = losses(job(compile=True, loss="compiled"))
    assert fused.bytes == 2 * 2 * 2 * 4096 * 128256  # two passes over bf16 logits


def test_adamw_traffic():
    shard = Shard(numel=1e9, tensors=300)
    (fused,) = optimizer_kernels(job(), shard)
    # p and g in, p out; m and v in and out: 4 + 4 + 4 + 16 bytes an element
    assert fused.bytes == 28e9
    (foreach,) = optimizer_kernels(job(optimizer_implementation="foreach"), shard)
    assert foreach.bytes > 2 * fused.bytes
    assert sum(k.bytes for k in clip_kernels(shard)) == pytest.approx(12e9, rel=1e-6)
