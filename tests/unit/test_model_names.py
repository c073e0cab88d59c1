"""Models by the names that they and their relatives are known by, and of which they are a part."""

import pytest

from sim.blocks.parameters import count_parameters
from sim.errors import InputError
from sim.inputs.entries import entry
from sim.inputs.hf import model_from_config
from sim.inputs.models import resolve_model


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("Qwen/QwQ-32B", "qwen2.5-32b"), ("Qwen/Qwen2.5-Coder-32B-Instruct", "qwen2.5-32b"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-7b"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3-vl-30b-a3b"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3-30b-a3b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.1-70b"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "qwen3-8b"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-v3"), ("lmsys/vicuna-13b-v1.5", "llama-2-13b"),
        ("HuggingFaceH4/zephyr-7b-beta", "mistral-7b"),
        ("mistralai/Magistral-Small-2506", "mistral-small-24b"),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral-small-3.1-24b"),
        ("zai-org/GLM-4.6", "glm-4.5"), ("moonshotai/Kimi-K2-Thinking", "kimi-k2"),
        ("ByteDance-Seed/Seed-OSS-36B-Instruct", "seed-oss-36b"),
    ],
)  # fmt: skip
def test_repositories_that_share_a_shape(repository, name):
    """Fine-tuned weights and decoders of vision-language models, by the names they are known by."""
    found = resolve_model(repository)
    assert found.name == name
    if "-VL-" in repository or "3.2" in repository:
        assert "vision tower is left out" in found.notes[0]


def test_a_point_tells_two_models_apart():
    """Without punctuation opt-1.3b and opt-13b are one name."""
    assert resolve_model("facebook/opt-1.3b").layers == 24
    assert resolve_model("facebook/opt-13b").layers == 40


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (
            "google/gemma-3n-E4B-it",
            r"an embedding for each layer \(PLE\), several residual streams",
        ),
        ("google/gemma-4-E4B-it", "an embedding for each layer"),
        ("ai21labs/AI21-Jamba-1.5-Large", "state-space"),
        ("Zyphra/Zamba2-7B", "state-space"),
        ("state-spaces/mamba2-2.7b", "state-space"),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "attention to images"),
        ("nvidia/Llama-3_1-Nemotron-Ultra-253B-v1", "unlike shapes"),
        ("answerdotai/ModernBERT-large", "an encoder alone"),
        ("openai/whisper-large-v3", "an encoder and a decoder"),
        ("google/flan-t5-xl", "an encoder and a decoder"),
        ("facebook/dinov2-large", "an encoder of images"),
        ("black-forest-labs/FLUX.1-dev", "denoises images"),
        ("GSAI-ML/LLaDA-8B-Instruct", "masked diffusion"),
        ("Qwen/Qwen3-Embedding-8B", '.*; "qwen3-8b" has its blocks'),
    ],
)
def test_a_name_that_is_known_and_not_modelled_says_its_part(name, part):
    """It was asked whether another model was meant (gemma-3-4b for Gemma 3n)."""
    said = rf"cannot be modelled: it has .*{part}"
    with pytest.raises(InputError, match=said):
        resolve_model(name)
    with pytest.raises(InputError, match=said):  # `show`
        entry(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [("org/whisker-large-v3", ""), ("org/mistral-large-9999", "mistral-large"), ("x/zzz-7b", "")],
)
def test_a_name_that_is_not_known_is_led_to_a_family_of_its_own(name, near):
    """whisper-large-v3 was asked whether mistral-large-123b was meant."""
    with pytest.raises(InputError) as caught:
        resolve_model(name)
    assert ("did you mean" in str(caught.value)) == bool(near)
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("OpenGVLab/InternVL3_5-38B", "qwen3-32b"),
        ("zai-org/GLM-4.5V", "glm-4.5-air"),
        ("moonshotai/Kimi-VL-A3B-Instruct", "moonlight-16b-a3b"),
        ("liuhaotian/llava-v1.5-7b", "llama-2-7b"),
    ],
)
def test_a_decoder_of_a_model_of_several_parts_says_what_is_left_out(name, shape):
    """GLM-4.5V, a decoder of the catalogue beside a tower, was GLM-4.5-Air without a word."""
    model = resolve_model(name)
    assert count_parameters(model) == count_parameters(resolve_model(shape))
    assert any("towers are left out" in note for note in model.notes)
    assert not any("towers" in note for note in resolve_model(shape).notes)


def test_what_an_indexer_has_is_said():
    """V3.2's name and its file say the same: its shape is V3's, less 61 indexers."""
    each = 64 * 128 * 1536 + 7168 * 128 + 2 * 128 + 7168 * 64
    for model in (
        resolve_model("deepseek-ai/DeepSeek-V3.2-Exp"),
        model_from_config({"model_type": "deepseek_v32"}),
    ):
        assert count_parameters(model) == count_parameters(resolve_model("deepseek-v3"))
        assert f"{61 * each:,} parameters" in model.notes[0]
