"""What wraps the model of a loop: arguments that are read, and those that are told of."""

import pytest

import sim
from sim.inputs.loader import load

MODEL = """\
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B")
train_dl = DataLoader(train, batch_size=2)
optimizer = torch.optim.AdamW(model.parameters())
"""
ACCELERATE = MODEL + "accelerator = Accelerator({})\naccelerator.backward(loss)\n"
PLUGIN = "fsdp_plugin=FullyShardedDataParallelPlugin({})"
LIGHTNING = MODEL + "trainer = L.Trainer(devices=8, strategy={}, precision='bf16-mixed')\n"
MESH = "mesh = init_device_mesh('cuda', {}, mesh_dim_names=('dp', 'tp'))\n"


def read(tmp_path, text, machine="dgx-h100"):
    path = tmp_path / "train.py"
    path.write_text(text)
    found = sim.import_job(path)
    told = {row["theirs"]: row["why"] for row in found.aside if row["matters"]}
    assert not [row for row in found.aside if "(" in row["theirs"].replace("()", "")]
    return load(machine, path, ["sequence_length=1024"]).workload, told


@pytest.mark.parametrize(
    ("given", "offload"),
    [("cpu_offload=True", "all"), ("cpu_offload=False", "none"), ("fsdp_version=2", "none"),
     ("cpu_offload=CPUOffload(offload_params=True), use_orig_params=True", "all"),
     ("cpu_offload=CPUOffload()", "none")],
)  # fmt: skip
def test_a_plugin_of_accelerate_that_offloads(tmp_path, given, offload):
    job, told = read(tmp_path, ACCELERATE.format(PLUGIN.format(given)))
    assert (job.parallelism.offload, job.precision.kind, told) == (offload, "fp32", {})


@pytest.mark.parametrize(
    "policy",
    ["MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)", "'bf16'"],
)
def test_a_plugin_of_accelerate_that_casts(tmp_path, policy):
    text = ACCELERATE.format(PLUGIN.format(f"mixed_precision_policy={policy}"))
    job, told = read(tmp_path, text)
    assert (job.precision.kind, job.precision.master, told) == ("bf16", "fp32", {})


def test_what_accelerate_is_told_beside_plugins(tmp_path):
    cut = "parallelism_config=ParallelismConfig(tp_size=4, dp_shard_size=2)"
    job, told = read(tmp_path, ACCELERATE.format(f"dynamo_backend='inductor', {cut}"))
    spread = job.parallelism
    assert (spread.strategy, spread.tensor_parallel, spread.shard) == ("fsdp2", 4, 2)
    assert (job.compile, told) == (True, {})
    job, told = read(tmp_path, ACCELERATE.format("split_batches=True"))
    assert "cut over the ranks" in told["Accelerator.split_batches"]
    config = "dataloader_config=DataLoaderConfiguration(split_batches=True)"
    assert "DataLoaderConfiguration.split_batches" in read(tmp_path, ACCELERATE.format(config))[1]


def test_lightnings_strategies_as_classes(tmp_path):
    given = (
        "sharding_strategy='SHARD_GRAD_OP', cpu_offload=True, activation_checkpointing_policy={B}"
    )
    job, told = read(tmp_path, LIGHTNING.format(f"FSDPStrategy({given})"))
    spread = job.parallelism
    assert (spread.strategy, spread.sharding_strategy) == ("fsdp1", "shard-grad-op")
    assert (spread.offload, spread.use_orig_params) == ("all", True)
    assert (job.activation_checkpointing.kind, told) == ("full", {})
    job, told = read(tmp_path, LIGHTNING.format("ModelParallelStrategy(tensor_parallel_size=4)"))
    assert (job.parallelism.strategy, job.parallelism.tensor_parallel, told) == ("fsdp2", 4, {})
    _, told = read(tmp_path, LIGHTNING.format("ModelParallelStrategy()"))
    assert "add --set" in told["ModelParallelStrategy.tensor_parallel_size"]
    config = "DeepSpeedStrategy(config={'zero_optimization': {'stage': 1}})"
    assert read(tmp_path, LIGHTNING.format(config))[0].parallelism.strategy == "zero1"
    job, told = read(tmp_path, LIGHTNING.format("DDPStrategy(gradient_as_bucket_view=True)"))
    assert (job.parallelism.gradient_as_bucket_view, told) == (True, {})


