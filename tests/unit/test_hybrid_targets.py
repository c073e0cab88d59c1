"""Adapters of mixers' projections in trainers' files: written by their names, and read back."""

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
    ],
)
@pytest.mark.parametrize("tool", ["llamafactory", "trl"])
def test_names_are_those_of_the_models_code_and_read_back(model, names, tool):
    """`export` of adapters on a hybrid was an internal error (KeyError: in_proj)."""
    topology, workload = job(model)
    texts = texts_of(topology, workload, tool)
    assert all(any(name in text for text in texts.values()) for name in names)
    wrong, _ = lost(texts, workload)
    assert wrong == []
    assert read_back(texts, workload)[0].method.targets == workload.method.targets


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
