"""Arguments that are no plain files, or much too long: read, or refused as what they are."""

import io
import json
import os
import threading

import pytest

import sim
from sim.errors import InputError, brief
from sim.inputs.loader import load
from sim.study.question.reading import find_study

CONFIG = {
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 8, "intermediate_size": 4096, "vocab_size": 32000,
    "max_position_embeddings": 4096, "hidden_act": "silu",
}  # fmt: skip
JOB = "model: llama-3.1-8b\nsequence_length: 1024\nsteps: 10\n"


def test_a_pipe_without_a_suffix_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("ajob")
    writer = threading.Thread(target=lambda: (tmp_path / "ajob").write_text(JOB), daemon=True)
    writer.start()
    loaded = load("h100-x1", "ajob")
    writer.join(timeout=60)
    assert loaded.workload.sequence_length == 1024


def test_a_device_as_a_model_is_said_to_be_too_large():
    with pytest.raises(InputError, match="/dev/zero: larger than 4 MiB"):
        load("h100-x1", "llama3-8b-sft", ["model=/dev/zero"])


@pytest.mark.parametrize("text", ["micro_batch={}", "{}=1", "{}", "model={}", "nodes.{}=1"])
def test_a_long_setting_is_not_repeated_whole(text):
    with pytest.raises(InputError) as caught:
        load("h100-x1", "llama3-8b-sft", [text.format(6000 * "x")])
    said = str(caught.value)
    assert said.startswith("--set ")
    assert "xxx..." in said
    assert len(said) < 1000


def test_what_is_much_too_long_is_cut_and_a_sentence_is_not():
    sentence = " ".join(["word"] * 400)
    assert brief(sentence) == sentence
    assert brief(f"a {6000 * 'x'} b") == f"a {200 * 'x'}... b"
    assert len(brief(3000 * "x y ")) < 210
    path = "/".join(["folder"] * 60)
    assert str(InputError.single(path, "no such file")) == f"{path}  no such file"


def test_what_a_shells_pipe_said_is_known_where_it_is_asked_again():
    for asked in (1, 2):
        ours, theirs = os.pipe()
        os.write(theirs, JOB.replace("1024", str(1024 * asked)).encode())
        os.close(theirs)
        read = [load("h100-x1", f"/dev/fd/{ours}") for _ in range(2)]
        os.close(ours)
        assert [r.workload.sequence_length for r in read] == [1024 * asked] * 2


@pytest.fixture
def named_pipe(tmp_path):
    """A named pipe that says a text once, as ``mkfifo`` and a shell in the background do."""

    def said(name, text):
        path = tmp_path / name
        os.mkfifo(path)
        threading.Thread(target=path.write_text, args=(text,), daemon=True).start()
        return path

    return said


def test_what_a_named_pipe_said_is_known_where_it_is_asked_again(named_pipe):
    """A pipe is read once: opened anew for each machine, nobody would write to it, a hang."""
    job = named_pipe("job.yaml", JOB)
    report = sim.compare(["h100-x1", "dgx-h100"], job)
    assert len(report.variants) == 2
    sets = [f"model={named_pipe('config.json', json.dumps(CONFIG))}"]
    read = [load("h100-x1", "llama3-8b-lora", sets).workload.model.layers for _ in range(2)]
    assert read == [2, 2]


def test_a_study_and_a_base_of_a_sweep_may_be_pipes(tmp_path):
    for name in ("study.yaml", "job.yaml"):
        os.mkfifo(tmp_path / name)
    assert find_study(str(tmp_path / "study.yaml")) == tmp_path / "study.yaml"
    (tmp_path / "grid.yaml").write_text(
        "topology: h100-x1\nworkload: job.yaml\naxes: {micro_batch: [1]}"
    )
    assert sim.sweep_grid(str(tmp_path / "grid.yaml")).workload == str(tmp_path / "job.yaml")


def test_standard_input_is_known_where_it_is_asked_again(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(JOB))
    report = sim.compare(["h100-x1", "dgx-h100"], "-")
    assert "dgx-h100" in report.to_json()


def test_a_device_is_no_recorded_trace():
    with pytest.raises(InputError, match=r"^/dev/zero  is a binary file or a device, not JSON$"):
        sim.trace_diff("/dev/zero", "h100-x1", "llama3-8b-lora")


def test_a_chart_of_too_many_actions_says_what_to_write():
    sets = [
        "nodes=64", "gradient_accumulation=4096", "parallelism.tensor_parallel=8",
        "parallelism.pipeline_parallel=16",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"gradient_accumulation .* write fewer; a trace without"):
        sim.stages("dgx-h100", "llama3-405b", overrides=sets)
