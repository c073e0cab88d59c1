"""Layers without a window that have heads of their own: Gemma 4; and Trinity's gate (AFMoE)."""

import pytest

from sim import simulate
from sim.blocks.from_workload import setting_of
from sim.blocks.layer import describe, layer_kinds
from sim.blocks.parameters import count_parameters, tree_of
from sim.blocks.unroll import unroll
from sim.errors import InputError
from sim.inputs.hf import model_from_config
from sim.inputs.loader import load
from sim.inputs.models import resolve_model

WIDE = {
    "model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "attention_k_eq_v": True,
    "hidden_size": 5376, "num_hidden_layers": 60, "num_attention_heads": 32,
    "num_key_value_heads": 16, "num_global_key_value_heads": 4, "intermediate_size": 21504,
    "sliding_window": 1024, "max_position_embeddings": 262144, "final_logit_softcapping": 30.0,
}  # fmt: skip


def test_parameters_of_the_dense_one_by_hand():
    """Ten of sixty layers have no window: 4 heads of keys, of 512 columns, that are values too."""
    d, f = 5376, 21504
    sliding = 2 * d * 32 * 256 + 2 * d * 16 * 256 + 2 * 256
    full = 2 * d * 32 * 512 + d * 4 * 512 + 2 * 512
    total = 262144 * d + d + 60 * (3 * d * f + 4 * d) + 50 * sliding + 10 * full
    found = model_from_config(WIDE)
    assert count_parameters(found).total == total == 30_697_345_280
    kept = resolve_model("gemma-4-31b")
    assert kept.model_copy(update={"name": "", "source": "", "notes": ()}) == found.model_copy(
        update={"name": "", "source": "", "notes": ()}
    )


def test_parameters_of_the_mixture_by_hand():
    """A dense FFN of 2,112 columns beside 128 experts of 704: three shared ones."""
    d = 2816
    sliding = 2 * d * 16 * 256 + 2 * d * 8 * 256 + 2 * 256
    full = 2 * d * 16 * 512 + d * 2 * 512 + 2 * 512
    layer = 3 * d * 2112 + 128 * (3 * d * 704 + d) + 4 * d
    total = 262144 * d + d + 30 * layer + 25 * sliding + 5 * full
    found = count_parameters(resolve_model("gemma-4-26b-a4b"))
    assert found.total == total
    assert found.active == total - 30 * 120 * 3 * d * 704  # 8 of 128
    config = WIDE | {
        "hidden_size": d, "num_hidden_layers": 30, "num_attention_heads": 16,
        "num_key_value_heads": 8, "num_global_key_value_heads": 2, "intermediate_size": 2112,
        "enable_moe_block": True, "num_experts": 128, "top_k_experts": 8,
        "moe_intermediate_size": 704,
    }  # fmt: skip
    read = model_from_config(config)
    assert count_parameters(read) == found
    assert "341,760 parameters" in read.notes[-1]  # 30 (3 norms, the router's input, 128 experts)


def test_what_a_layer_without_a_window_runs():
    """No product of values; q and what leaves attention of 32 x 512 columns; scores of 512."""
    w = load("dgx-h100", {"name": "j", "model": "gemma-4-31b", "sequence_length": 4096}).workload
    setting, flops = setting_of(w), {}
    for kind in dict.fromkeys(layer_kinds(w.model)):
        found = describe(setting, kind)
        flops[kind.key] = {
            k.name: k.flops for op in found.ops for k in op.forward if getattr(k, "flops", 0)
        }
    slides, full = flops["layer.sliding"], flops["layer"]
    a = 2 * 4096 * 5376
    assert (slides["wq"], slides["wk"], slides["wv"]) == (a * 8192, a * 4096, a * 4096)
    assert (full["wq"], full["wk"], "wv" in full) == (a * 16384, a * 2048, False)
    assert (slides["wo"], full["wo"]) == (a * 8192, a * 16384)
    names = {b.kind: {m.name for m in b.modules} for b in tree_of(w).layers}
    assert names["layer.sliding"] - names["layer"] == {"wv"}


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3", "ddp"])
def test_it_runs(strategy):
    job = {"name": "j", "model": "gemma-4-26b-a4b", "sequence_length": 2048, "steps": 1,
           "parallelism": {"strategy": strategy}, "method": {"lora": {"rank": 8}},
           "activation_checkpointing": "full"}  # fmt: skip
    found = simulate("dgx-h100", job, overrides=["nodes=1"], scaling=False, fixes=False)
    assert 0.05 < found.step.time_s < 60


def test_heads_that_cannot_be_cut_or_shared():
    with pytest.raises(InputError, match="4 key-value heads of gemma-4-31b cannot be divided"):
        load("dgx-h100", {"name": "j", "model": "gemma-4-31b", "sequence_length": 4096,
                          "parallelism": {"strategy": "fsdp2", "tensor_parallel": 8}})  # fmt: skip
    with pytest.raises(InputError, match="32 heads cannot share 3 key-value heads"):
        model_from_config(WIDE | {"num_global_key_value_heads": 3})
    with pytest.raises(InputError, match="an embedding for each layer is not modelled"):
        model_from_config({"model_type": "gemma4_text"})
    with pytest.raises(InputError, match="keys and values that layers share are not modelled"):
        model_from_config(WIDE | {"num_kv_shared_layers": 20})


def test_trinity_by_hand():
    """26 billion, 3.5 of them active; q and its gate are one product of twice the columns."""
    config = {
        "model_type": "afmoe", "num_attention_heads": 32, "num_key_value_heads": 4,
        "num_experts": 128, "num_experts_per_tok": 8, "num_shared_experts": 1,
        "moe_intermediate_size": 1024, "num_dense_layers": 2, "sliding_window": 2048,
    }  # fmt: skip
    d = 2048
    attention = 3 * d * 4096 + 2 * d * 512 + 2 * 128
    mixture = 129 * 3 * d * 1024 + d * 128
    total = 2 * 200192 * d + d + 32 * (attention + 4 * d) + 2 * 3 * d * 6144 + 30 * mixture
    found = model_from_config(config)
    assert count_parameters(found).total == total
    assert (found.sliding_window, found.sliding_window_pattern) == (2048, 4)


@pytest.mark.parametrize(
    ("kind", "keys", "caps"),
    [
        ("gemma4_text", {}, ("logits",)),
        ("gemma4_text", {"final_logit_softcapping": None}, ()),
        ("gemma3_text", {}, ("logits",)),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, ("scores", "logits")),
        ("gemma3_text", {"final_logit_softcapping": None}, ()),
        ("gemma2", {}, ("scores", "logits")),
        ("gemma2", {"attn_logit_softcapping": None}, ("logits",)),
    ],
)
def test_softcaps_are_read_of_every_kind_that_has_them(kind, keys, caps):
    """transformers 5.24: null by default in Gemma 3 and 4, which is none; 50 and 30 in Gemma 2."""
    assert model_from_config(WIDE | {"model_type": kind} | keys).softcaps == caps


def test_a_softcap_of_gemma_4s_logits_is_run():
    """Divide, tanh, multiply of 262,144 logits a token in bf16, read and written each."""
    job = {"name": "j", "model": "gemma-4-31b", "sequence_length": 4096, "loss": "huggingface"}
    head = unroll(load("dgx-h100", job).workload).of("head", "forward")
    assert sum(k.bytes for k in head if k.name == "softcap") == 3 * 2 * 2 * 4096 * 262144
