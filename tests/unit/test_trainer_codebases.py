"""Launch scripts of Megatron-LM and recipes of torchtune as jobs."""

import pytest

import sim
from sim.blocks.parameters import count_parameters
from sim.errors import InputError
from sim.inputs.arguments import given
from sim.inputs.loader import load, load_workload
from tests.trainer_files import MEGATRON, TORCHTUNE, write_files


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


def test_megatron_is_not_read_as_plain_replicas(files):
    """Its arguments were those of an unknown script: 16 replicas without tensor parallelism."""
    job = sim.import_job(files / "mega.sh")
    assert job.titles == ("a launch script",)
    assert [a["theirs"] for a in job.aside if a["matters"]] == []
    found = load("dgx-h100", files / "mega.sh", ["nodes=2"])
    assert count_parameters(found.workload.model).total == 8_030_261_248  # Llama 3 8B, as released
    plain = MEGATRON.replace(" --swiglu", "").replace(" --ffn-hidden-size 14336", "")
    (files / "plain.sh").write_text(plain)
    assert load_workload(files / "plain.sh").model.ffn_size == 4 * 4096


@pytest.mark.parametrize(
    ("said", "kind", "rotation"),
    [("", "ring", "all-to-all"), ("p2p", "ring", "all-to-all"), ("all_gather", "all-gather", None),
     ("a2a", "ulysses", None), ("a2a+p2p", "ring", "all-to-all")],
)  # fmt: skip
def test_megatron_exchanges_keys_and_values_as_told(said, kind, rotation, tmp_path):
    script = tmp_path / "mega.sh"
    script.write_text(
        f"{MEGATRON.rstrip()} --context-parallel-size 2 {said and '--cp-comm-type ' + said}\n"
    )
    found = load_workload(script).parallelism
    assert (found.context_parallel, found.context_parallel_kind) == (2, kind)
    assert rotation in (None, found.context_parallel_rotation)
    aside = [a["theirs"] for a in sim.import_job(script).aside if a["matters"]]
    assert ("cp-comm-type" in aside) is ("+" in said)


@pytest.mark.parametrize(
    ("builder", "model"),
    [("qwen2_5.qwen2_5_7b_instruct", "qwen2.5-7b"), ("gemma2.gemma2_9b", "gemma-2-9b"),
     ("phi3.phi3_mini", "phi-3-mini"), ("llama2.llama2_70b", "llama-2-70b")],
)  # fmt: skip
def test_models_of_torchtune(files, builder, model):
    text = TORCHTUNE.replace("llama3_1.lora_llama3_1_8b", builder)
    (files / "t.yaml").write_text(text)
    job = load_workload(files / "t.yaml")
    assert (job.model.name, job.method.kind) == (model, "full")


@pytest.mark.parametrize(
    ("component", "dtype", "ours", "told"),
    [("torch.optim.AdamW", "bf16", "adamw-bf16", ""), ("torch.optim.AdamW", "fp32", "adamw", ""),
     ("torchao.optim.AdamW8bit", "bf16", "adamw-8bit", ""),
     ("bitsandbytes.optim.Adam8bit", "bf16", "adamw-8bit", ""),
     ("bitsandbytes.optim.PagedAdamW8bit", "bf16", "adamw-8bit", ""),
     ("bitsandbytes.optim.PagedAdam8bit", "bf16", "adamw-8bit", ""),
     ("bitsandbytes.optim.PagedAdamW", "bf16", "adamw", ""),
     ("bitsandbytes.optim.AdamW", "bf16", "adamw-bf16", "half as many bytes"),
     ("bitsandbytes.optim.AdamW", "fp32", "adamw", ""),
     ("bitsandbytes.optim.Lion8bit", "fp32", "lion-8bit", ""),
     ("torch.optim.RMSprop", "fp32", "adamw", "RMSprop is not modelled: taken as AdamW"),
     ("torch.optim.SGD", "bf16", "sgd", "")],
)  # fmt: skip
def test_optimizers_of_torchtune_by_their_class(component, dtype, ours, told, files):
    text = TORCHTUNE.replace("torch.optim.AdamW", component)
    (files / "t.yaml").write_text(text.replace("dtype: bf16", f"dtype: {dtype}"))
    found = sim.import_job(files / "t.yaml").to_dict()
    (row,) = [t for t in found["took"] if t["key"] == "optimizer"]
    assert (row["theirs"], row["ours"]) == ("optimizer._component_", ours)
    assert load_workload(files / "t.yaml").optimizer == ours
    asides = [a for a in found["aside"] if a["theirs"] == "optimizer._component_"]
    assert [a["why"].endswith(told) for a in asides] == ([True] if told else [])
    assert "model.apply_lora_to_mlp" not in {a["theirs"] for a in found["aside"]}  # it was used


