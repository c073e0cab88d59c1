"""Adapters of mixers' projections in trainers' files: written by their names, and read back."""

import re

import pytest

from sim.errors import InputError
from sim.inputs.loader import load, load_workload
from sim.interop.emit import texts_of
from sim.interop.roundtrip import lost, read_back

LORA = "method={lora: {rank: 8, targets: all-linear}}"


def job(model):
    """A machine and a job that adapts all linear layers of a model."""
    job = {"name": "j", "model": model, "sequence_length": 1024}
    return load("dgx-h100", job, ["parallelism=ddp", "attention=sdpa", LORA])[:2]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("qwen3.5-4b", ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]),
        ("qwen3-next-80b-a3b", ["in_proj_qkvz", "in_proj_ba", "out_proj", "o_proj"]),
        ("nemotron-h-8b", ["in_proj", "out_proj", "up_proj"]),
        ("lfm2-1.2b", ["in_proj", "out_proj", "w1", "w2", "w3"]),
        ("llama-3.1-8b", ["q_proj", "o_proj", "gate_proj"]),
        ("phi-4", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
        ("glm-4-9b-0414", ["q_proj", "o_proj", "gate_up_proj", "down_proj"]),
        ("granite-4.0-h-micro", ["q_proj", "in_proj", "input_linear", "output_linear"]),
        ("granite-4.0-micro", ["q_proj", "input_linear", "output_linear"]),
        ("pythia-6.9b", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]),
        ("falcon-7b", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]),
        ("gpt2-xl", ["c_attn", "c_proj", "c_fc"]),
        ("mpt-7b", ["Wqkv", "out_proj", "up_proj", "down_proj"]),
        ("internlm2-7b", ["wqkv", "wo", "w1", "w2", "w3"]),
    ],
)
@pytest.mark.parametrize("tool", ["llamafactory", "trl"])
def test_names_are_those_of_the_models_code_and_read_back(model, names, tool):
    """`export` of adapters on a hybrid was an internal error (KeyError: in_proj)."""
    topology, workload = job(model)
    texts = texts_of(topology, workload, tool)
    assert all(any(name in text for text in texts.values()) for name in names)
    written = {name for text in texts.values() for name in re.findall(r"\w+", text)}
    fused = workload.model.fused_qkv
    assert not written & ({"q_proj", "k_proj"} if fused else {"qkv_proj", "Wqkv"})
    wrong, _ = lost(texts, workload)
    assert wrong == []
    assert set(read_back(texts, workload)[0].method.targets) >= set(workload.method.targets)


def test_a_part_of_a_fused_matrix_is_all_of_it():
    """An adapter beside Phi-3's qkv_proj serves q, k and v, whichever the job names."""
    topology, workload = load("dgx-h100", {"name": "j", "model": "phi-4", "sequence_length": 1024},
                              ["parallelism=ddp", "attention=sdpa",
                               "method={lora: {rank: 8, targets: [q, up]}}"])[:2]  # fmt: skip
    text = texts_of(topology, workload, "llamafactory")["llamafactory.yaml"]
    assert '"qkv_proj,gate_up_proj"' in text


@pytest.mark.parametrize("model", ["qwen-7b", "ling-lite", "granite-4.0-h-tiny"])
def test_models_whose_names_are_not_known_are_refused(model):
    """They got names that PEFT does not find."""
    with pytest.raises(InputError, match="linear layers in transformers' code are not written"):
        texts_of(*job(model), "trl")


def test_a_model_without_mixers_has_one_output_projection(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(
        "model_name_or_path: facebook/opt-1.3b\nstage: sft\nfinetuning_type: lora\n"
        "lora_target: q_proj,out_proj\ncutoff_len: 512\n"
    )
    assert load_workload(path).method.targets == ("q", "o")


def test_names_that_are_not_known_are_refused():
    with pytest.raises(InputError, match="kda layers are not written"):
        texts_of(*job("kimi-linear-48b-a3b"), "llamafactory")
