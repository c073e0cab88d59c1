"""Mixtures as Hugging Face loops over their experts, beside grouped ones."""

from dataclasses import replace

import pytest

from sim.blocks.autograd import footprint
from sim.blocks.from_workload import setting_of
from sim.blocks.layer import describe, layer_kinds
from sim.blocks.parameters import tree_of
from sim.blocks.unroll import unroll
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.modelling import experts, taken
from sim.inputs.shares import mesh_on
from sim.inputs.strategy import strategy_of
from sim.step.step import memory_of, step
from sim.strategies import build_plan
from sim.strategies.units import dtypes, stored_bytes

LORA = {"lora": {"rank": 64, "targets": "all-linear", "dropout": 0.05}}


def job(*sets, model="mixtral-8x7b", strategy="zero3", **keys):
    work = {"name": "j", "model": model, "sequence_length": 512, "steps": 1,
            "parallelism": {"strategy": strategy}, "activation_checkpointing": "full",
            **keys}  # fmt: skip
    return load("dgx-h100", work, list(sets))


def seconds(*sets, **keys):
    found = job(*sets, **keys)
    return step(found.topology, found.workload).breakdown.time_s


def kernels(how, phase="forward", **keys):
    t = unroll(job(f"experts={how}", **keys).workload)
    return t.of(t.layer_kinds[0], phase)


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_the_loop_multiplies_what_a_group_does(phase):
    """8 experts: equal FLOPs, eight launches for one; the host waits once for each in forward."""
    eager, grouped = (
        [k for k in kernels(how, phase) if k.kind == "gemm"] for how in ("eager", "grouped")
    )
    assert sum(k.flops for k in eager) == sum(k.flops for k in grouped)
    # q, k, v, o and the router; three matrices an expert; two gradients each
    assert sum(k.launches for k in grouped) == 8 * (1 if phase == "forward" else 2)
    assert sum(k.launches for k in eager) == (5 + 24) * (1 if phase == "forward" else 2)
    assert sum(k.waits for k in kernels("eager", phase)) == (8 if phase == "forward" else 0)
    assert not any(k.waits for k in kernels("grouped", phase))


def test_backward_makes_a_gradient_of_all_tokens_an_expert():
    """Zeros of tokens x width, then read, read and written: 4 x 2 B an element and expert."""
    (whole,) = (k for k in kernels("eager", "backward") if k.name == "permute.whole")
    assert whole.bytes == 4 * 2 * 512 * 4096 * 8
    assert whole.launches == 16


def test_who_loops():
    fsdp2 = job(strategy="fsdp2").workload
    assert taken(fsdp2)["experts"] == "grouped"
    assert taken(job().workload)["experts"] == "eager"
    assert "experts" not in taken(job("experts=grouped").workload)
    for stack, how in (
        ("stack={torch: 2.9, transformers: 5.0}", "grouped"),
        ("stack={torch: 2.8, transformers: 5.0}", "eager"),
        ("stack={torch: 2.9, transformers: 4.57}", "eager"),
        ("stack={torch: 2.9}", "eager"),
        ("stack={torch: 2.10}", "grouped"),
    ):
        assert taken(job(stack).workload)["experts"] == how
    assert setting_of(job(model="llama-3-8b").workload).experts == "grouped"


def test_zero3_hooks_every_expert_by_itself():
    """Three matrices an expert, and A and B of each adapter; as a leaf they are one module."""
    layers = 32

    def hooked(*sets, **keys):
        found = job(*sets, **keys)
        plan = build_plan(found.workload, tree_of(found.workload), mesh_on(found.workload, 8))
        calls = [
            times for op in plan.ops if op.module.startswith("experts") and op.name == "forward"
            for name, times in op.calls if name == "zero3.module"
        ]  # fmt: skip
        return sum(calls) / layers

    assert hooked() == 24
    assert hooked(method=LORA) == 3 * 24
    assert hooked("parallelism.z3_leaf_experts=true") == hooked("experts=grouped") == 1