def test_a_component_of_ones_own_is_named(files):
    (files / "t.yaml").write_text(TORCHTUNE.replace("llama3_1.lora_llama3_1_8b", "my.net"))
    with pytest.raises(InputError, match=r't.yaml:2.*"net" is no model known here'):
        load_workload(files / "t.yaml")


@pytest.mark.parametrize(
    ("more", "machine", "sets", "strategy"),
    [("", "dgx-a100", [], "fsdp2"), ("", "a100-x1", [], "single"),
     ("", "a100-x1", ["parallelism.strategy=fsdp2"], "fsdp2"),
     ("", "a100-x1", ["parallelism.strategy=single"], "single"),
     ("fsdp_cpu_offload: True\n", "a100-x1", [], "fsdp2")],
)  # fmt: skip
def test_what_a_tool_does_on_several_gpus_is_not_done_on_one(
    tmp_path, more, machine, sets, strategy
):
    """torchtune has recipes of one device, which wrap nothing."""
    (tmp_path / "tune.yaml").write_text(TORCHTUNE + more)
    found = load(machine, tmp_path / "tune.yaml", sets)
    assert found.workload.parallelism.strategy == strategy
    alone = any(w.code == "shards-alone" for w in found.notes.warnings)
    assert alone is (machine == "a100-x1" and strategy == "fsdp2" and not more)


TITAN_ONE = """\
[model]
name = "llama3"
flavor = "8B"
[training]
local_batch_size = 1
seq_len = 2048
mixed_precision_reduce = "bfloat16"
max_norm = 0
[parallelism]
fsdp_reshard_after_forward = "never"
"""


@pytest.mark.parametrize(
    ("more", "machine", "sets", "strategy"),
    [("data_parallel_shard_degree = -1", "h100-x1", [], "single"), ("", "h100-x1", [], "single"),
     ("data_parallel_shard_degree = 1", "h100-x1", [], "single"),
     ("data_parallel_shard_degree = -1", "dgx-h100", [], "fsdp2"),
     ("", "h100-x1", ["parallelism.reduce_dtype=fp32"], "fsdp2")],
)  # fmt: skip
def test_torchtitan_wraps_nothing_on_one_gpu(tmp_path, more, machine, sets, strategy):
    """dp_shard is 1 there, and keys of its groups say nothing; clipping is of any number."""
    path = tmp_path / "train.toml"
    path.write_text(TITAN_ONE + more + "\n", encoding="utf-8")
    found = load(machine, path, sets)
    p = found.workload.parallelism
    assert (p.strategy, p.clip_gradients) == (strategy, False)
    assert p.reshard_after_forward is (strategy == "single")
    alone = any(w.code == "shards-alone" for w in found.notes.warnings)
    assert alone is (machine == "h100-x1" and strategy == "fsdp2")
    rows = {row["path"]: row for row in sim.config(machine, path, overrides=sets).records()}
    said = rows["workload.parallelism.reshard_after_forward"]["origin"]
    assert (said == "default") is (strategy == "single")


