"""verl's scripts and configurations: overrides, sums of the shell, a Ray job, YAML."""

import pytest

import sim
from sim.inputs.loader import load

#: as its examples have it
GRPO = """\
set -x
NNODES=${NNODES:-2}
max_prompt=$((512 * 2))
max_response=$((max_prompt + 1024))
python3 -m verl.trainer.main_ppo \\
    algorithm.adv_estimator=grpo \\
    data.train_files=$HOME/data/gsm8k/train.parquet \\
    data.train_batch_size=1024 \\
    data.max_prompt_length=${max_prompt} \\
    data.max_response_length=$max_response \\
    actor_rollout_ref.model.path="Qwen/Qwen2.5-7B-Instruct" \\
    actor_rollout_ref.actor.ppo_mini_batch_size=256 \\
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=12 \\
    actor_rollout_ref.actor.use_kl_loss=True \\
    +actor_rollout_ref.model.enable_gradient_checkpointing=True \\
    actor_rollout_ref.actor.fsdp_config.optimizer_offload=True \\
    actor_rollout_ref.rollout.tensor_model_parallel_size=4 \\
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \\
    actor_rollout_ref.rollout.n=5 \\
    trainer.logger='["console","wandb"]' \\
    trainer.n_gpus_per_node=8 \\
    trainer.nnodes=$NNODES \\
    trainer.total_epochs=15 $@
"""
YAML = """\
data: {train_batch_size: 512, max_prompt_length: 2048, max_response_length: 6144}
algorithm: {adv_estimator: gae}
actor_rollout_ref:
  model: {path: Qwen/Qwen2.5-7B, lora_rank: 32, use_fused_kernels: true}
  actor:
    strategy: fsdp2
    use_dynamic_bsz: true
    ppo_max_token_len_per_gpu: 8192
    ulysses_sequence_parallel_size: 4
    ppo_mini_batch_size: 128
trainer: {nnodes: 1, n_gpus_per_node: 8, total_training_steps: 100}
"""
SFT = """\
torchrun --standalone --nnodes=1 --nproc_per_node=8 \\
     -m verl.trainer.fsdp_sft_trainer \\
    data.max_length=2048 data.train_batch_size=64 data.micro_batch_size_per_gpu=4 \\
    model.partial_pretrain=Qwen/Qwen2.5-7B \\
    model.lora_rank=16 model.target_modules=all-linear trainer.total_epochs=2
"""


def read(tmp_path, text, name):
    path = tmp_path / name
    path.write_text(text)
    found = sim.import_job(path)
    return load("dgx-h100", path, ["nodes=2"] if found.gpus == 16 else []).workload, found


def test_a_script_of_grpo(tmp_path):
    job, found = read(tmp_path, GRPO, "run.sh")
    rolls = job.post_training
    assert (found.gpus, job.model.name, job.sequence_length) == (16, "qwen2.5-7b", 3072)
    assert (rolls.algorithm, rolls.prompts, rolls.samples, rolls.updates) == ("grpo", 1024, 5, 4)
    answers = rolls.completion
    assert (rolls.prompt_length, answers.maximum, answers.mean) == (1024, 2048, 1024)
    assert job.micro_batch == 8  # rows of 3,072, as full as 12 of 1,024 + 1,024
    assert (rolls.reference, rolls.offload) == (True, True)
    engine = rolls.generation
    assert (engine.tensor_parallel, engine.memory_share, engine.max_sequences) == (4, 0.6, 1024)
    assert (job.parallelism.strategy, job.parallelism.reduce_dtype) == ("fsdp1", "fp32")
    assert (job.activation_checkpointing.kind, job.loss, job.epochs) == ("full", "fused", 15)
    (told,) = [row for row in found.aside if row["matters"]]
    assert "no file says how long" in told["why"]