def test_a_mixture_is_slower_than_a_bigger_dense_model():
    """LoRA under ZeRO-3, 8 x H100: measured 271 s for a 57B mixture and 48 s for a dense 72B."""
    shape = {
        "name": "qwen2-57b-a14b", "layers": 28, "hidden_size": 3584, "heads": 28, "kv_heads": 4,
        "head_dim": 128, "ffn_size": 18944, "qkv_bias": True, "vocab_size": 151936, "experts": 64,
        "experts_per_token": 8, "expert_ffn_size": 2560, "shared_experts": 8,
    }  # fmt: skip
    keys = {"method": LORA, "gradient_accumulation": 8, "attention": "sdpa", "loss": "huggingface",
            "activation_checkpointing": {"full": {"reentrant": True}},
            "stack": {"torch": "2.3", "cuda": "12.1", "nccl": "2.20"}}  # fmt: skip
    mixture = seconds(model=shape, **keys)
    assert 271 / 2 < mixture < 271 * 2
    assert seconds(model="qwen2.5-72b", **keys) < mixture
    small = {"model": {**shape, "layers": 2}, **keys, "gradient_accumulation": 1}
    leaf = seconds("parallelism.z3_leaf_experts=true", **small)
    assert seconds("experts=grouped", **small) < leaf < seconds(**small)


def test_wrong_choices_are_faults():
    with pytest.raises(InputError, match='"loop" is not one of eager, grouped'):
        job("experts=loop")
    with pytest.raises(InputError, match="fsdp2 has no such knob"):
        job("parallelism.z3_leaf_experts=true", strategy="fsdp2")


V5 = "stack={torch: 2.9, transformers: 5.0, cuda: '12.8'}"


def test_products_one_by_one_of_tokens_sorted_once():
    """8 experts: a group's FLOPs and bytes, eight launches a product, a wait for each."""
    for phase in ("forward", "backward"):
        sorted_, grouped = (
            [k for k in kernels(how, phase) if k.kind == "gemm"] for how in ("sorted", "grouped")
        )
        names = {k.name for k in sorted_ if k.launches == 8}
        assert len(names) == 3 * (1 if phase == "forward" else 2)
        assert [k.flops for k in sorted_] == [k.flops for k in grouped]
        assert [k.bytes for k in sorted_] == [k.bytes for k in grouped]
        moved, as_group = (
            [(k.name, k.launches) for k in kernels(how, phase) if k.kind != "gemm" and not k.waits]
            for how in ("sorted", "grouped")
        )
        assert moved == as_group
        assert sum(k.waits for k in kernels("sorted", phase)) == 3
    one, loop, group = (
        tree_of(job(f"experts={how}").workload).layers[0] for how in ("sorted", "eager", "grouped")
    )
    assert one == group != loop
    times = [seconds(f"experts={how}", strategy="fsdp2") for how in ("grouped", "sorted", "eager")]
    assert times[0] < times[1] < times[2]


@pytest.mark.parametrize(
    ("gpu", "precision", "how"),
    [
        ("a100-sxm-80gb", "bf16", "grouped"),
        ("a100-sxm-80gb", "fp16", "sorted"),
        ("a100-sxm-80gb", "fp32", "sorted"),
        ("v100-sxm-32gb", "fp16", "sorted"),
        ("t4-pcie-16gb", "fp16", "sorted"),
    ],
)
def test_where_the_grouped_product_runs(gpu, precision, how):
    """In bf16, which Ampere and newer have: aten's `_grouped_mm_cuda`."""
    sets = [V5, "nodes=1", f"node={{gpu: {gpu}, gpus: 8}}", f"precision={precision}"]
    found = job(*sets, strategy="fsdp2", trainer="huggingface")
    assert experts(found.workload) == how
    assert taken(found.workload)["experts"] == how
    asked = job(*sets, "experts=grouped", strategy="fsdp2", trainer="huggingface")
    assert experts(asked.workload) == "grouped"


def test_bitsandbytes_leaves_a_stack_of_experts_whole():
    """29.0e9 of Qwen3 30B-A3B's parameters are 48 x 128 x 3 x 2048 x 768: 2 B each, not 0.5.

    transformers 5.24, integrations/bitsandbytes.py: ``type(module) is nn.Linear``.
    """
    more = 48 * 128 * 3 * 2048 * 768 * (2 - 0.5)
    method = {"qlora": {"rank": 16, "targets": ["q", "k", "v", "o"]}}
    stored, needed, unpacked = [], [], []
    for how in ("eager", "grouped"):
        found = job(f"experts={how}", method=method, model="qwen3-30b-a3b", strategy="ddp")
        w = found.workload
        stored.append(stored_bytes(tree_of(w), dtypes(w), "fp32"))
        needed.append(memory_of(found.topology, w).needed_bytes)
        passes = unroll(w)
        layer = passes.of(passes.layer_kinds[0], "forward")
        unpacked.append({k.name for k in layer if "dequantise" in k.name})
        told = [x.message for x in found.notes.warnings if x.code == "stacked-experts"]
        assert len(told) == (how == "grouped")
    assert stored[1] - stored[0] == more
    assert needed[1] - needed[0] == pytest.approx(more, rel=0.05)
    assert unpacked[1] < unpacked[0]


