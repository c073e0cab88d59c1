"""Shapes that no transformer can have are refused, however a model is given."""

import pytest

from sim.errors import InputError
from sim.inputs import check_model
from sim.inputs.hf import model_from_config
from sim.inputs.loader import load
from sim.inputs.models import catalogue_model, model_names


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ffn_size", 0, "no columns"),
        ("ffn_size", -4, "-4 is not at least 0"),
        ("ffn_size", 10**10, "more than any model has"),
        ("layers", 2001, "2001 is more than any model has; at most 2,000 are simulated"),
        ("head_dim", 127, "127 are odd"),
        ("rope_fraction", -1, "-1 of a head's columns"),
        ("rope_fraction", 7, "7 of a head's columns"),
        ("shared_experts", -2, "-2 is not at least 0"),
        ("sliding_window", 0, "0 is not at least 1"),
        ("sliding_window_pattern", 0, "0 is not at least 1"),
        ("max_positions", -3, "-3 is not at least 0"),
        ("norms_per_layer", 0, "0 is not at least 1"),
        ("q_lora_rank", -1, "-1 is not at least 0"),
        ("kv_heads", 64, "cannot share 64"),
        ("kv_heads", 0, "0 is not at least 1"),
        ("vocab_size", 0, "0 is not at least 1"),
    ],
)
def test_a_size_that_cannot_be(key, value, said):
    with pytest.raises(InputError, match=said):
        load("dgx-h100", "llama3-8b-sft", [f"model.{key}={value}"])


@pytest.mark.parametrize(
    ("kind", "keys", "said"),
    [
        ("deepseek_v3", {"n_routed_experts": 5}, "8 of 5 experts"),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 5}, "5 of 4 experts"),
        ("deepseek_v3", {"first_k_dense_replace": 99}, "99 dense of 61 layers"),
        ("deepseek_v3", {"qk_rope_head_dim": 63}, "63 are odd"),
        ("llama", {"head_dim": 127}, "127 are odd"),
        ("llama", {"num_key_value_heads": 64}, "does not divide the 32"),
        ("llama", {"vocab_size": 10**9}, "more than any model has"),
    ],
)
def test_a_config_that_cannot_be(kind, keys, said):
    with pytest.raises(InputError, match=said) as found:
        model_from_config({"model_type": kind, **keys}, source="mine.json")
    assert str(found.value).startswith("mine.json")


def test_every_model_of_the_catalogue_can_be():
    faults = {
        name: [f.text for f in check_model.findings(catalogue_model(name)) if f.error]
        for name in model_names()
    }
    assert len(faults) > 100
    assert not any(faults.values())