_LIGHTNINGS = "DeepSpeedStrategy(stage={}, offload_optimizer={}, offload_parameters={})"
_ACCELERATES = (
    "DeepSpeedPlugin(zero_stage={}, offload_optimizer_device='{}', offload_param_device='{}')"
)


@pytest.mark.parametrize(
    ("stage", "states", "weights", "offload"),
    [(2, True, True, "optimizer"), (2, False, True, "none"), (3, True, True, "all"),
     (3, False, True, "parameters"), (3, True, False, "optimizer")],
)  # fmt: skip
def test_weights_go_to_the_host_in_stage_3_alone(tmp_path, stage, states, weights, offload):
    """Both with weights of stage 2 were refused, as the loader has no such job."""
    words = ["cpu" if on else "none" for on in (states, weights)]
    plugin = f"deepspeed_plugin={_ACCELERATES.format(stage, *words)}"
    for text in (
        LIGHTNING.format(_LIGHTNINGS.format(stage, states, weights)),
        ACCELERATE.format(plugin),
    ):
        spread = read(tmp_path, text)[0].parallelism
        assert (spread.strategy, spread.offload) == (f"zero{stage}", offload)


def test_lightnings_precision_and_clipping(tmp_path):
    text = LIGHTNING.format("'ddp', gradient_clip_val=1.0").replace("bf16-mixed", "16-true")
    job, told = read(tmp_path, text)
    assert (job.precision.kind, job.parallelism.clip_gradients) == ("fp16", True)
    assert "counted in fp32" in told["Trainer.precision"]


@pytest.mark.parametrize(
    ("shape", "wrapped", "replicate"),
    [
        ("(2, 4)", "fully_shard(model, mesh=mesh)", 2),
        ("(8,)", "fully_shard(model, mesh=mesh)", 1),
        ("(1, 8)", "fully_shard(model, mesh=mesh)", 1),
        ("(2, 4)", "fully_shard(model, mesh=mesh['dp', 'tp'])", 2),
        ("(4, 2)", "fully_shard(model, mesh=mesh['dp'])", 1),
        ("(2, 4)", "model = FSDP(model, auto_wrap_policy=p, device_mesh=mesh, "
                   "sharding_strategy=ShardingStrategy.HYBRID_SHARD)", 2),
    ],
)  # fmt: skip
def test_meshes_that_a_file_spells_out(tmp_path, shape, wrapped, replicate):
    job, told = read(tmp_path, MODEL + MESH.format(shape) + wrapped)
    assert (job.parallelism.replicate, told) == (replicate, {})


@pytest.mark.parametrize(
    ("text", "theirs", "why"),
    [
        (MESH.format("(world // 4, 4)") + "fully_shard(model, mesh=mesh)", "init_device_mesh()",
         "only a run knows"),
        ("fully_shard(model, mesh=meshes.of(world))", "fully_shard.mesh", "does not spell out"),
        (MESH.format("(2, 2, 2)") + "fully_shard(model, mesh=mesh)", "init_device_mesh()",
         "how its dimensions are used"),
        ("fully_shard(model, mp_policy=policy())", "fully_shard.mp_policy", "policy() is known"),
        ("fully_shard(model, **given())", "fully_shard.**", "given() is known"),
        ("DDP(model, bucket_cap_mb=cap())", "DDP.bucket_cap_mb", "cap() is known"),
        ("fully_shard(model, ignored_params=set())", "fully_shard.ignored_params", "leaves out"),
        ("fully_shard(model, reshard_after_forward=4)", "fully_shard.reshard_after_forward",
         "a part of the ranks"),
        ("FSDP(model, auto_wrap_policy=p, process_group=pg)", "FSDP.process_group",
         "a group of ranks"),
    ],
)  # fmt: skip
def test_what_of_a_wrapper_is_not_followed(tmp_path, text, theirs, why):
    _, told = read(tmp_path, MODEL + text)
    assert why in told[theirs]


def test_a_policy_without_names(tmp_path):
    text = "fully_shard(model, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))"
    job, told = read(tmp_path, MODEL + text)
    assert (job.precision.kind, job.parallelism.reduce_dtype, told) == ("bf16", "fp32", {})
