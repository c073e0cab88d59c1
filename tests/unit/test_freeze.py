"""Partly frozen models: parameters, FLOPs and memory by hand, who asks for it, what is refused."""

import random
import re

import pytest

import sim
from sim.blocks.flops import token_flops
from sim.blocks.footprint import layer_footprint
from sim.blocks.parameters import count_parameters
from sim.inputs.loader import load
from sim.inputs.shares import batch_on
from sim.interop.emit import texts_of
from sim.job.basis import checkpoint_bytes
from sim.memory.states import staged_bytes
from sim.step.step import quick
from tests.imported import mattering

SFT = "llama3-8b-sft"
STRATEGIES = ["fsdp2", "fsdp1", "ddp", "zero2", "zero3"]
# Llama 3.1 8B: q, k, v, o; gate, up, down; two norms; a table
ATTENTION, FFN, NORMS = 2 * 4096 * 4096 + 2 * 4096 * 1024, 3 * 4096 * 14336, 2 * 4096
LAYER, TABLE = ATTENTION + FFN + NORMS, 128256 * 4096


def job(method, *sets):
    loaded = load("dgx-h100", SFT, [f"method={method}", *sets])
    return loaded.topology, loaded.workload


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ("{freeze: {last: 2}}", 2 * LAYER),
        ("{freeze: {first: 1, last: 2}}", 3 * LAYER),
        ("{freeze: {layers: [0, 5, 31]}}", 3 * LAYER),
        ("{freeze: {last: 2, modules: [ffn]}}", 2 * FFN),
        ("{freeze: {last: 2, modules: [attention, norms]}}", 2 * (ATTENTION + NORMS)),
        ("{freeze: {extra: [head]}}", TABLE),
        ("{freeze: {last: 1, extra: [embedding, norm, head]}}", LAYER + 2 * TABLE + 4096),
        ("{freeze: {last: 32, extra: [embedding, norm, head]}}", 8030261248),
    ],
)
def test_what_is_trained(method, trained):
    _, w = job(method)
    found = count_parameters(w.model, w.method)
    assert (found.total, found.trainable) == (8030261248, trained)


def test_flops_of_the_last_layers():
    """Forward of all; backward of the head for inputs, of two layers for both."""
    _, w = job("{freeze: {last: 2}}")
    scores = 4 * 32 * 128 * w.sequence_length  # a layer and token, both products
    weights = ATTENTION + FFN
    found = token_flops(w)
    assert found.forward == 32 * (2 * weights + scores) + 2 * TABLE
    assert found.backward == 2 * (4 * weights + 2 * scores) + 2 * TABLE
    assert found.recompute == pytest.approx(2 * (2 * weights + scores), rel=0.25)  # stops early


