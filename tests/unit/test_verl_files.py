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
