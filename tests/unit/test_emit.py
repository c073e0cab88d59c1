"""Plans as configurations of other tools, and as YAML that loads back to the same specs."""

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

import sim
from sim.commands.options import EMITTED
from sim.errors import InputError
from sim.inputs.dtypes import frozen_dtype
from sim.inputs.loader import load, load_topology, load_workload
from sim.inputs.trainer import reduces_each
from sim.interop.emit import FILES, write_plan
from sim.interop.emit_accelerate import accelerate_yaml
from sim.interop.emit_axolotl import axolotl_yaml
from sim.interop.emit_deepspeed import deepspeed_json
from sim.interop.emit_llamafactory import llamafactory_yaml
from sim.interop.emit_torchtitan import torchtitan_toml
from sim.interop.emit_trl import trl_yaml
from sim.interop.emit_yaml import topology_yaml, workload_yaml
from sim.interop.yaml_text import blocks, scalar

ROOT = Path(__file__).parents[2]


def read(text):
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize("path", sorted((ROOT / "topologies").glob("*.yaml")), ids=lambda p: p.stem)
def test_topologies_load_back_to_the_same(path, tmp_path):
    spec = load_topology(path)
    (tmp_path / "t.yaml").write_text(topology_yaml(spec))
    assert load_topology(tmp_path / "t.yaml") == spec


@pytest.mark.parametrize("path", sorted((ROOT / "workloads").glob("*.yaml")), ids=lambda p: p.stem)
def test_workloads_load_back_to_the_same(path, tmp_path):
    spec = load_workload(path)
    (tmp_path / "w.yaml").write_text(workload_yaml(spec))
    assert load_workload(tmp_path / "w.yaml") == spec


def test_what_was_overridden_is_written_too(tmp_path):
    sets = ["node.gpu.power_limit=500 W", "network.oversubscription=2", "nodes=3"]
    spec = load_topology("dgx-h100", sets)
    (tmp_path / "t.yaml").write_text(topology_yaml(spec))
    again = load_topology(tmp_path / "t.yaml")
    assert again.node.gpu.power_limit == 500.0
    assert again == spec


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=12), st.booleans(), st.integers(), st.none()))
def test_scalars_are_read_back_as_they_were(value):
    if isinstance(value, str) and any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in value):
        value = ""  # control characters are in no configuration
    try:
        value.encode() if isinstance(value, str) else None
    except UnicodeEncodeError:
        return
    assert read(f"a: {scalar(value)}\n") == {"a": value}


def job(*sets, machine="dgx-h100", workload="llama3-8b-sft"):
    return load(machine, workload, ["nodes=2", *sets])[:2]


def test_accelerate_fsdp2():
    config = read(accelerate_yaml(*job("parallelism.reshard_after_forward=false")))
    assert config["num_processes"] == 16
    assert config["num_machines"] == 2
    assert config["mixed_precision"] == "bf16"
    fsdp = config["fsdp_config"]
    assert (fsdp["fsdp_version"], fsdp["fsdp_reshard_after_forward"]) == (2, False)
    assert fsdp["fsdp_activation_checkpointing"] is True


def test_accelerate_hsdp_has_a_mesh():
    config = read(accelerate_yaml(*job("parallelism.replicate=2")))
    assert config["parallelism_config"]["parallelism_config_dp_replicate_size"] == 2
    assert config["parallelism_config"]["parallelism_config_dp_shard_size"] == 8


def test_accelerate_fsdp1_and_ddp():
    one = read(accelerate_yaml(*job("parallelism=fsdp1")))
    assert one["fsdp_config"]["fsdp_sharding_strategy"] == "FULL_SHARD"
    assert one["fsdp_config"]["fsdp_backward_prefetch"] == "BACKWARD_PRE"
    assert read(accelerate_yaml(*job("parallelism=ddp")))["distributed_type"] == "MULTI_GPU"


