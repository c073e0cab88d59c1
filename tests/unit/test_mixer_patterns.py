"""Which layers mix how: patterns, files that tell them, and what is refused of both."""

import json

import pytest

from sim.blocks.layer import layer_kinds
from sim.blocks.parameters import count_parameters
from sim.errors import InputError
from sim.inputs.hf import model_from_config
from sim.inputs.loader import load
from sim.inputs.models import resolve_model
from tests.mixers import SMALL, job


def test_kinds_of_layers():
    kinds = layer_kinds(resolve_model("qwen3-next-80b-a3b"))
    assert [k.key for k in kinds[:5]] == [*["layer.delta"] * 3, "layer", "layer.delta"]
    assert sum(k.mixer == "attention" for k in kinds) == 12
    assert all(k.mixture for k in kinds)


def test_a_pattern_is_told_shortest():
    config = {"model_type": "qwen3_next", "num_hidden_layers": 8}
    types = ["linear_attention", "full_attention"] * 4
    assert model_from_config({**config, "layer_types": types}).layer_pattern == (
        "delta", "attention",
    )  # fmt: skip
    types[5] = "linear_attention"
    odd = model_from_config({**config, "layer_types": types})
    words = {"linear_attention": "delta", "full_attention": "attention"}
    assert [odd.mixer(i) for i in range(8)] == [words[t] for t in types]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"mixer_heads": 0}, "0 is not at least 1, and delta layers need it"),
        ({"mixer_groups": 3}, "4 heads cannot share 3 groups"),
        ({"layer_pattern": ["delta", "ffn"]}, "one branch"),
        ({"one_branch": True}, "one branch"),
        ({"layer_pattern": ["deltas"]}, "delta"),
        ({"mixer_chunk": 1 << 20}, "chunks of 16 to 1,024 tokens, not of 1048576"),
        ({"layer_pattern": ["kda"]}, "2 is not the 4 of mixer_heads, and kda layers have as many"),
        ({"layer_pattern": ["lightning"]}, "16 is not the 32 of mixer_head_dim, and lightning"),
        ({"parallel_block": True}, "behind one norm"),
        ({"attention_gate": True, "fused_qkv": True}, "queries alone"),
    ],
)
def test_patterns_that_are_none(keys, says):
    model = {**SMALL, "layer_pattern": list(SMALL["layer_pattern"]), **keys}
    with pytest.raises(InputError, match=says):
        load("h100-x1", job(model), [])


def test_fewer_layers_than_words():
    """The first of them; that words are left over is told."""
    notes = load("h100-x1", job("nemotron-h-8b"), []).notes
    assert any("52 words for 4 layers" in w.message for w in notes.warnings)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"parallelism": {"tensor_parallel": 2}}, "heads of a scan"),
        ({"parallelism": {"context_parallel": 2}}, "states of a scan"),
        ({"mixer_kernels": "torch", "compile": True}, "one kernel after another"),
        (
            {"model": {"base": "kimi-linear-48b-a3b", "layers": 4}, "mixer_kernels": "torch"},
            "PyTorch's own scan of Kimi",
        ),
        (
            {"model": {"base": "minimax-text-01", "layers": 8}, "mixer_kernels": "torch"},
            "PyTorch's own scan of lightning",
        ),
        ({"post_training": {"algorithm": "grpo"}}, "generation with delta layers"),
    ],
)
def test_what_is_not_modelled_of_them(keys, says):
    with pytest.raises(InputError, match=says):
        load("dgx-h100", job() | keys, [])


BAD = [
    (
        {"layer_types": ["linear_attention", "wave"] * 24},
        "wave is no list of one of full_attention",
    ),
    ({"layer_types": ["linear_attention"] * 3}, "3 entries, and the model 48"),
    ({"layer_types": "linear_attention"}, "no list"),
    ({"layer_types": []}, "nothing is no list"),
    ({"layer_types": [["linear_attention"]] * 48}, "is no list of one of"),
    ({"full_attention_interval": 0}, "0 is not at least 1"),
    ({"linear_num_key_heads": 12}, "32 heads cannot share 12"),
    ({"shared_expert_intermediate_size": 700}, "no multiple of the 512 columns"),
]


@pytest.mark.parametrize(("keys", "says"), BAD)
def test_files_that_are_refused(keys, says):
    with pytest.raises(InputError, match=says):
        model_from_config({"model_type": "qwen3_next", **keys})


MORE = [
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "MX"}, "'X' in it is no layer: M, "),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": ""}, "nothing is no layer"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": 7}, "7 is no text"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-", "num_hidden_layers": 3},
     "has 2 letters, and the model 3 layers"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-E"}, "dense layers beside"),
    ({"model_type": "nemotron_h", "layers_block_type": ["mamba", "wave"]}, "wave is no list"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "ME", "moe_latent_size": 8},
     "narrower latent"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-", "n_groups": 3},
     "128 heads cannot share 3"),
    ({"model_type": "falcon_h1", "mamba_d_ssm": 1000}, "are not the 1000 of its projections"),
    ({"model_type": "falcon_h1", "projectors_bias": True}, "last projection alone"),
    ({"model_type": "bamba", "attn_layer_indices": [1, "x"]}, "no list of numbers"),
    ({"model_type": "granitemoehybrid", "shared_intermediate_size": 1000}, "no multiple"),
    ({"model_type": "kimi_linear", "linear_attn_config": {"full_attn_layers": [0]}},
     "the first one 1"),
    ({"model_type": "kimi_linear", "linear_attn_config": {"full_attn_layers": 4}}, "4 is no list"),
    ({"model_type": "minimax", "attn_type_list": [0, 2] * 16}, "2 is no list of one of"),
    ({"model_type": "minimax", "attn_type_list": [0, 1]}, "2 entries, and the model 32"),
    ({"model_type": "minimax", "shared_intermediate_size": 64}, "with shared experts"),
    ({"model_type": "lfm2", "full_attn_idxs": 5}, "5 is no list of numbers"),
    ({"model_type": "lfm2", "layer_types": ["conv", "wave"] * 16}, "wave is no list"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "says"), MORE)
def test_other_files_that_are_refused(config, says):
    with pytest.raises(InputError, match=says):
        model_from_config(config)


def test_letters_and_words_say_the_same():
    words = ["mamba", "mlp", "attention", "mlp"]
    one = model_from_config({"model_type": "nemotron_h", "hybrid_override_pattern": "M-*-"})
    two = model_from_config({"model_type": "nemotron_h", "layers_block_type": words})
    assert one == two
    assert one.layer_pattern == ("mamba", "ffn", "attention", "ffn")
    assert one.positions == "none"


def test_a_pattern_in_a_file(tmp_path):
    """Written as JSON as a hub has it, and read by name of the file."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3_next", "intermediate_size": 5120}))
    assert count_parameters(resolve_model(path)).total == 79_674_391_296
