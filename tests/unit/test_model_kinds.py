"""Kinds of config.json of 2025 and later: parameters of released models, refusals by part."""

import inspect
import re

import pytest

from sim.blocks.ffn import xielu
from sim.blocks.parameters import count_parameters
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.errors import InputError
from sim.inputs import hf, hf_classic, hf_hybrids, hf_kinds, hf_mixtures, hf_parts, hf_remote
from sim.inputs.hf import KINDS, model_from_config, read_config
from sim.inputs.hf_defaults import DEFAULTS

#: keys that shape a released model, beside its class's defaults; its trained parameters as
#: transformers 5.24 makes them (on the meta device); billions, all and active, as its card rounds
RELEASED = {
    "kimi-k2": (
        {"model_type": "kimi_k2", "hidden_size": 7168, "num_hidden_layers": 61,
         "num_attention_heads": 64, "first_k_dense_replace": 1, "n_routed_experts": 384,
         "vocab_size": 163840},
        1_026_408_209_408, (1000, 32),
    ),
    "glm-4.5": (
        {"model_type": "glm4_moe", "hidden_size": 5120, "num_hidden_layers": 92, "head_dim": 128,
         "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_routed_experts": 160,
         "first_k_dense_replace": 3, "use_qk_norm": True, "attention_bias": True},
        352_797_814_784, (355, 32),
    ),
    "glm-4.5-air": (
        {"model_type": "glm4_moe", "head_dim": 128, "attention_bias": True},
        106_852_245_504, (106, 12),
    ),
    "glm-4.7-flash": ({"model_type": "glm4_moe_lite"}, 29_943_390_976, (30, 3)),
    "glm-4-9b": ({"model_type": "glm"}, 9_399_951_360, (9.4, 9.4)),
    "glm-4-32b": (
        {"model_type": "glm4", "hidden_size": 6144, "num_hidden_layers": 61,
         "num_attention_heads": 48, "num_key_value_heads": 2, "intermediate_size": 23040,
         "attention_bias": False},
        32_566_081_536, (32.6, 32.6),
    ),
    "apertus-8b": (
        {"model_type": "apertus", "num_key_value_heads": 8, "intermediate_size": 21504},
        8_053_338_176, (8.05, 8.05),
    ),
    "minimax-m2": (
        {"model_type": "minimax_m2", "rotary_dim": 64, "attn_type_list": [1] * 62},
        228_689_748_992, (230, 10),
    ),
    "seed-oss-36b": ({"model_type": "seed_oss", "hidden_size": 5120}, 36_151_104_512, (36, 36)),
    "ernie-4.5-21b-a3b": ({"model_type": "ernie4_5_moe"}, 21_825_436_160, (21, 3)),
    "ernie-4.5-300b-a47b": (
        {"model_type": "ernie4_5_moe", "hidden_size": 8192, "num_hidden_layers": 54,
         "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 28672,
         "moe_intermediate_size": 3584, "moe_k": 8, "moe_num_shared_experts": 0,
         "moe_layer_start_index": 3, "tie_word_embeddings": False},
        299_484_160_000, (300, 47),
    ),
    "ernie-4.5-0.3b": ({"model_type": "ernie4_5"}, 360_748_032, (0.36, 0.36)),
    "hunyuan-7b": (
        {"model_type": "hunyuan_v1_dense", "num_key_value_heads": 8, "intermediate_size": 14336,
         "vocab_size": 128167, "tie_word_embeddings": True},
        7_504_568_320, (7.5, 7.5),
    ),
    "hunyuan-a13b": (  # its file gives a value a layer
        {"model_type": "hunyuan_v1_moe", "num_key_value_heads": 8, "intermediate_size": 3072,
         "num_experts": 64, "moe_topk": [8] * 32, "num_shared_expert": [1] * 32,
         "moe_intermediate_size": [3072] * 32, "vocab_size": 128167, "tie_word_embeddings": True},
        80_393_183_232, (80, 13),
    ),
    "dots.llm1": (
        {"model_type": "dots1", "hidden_size": 4096, "n_routed_experts": 128,
         "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
         "sliding_window": None},
        142_774_373_888, (142, 14),
    ),
    "exaone-4.0-32b": (
        {"model_type": "exaone4", "hidden_size": 5120, "num_hidden_layers": 64,
         "num_attention_heads": 40, "num_key_value_heads": 8, "intermediate_size": 27392,
         "sliding_window_pattern": "LLLG"},
        32_003_216_384, (32, 32),
    ),
    "granite-4.0-micro": (
        {"model_type": "granitemoehybrid", "hidden_size": 2560, "num_hidden_layers": 40,
         "num_attention_heads": 40, "num_key_value_heads": 8, "shared_intermediate_size": 8192,
         "num_local_experts": 0, "vocab_size": 100352, "tie_word_embeddings": True,
         "position_embedding_type": "rope", "layer_types": ["attention"] * 40},
        3_402_836_480, (3.4, 3.4),
    ),
    "olmo-3-7b": ({"model_type": "olmo3", "vocab_size": 100278}, 7_298_011_136, (7.3, 7.3)),
    "olmoe-7b-a1b": (
        {"model_type": "olmoe", "intermediate_size": 1024}, 6_919_161_856, (6.9, 1.3)
    ),
    "flex-olmo": ({"model_type": "flex_olmo"}, 33_270_665_216, (33, 25)),
    "phi-3.5-moe": (
        {"model_type": "phimoe", "attention_bias": True, "lm_head_bias": True},
        41_873_153_344, (42, 6.6),
    ),
    "solar-open": ({"model_type": "solar_open"}, 102_651_793_408, (102, 12)),
    "mistral4": ({"model_type": "mistral4"}, 118_972_826_624, (119, 6.6)),
    "ministral-3-8b": ({"model_type": "ministral3"}, 8_489_553_920, (8.5, 8.5)),
    "youtu-2b": ({"model_type": "youtu"}, 1_961_560_064, (1.96, 1.96)),
    "hy-v3": ({"model_type": "hy_v3"}, 295_033_528_320, (295, 21)),
    "exaone-moe": ({"model_type": "exaone_moe"}, 28_550_639_616, (28.6, 6.7)),
    "helium-2b": ({"model_type": "helium"}, 2_172_643_840, (2.2, 2.2)),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_released_models(name):
    config, total, (billions, active) = RELEASED[name]
    counts = count_parameters(model_from_config(config))
    assert counts.total == total
    assert counts.total == pytest.approx(1e9 * billions, rel=0.04)
    met = (counts.active, counts.active - counts.embedding)  # cards count with and without tables
    assert min(abs(n / 1e9 / active - 1) for n in met) < 0.2


def test_kimi_k2_by_hand():
    """Latent attention and 384 experts, summed on paper."""
    d, heads, layers = 7168, 64, 61
    attention = d * 1536 + 1536 + 1536 * heads * 192 + d * (512 + 64) + 512
    attention += 512 * heads * (128 + 128) + heads * 128 * d
    mixture = 385 * 3 * d * 2048 + 384 * d
    rows = 2 * 163840 * d
    total = layers * (attention + 2 * d) + 60 * mixture + 3 * d * 18432 + rows + d
    assert total == RELEASED["kimi-k2"][1]


def test_parts_of_newer_kinds():
    half = model_from_config(RELEASED["glm-4.5-air"][0])
    assert (half.rope_fraction, half.qkv_bias, half.output_bias, half.qk_norm) == (
        0.5, True, False, False,
    )  # fmt: skip
    whole = model_from_config(RELEASED["minimax-m2"][0])
    assert (whole.rope_fraction, whole.qk_norm_whole) == (0.5, True)
    windows = model_from_config(RELEASED["exaone-4.0-32b"][0])
    assert (windows.sliding_window, windows.sliding_window_pattern) == (4096, 4)
    assert "without RoPE" in windows.notes[0]
    bare = model_from_config({"model_type": "exaone4", "sliding_window": None})
    assert (bare.sliding_window, bare.notes) == (None, ())


def test_a_head_of_scores_is_told():
    """A classifier's file has its decoder's shape: of Qwen3 8B the head would be 622 M more."""
    shape = {"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]}
    (note,) = model_from_config(shape).notes
    assert note.startswith("Qwen3ForSequenceClassification has a head of a few scores")
    assert model_from_config(shape | {"architectures": ["Qwen3ForCausalLM"]}).notes == ()
    assert model_from_config(shape | {"architectures": None}).notes == ()


REFUSED = [
    ({"model_type": "jamba"}, "Mamba"),
    ({"model_type": "olmo_hybrid"}, "linear attention"),
    ({"model_type": "bailing_hybrid"}, "linear attention"),
    ({"model_type": "lfm3"}, "short convolutions"),
    ({"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text"}}, "each layer"),
    ({"model_type": "unheard_of", "mamba_d_conv": 4}, "Mamba"),
    ({"model_type": "unheard_of", "index_topk": 2048}, "indexer"),
    ({"model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"]}, "2 entries"),
    ({"model_type": "minimax_m2", "attn_type_list": [0, 1]}, "without softmax attention"),
    ({"model_type": "ernie4_5_moe", "moe_layer_end_index": 5}, "before all mixtures"),
    ({"model_type": "hunyuan_v1_moe", "moe_topk": [8, 4]}, "not a whole number"),
    ({"model_type": "hunyuan_v1_moe", "use_cla": True}, "shared by layers"),
    ({"model_type": "exaone4", "sliding_window_pattern": "LGLG"}, "one global layer"),
    ({"model_type": "hy_v3", "mlp_layer_types": ["sparse", "dense"]}, "before all mixtures"),
    ({"model_type": "hy_v3", "mlp_layer_types": ["dense", "sparse"]}, "2 entries, and .* 80"),
    ({"model_type": "hy_v3", "mlp_layer_types": 5}, "5 is no list of one type a layer"),
    ({"model_type": "mistral", "layer_types": ["full_attention"] * 8}, "8 entries, and .* 32"),
    ({"model_type": "granitemoehybrid", "layer_types": 5}, "5 is no list"),
    ({"model_type": "granitemoehybrid", "layers_block_type": [["attention"]]}, "is no list of"),
    ({"model_type": "phi", "partial_rotary_factor": -3}, "-3 is not between 0 and 1"),
    ({"model_type": "mpt", "expansion_ratio": float("nan")}, "nan is not between 0 and 1000"),
    ({"model_type": "dots1", "n_routed_experts": 8, "num_experts_per_tok": 2,
      "max_window_layers": 8}, "last layers alone"),
    ({"model_type": "olmoe", "clip_qkv": 8.0}, "clipped"),
    ({"model_type": "glm", "rope_parameters": {"partial_rotary_factor": "x"}}, "not a number"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "says"), REFUSED)