@pytest.mark.parametrize("form", ["trl", "axolotl", "llamafactory"])
@pytest.mark.parametrize(
    ("parallelism", "said"),
    [("{strategy: fsdp1, gradient_sync: every}", True), ("{strategy: fsdp2}", False),
     ("{strategy: fsdp1, gradient_sync: last}", False), ("{strategy: fsdp1}", False),
     ("{strategy: ddp, gradient_sync: every}", True), ("{strategy: ddp}", False)],
)  # fmt: skip
def test_the_trainer_accumulates_under_no_sync_unless_told_otherwise(
    form, parallelism, said, tmp_path
):
    """accelerate 1.0 to 1.10, Accelerator.no_sync: `model.no_sync`, which FSDP2's have not."""
    sets = ["nodes=1", "trainer=huggingface", f"parallelism={parallelism}"]
    if "ddp" in parallelism:
        sets += ["precision={bf16: {master: bf16}}"]  # all that axolotl has without a strategy
    loaded = load("dgx-a100", "llama3-8b-sft", [*sets, "gradient_accumulation=4"])
    paths = write_plan(loaded.topology, loaded.workload, [form], tmp_path)
    assert ("sync_each_batch: true" in paths[0].read_text(encoding="utf-8")) is said
    back = load_workload(tuple(paths))
    assert reduces_each(back) == reduces_each(loaded.workload)


def test_deepspeed_batch_arithmetic_and_stage():
    config = json.loads(deepspeed_json(*job(workload="llama3-8b-zero3")))
    micro = config["train_micro_batch_size_per_gpu"]
    steps = config["gradient_accumulation_steps"]
    assert config["train_batch_size"] == micro * steps * 16  # DeepSpeed asserts just this
    assert config["zero_optimization"]["stage"] == 3
    kept = json.loads(deepspeed_json(*job("parallelism.reshard_after_forward=false")))
    assert kept["zero_optimization"]["stage"] == 2


def test_deepspeed_offload():
    zero = json.loads(deepspeed_json(*job("parallelism.offload=all", workload="llama3-8b-zero3")))
    assert zero["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert zero["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}


def test_torchtitan():
    config = tomllib.loads(torchtitan_toml(*job("precision=fp8", "steps=100")))
    training = config["training"]
    assert training["global_batch_size"] == training["local_batch_size"] * 4 * 16
    assert training["steps"] == 100
    assert config["model"] == {
        "name": "llama3", "flavor": "8B", "converters": ["quantize.linear.float8"],
    }  # fmt: skip
    assert config["quantize"]["linear"]["float8"]["recipe_name"] == "tensorwise"
    assert config["activation_checkpoint"]["mode"] == "full"