def test_its_yaml(tmp_path):
    job, _ = read(tmp_path, YAML, "ppo.yaml")
    rolls = job.post_training
    assert (rolls.algorithm, rolls.samples, rolls.updates, rolls.reference) == ("ppo", 1, 4, False)
    assert (job.sequence_length, job.micro_batch, job.steps) == (4 * 8192, 1, 100)
    spread = job.parallelism
    assert (spread.strategy, spread.context_parallel) == ("fsdp2", 4)
    assert spread.context_parallel_kind == "ulysses"
    assert (job.method.kind, job.method.rank, job.loss) == ("lora", 32, "fused-linear")


def test_sft(tmp_path):
    job, found = read(tmp_path, SFT, "sft.sh")
    assert (found.gpus, job.method.rank, job.micro_batch, job.sequence_length) == (8, 16, 4, 2048)
    assert (job.gradient_accumulation, job.parallelism.strategy) == (2, "fsdp1")


def test_a_ray_job(tmp_path):
    words = " ".join(line.strip(" \\") for line in GRPO.splitlines()[4:-1])
    words = words.replace("${max_prompt}", "1024").replace("$max_response", "2048")
    words = words.replace("$NNODES", "2").replace("'", "").replace('"', "")
    text = f"apiVersion: ray.io/v1\nkind: RayJob\nspec:\n  entrypoint: >-\n    {words}\n"
    job, found = read(tmp_path, text, "job.yaml")
    assert (found.gpus, job.post_training.prompts) == (16, 1024)


@pytest.mark.parametrize(
    ("line", "gpus"),
    [("N=${N:-4}", 4), ("N=$((2 * 2 + 1))", 5), ("M=3\nN=$(( M*2 ))", 6), ("N=$((8/2))", 4),
     ("N=$((1/0))", None), ("N=$((x y))", None)],
)  # fmt: skip
def test_sums_and_defaults_of_a_shell(tmp_path, line, gpus):
    path = tmp_path / "run.sh"
    path.write_text(f"{line}\ntorchrun --nproc_per_node $N --nnodes 1 train.py\n")
    assert sim.import_job(path).gpus == gpus


def changed(text, *lines, less=()):
    """A script with other overrides, and without some."""
    kept = [line for line in text.splitlines() if not any(word in line for word in less)]
    return "\n".join([*kept[:5], *(f"    {line} \\" for line in lines), *kept[5:]]) + "\n"


ACTOR = "actor_rollout_ref.actor"


@pytest.mark.parametrize(
    ("more", "rows"),
    [((), 8), ((f"{ACTOR}.ulysses_sequence_parallel_size=2",), 16),
     ((f"{ACTOR}.megatron.tensor_model_parallel_size=4",), 32)],
)  # fmt: skip
def test_rows_of_all_gpus_are_shared_out(tmp_path, more, rows):
    """192 on 16 GPUs are 12 each, as full as 8 of the longest, unless ranks share their rows."""
    more = (f"{ACTOR}.ppo_micro_batch_size=192", *more)
    job, _ = read(tmp_path, changed(GRPO, *more, less=["micro_batch_size_per_gpu"]), "run.sh")
    assert job.micro_batch == rows


def test_rows_of_gpus_that_no_file_counts(tmp_path):
    text = changed(GRPO, f"{ACTOR}.ppo_micro_batch_size=192",
                   less=["micro_batch_size_per_gpu", "n_gpus_per_node"])  # fmt: skip
    _, found = read(tmp_path, text, "run.sh")
    told = [row["why"] for row in found.aside if row["theirs"].endswith("ppo_micro_batch_size")]
    assert told == ["is of all GPUs, and no file says how many: add --set micro_batch=N"]


def test_rows_of_all_gpus_in_sft(tmp_path):
    text = SFT.replace("micro_batch_size_per_gpu=4", "micro_batch_size=16")
    job, _ = read(tmp_path, text, "sft.sh")
    assert (job.micro_batch, job.gradient_accumulation) == (2, 4)