def test_parts_that_no_block_is(config, says):
    with pytest.raises(InputError, match=says):
        model_from_config(config)


#: of kinds that have to say it
SHAPE = {
    "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 1000,
    "ffn_hidden_size": 1024, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 256, "kv_channels": 64,
}  # fmt: skip
WRONG = [
    5,
    -3,
    0,
    10**400,
    -2.5,
    float("nan"),
    float("inf"),
    "x",
    "",
    True,
    None,
    [],
    [[1]],
    [["attention"]],
    ["dense", "sparse"],
    ["sliding_attention", ["x"]],
    [{"a": 1}],
    {"a": 1},
]


def test_any_value_of_any_key_is_read_or_refused():
    """Never an error of Python's own, and no model of negative size."""
    rooms = (hf, hf_classic, hf_hybrids, hf_kinds, hf_mixtures, hf_parts, hf_remote)
    sources = "".join(map(inspect.getsource, rooms))
    keys = sorted(set(re.findall(r'"([a-z_0-9]+)"', sources)) - {"model_type"})
    assert {"layers_block_type", "mlp_layer_types", "moe_topk", "expansion_ratio"} < set(keys)
    for number, kind in enumerate(KINDS):
        shape = SHAPE if None in DEFAULTS[kind][:3] else {}
        for place, key in enumerate(keys):
            for value in WRONG[(number + place) % 4 :: 4]:
                try:
                    counts = count_parameters(
                        model_from_config({"model_type": kind, **shape, key: value})
                    )
                except InputError:
                    continue
                assert min(counts.active, counts.total) > 0, (kind, key, value)


