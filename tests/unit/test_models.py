"""Parameter counts of the catalogue and of Hugging Face configs against published totals."""

import json
from pathlib import Path

import pytest

from sim.blocks.parameters import build_tree, count_parameters, numel
from sim.errors import InputError
from sim.inputs.hf import model_from_config
from sim.inputs.loader import load_workload
from sim.inputs.method import Method
from sim.inputs.models import catalogue_model, model_names, resolve_model

DATA = Path(__file__).parents[1] / "data"
CATALOGUE = json.loads((DATA / "model_params.json").read_text())
SHARED = Path(__file__).parents[3] / "shared" / "users" / "examples" / "hf_config"
LINEARS = ("q", "k", "v", "o", "gate", "up", "down")

#: model cards and the safetensors index of the released weights
PUBLISHED = {
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "gemma-2-9b": 9_241_705_984,
    "gpt2": 124_439_808,
    "qwen2-7b": 7_615_616_512,
    "qwen3-30b-a3b": 30_532_122_624,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "deepseek-v2-lite": 15_706_484_224,
    # the index has 671,026,419,200: 256 routing biases a mixture, which no gradient trains, too
    "deepseek-v3": 671_026_419_200 - 58 * 256,
}


def inline(keys):
    """The model of a workload whose `model` has these keys."""
    return load_workload({"name": "w", "model": keys, "sequence_length": 512}).model


def test_catalogue_is_complete():
    assert len(model_names()) >= 110
    assert set(CATALOGUE) == set(model_names())
    for name in model_names():
        model = catalogue_model(name)
        assert model.name == name
        assert model.source
        assert type(model).model_validate(model.model_dump()) == model  # files are not validated


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_catalogue_totals(name):
    total = CATALOGUE[name]
    assert total == PUBLISHED.get(name, total)
    assert count_parameters(resolve_model(name)).total == total


@pytest.mark.parametrize("size", ["125m", "350m", "760m", "1b", "3b", "7b", "13b", "30b", "70b"])
@pytest.mark.parametrize("length", [512, 65536])
def test_foundry_formula(size, length):
    """llm-foundry's tables: N = L (12 d² + 13 d) + 2 d + V d + T d, T = sequence length."""
    model = inline({"base": f"mpt-{size}-foundry", "max_positions": length})
    d = model.hidden_size
    expected = model.layers * (12 * d * d + 13 * d) + 2 * d + (50368 + length) * d
    assert count_parameters(model).total == expected


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("mixtral-8x7b", 12_879_925_248),
        ("qwen3-30b-a3b", 3_353_032_704),
        ("qwen3-235b-a22b", 22_190_763_520),
        ("llama-2-7b", 6_738_415_616),
    ],
)
def test_active(name, active):
    assert count_parameters(resolve_model(name)).active == active


@pytest.mark.parametrize(
    ("name", "table"), [("gemma-2-2b", 256000 * 2304), ("llama-3.1-8b", 128256 * 4096)]
)
def test_a_table_is_counted_once(name, table):
    assert count_parameters(resolve_model(name)).embedding == table