def test_flops_of_the_first_layers():
    """A gradient passes through all that is above: 2 a frozen weight."""
    _, w = job("{freeze: {first: 2}}")
    weights, scores = ATTENTION + FFN, 4 * 32 * 128 * w.sequence_length
    backward = 30 * (2 * weights + 2 * scores) + 2 * (4 * weights + 2 * scores) + 2 * TABLE
    assert token_flops(w).backward == backward


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_that_is_trained_whole_is_full(strategy):
    sets = [f"parallelism.strategy={strategy}", "trainer=huggingface"]
    whole = quick(*job("{freeze: {last: 32, extra: [embedding, norm, head]}}", *sets))
    full = quick(*job("full", *sets))
    assert whole.time_s == pytest.approx(full.time_s, rel=1e-3)
    assert whole.memory.by_moment == pytest.approx(full.memory.by_moment, rel=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_layers_below_what_is_trained_run_forward_alone(strategy):
    """A step's order: the head, the last two, the first two, all but for the table."""
    times = [
        quick(*job(method, f"parallelism.strategy={strategy}")).time_s
        for method in (
            "{freeze: {extra: [norm, head]}}", "{freeze: {last: 2}}", "{freeze: {first: 2}}",
            "{freeze: {last: 32}}",
        )
    ]  # fmt: skip
    assert times[1] < 0.4 * times[3] < times[2] < times[3]
    assert times[0] < 1.02 * times[1]  # its table is twice two layers' weights


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_memory_of_the_last_layers(strategy):
    """16-bit weights, fp32 ones of what is trained, its states; of activations two layers'."""
    sets = [f"parallelism.strategy={strategy}", "activation_checkpointing=none"]
    _, w = job("{freeze: {last: 2}}", *sets)
    full = quick(*job("full", *sets)).memory.terms
    found = quick(*job("{freeze: {last: 2}}", *sets)).memory.terms
    saved = found["saved activations"] / full["saved activations"]
    assert saved == pytest.approx(2 / 32, rel=0.05)
    states = found["optimizer states"]
    shared = 1 if strategy == "ddp" else 8
    each = 12 if strategy.startswith("zero") else 8  # with DeepSpeed's fp32 copies
    assert states == pytest.approx(each * 2 * LAYER / shared, rel=1e-3)
    stored = found.get("parameters", found.get("sharded parameters"))
    spread = 8 if strategy in ("fsdp2", "fsdp1", "zero3") else 1
    wide = 0 if strategy.startswith("zero") else 2 * 2 * LAYER
    assert stored == pytest.approx((2 * 8030261248 + wide) / spread, rel=2e-3)
    assert layer_footprint(w, "layer.passive").saved == 0.0


def test_a_reentrant_checkpoint_passes_a_gradient_to_the_embedding():
    """Else the layers inside it would have none (transformers' enable_input_require_grads)."""
    _, w = job("{freeze: {last: 2}}", "activation_checkpointing={full: {reentrant: true}}")
    assert w.method.input_require_grads
    assert token_flops(w).backward > 2 * token_flops(job("{freeze: {last: 2}}")[1]).backward


def in_use(topology, w, step):
    """Share of the peak that a step's products take: HFU."""
    done = token_flops(w).hardware * batch_on(w, topology.world_size).tokens
    peak = topology.first_gpu.peak_half
    return done / step.time_s / peak / topology.world_size


@pytest.mark.parametrize(
    "sets",
    [["activation_checkpointing={full: {reentrant: true}}"], ["method.input_require_grads=true"]],
)
def test_gradients_pass_through_frozen_layers(sets):
    """DDP ran the last two layers' backward alone: 3.4 s where all others take 9, HFU 104 %."""
    topology, w = job("{freeze: {last: 2}}", *sets)
    usual = quick(topology, w).time_s
    for strategy in ("ddp", "single", "fsdp1", "zero1", "zero2", "zero3"):
        parallelism = w.parallelism.model_copy(update={"strategy": strategy})
        one = w.model_copy(update={"parallelism": parallelism})
        step = quick(topology, one)
        assert step.time_s == pytest.approx(usual, rel=0.05)
        assert 0.35 < in_use(topology, one, step) < 0.5


@pytest.mark.parametrize("extra", ["head", "norm", "norm, head", "embedding"])
def test_parts_trained_alone_run_their_backward(extra):
    """ZeRO ran none of the head or the final norm, and reduced nothing (2.69 s for 3.05)."""
    method = f"{{freeze: {{extra: [{extra}]}}}}"
    times, losses = {}, {}
    for strategy in (*STRATEGIES, "zero1"):
        topology, w = job(method, f"parallelism.strategy={strategy}")
        found = quick(topology, w).breakdown
        times[strategy], losses[strategy] = found.time_s, found.kernels["loss"]
        reduced = found.collectives["reduce_scatter" if strategy == "zero3" else "all_reduce"]
        elements = count_parameters(w.model, w.method).trainable
        if strategy.startswith("zero"):
            micro_steps = 1 if strategy == "zero1" else 4  # of which it reduces the last
            assert reduced["bytes"] == pytest.approx(2 * micro_steps * elements, rel=1e-2)
    assert losses == pytest.approx(dict.fromkeys(losses, losses["fsdp2"]), rel=1e-3)
    assert times == pytest.approx(dict.fromkeys(times, times["fsdp2"]), rel=0.06)


def test_strategies_agree_on_what_is_run():
    """By method, of jobs at random: the same products, at no more than the peak."""
    draw = random.Random(11)
    for _ in range(10):
        few = draw.choice(["modules: [ffn]", "modules: [attention]", "extra: [head]"])
        freeze = f"freeze: {{{draw.choice(['first', 'last'])}: {draw.randint(1, 8)}, {few}}}"
        method = draw.choice([f"{{{freeze}}}", f"{{{freeze}}}", "{lora: {rank: 16}}", "full"])
        again = draw.choice(["none", "full", "{full: {reentrant: true}}", "selective"])
        sets = [
            "model=llama3.2-3b", "model.tied_embeddings=false", f"activation_checkpointing={again}",
            f"micro_batch={draw.choice([1, 2])}", "trainer=huggingface", "stack.nccl=2.21",
        ]  # fmt: skip
        times = {}
        for strategy in STRATEGIES:
            topology, w = job(method, *sets, f"parallelism.strategy={strategy}")
            step = quick(topology, w)
            assert in_use(topology, w, step) < 0.8
            products = step.breakdown.kernels
            times[strategy] = products["gemm"] + products["attention"]
        usual = pytest.approx(
            dict.fromkeys(times, times["fsdp2"]), rel=0.05
        )  # beside gathers they are slower
        assert times == usual, (method, *sets)


def test_checkpoints_hold_frozen_weights_as_stored():
    """7.6 B parameters of 16 bits, and 0.44 B with moments; an asynchronous copy is as large."""
    save = "checkpoint={mode: sharded, asynchronous: true}"
    _, w = job("{freeze: {last: 2}}", save)
    expected = 2 * (8030261248 - 2 * LAYER) + 12 * 2 * LAYER
    assert checkpoint_bytes(w) == pytest.approx(expected, rel=1e-6)
    assert 8 * staged_bytes(w, 8) == pytest.approx(expected, rel=1e-6)
    _, whole = job("{freeze: {last: 32, extra: [embedding, norm, head]}}", save)
    _, full = job("full", save)
    assert checkpoint_bytes(whole) == checkpoint_bytes(full)
    assert staged_bytes(whole, 8) == staged_bytes(full, 8)


@pytest.mark.parametrize(
    ("method", "sets", "code"),
    [
        ("{freeze: {layers: [32]}}", (), "freeze-layers"),
        ("{freeze: {}}", (), "freeze-layers"),
        ("{freeze: {last: 40}}", (), "freeze-layers"),
        ("{freeze: {first: 33}}", (), "freeze-layers"),
        ("{freeze: {layers: [3, 3]}}", (), "freeze-layers"),
        ("{freeze: {last: 2}}", ["precision=fp8"], "freeze-precision"),
        ("{freeze: {extra: [head]}}", ["model=qwen2.5-0.5b"], "freeze-tied"),
        ("{freeze: {last: 2}}", ["parallelism={strategy: fsdp1, wrap: peft}"], "freeze-wrap"),
        ("{freeze: {last: 2}}", ["parallelism.strategy=megatron"], "megatron-method"),
        ("{freeze: {last: 2}}", ["parallelism.pipeline_parallel=2"], "pipeline-method"),
        ("{freeze: {last: 2}}", ["parallelism.tensor_parallel=2"], "tensor-method"),
        ("{freeze: {last: 2, rank: 8}}", (), "rank"),
        ("{lora: {rank: 8, last: 2}}", (), "last"),
    ],
)
def test_what_is_refused(method, sets, code):
    with pytest.raises(sim.InputError, match=code):
        job(method, *sets)


FACTORY = """\
model_name_or_path: meta-llama/Llama-3.1-8B
stage: sft
finetuning_type: freeze
cutoff_len: 4096
bf16: true
{}
"""


@pytest.mark.parametrize(
    ("keys", "expected", "told"),
    [
        ("", {"last": 2}, 0),
        ("freeze_trainable_layers: 4", {"last": 4}, 0),
        ("freeze_trainable_layers: -3", {"first": 3}, 0),
        ("freeze_trainable_modules: mlp", {"last": 2, "modules": ("ffn",)}, 0),
        ("freeze_trainable_modules: mlp,self_attn.q_proj",
         {"last": 2, "modules": ("attention", "ffn")}, 1),
        ("freeze_extra_modules: embed_tokens,lm_head",
         {"last": 2, "extra": ("embedding", "head")}, 0),
        # a part that is not known was said not to be trained, and all of a layer was
        ("freeze_trainable_modules: q_proj,mlp,v_proj", {"last": 2, "modules": ("ffn",)}, 1),
        ("freeze_extra_modules: all", {"last": 2, "extra": ()}, 1),
        ("use_llama_pro: true", {"last": 0, "layers": (15, 31)}, 0),
        ("use_llama_pro: true\nfreeze_trainable_layers: 5", {"last": 5}, 1),  # 5 do not divide 32
    ],
)  # fmt: skip
def test_files_of_llama_factory(tmp_path, keys, expected, told):
    """They were taken as full training."""
    path = tmp_path / "freeze.yaml"
    path.write_text(FACTORY.format(keys))
    method = load("dgx-h100", path).workload.method
    assert method.kind == "freeze"
    assert {key: getattr(method, key) for key in expected} == expected
    assert len(mattering(path)) == told


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("freeze_trainable_modules: q_proj, v_proj", "freeze.yaml:6.*q_proj, v_proj: no part"),
        ("freeze_trainable_layers: 0", "nothing is trained"),
    ],
)
def test_a_file_that_trains_nothing_known(tmp_path, key, said):
    path = tmp_path / "freeze.yaml"
    path.write_text(FACTORY.format(key))
    with pytest.raises(sim.InputError, match=said):
        load("dgx-h100", path)