#: parameters of transformers' 5.24 classes as their configurations stand, on the meta device
BY_DEFAULT = {
    "cwm": 32_581_097_472, "vaultgemma": 2_614_222_080, "iquestcoder": 39_794_283_520,
    "hyperclovax": 6_738_677_760, "jais2": 8_090_401_280, "sarvam_moe": 32_152_648_064,
    "granitemoeshared": 37_039_116_288, "llama4_text": 107_769_861_120,
    # less the indexers of its layers
    "deepseek_v32": 671_877_929_216 - 851_524_864,
}  # fmt: skip


@pytest.mark.parametrize("kind", BY_DEFAULT)
def test_kinds_as_their_classes_have_them(kind):
    assert count_parameters(model_from_config({"model_type": kind})).total == BY_DEFAULT[kind]


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("deepseek_v32", ["indexed_attention"] * 61),
        ("llama4_text", (["chunked_attention"] * 3 + ["full_attention"]) * 12),
        ("cwm", (["full_attention"] + ["sliding_attention"] * 3) * 16),
    ],
)
def test_types_of_layers_as_transformers_5_saves_them(kind, types):
    """Files that it wrote were refused, those of the hub, without the key, were not."""
    bare = model_from_config({"model_type": kind})
    assert model_from_config({"model_type": kind, "layer_types": types}) == bare
    with pytest.raises(InputError, match="mixes attention with strange"):
        model_from_config({"model_type": kind, "layer_types": ["strange", *types[1:]]})