@pytest.mark.parametrize(
    ("model", "stack", "experts_in_16_bits"),
    [
        ("gpt-oss-20b", "4.57", 24 * 32 * 3 * 2880 * 2880),
        ("gpt-oss-20b", "5.1", 24 * 32 * 3 * 2880 * 2880),
        ("qwen3-30b-a3b", "4.57", 0),
        ("qwen3-30b-a3b", "5.1", 48 * 128 * 3 * 2048 * 768),
    ],
)
def test_experts_that_never_were_modules_are_left_whole_too(model, stack, experts_in_16_bits):
    """A loop over experts has them in 4 bits where each is a module: not gpt-oss', not from 5 on.

    transformers 4.57, modeling_gpt_oss.py: ``gate_up_proj = nn.Parameter(torch.empty(...``.
    """
    method = {"qlora": {"rank": 16, "targets": ["q", "k", "v", "o"]}}
    found = job(f"stack.transformers={stack}", method=method, model=model, strategy="ddp")
    w = found.workload
    assert experts(w) == "eager"
    stacks = next(m for m in tree_of(w).layers[0].modules if m.name == "experts")
    whole = w.model.layers * sum(p.numel for p in stacks.parameters if len(p.shape) == 3)
    assert whole == experts_in_16_bits
    told = [x.hint for x in found.notes.warnings if x.code == "stacked-experts"]
    assert [("no release" in hint) for hint in told] == [model == "gpt-oss-20b"] * bool(whole)


def test_a_stack_that_is_looped_over_is_one_module():
    """gpt-oss under transformers 4.57: ZeRO-3 sees one module, PyTorch whole gradients of parts."""
    loop = "stack={torch: 2.8, transformers: 4.57}"
    w = job(loop, model="gpt-oss-20b").workload
    assert experts(w) == "eager"
    assert "experts-one-by-one" not in [f.code for f in strategy_of(w).findings(w)]
    assert "experts-one-by-one" in [f.code for f in strategy_of(w).findings(job(loop).workload)]
    t = unroll(w)
    (part,) = (k for k in t.of(t.layer_kinds[0], "backward") if k.name == "w1.part")
    # 32 experts: zeros of the whole parameter of gate and up each, then read, read and written
    assert part.bytes == 32 * 4 * 2 * (32 * 2880 * 2 * 2880)
    assert part.launches == 2 * 32
    frozen = unroll(job(loop, model="gpt-oss-20b", method=LORA).workload)
    names = [k.name for k in frozen.of(frozen.layer_kinds[0], "backward")]
    assert not any(name.endswith(".part") for name in names)


def test_unsloth_makes_modules_of_a_stack_that_it_loops_over():
    method = {"qlora": {"rank": 8, "adapters": "fused"}}
    loop = "stack={torch: 2.8, transformers: 4.57}"
    w = job(loop, method=method, model="gpt-oss-20b", strategy="ddp").workload
    packed = 24 * (32 * 3 * 2880 * 2880 + 2880 * (2 * 4096 + 2 * 512))  # and what scales them
    table = 201088 * 2880  # and the head, in 16 bits
    by_hand = (0.5 + 1 / 64) * packed + 2 * 2 * table
    assert stored_bytes(tree_of(w), dtypes(w), "fp32") == pytest.approx(by_hand, rel=0.02)


@pytest.mark.parametrize("transformers", ["4.57", "5.1"])
def test_llama_4_multiplies_every_token_by_every_expert(transformers):
    """transformers 5.24, modeling_llama4.py: `hidden_states.repeat(experts)` times the scores."""
    stack = f"stack={{torch: 2.9, transformers: '{transformers}', cuda: '12.8'}}"
    keys = {"model": "llama-4-scout", "strategy": "fsdp2", "modelling": "huggingface"}
    found = job(stack, **keys)
    assert taken(found.workload)["experts"] == "all"
    t = unroll(found.workload)
    products = [k for k in t.of(t.layer_kinds[0], "forward") if k.name in ("w1", "w2", "w3")]
    one = 2 * 512 * 5120 * 8192  # an expert's, of every token; a shared one is of all, too
    assert sum(k.flops for k in products) == 3 * (16 + 1) * one
    with pytest.raises(InputError, match="all of them at once"):
        job(stack, "parallelism.expert_parallel=8", **keys)