CONFIGS = {
    # hidden, layers, ...: (config, total)
    "llama, no key but the sizes": (
        {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32},
        6_738_415_616,
    ),
    "llama v5 key names": (
        {
            "model_type": "llama",
            "dtype": "bfloat16",
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
        },
        8_030_261_248,
    ),
    "null kv heads": ({"model_type": "llama", "num_key_value_heads": None}, 6_738_415_616),
    "mistral defaults": ({"model_type": "mistral"}, 7_241_732_096),
    "mixtral defaults": ({"model_type": "mixtral"}, 46_702_792_704),
    "gpt2 defaults": ({"model_type": "gpt2"}, 124_439_808),
    "gemma2 defaults tie": ({"model_type": "gemma2"}, 2_614_341_888),
    "gpt_neox defaults": ({"model_type": "gpt_neox"}, 20_554_567_680),
    "mpt-7b": (
        {
            "model_type": "mpt",
            "d_model": 4096,
            "n_heads": 32,
            "n_layers": 32,
            "no_bias": True,
            "vocab_size": 50432,
            "learned_pos_emb": True,
            "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
        },
        6_649_286_656,
    ),
    "phi3": ({"model_type": "phi3"}, 3_821_079_552),
    "falcon defaults": ({"model_type": "falcon"}, 6_921_720_704),
    "starcoder2 defaults": ({"model_type": "starcoder2"}, 3_030_371_328),
    "qwen v1": ({"model_type": "qwen", "intermediate_size": 22016}, 7_721_324_544),
    "qwen2 has biases without saying so": (
        {
            "model_type": "qwen2",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        7_615_616_512,
    ),
    "qwen3 head_dim is not hidden / heads": (
        {
            "model_type": "qwen3",
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
        },
        596_049_920,
    ),
    "text_config, tie on top": (
        {
            "model_type": "qwen3_vl",
            "tie_word_embeddings": True,
            "text_config": {
                "model_type": "qwen3_vl_text",
                "hidden_size": 1024,
                "intermediate_size": 3072,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
            },
        },
        596_049_920,
    ),
}


@pytest.mark.parametrize("case", sorted(CONFIGS))
def test_config_totals(case):
    config, total = CONFIGS[case]
    assert count_parameters(model_from_config(config)).total == total


def test_shared_configs():
    if not SHARED.is_dir():
        pytest.skip("the collected config files are not beside this checkout")
    expected = json.loads((SHARED / "expected_params.json").read_text())
    read = 0
    for name, want in expected.items():
        counts = count_parameters(resolve_model(SHARED / name))
        read += 1
        if want["total"] is None:  # the page counts its vision tower too
            continue
        # routing biases of 58 mixtures of 256 experts are in the file, but no gradient trains them
        biases = 58 * 256 if "DeepSeek-V3" in name else 0
        assert counts.total == want["total"] - biases
        assert want["active"] in (None, counts.active, counts.active + biases)
    assert read == 18


REFUSED = [
    ({"model_type": "mamba"}, "'mamba' cannot be modelled"),
    ({"model_type": "deepseek_v5"}, "nearest known kind 'deepseek_v3'"),
    ({"model_type": "deepseek_v3", "moe_layer_freq": 2}, "dense layers are modelled only before"),
    (
        {"model_type": "gemma4", "text_config": {"model_type": "gemma4_text"}},
        "an embedding for each layer is not modelled",
    ),
    (
        {
            "model_type": "qwen3_5",
            "text_config": {
                "model_type": "qwen3_5_text",
                "layer_types": ["linear_attention", "full_attention"],
            },
        },
        "2 entries, and the model 32 layers",
    ),
    ({"model_type": "bert"}, "an encoder alone"),
    ({"model_type": "gpt2", "is_encoder_decoder": True}, "encoder-decoder"),
    ({}, "model_type: required key is missing"),
    ({"model_type": "llama", "hidden_size": "4096"}, "'4096' is not a whole number"),
    ({"model_type": "llama", "hidden_size": 0}, "0 is not at least 1"),
    ({"model_type": "llama", "num_key_value_heads": 5}, "5 does not divide the 32"),
    ({"model_type": "qwen3_moe", "mlp_only_layers": [3]}, "before all mixtures"),
    ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_refused_by_name(config, message):
    with pytest.raises(InputError, match=message):
        model_from_config(config)


def test_all_faults_at_once():
    with pytest.raises(InputError) as caught:
        model_from_config({"model_type": "llama", "hidden_size": 0, "vocab_size": "x"})
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{\n "a": 1,\n "b" 2}', r":3:6 +not JSON"),
        (b"", "empty"),
        (b"[1]", "object was expected"),
        (b"\xff\xfe\x00\x80", "not a text file"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b"[" * 100_000, "not"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=message):
        resolve_model(str(path))


def test_quantization_is_noted():
    config = {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}
    assert "fp8" in model_from_config(config).notes[0]


def test_unknown_name_suggests():
    with pytest.raises(InputError, match=r'did you mean "llama-3.1-8b"'):
        resolve_model("lama-3.1-8b")


def test_unknown_key_suggests():
    with pytest.raises(InputError, match=r'did you mean "hidden_size"'):
        inline({"base": "gpt2", "hiden_size": 3})


def test_registration_and_forward_order():
    """As the recordings' model registers and runs its modules."""
    layer = build_tree(resolve_model("llama-3.1-8b")).layers[0]
    names = ["wq", "wk", "wv", "wo", "w1", "w2", "w3", "attention_norm", "ffn_norm"]
    assert [m.name for m in layer.modules] == names
    order = ["attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w3", "w2"]
    assert list(layer.forward_order) == order
    assert numel(layer.modules) == 218_112_000
    assert layer.modules[1].parameters[0].shape == (1024, 4096)


def test_lora_adapters():
    """Rank r on a (m, n) matrix adds r (m + n); all-linear on Llama-3-8B at 16 is 41,943,040."""
    model = resolve_model("llama-3.1-8b")
    counts = count_parameters(model, Method(kind="lora", rank=16, targets=LINEARS))
    assert counts.trainable == 41_943_040
    assert counts.total == 8_030_261_248 + 41_943_040
    layer = build_tree(model, Method(kind="lora", rank=16, targets=("q", "v"))).layers[3]
    assert [m.name for m in layer.modules][:4] == ["wq", "wq.A", "wq.B", "wk"]
    assert not layer.modules[0].parameters[0].trainable
    assert layer.modules[1].parameters[0].shape == (16, 4096)


def test_fused_targets_share_one_adapter():
    layer = build_tree(resolve_model("gpt2"), Method(kind="lora", rank=8, targets=("q", "v")))
    names = [m.name for m in layer.layers[0].modules]
    assert names[:3] == ["wqkv", "wqkv.A", "wqkv.B"]
    assert "w1.A" not in names


def test_gpt_oss_as_its_file_says():
    """Defaults of the class are the 120b's; sinks, biases of experts and router are counted."""
    read = model_from_config({"model_type": "gpt_oss", "sliding_window": 128}, source="config.json")
    known = catalogue_model("gpt-oss-120b")
    same = set(type(known).model_fields) - {"name", "source", "notes"}
    assert {k: getattr(read, k) for k in same} == {k: getattr(known, k) for k in same}
    tree = build_tree(known)
    sinks = next(m for m in tree.layers[0].modules if m.name == "sinks")
    assert numel([sinks]) == 64
    # the card counts 5.13 billion a token, without the table
    counts = count_parameters(known)
    assert counts.active - counts.embedding == pytest.approx(5.13e9, rel=2e-3)


#: what the files of these say, of keys that shape the model; the rest are their class's defaults
NEWER = {
    "granite-3.1-8b": {
        "model_type": "granite", "hidden_size": 4096, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 12800,
        "vocab_size": 49155, "tie_word_embeddings": True, "max_position_embeddings": 131072,
    },
    "granite-3.1-1b-a400m": {
        "model_type": "granitemoe", "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 512,
        "num_local_experts": 32, "num_experts_per_tok": 8, "vocab_size": 49155,
        "tie_word_embeddings": True, "max_position_embeddings": 131072,
    },
    "olmo-2-7b": {"model_type": "olmo2", "vocab_size": 100352, "max_position_embeddings": 4096},
    "aya-23-8b": {
        "model_type": "cohere", "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    },
    "command-r-35b": {"model_type": "cohere", "max_position_embeddings": 131072},
    "smollm3-3b": {"model_type": "smollm3", "max_position_embeddings": 65536},
    "llama-4-scout": {
        "model_type": "llama4", "text_config": {"model_type": "llama4_text"}, "vision_config": {},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NEWER)
def test_newer_kinds_are_the_catalogues_models(name):
    read, known = model_from_config(NEWER[name]), catalogue_model(name)
    apart = {"name", "source", "notes", *(["max_positions"] if name == "llama-4-scout" else [])}
    differing = [k for k in type(read).model_fields if getattr(read, k) != getattr(known, k)]
    assert set(differing) <= apart
    assert count_parameters(read).total == count_parameters(known).total


def test_windows_and_refusals_of_newer_kinds():
    for kind in ("cohere2", "olmo3"):
        found = model_from_config({"model_type": kind})
        assert (found.sliding_window, found.sliding_window_pattern) == (4096, 4)
    types = ["sliding_attention", "full_attention"] * 16
    half = model_from_config({"model_type": "olmo3", "layer_types": types})
    assert half.sliding_window_pattern == 2
    assert "without RoPE" in model_from_config({"model_type": "smollm3"}).notes[0]
    own = model_from_config({"model_type": "cohere", "use_qk_norm": True})
    assert own.qk_norm_whole
    assert own.notes[0].startswith("norms of each head of q and k")
    for config, says in (
        ({"model_type": "llama4_text", "moe_layers": [1]}, "every 1 layers"),
        ({"model_type": "smollm3", "use_sliding_window": True}, "with windows"),
    ):
        with pytest.raises(InputError, match=says):
            model_from_config(config)
