"""Options that scripts have beside transformers': OpenRLHF, DeepSpeed-Chat, LLaVA, a recipe."""

import sim
from sim.inputs.loader import load
from tests.imported import mattering

OPENRLHF = """\
deepspeed --module openrlhf.cli.train_{} \\
   --max_len 2048 --train_batch_size 256 --micro_train_batch_size 2 --max_samples 500000 \\
   --pretrain meta-llama/Meta-Llama-3-8B --zero_stage {} --bf16 --flash_attn {} \\
   --learning_rate 5e-6 --gradient_checkpointing
"""
CHAT = """\
deepspeed main.py --model_name_or_path facebook/opt-1.3b --per_device_train_batch_size 8 \\
   --max_seq_len 512 --zero_stage {} --offload --gradient_checkpointing --deepspeed {}
"""
LLAVA = """\
deepspeed llava/train/train_mem.py --deepspeed ./scripts/zero3.json --bf16 True \\
    --model_name_or_path lmsys/vicuna-13b-v1.5 --vision_tower openai/clip-vit-large-patch14-336 \\
    --per_device_train_batch_size 16 --model_max_length 2048
"""
RECIPE = """\
model_name_or_path: mistralai/Mistral-7B-v0.1
bf16: true
max_seq_length: 2048
per_device_train_batch_size: 16
packing: true
"""
LAUNCH = "distributed_type: FSDP\nmixed_precision: bf16\nfsdp_config: {fsdp_version: 2}\n"


def read(tmp_path, text):
    path = tmp_path / "run.sh"
    path.write_text(text)
    found = sim.import_job(path)
    told = {row["theirs"]: row["why"] for row in found.aside if row["matters"]}
    return load("dgx-h100", path, []).workload, told


def test_openrlhf(tmp_path):
    job, told = read(tmp_path, OPENRLHF.format("sft", 3, "--adam_offload"))
    assert (job.model.name, job.sequence_length, job.micro_batch) == ("llama-3-8b", 2048, 2)
    assert (job.gradient_accumulation, job.samples, job.trainer) == (16, 500_000, "deepspeed")
    assert (job.parallelism.strategy, job.parallelism.offload) == ("zero3", "optimizer")
    assert (job.attention, job.activation_checkpointing.kind, told) == ("flash2", "full", {})
    job, told = read(tmp_path, OPENRLHF.format("dpo", 2, "--lora_rank 16"))
    assert (job.method.kind, job.method.rank, job.micro_batch) == ("lora", 16, 4)
    assert (job.reference, told) == ("adapters-off", {})
    _, told = read(tmp_path, OPENRLHF.format("ppo_ray", 2, ""))
    assert "a plain step" in told["module"]


TABLED = """\
deepspeed --module openrlhf.cli.train_sft --data.max_len 4096 --train.batch_size 64 \\
   --train.micro_batch_size 2 --model.model_name_or_path Qwen/Qwen2.5-7B --adam.lr 5e-6 \\
   --ds.zero_stage 3 --ds.lora.rank 16 --model.gradient_checkpointing_enable {}
"""


def test_openrlhf_with_tables_in_front(tmp_path):
    """Names of 0.10 and later were unknown: the job was DDP's, of no model."""
    more = "--ds.zpg 8 --ds.overlap_comm --ds.attn_implementation sdpa --ds.deepcompile"
    job, told = read(tmp_path, TABLED.format(more))
    spread = job.parallelism
    assert (job.model.name, job.sequence_length, job.micro_batch) == ("qwen2.5-7b", 4096, 2)
    assert (spread.strategy, spread.zero_hpz_partition_size, spread.overlap_comm) == (
        "zero3",
        8,
        True,
    )
    assert (job.method.kind, job.method.rank, job.attention) == ("lora", 16, "sdpa")
    assert job.activation_checkpointing.kind == "full"
    assert list(told) == ["ds.deepcompile"]
    job, told = read(tmp_path, TABLED.format("--optim muon --ds.tensor_parallel_size 2"))
    assert (job.attention, {*told}) == ("flash2", {"optim", "ds.tensor_parallel_size"})


def test_a_stage_of_zero_is_an_option(tmp_path):
    """It was passed over, and the job was DDP's."""
    job, told = read(tmp_path, CHAT.format(2, "--dtype bf16"))
    assert (job.parallelism.strategy, job.parallelism.offload) == ("zero2", "optimizer")
    assert (job.precision.kind, job.trainer, told) == ("bf16", "deepspeed", {})
    job, _ = read(tmp_path, CHAT.format(3, ""))
    assert (job.parallelism.offload, job.precision.kind) == ("all", "fp16")


def test_a_tower_is_said_not_to_be_counted(tmp_path):
    job, told = read(tmp_path, LLAVA)
    assert job.parallelism.strategy == "zero3"
    assert "the language model alone" in told["vision_tower"]


def test_the_recipe_after_a_script(tmp_path):
    """As the alignment handbook has it; the loop is the trainer's, which accelerate launches."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "fsdp.yaml").write_text(LAUNCH)
    text = "accelerate launch --config_file fsdp.yaml scripts/run_sft.py \\\n    recipe.yaml\n"
    job, told = read(tmp_path, text)
    assert (job.model.name, job.micro_batch, told) == ("mistral-7b", 16, {})
    assert (job.parallelism.strategy, job.trainer) == ("fsdp2", "huggingface")
    (tmp_path / "recipe.yaml").write_text("colour: red\n")
    path = tmp_path / "run.sh"
    (row,) = mattering(path)
    assert "no trainer's" in row["why"]