@pytest.mark.parametrize(("transformers", "how"), [("4.57", "sorted"), ("5.1", "grouped")])
def test_granite_sorts_its_tokens(transformers, how):
    """transformers 4.57, modeling_granitemoe.py: `inputs.split(expert_size)`, a product each."""
    stack = f"stack={{torch: 2.9, transformers: '{transformers}', cuda: '12.8'}}"
    assert taken(job(stack, model="granite-4.0-h-tiny").workload)["experts"] == how


def of_parts(model, *sets, strategy="zero3", transformers="'4.57'", torch="2.9"):
    """Kernels and bytes of gradients of experts' parts in a layer, and its extra in backward."""
    stack = f"stack={{torch: '{torch}', transformers: {transformers}, cuda: '12.8'}}"
    w = job(stack, *sets, model=model, strategy=strategy, modelling="huggingface").workload
    t = unroll(w)
    layer = t.of(t.layer_kinds[0], "backward")
    made = (k for k in layer if k.module == "experts" and k.name.endswith((".part", ".cat")))
    return {k.name: (k.launches, k.bytes) for k in made}


def test_which_loop_makes_whole_gradients():
    """Of the code: `weight[i]` of Granite 4.57 does, `chunk` of DBRX 4.57 joins them once.

    Granite's in (64 experts, 1536 x 2 x 512) and out (512 x 1536), 2 B; DBRX' three matrices (16
    experts of 6144 x 10752). transformers 5 loops by index with DBRX too, and with fp16 writes
    each product of a sorted group into its place.
    """
    granite, dbrx = 64 * 1536 * 512 * 2, 16 * 6144 * 10752 * 2
    added = {"w1.part": (128, 64 * 4 * 2 * granite), "w2.part": (128, 64 * 4 * granite)}
    assert of_parts("granite-4.0-h-tiny") == added
    five = {"transformers": "'5.1'"}
    assert of_parts("granite-4.0-h-tiny", **five) == {}
    assert of_parts("granite-4.0-h-tiny", "precision=fp16", **five) == {}
    assert of_parts("granite-4.0-h-tiny", "experts=grouped") == {}
    joined = dict.fromkeys(("w1.cat", "w2.cat", "w3.cat"), (1, 2 * dbrx))
    assert of_parts("dbrx") == joined
    each = dict.fromkeys(("w1.part", "w2.part"), (32, 16 * 4 * dbrx))
    assert of_parts("dbrx", torch="2.8", **five) == each | {"w3.part": (32, 16 * 4 * dbrx)}
    assert of_parts("qwen3-30b-a3b") == of_parts("llama-4-scout") == {}


@pytest.mark.parametrize(("strategy", "size"), [("fsdp2", 2), ("ddp", 4)])
def test_a_whole_gradient_more_while_the_loop_runs(strategy, size):
    """gpt-oss-20b: one more of gate and up; under autocast all are fp32, 2 B beyond a product's."""
    stack = "stack={torch: 2.8, transformers: 4.57}"
    keys = {"model": "gpt-oss-20b", "strategy": strategy, "modelling": "huggingface"}
    w = job(stack, **keys).workload
    one = 32 * 2880 * 2880
    by_hand = size * 2 * one + (size - 2) * 3 * one
    s, kind = setting_of(w), layer_kinds(w.model)[0]
    assert (s.expert_gradients, s.autocast) == ("added", strategy == "ddp")
    loop, plain = (
        footprint(describe(replace(s, expert_gradients=how), kind), "full").backward_working
        for how in ("added", "")
    )
    # the peak is where the last of three gradients is: at most a rank's activations later
    assert loop - plain == pytest.approx(by_hand, rel=0.02)
    t = unroll(w)
    (part,) = (k for k in t.of(t.layer_kinds[0], "backward") if k.name == "w2.part")
    assert part.bytes == 32 * 4 * size * one