def test_a_default_is_not_quoted_from_the_file(tmp_path):
    path = tmp_path / "freeze.yaml"
    path.write_text(FACTORY.format(""))
    found = sim.import_job(path)
    assert "method.last" in [row["key"] for row in found.assumed]
    assert "freeze_trainable_layers" not in [row["theirs"] for row in found.took]


def test_written_and_read_again():
    topology, w = job("{freeze: {last: 3, modules: [ffn], extra: [head]}}",
                      "parallelism={strategy: ddp}", "trainer=huggingface")  # fmt: skip
    text = texts_of(topology, w, "llamafactory")["llamafactory.yaml"]
    assert "freeze_trainable_layers: 3" in text
    for kind in ("axolotl", "trl", "accelerate"):
        with pytest.raises(sim.InputError, match=r"method\.kind = freeze"):
            texts_of(topology, w, kind)
    both = job("{freeze: {first: 1, last: 1}}", "parallelism={strategy: ddp}")
    with pytest.raises(sim.InputError, match=r"method\.first"):
        texts_of(*both, "llamafactory")


@pytest.mark.parametrize(("method", "said"), [
    ("{freeze: {first: 20, last: 20}}", "8 layers of llama-3.1-8b twice, .*: 32 of 32"),
    ("{freeze: {last: 2, layers: [3, 31]}}", "1 layer of llama-3.1-8b twice, .*: 3 of 32"),
    ("{freeze: {first: 16, last: 16}}", ""), ("{freeze: {first: 1, layers: [1]}}", ""),
])  # fmt: skip
def test_layers_that_are_named_twice_are_told(method, said):
    found = load("dgx-h100", SFT, [f"method={method}"]).notes.warnings
    told = [w.message for w in found if w.code == "freeze-layers"]
    assert len(told) == bool(said)
    assert not said or re.search(said, told[0])