@pytest.mark.parametrize("said", ["--config-name='ppo_megatron_trainer.yaml'", ""])
def test_megatron_by_its_configuration_or_its_table(tmp_path, said):
    cut = f"{ACTOR}.megatron"
    text = changed(GRPO, f"{cut}.tensor_model_parallel_size=2",
                   f"{cut}.pipeline_model_parallel_size=2", f"{cut}.param_offload=True",
                   less=["optimizer_offload", "enable_gradient_checkpointing"])  # fmt: skip
    text = text.replace("main_ppo \\", f"main_ppo --config-path=config {said}\\")
    job, found = read(tmp_path, text, "run.sh")
    spread = job.parallelism
    assert (spread.strategy, spread.tensor_parallel, spread.pipeline_parallel) == ("megatron", 2, 2)
    assert (job.activation_checkpointing.kind, job.post_training.offload) == ("none", True)
    assert "strategy" not in " ".join(row["theirs"] for row in found.took)


def test_megatrons_recomputing_and_virtual_stages(tmp_path):
    cut = f"{ACTOR}.megatron"
    text = changed(GRPO, f"{cut}.pipeline_model_parallel_size=2",
                   f"{cut}.virtual_pipeline_model_parallel_size=2",
                   f"+{cut}.override_transformer_config.recompute_granularity=full",
                   less=["enable_gradient_checkpointing"])  # fmt: skip
    job, _ = read(tmp_path, text, "run.sh")
    assert (job.activation_checkpointing.kind, job.parallelism.virtual_stages) == ("full", 2)


def test_a_configuration_of_megatrons_that_a_yaml_adds_to(tmp_path):
    text = YAML.replace("    strategy: fsdp2\n", "").replace(
        "    ulysses_sequence_parallel_size: 4\n", ""
    )
    text = text.replace("lora_rank: 32, ", "")
    job, _ = read(tmp_path, f"defaults: [ppo_megatron_trainer, _self_]\n{text}", "ppo.yaml")
    assert job.parallelism.strategy == "megatron"


def test_rows_that_keep_their_padding(tmp_path):
    more = "actor_rollout_ref.model.use_remove_padding=False"
    job, found = read(tmp_path, changed(GRPO, more), "run.sh")
    assert job.micro_batch == 12
    (told,) = [row["why"] for row in found.aside if "remove_padding" in row["theirs"]]
    assert "padding is run too" in told


def test_what_no_line_says_is_no_line_of_the_file(tmp_path):
    text = changed(GRPO, less=["use_kl_loss", "ppo_mini_batch_size", "max_prompt"])
    _, found = read(tmp_path, text, "run.sh")
    assert not [row for row in found.took if row["theirs"].rpartition(".")[2] not in text]
    supposed = {row["key"] for row in found.assumed}
    assert {"parallelism.strategy", "post_training.reference", "post_training.updates",
            "post_training.prompt_length"} <= supposed  # fmt: skip


def test_a_critic_of_another_model_is_told_of(tmp_path):
    for model, told in (("meta-llama/Llama-3.1-70B", 1), ("Qwen/Qwen2.5-7B", 0)):
        text = f"{YAML}critic: {{model: {{path: {model}}}}}\n"
        _, found = read(tmp_path, text, "ppo.yaml")
        rows = [row for row in found.aside if row["theirs"] == "critic.model.path"]
        assert [row["matters"] for row in rows if row["matters"]] == [True] * told


def test_sequences_split_by_sft_in_no_table(tmp_path):
    """Its options outside every table, and no variable of the shell among them."""
    script = tmp_path / "sft.sh"
    script.write_text(
        "lr=1e-5\ntorchrun --nproc_per_node=8 -m verl.trainer.fsdp_sft_trainer"
        " data.train_batch_size=256 data.max_length=2048 data.micro_batch_size_per_gpu=4"
        " model.partial_pretrain=Qwen/Qwen2.5-7B-Instruct"
        " ulysses_sequence_parallel_size=2 use_remove_padding=true\n"
    )
    found = load("dgx-h100", script, ["nodes=1"]).workload
    p = found.parallelism
    assert (p.strategy, p.context_parallel, p.context_parallel_kind) == ("fsdp2", 2, "ulysses")
    assert found.data is not None
    assert found.data.packing


