"""config.json of older kinds, of kinds with code of their own, and decoders within other models."""

import pytest

from sim import simulate
from sim.blocks.flops import token_flops
from sim.blocks.footprint import layer_footprint
from sim.blocks.layer import layer_kinds
from sim.blocks.parameters import build_tree, count_parameters
from sim.errors import InputError
from sim.inputs.hf import model_from_config
from sim.inputs.loader import load

QWEN_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
}  # fmt: skip
GLM_9B = {
    "hidden_size": 4096, "num_attention_heads": 32, "multi_query_attention": True,
    "multi_query_group_num": 2, "ffn_hidden_size": 13696, "padded_vocab_size": 151552,
    "add_qkv_bias": True, "kv_channels": 128, "num_layers": 40, "seq_length": 131072,
}  # fmt: skip
MAVERICK = {
    "model_type": "llama4_text", "intermediate_size": 8192, "num_local_experts": 128,
    "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
}  # fmt: skip

#: parameters as the models' cards and repositories (safetensors) count them
RELEASED = {
    "opt-6.7b": (
        {"model_type": "opt", "hidden_size": 4096, "num_hidden_layers": 32,
         "num_attention_heads": 32, "ffn_dim": 16384},
        6_658_473_984,
    ),
    "bloom-7b1": (
        {"model_type": "bloom", "n_embed": 4096, "n_layer": 30, "num_attention_heads": 32},
        7_069_016_064,
    ),
    "gpt-j-6b": ({"model_type": "gptj"}, 6_050_882_784),
    "starcoder": (
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48,
         "n_inner": 24576, "n_positions": 8192, "vocab_size": 49152},
        15_517_456_384,
    ),
    "stablelm-3b": ({"model_type": "stablelm"}, 2_795_443_200),
    "dbrx": (
        {"model_type": "dbrx", "d_model": 6144, "n_layers": 40, "n_heads": 48,
         "max_seq_len": 32768, "vocab_size": 100352,
         "attn_config": {"kv_n_heads": 8, "clip_qkv": 8},
         "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}},
        131_596_523_520,
    ),
    "qwen1.5-moe-a2.7b": ({"model_type": "qwen2_moe"}, 14_315_784_192),
    "deepseek-moe-16b": (
        {"model_type": "deepseek", "hidden_size": 2048, "num_hidden_layers": 28,
         "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 10944,
         "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
         "num_experts_per_tok": 6, "first_k_dense_replace": 1},
        16_375_728_128,
    ),
    "internlm2-7b": (
        {"model_type": "internlm2", "num_key_value_heads": 8, "intermediate_size": 14336,
         "vocab_size": 92544, "bias": False},
        7_737_708_544,
    ),
    "internlm3-8b": (
        {"model_type": "internlm3", "num_hidden_layers": 48, "num_key_value_heads": 2,
         "head_dim": 128, "intermediate_size": 10240},
        8_804_241_408,
    ),
    "glm-4-9b-chat": ({"model_type": "chatglm", **GLM_9B}, 9_399_951_360),
    "minicpm-2b": (
        {"model_type": "minicpm", "hidden_size": 2304, "num_hidden_layers": 40,
         "num_attention_heads": 36, "intermediate_size": 5760, "vocab_size": 122753},
        2_724_880_896,
    ),
    "minicpm3-4b": (
        {"model_type": "minicpm3", "hidden_size": 2560, "num_hidden_layers": 62,
         "num_attention_heads": 40, "intermediate_size": 6400, "vocab_size": 73448},
        4_073_875_968,
    ),
    "nemotron-4-340b": (
        {"model_type": "nemotron", "hidden_size": 18432, "num_hidden_layers": 96,
         "num_attention_heads": 96, "num_key_value_heads": 8, "intermediate_size": 73728},
        341_029_195_776,
    ),
    "afm-4.5b": (
        {"model_type": "arcee", "num_hidden_layers": 36, "num_attention_heads": 20,
         "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 128004, "hidden_act": "relu2"},
        4_619_184_640,
    ),
    "ling-lite": (
        {"model_type": "bailing_moe", "hidden_size": 2048, "num_hidden_layers": 28,
         "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 5632,
         "moe_intermediate_size": 1408, "num_experts": 64, "num_experts_per_tok": 6,
         "num_shared_experts": 2, "vocab_size": 126464},
        16_801_974_272,
    ),
    "exaone-3.5-7.8b": (
        {"model_type": "exaone", "hidden_size": 4096, "num_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
         "tie_word_embeddings": False},
        7_818_448_896,
    ),
    "baichuan2-7b": (
        {"model_type": "baichuan", "hidden_size": 4096, "num_hidden_layers": 32,
         "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 125696,
         "max_position_embeddings": 4096},
        7_505_973_248,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_parameters(name):
    config, total = RELEASED[name]
    assert count_parameters(model_from_config(config)).total == total


@pytest.mark.parametrize(
    ("config", "total"),
    [
        ({"model_type": "qwen2_5_vl", "vision_config": {"depth": 32}, **QWEN_7B}, 7_615_616_512),
        ({"model_type": "qwen2_vl", "vision_config": {"depth": 32}, **QWEN_7B}, 7_615_616_512),
        (
            {
                "model_type": "qwen2_5_omni",
                "thinker_config": {"text_config": {"model_type": "qwen2_5_omni_text", **QWEN_7B}},
            },
            7_615_616_512,
        ),
        (
            {"model_type": "internvl_chat", "llm_config": {"model_type": "qwen2", **QWEN_7B}},
            7_615_616_512,
        ),
        ({"model_type": "glm4v", "text_config": {"model_type": "glm4v_text"}}, 9_400_279_040),
        (
            {
                "model_type": "glm4v_moe",
                "text_config": {
                    "model_type": "glm4v_moe_text", "head_dim": 128, "attention_bias": True
                },
            },
            106_852_245_504,
        ),
        ({"model_type": "llama4", "text_config": MAVERICK}, 400_711_848_960),
    ],
)  # fmt: skip
def test_decoders_of_multimodal_models(config, total):
    model = model_from_config(config)
    assert count_parameters(model).total == total
    assert "only the text decoder is modelled" in model.notes[0]


def test_an_indexer_is_left_out_and_said():
    """DeepSeek-V3.2 is V3 beside it, GLM-5 has 744 billion parameters, 40 of them active."""
    model = model_from_config({"model_type": "deepseek_v32"})
    assert count_parameters(model).total == 671_026_404_352
    assert "attention to 2,048 positions" in model.notes[0]
    glm = {
        "model_type": "glm_moe_dsa", "hidden_size": 6144, "num_hidden_layers": 78,
        "num_attention_heads": 64, "intermediate_size": 12288, "vocab_size": 154880,
    }  # fmt: skip
    counts = count_parameters(model_from_config(glm))
    assert counts.total == pytest.approx(744e9, rel=0.005)
    assert counts.active == pytest.approx(40e9, rel=0.05)


def test_mixtures_every_second_layer():
    """Llama 4 Maverick: 24 dense FFNs, 24 mixtures of 128 experts; Qwen2-57B: one every layer."""
    model = model_from_config(MAVERICK)
    assert [kind.mixture for kind in layer_kinds(model)] == [False, True] * 24
    assert count_parameters(model).active == pytest.approx(17.2e9, rel=0.01)
    shared = {
        "model_type": "qwen2_moe", "moe_intermediate_size": 2560,
        "shared_expert_intermediate_size": 20480,
    }  # fmt: skip
    assert model_from_config(shared).shared_experts == 8


def test_a_mixture_every_second_layer_lies_between():
    """In time and parameters, on pipelines and groups of experts too."""
    model = {
        "name": "m", "layers": 8, "hidden_size": 1024, "heads": 8, "kv_heads": 8, "head_dim": 128,
        "ffn_size": 2816, "vocab_size": 32000, "experts": 16, "experts_per_token": 4,
        "expert_ffn_size": 1408,
    }  # fmt: skip
    job = {"name": "j", "sequence_length": 2048, "micro_batch": 4, "gradient_accumulation": 4}

    def step(every, **parallelism):
        shape = model | {"mixture_every": every}
        asked = job | {"model": shape, "parallelism": {"strategy": "fsdp2", **parallelism}}
        found = simulate("dgx-h100", asked, overrides=["nodes=1"], scaling=False, fixes=False)
        return found.step.time_s

    for cut in ({}, {"pipeline_parallel": 2}, {"expert_parallel": 4}):
        assert step(8, **cut) < step(2, **cut) < step(1, **cut)
    whole = count_parameters(load("dgx-h100", job | {"model": model}).workload.model)
    half = load("dgx-h100", job | {"model": model | {"mixture_every": 2}}).workload.model
    assert [index for index in range(8) if half.mixes(index)] == [1, 3, 5, 7]
    behind = half.model_copy(update={"dense_layers": 3})
    assert [index for index in range(8) if behind.mixes(index)] == [3, 5, 7]
    one = 16 * 3 * 1024 * 1408 + 16 * 1024 - 3 * 1024 * 2816  # a mixture for a dense FFN
    assert whole.total - count_parameters(half).total == 4 * one


@pytest.mark.parametrize("tensor", [1, 2])
def test_a_gate_of_shared_experts_on_the_axes(tensor):
    """It gates the positions that a rank holds: kept are what it reads and makes of those alone."""
    job = {
        "name": "j", "sequence_length": 2048, "activation_checkpointing": "none",
        "parallelism": {"strategy": "fsdp2", "tensor_parallel": tensor},
    }  # fmt: skip

    def of(gate):
        model = {"base": "qwen1.5-moe-a2.7b", "layers": 2, "shared_expert_gate": gate}
        return load("dgx-h100", job | {"model": model}, ["nodes=1"]).workload

    with_, without = of(True), of(False)
    a, b = (layer_footprint(w, "layer") for w in (with_, without))
    held = 2048 / tensor  # by sequence parallelism
    # what is gated and the gate; the whole input is gathered and kept for the router
    read = held * 2048 * 2 * (tensor > 1)
    assert a.saved - b.saved == held * 2048 * 2 + held * 2 + read
    assert token_flops(with_).forward - token_flops(without).forward == 2 * 2 * 2048
    gate = next(m for m in build_tree(with_.model).layers[0].modules if m.name == "shared_gate")
    assert [p.shape for p in gate.parameters] == [(1, 2048)]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "bloom"}, "hidden_size: required key is missing"),
        ({"model_type": "stablelm", "qk_layernorm": True}, "norms of each head"),
        ({"model_type": "opt", "word_embed_proj_dim": 512}, "another width"),
        ({"model_type": "chatglm", **GLM_9B, "rmsnorm": False}, "rmsnorm false"),
        ({"model_type": "qwen2_moe", "shared_expert_intermediate_size": 5000}, "no multiple"),
        ({"model_type": "mllama", "text_config": {"model_type": "mllama_text_model"}}, "images"),
        ({"model_type": "bitnet"}, "three values"),
        (MAVERICK | {"moe_layers": [0, 1, 2]}, "every 2 layers"),
    ],
)
def test_what_is_refused(config, says):
    with pytest.raises(InputError, match=says):
        model_from_config(config)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"expert_ffn_size": 0}, "no columns"),
        ({"dense_layers": 8}, "8 dense of 8 layers"),
        ({"mixture_every": 0}, "every 0 of 8"),
    ],
)
def test_a_mixture_without_experts(shape, says):
    model = {
        "name": "m", "layers": 8, "hidden_size": 512, "heads": 8, "kv_heads": 8, "head_dim": 64,
        "ffn_size": 2048, "vocab_size": 1000, "experts": 8, "experts_per_token": 2,
        "expert_ffn_size": 512,
    }  # fmt: skip
    with pytest.raises(InputError, match=says):
        load("dgx-h100", {"name": "j", "model": model | shape, "sequence_length": 512})