def test_a_window_in_all_but_the_first_of_four_layers():
    model = model_from_config({"model_type": "cwm"})
    assert (model.sliding_window, model.sliding_window_pattern) == (8192, 4)
    uneven = ["full_attention", *["sliding_attention"] * 61, *["full_attention"] * 2]
    with pytest.raises(InputError, match="does not come every n-th layer"):
        model_from_config({"model_type": "cwm", "layer_types": uneven})


def test_a_number_of_too_many_digits_is_a_fault(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}")
    with pytest.raises(InputError, match="not JSON: Exceeds the limit"):
        read_config(path)


def test_a_kind_by_its_class_where_its_name_is_no_kinds():
    """MiniMax-M2 was released as "minimax", DeepSeek-OCR's decoder without a kind (its code)."""
    m2 = {"model_type": "minimax", "architectures": ["MiniMaxM2ForCausalLM"], "rotary_dim": 64,
          "attn_type_list": [1] * 62, "num_mtp_modules": 3}  # fmt: skip
    found = model_from_config(m2)
    assert count_parameters(found).total == RELEASED["minimax-m2"][1]
    assert "3 layers that predict tokens further on (MTP): left out" in found.notes[0]
    decoder = {
        "architectures": ["DeepseekV2ForCausalLM"], "hidden_size": 1280, "num_hidden_layers": 12,
        "intermediate_size": 6848, "moe_intermediate_size": 896, "n_routed_experts": 64,
        "n_shared_experts": 2, "num_experts_per_tok": 6, "num_attention_heads": 10,
        "num_key_value_heads": 10, "first_k_dense_replace": 1, "use_mla": False,
        "vocab_size": 129280,
    }  # fmt: skip
    outer = {"model_type": "deepseek_vl_v2", "language_config": decoder}
    total = count_parameters(model_from_config(outer)).total
    assert total == 12 * (4 * 1280**2 + 2 * 1280) + 3 * 1280 * 6848 + 2 * 129280 * 1280 + 1280 + (
        11 * (66 * 3 * 1280 * 896 + 64 * 1280)
    )
    own = model_from_config({"model_type": "minimax", "architectures": ["MiniMaxForCausalLM"]})
    assert own.layer_pattern == ("attention", "lightning")  # as transformers alternates them
    with pytest.raises(InputError, match="is an encoder-decoder"):
        model_from_config({"model_type": "t5", "is_encoder_decoder": True})
    with pytest.raises(InputError, match="required key is missing"):
        model_from_config({"hidden_size": 64})


@pytest.mark.parametrize(
    ("keys", "forward", "backward", "kept"),
    [({}, 58, 120, 7), ({"dtype": "fp32"}, 114, 234, 13), ({"autocast": True}, 80, 188, 9)],
)
def test_xielu_runs_and_keeps_what_transformers_does(keys, forward, backward, kept):
    """Bytes an element of 12 and 25 operations, and of what is kept beside its input.

    Source: XIELUActivation of transformers 5.24 under PyTorch 2.13, by a dispatch mode: in bf16, in
    fp32, and in bf16 beside slopes in fp32.
    """
    t = Tape(Setting(model=None, tokens=10, **keys), False)
    xielu(t, t.tensor(1.0), 100.0)
    (op,) = t.ops
    assert [sum(r.bytes for r in op.forward), sum(r.bytes for r in op.backward), op.extra] == [
        1000 * forward, 1000 * backward, 1000 * kept
    ]  # fmt: skip
    assert [p.numel for m in t.modules for p in m.parameters] == [1, 1]