def test_a_torchtitan_file_that_says_how_many_shard_is_held_to_it(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(TITAN_ONE + "data_parallel_shard_degree = 8\n", encoding="utf-8")
    assert load("dgx-h100", path, ["nodes=1"]).workload.parallelism.shard == 8
    with pytest.raises(InputError, match="shard 8 x replicate 1 is not 1 GPUs"):
        load("h100-x1", path)


@pytest.mark.parametrize(
    ("layers", "wrap", "told"),
    [("[tok_embeddings, output]", "torchtitan", False), ("[output]", "block+root", True),
     ("[]", "block+root", False)],
)  # fmt: skip
def test_layers_that_torchtune_shards_apart(tmp_path, layers, wrap, told):
    path = tmp_path / "tune.yaml"
    path.write_text(f"{TORCHTUNE}custom_sharded_layers: {layers}\n")
    assert load("dgx-a100", path).workload.parallelism.wrap == wrap
    aside = [one.theirs for one in given("workload", path, []).translation.aside if one.matters]
    assert ("custom_sharded_layers" in aside) is told


def test_what_torchtune_leaves_out_is_assumed_not_taken(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("model: {_component_: torchtune.models.llama3_1.llama3_1_8b}\nbatch_size: 2\n")
    job = given("workload", path, []).translation
    assert ("precision.kind", "fp32") in {(one.key, one.value) for one in job.supposed}


def test_arguments_that_a_megatron_script_lacks_are_assumed(files):
    """What is reported as taken stands in the script, under the name that it has there."""
    script = files / "short.sh"
    text = (
        "torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py --num-layers 32"
        " --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --num-experts 8"
        " --seq-length 4096 --vocab-size 128256 --max-position-embeddings 8192"
        " --use-rotary-position-embeddings --micro-batch-size 1 --global-batch-size 128"
        " --pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2\n"
    )
    script.write_text(text)
    found = sim.import_job(script).to_dict()
    theirs = {t["key"]: t["theirs"] for t in found["took"]}
    assert all(f"--{name} " in text for name in {*theirs.values()} - {"pretrain script"})
    assert theirs["model.positions"] == "use-rotary-position-embeddings"
    assert theirs["model.expert_ffn_size"] == "ffn-hidden-size"
    assert theirs["parallelism.virtual_stages"] == "num-virtual-stages-per-pipeline-rank"
    assumed = {s["key"]: s["ours"] for s in found["assumed"]}
    assert assumed | {
        "model.ffn": "gelu", "model.norm": "layernorm", "model.bias": "true",
        "model.tied_embeddings": "true", "experts": "eager", "precision.kind": "fp32",
    } == assumed  # fmt: skip


AXOLOTL_ONE = """\
base_model: meta-llama/Llama-3.1-8B
adapter: lora
lora_r: 16
lora_target_linear: true
sequence_len: 2048
sample_packing: false
micro_batch_size: 1
gradient_checkpointing: true
optimizer: adamw_torch_fused
bf16: true
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [("tune.yaml", TORCHTUNE), ("titan.toml", TITAN_ONE), ("axolotl.yml", AXOLOTL_ONE)],
)
@pytest.mark.parametrize(("machine", "one"), [("h100-x1", True), ("dgx-h100", False)])
def test_an_imported_job_is_the_job_of_its_file(tmp_path, name, text, machine, one):
    """On one GPU too: what a tool does on several is not written down as if asked for."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "job.yaml").write_text(sim.import_job(tmp_path / name).yaml, encoding="utf-8")
    theirs, ours = (
        sim.simulate(machine, tmp_path / n, scaling=False, fixes=False) for n in (name, "job.yaml")
    )
    assert theirs.step.time_s == ours.step.time_s
    assert theirs.workload.strategy == ours.workload.strategy
    assert theirs.workload.strategy.startswith("one GPU") is one


def test_lengths_that_are_said_answer_a_packed_file(tmp_path):
    """Half an answer is none: lengths alone leave whole rows attended."""
    path = tmp_path / "axolotl.yml"
    text = AXOLOTL_ONE.replace("packing: false", "packing: true") + "flash_attention: true\n"
    path.write_text(text, encoding="utf-8")
    masks, lengths = "data.document_masks=true", "data.mean_length=700"
    for sets, told in [([], 1), ([lengths], 1), ([lengths, masks], 0)]:
        found = load("h100-x1", path, sets)
        assert [w.code for w in found.notes.warnings].count("not-followed") == told, sets