@pytest.mark.parametrize(
    ("workload", "other"),
    [("llama3-8b-lora", "accelerate instead"), ("llama3-8b-zero3", "axolotl or deepspeed")],
)
def test_torchtitan_refuses_what_it_cannot_run(workload, other, tmp_path):
    with pytest.raises(InputError, match=f"emit (accelerate or )?{other}"):
        write_plan(*job(workload=workload), ["torchtitan"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_torchtitan_passes_keys_round_as_said():
    split = ["parallelism.context_parallel=4", "parallelism.context_parallel_rotation=all-to-all"]
    config = tomllib.loads(torchtitan_toml(*job(*split)))["parallelism"]
    assert config["context_parallel_degree"] == 4
    assert config["context_parallel_rotate_method"] == "alltoall"
    with pytest.raises(InputError, match="no all-to-alls over heads"):
        torchtitan_toml(*job(split[0], "parallelism.context_parallel_kind=ulysses"))


def test_torchtitan_cuts_a_pipeline_as_the_plan_does():
    """The local batch is the pipeline's; 34 layers in 8 stages are 5 each: 7 stages of them."""
    split = ["parallelism.pipeline_parallel=2", "gradient_accumulation=8", "micro_batch=2"]
    config = tomllib.loads(torchtitan_toml(*job(*split)))
    found = config["parallelism"]
    assert config["training"]["local_batch_size"] == 16
    assert (found["pipeline_parallel_degree"], found["pipeline_parallel_microbatch_size"]) == (2, 2)
    assert found["pipeline_parallel_schedule"] == "1F1B"
    more = [*split, "parallelism.pipeline_schedule=interleaved-1f1b"]
    config = tomllib.loads(torchtitan_toml(*job(*more)))["parallelism"]
    assert config["pipeline_parallel_schedule"] == "Interleaved1F1B"
    assert "pipeline_parallel_layers_per_stage" not in config  # two stages a rank are its default
    with pytest.raises(InputError, match="makes 7 stages of 5 layers, not 8"):
        torchtitan_toml(*job(*more, "parallelism.virtual_stages=4"))


def test_axolotl():
    config = read(axolotl_yaml(*job(workload="llama3-70b-qlora", machine="dgx-h100")))
    assert config["adapter"] == "qlora"
    assert config["load_in_4bit"] is True
    assert "q_proj" in config["lora_target_modules"]
    assert config["sequence_len"] == 2048
    hybrid = read(axolotl_yaml(*job("parallelism.replicate=2")))
    assert (hybrid["dp_replicate_size"], hybrid["dp_shard_size"]) == (2, 8)


@pytest.mark.parametrize("text", [axolotl_yaml, llamafactory_yaml, trl_yaml])
def test_what_no_plan_has_is_named_and_not_made_up(text):
    """A step is as long whatever scales the adapters: twice the rank stood here for any."""
    lora = text(*job(workload="llama3-8b-lora"))
    assert "lora_alpha" not in read(lora)
    assert ", learning_rate, lora_alpha, warmup, saving, logging\n" in lora
    full = text(*job())
    assert "# Yours to add: " in full
    assert "lora_alpha" not in full


@pytest.mark.parametrize("text", [axolotl_yaml, trl_yaml])
def test_a_kernel_that_the_trainer_lacks_is_left_out(text):
    assert "attn_implementation" not in read(text(*job("attention=flash1")))
    assert read(text(*job("attention=flash2")))["attn_implementation"] == "flash_attention_2"


def test_files_are_written_and_zero_brings_its_json(tmp_path):
    topology, workload = job(workload="llama3-8b-zero3")
    written = write_plan(topology, workload, ["accelerate", "axolotl", "yaml"], tmp_path / "plan")
    names = {path.name for path in written}
    assert names == {
        "accelerate.yaml", "axolotl.yaml", "ds_config.json", "topology.yaml", "workload.yaml",
    }  # fmt: skip
    config = read((tmp_path / "plan" / "accelerate.yaml").read_text())
    assert config["deepspeed_config"]["deepspeed_config_file"] == "ds_config.json"
    assert set(FILES) == set(EMITTED)


@pytest.mark.parametrize(
    "kind", ["accelerate", "axolotl", "llamafactory", "trl", "sbatch", "torchrun"]
)
def test_a_job_of_one_gpu_is_written_for_trainers_which_wrap_nothing_there(kind, tmp_path):
    """Files without FSDP and DeepSpeed are read as DDP, which one process is not wrapped in."""
    topology, workload = job(
        "nodes=1", "parallelism=single", machine="h100-x1", workload="mistral-7b-lora"
    )
    assert write_plan(topology, workload, [kind], tmp_path / kind)
    with pytest.raises(
        InputError, match="torchtitan cannot run single; emit accelerate or axolotl"
    ):
        write_plan(topology, workload, ["torchtitan"], tmp_path / "other")


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "plan").write_text("a file")
    with pytest.raises(InputError, match="cannot make this folder"):
        write_plan(*job(), ["yaml"], tmp_path / "plan")


def test_blocks_nest():
    assert read(blocks({"a": {"b": {"c": 1}}, "d": [1, "x: y"]})) == {
        "a": {"b": {"c": 1}}, "d": [1, "x: y"],
    }  # fmt: skip


@pytest.mark.parametrize(("length", "steps"), [("tokens=1e9", 1908), ("steps=70", 70)])
def test_the_length_of_a_job_comes_along(length, steps, tmp_path):
    """1e9 tokens in steps of 16 GPUs x 2 x 4 x 4,096 are 1,907.3."""
    sets = [length, "micro_batch=2", "gradient_accumulation=4", "sequence_length=4096"]
    topology, workload = job(*sets)
    tools = ["axolotl", "trl", "llamafactory", "torchtitan"]
    for path in write_plan(topology, workload, tools, tmp_path):
        text = path.read_text()
        if path.suffix == ".toml":
            assert tomllib.loads(text)["training"]["steps"] == steps
        elif path.name != "accelerate.yaml":
            assert read(text)["max_steps"] == steps
            assert "num_train_epochs" not in text


def test_whose_weights_and_how_many_epochs_come_back(tmp_path):
    """Instruct weights stay so, epochs of a data set of unknown size too."""
    first = tmp_path / "first.yml"
    first.write_text(
        "base_model: Qwen/Qwen2.5-14B-Instruct\nadapter: lora\nlora_r: 8\nsequence_len: 2048\n"
        "micro_batch_size: 1\ngradient_accumulation_steps: 2\nnum_epochs: 2\n"
        "flash_attention: true\nbf16: true\nsample_packing: true\ngradient_checkpointing: true\n"
    )
    ours = tmp_path / "ours.yaml"
    ours.write_text(sim.import_job(first).yaml)
    assert "model: Qwen/Qwen2.5-14B-Instruct" in ours.read_text()
    for job in (first, ours):
        tools = ["axolotl", "trl", "llamafactory", "accelerate"]
        sim.export("dgx-h100", job, emit=tools, folder=tmp_path / "out", overwrite=True)
        texts = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
        assert "base_model: Qwen/Qwen2.5-14B-Instruct" in texts["axolotl.yaml"]
        assert "num_epochs: 2" in texts["axolotl.yaml"]
        assert "activation checkpointing: none" not in texts.get("accelerate.yaml", "")
        for name in ("sft.yaml", "llamafactory.yaml"):
            assert "model_name_or_path: Qwen/Qwen2.5-14B-Instruct" in texts[name]
            assert "num_train_epochs: 2" in texts[name]


@pytest.mark.parametrize("stored", ["bf16", "fp32"])
def test_frozen_weights_come_back_in_their_dtype_from_trl(stored, tmp_path):
    sets = ["nodes=1", "trainer=huggingface", "parallelism=ddp", "precision=bf16"]
    method = f"method={{lora: {{rank: 8, frozen_dtype: {stored}}}}}"
    loaded = load("dgx-a100", "llama3-8b-sft", [*sets, method])
    paths = write_plan(loaded.topology, loaded.workload, ["trl"], tmp_path)
    assert ("dtype: bfloat16" in paths[0].read_text(encoding="utf-8")) is (stored == "bf16")
    assert frozen_dtype(load_workload(tuple(paths))) == stored


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("llama-3-8b", ("llama3", "8B")), ("llama-3.1-405b", ("llama3", "405B")),
        ("deepseek-v3", ("deepseek_v3", "671B")), ("qwen3-30b-a3b", ("qwen3", "30B-A3B")),
    ],
)  # fmt: skip
def test_torchtitans_flavours_are_read_as_the_same_shape(model, said):
    table = tomllib.loads(torchtitan_toml(*job(f"model={model}")))["model"]
    assert (table["name"], table["flavor"]) == said


@pytest.mark.parametrize("model", ["llama-3.2-3b", "gemma-2-2b", "mistral-7b-v0.3"])
def test_a_model_that_torchtitan_has_no_flavour_of_is_refused_by_its_name(model):
    """Llama 3.2 was 'llama-3.1-3b' of a file nobody wrote; Gemma 2 a Gemma in silence."""
    with pytest.raises(InputError, match=f"no flavour for model: {model}"):
        torchtitan_toml(*job(f"model={model}"))