@pytest.mark.parametrize(
    ("more", "values"),
    [
        ((f"{ACTOR}.fsdp_config.model_dtype=bf16",), {"precision.master": "bf16"}),
        ((f"{ACTOR}.fsdp_config.forward_prefetch=True",), {"parallelism.forward_prefetch": 1}),
        (
            (f"{ACTOR}.fsdp_config.use_no_sync_for_gradient_accumulation=True",),
            {"parallelism.gradient_sync": "last"},
        ),
        (
            ("algorithm.rollout_correction.bypass_mode=True",),
            {"post_training.old_log_probs": False},
        ),
        ((f"{ACTOR}.optim.optimizer=SGD",), {"optimizer": "sgd"}),
        ((f"{ACTOR}.strategy=megatron", f"{ACTOR}.megatron.use_distributed_optimizer=False"),
         {"parallelism.use_distributed_optimizer": False}),
    ],
)  # fmt: skip
def test_keys_that_were_left_aside(tmp_path, more, values):
    less = ["enable_gradient_checkpointing"] if "megatron" in more[0] else []
    job, _ = read(tmp_path, changed(GRPO, *more, less=less), "run.sh")
    for path, value in values.items():
        found = job
        for key in path.split("."):
            found = getattr(found, key)
        assert found == value


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("actor_rollout_ref.rollout.enforce_eager=True", True),
        ("actor_rollout_ref.rollout.enforce_eager=False", False),
        ("actor_rollout_ref.rollout.free_cache_engine=False", True),
        ("actor_rollout_ref.rollout.data_parallel_size=1", False),
        ("actor_rollout_ref.rollout.multi_turn.enable=True", True),
        ("algorithm.filter_groups.enable=True", True),
        ("algorithm.adv_estimator=mine", True),
        (f"{ACTOR}.entropy_coeff=0.01", True),
        (f"{ACTOR}.entropy_coeff=0", False),
        (f"{ACTOR}.use_fused_kernels='${{oc.select:actor_rollout_ref.model.x,false}}'", False),
        ("actor_rollout_ref.model.override_config.num_hidden_layers=4", True),
        ("trainer.device=npu", True),
        ("trainer.device=cuda", False),
    ],
)  # fmt: skip
def test_what_changes_a_step_and_is_not_followed(tmp_path, more, told):
    """None of them was told of: whole tables were left aside."""
    _, found = read(tmp_path, changed(GRPO, more, less=["adv_estimator=grpo"]), "run.sh")
    named = {row["theirs"] for row in found.aside if row["matters"]} - {"data.max_response_length"}
    assert bool(named) == told


def test_a_key_that_verl_has_not_is_told(tmp_path):
    path = tmp_path / "run.sh"
    path.write_text(changed(GRPO, f"{ACTOR}.ppo_mini_batchsize=64", "trainer.n_gpus_per_nod=4"))
    warnings = load("dgx-h100", path, ["nodes=2"]).notes.warnings
    (told,) = [w.message for w in warnings if w.code == "not-read"]
    assert "ppo_mini_batchsize" in told


def test_sft_by_an_engine(tmp_path):
    """Its trainer since 0.6 packs rows of all lengths: as many as fit, were they the longest."""
    text = """\
torchrun --standalone --nnodes=1 --nproc_per_node=8 -m verl.trainer.sft_trainer \\
    data.train_batch_size=256 data.max_length=2048 data.max_token_len_per_gpu=8192 \\
    model.path=Qwen/Qwen2.5-7B engine=fsdp engine.strategy=fsdp2 \\
    engine.ulysses_sequence_parallel_size=2 data.train_max_samples=5000 trainer.total_epochs=2
"""
    job, found = read(tmp_path, text, "sft.sh")
    assert (job.sequence_length, job.micro_batch, job.samples) == (2048, 8, 5000)
    assert (job.parallelism.strategy, job.parallelism.context_parallel) == ("fsdp2", 2)
    assert [row["theirs"] for row in found.aside if row["matters"]] == ["data.max_length"]
