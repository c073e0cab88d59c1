"""Launch scripts as their repositories have them: what stands in quotations, files and plugins."""

import json

import pytest

import sim
from sim.errors import InputError
from sim.inputs.loader import load

#: an option in a quotation with "=", a line that goes on, a model by a name of the script's own
OWN = """\
model="Qwen/Qwen2.5-32B-Instruct"
torchrun --nproc-per-node 8 train/sft.py \\
    --block_size=20000 \\
    --per_device_train_batch_size=1 \\
    --model_name=${model} \\
    --fsdp="full_shard auto_wrap" \\
    --fsdp_config="fsdp_qwen.json" \\
    --bf16=True
"""
ACCELERATE = """\
accelerate launch --mixed_precision bf16 --num_machines 2 --num_processes 16 --use_deepspeed \\
    {options} \\
    finetune.py --model_name_or_path allenai/OLMo-2-1124-13B --use_flash_attn \\
    --max_seq_length 4096 --per_device_train_batch_size 1 --gradient_accumulation_steps 2
"""
MEGATRON = """\
ARGS=(
    --num-layers 32 --hidden-size 4096 --num-attention-heads 32 --seq-length 4096
    --max-position-embeddings 4096 --micro-batch-size 1 --bf16 --num-experts 8
    --moe-token-dispatcher-type alltoall
)
FP8=(
    "--fp8-format hybrid"
    "--vocab-size 128256"
)
torchrun --nproc_per_node 8 pretrain_gpt.py ${ARGS[@]} ${FP8[@]}
"""


def read(tmp_path, name, text):
    """The workload of a file, and what of it changes the run and is not followed."""
    (tmp_path / name).write_text(text)
    found = sim.import_job(str(tmp_path / name))
    told = {row["theirs"]: row["why"] for row in found.to_dict()["aside"] if row["matters"]}
    return found.yaml, told


def test_options_in_quotations_are_read_where_the_line_goes_on(tmp_path):
    job, told = read(tmp_path, "sft.sh", OWN)
    for line in ("strategy: fsdp1", "model: Qwen/Qwen2.5-32B-Instruct", "sequence_length: 20000"):
        assert line in job
    assert "fsdp_qwen.json is not here" in told["fsdp_config"]
    (tmp_path / "fsdp_qwen.json").write_text(json.dumps({"activation_checkpointing": True}))
    job, told = read(tmp_path, "sft.sh", OWN)
    assert "activation_checkpointing: {full: {reentrant: false}}" in job
    assert told == {}


@pytest.mark.parametrize(
    ("options", "strategy", "offload"),
    [
        (
            "--zero_stage 3 --offload_optimizer_device cpu --offload_param_device cpu",
            "zero3",
            "all",
        ),
        ("--zero_stage 2", "zero2", ""),
        ("", "zero2", ""),  # accelerate's default
        ("--deepspeed_config_file conf/stage3_no_offloading.conf", "zero3", ""),
        ("--deepspeed_config_file conf/stage3_offloading.conf", "zero3", "all"),
    ],
)
def test_deepspeed_by_options_of_accelerate(tmp_path, options, strategy, offload):
    """Was read as plain data parallelism, in silence."""
    job, _ = read(tmp_path, "run.sh", ACCELERATE.format(options=options))
    assert f"strategy: {strategy}" in job
    assert ("offload:" in job) == bool(offload)
    assert f"offload: {offload}" in job or not offload
    assert "attention: flash2" in job


def test_an_option_and_its_value_in_one_quotation(tmp_path):
    job, told = read(tmp_path, "train.sh", MEGATRON)
    assert "precision: {fp8: {recipe: te-delayed}}" in job
    assert "vocab_size: 128256" in job
    assert "moe-token-dispatcher-type" not in told  # all-to-alls are what runs here


def test_samples_that_axolotl_pads_to_whole_rows(tmp_path):
    """``sample_packing: false`` beside ``pad_to_sequence_len: true`` was refused."""
    text = "base_model: Qwen/Qwen3-8B\nsequence_len: 512\nmicro_batch_size: 1\n"
    job, _ = read(tmp_path, "a.yaml", f"{text}sample_packing: false\npad_to_sequence_len: true\n")
    assert "packing: true" in job
    job, _ = read(tmp_path, "b.yaml", f"{text}sample_packing: false\n")
    assert "packing: false" in job


TRL = "model_name_or_path: Qwen/Qwen2.5-1.5B\nper_device_train_batch_size: 8\nbf16: true\n"


def test_rollouts_and_pairs_are_said_not_to_be_read(tmp_path):
    """A row of GRPO is a prompt and a completion, by TRL's defaults 512 and 256 tokens."""
    job, told = read(tmp_path, "grpo.yaml", f"{TRL}num_generations: 8\nuse_vllm: true\n")
    assert "sequence_length: 768" in job
    assert "post_training" in told["num_generations"]
    long = f"{TRL}max_prompt_length: 1024\nmax_completion_length: 3072\n"
    assert "sequence_length: 4096" in read(tmp_path, "long.yaml", long)[0]
    job, told = read(tmp_path, "dpo.yaml", f"{TRL}max_length: 2048\nbeta: 0.1\n")
    assert "sequence_length: 2048" in job
    assert "plain step" in told["beta"]
    assert "micro_batch: 8" in job


def test_a_trainer_that_is_a_table_is_lightnings(tmp_path):
    """Its keys are ours by name: it was "a file of scaling-sim's own"."""
    path = tmp_path / "fit.yaml"
    path.write_text("trainer: {devices: 8, strategy: fsdp}\nmodel: {class_path: my.Model}\n")
    with pytest.raises(InputError, match=r"Lightning or NeMo 1\.x, which is not read"):
        sim.import_job(str(path))
    path.write_text("trainer: huggingface\nmodel: llama-3-8b\nsequence_length: 512\n")
    with pytest.raises(InputError, match="scaling-sim's own"):
        sim.import_job(str(path))


SFT = """\
#!/bin/bash
#SBATCH --nodes=2
#SBATCH --gres=gpu:4
export OMP_NUM_THREADS=8
export NCCL_P2P_DISABLE=1
export NCCL_IB_DISABLE=0
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
srun accelerate launch --mixed_precision bf16 train.py --model_name_or_path Qwen/Qwen2.5-7B \\
    --per_device_train_batch_size 2 --max_length 2048
"""


def test_variables_that_a_script_exports(tmp_path):
    job, told = read(tmp_path, "sft.sbatch", SFT)
    assert "stack: {expandable_segments: true, omp_num_threads: 8}" in job or (
        "stack: {omp_num_threads: 8, expandable_segments: true}" in job
    )
    assert told == {"NCCL_P2P_DISABLE": "is the machine's: --set node.pcie.p2p=false"}
    swift = """NPROC_PER_NODE=4 \\
swift sft --model Qwen/Qwen2.5-7B --max_length 2048 --train_type full --torch_dtype bfloat16 \\
    --per_device_train_batch_size 1
"""
    (tmp_path / "swift.sh").write_text(swift)
    loaded = load("dgx-h100", str(tmp_path / "swift.sh"))
    assert "4" in next(str(w) for w in loaded.notes.warnings if w.code == "world")


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ("--lora_enable True --lora_r 128", "lora: {rank: 128"),
        ("--q_lora True --lora_r 8", "qlora: {rank: 8"),
        ("--use_lora", "lora: {rank: 8"),
        ("--load_in_4bit --r 64", "qlora: {rank: 64"),
        ("--lora_r 16 --lora_alpha 32", "lora: {rank: 16"),
        ("--use_lora False --lora_r 16", ""),
        ("--lora_r 16 --full_finetune", ""),
        ("", ""),
    ],
)
def test_adapters_of_scripts_of_ones_own(tmp_path, options, method):
    """LLaVA's, FastChat's, Qwen's and Unsloth's flags; LoRA was read as full training in silence.

    Full training of 13 billion parameters in bf16 would be 16 bytes of each, 208 GB; LoRA's base
    is 26.
    """
    script = f"""deepspeed llava/train/train_mem.py {options} --bf16 True \\
    --model_name_or_path lmsys/vicuna-13b-v1.5 --model_max_length 2048 \\
    --per_device_train_batch_size 16 --deepspeed ./scripts/zero3.json
"""
    job, told = read(tmp_path, "lora.sh", script)
    assert (method or "sequence_length: 2048") in job
    assert ("lora: " in job) is bool(method)
    assert "loss: tiled" not in job  # that is TRL's
    assert any("no known flag" in why for why in told.values()) is ("--lora_alpha" in options)
    assert any("how wide adapters are" in why for why in told.values()) is (options == "--use_lora")


def test_the_command_of_qlora(tmp_path):
    """artidoro/qlora: 16 + 512 tokens, 64 directions of all linear layers, scales quantised."""
    job, told = read(
        tmp_path,
        "guanaco.sh",
        "python qlora.py --model_name_or_path huggyllama/llama-7b --bits 4 --double_quant --bf16 "
        "--quant_type nf4 --lora_r 64 --lora_modules all --lora_dropout 0.1 --source_max_len 16 "
        "--target_max_len 512 --per_device_train_batch_size 1 --optim paged_adamw_32bit\n",
    )
    assert "qlora: {rank: 64, dropout: 0.1, targets: all-linear, double_quantization: true" in job
    assert "sequence_length: 528" in job
    assert told == {}


def test_the_command_of_alpaca_lora(tmp_path):
    """Its options have axolotl's names, but no `adapter`."""
    job, told = read(
        tmp_path,
        "alpaca.sh",
        "python finetune.py --base_model huggyllama/llama-7b --micro_batch_size 4 --num_epochs 3 "
        "--cutoff_len 512 --lora_r 16 --lora_target_modules '[q_proj,k_proj,v_proj,o_proj]'\n",
    )
    assert "lora: {rank: 16" in job
    assert "targets: [q, k, v, o]" in job
    assert "lora_r" not in told


TITAN = """\
[model]
name = "llama3"
flavor = "8B"
[training]
batch_size = 1
seq_len = 8192
tensor_parallel_degree = 4
compile = true
[experimental]
context_parallel_degree = 2
[float8]
enable_float8_linear = true
[checkpoint]
enable_checkpoint = false
"""


def test_tables_of_torchtitan_before_march_2025(tmp_path):
    job, told = read(tmp_path, "old.toml", TITAN)
    for line in ("tensor_parallel: 4", "context_parallel: 2", "compile: true", "fp8"):
        assert line in job
    assert told == {}


DEEPSPEED = {
    "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "key"),
    [({"ratio": 0.3}, "ratio"), ({"super_offload": True}, "super_offload"), ({"ratio": 1.0}, "")],
)
def test_offload_that_is_not_plain_is_said(tmp_path, more, key):
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu", **more}}
    text = json.dumps({**DEEPSPEED, "zero_optimization": zero})
    _, told = read(tmp_path, "ds.json", text)
    assert [k.rpartition(".")[2] for k in told] == ([key] if key else [])


@pytest.mark.parametrize(
    ("pins", "pinned"),
    [({}, True), ({"optimizer": True}, True), ({"optimizer": True, "param": False}, False),
     ({"optimizer": False, "param": False}, False)],
)  # fmt: skip
def test_offload_is_pinned_where_no_table_says_otherwise(tmp_path, pins, pinned):
    """Both tables' default in DeepSpeed 0.19.8; it was false up to 0.18."""
    zero = {"stage": 3} | {
        f"offload_{name}": {"device": "cpu", **({"pin_memory": pins[name]} if name in pins else {})}
        for name in ("optimizer", "param")
    }
    job, _ = read(tmp_path, "ds.json", json.dumps({**DEEPSPEED, "zero_optimization": zero}))
    assert ("pin_memory: false" in job) is not pinned


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_types", {"grad_accum_dtype": "fp32"}), ("torch_autocast", {"enabled": True}),
        ("expert_parallel", {"enabled": True}), ("pipeline", {"stages": 2}),
        ("stage3_allgather_sequential", True), ("contiguous_gradients", False),
        ("zero_quantized_nontrainable_weights", True), ("memory_efficient_linear", False),
        ("bf16_optimizer_states", True),
    ],
)  # fmt: skip
def test_keys_of_deepspeed_that_change_a_run_are_told(tmp_path, key, value):
    """All of DeepSpeedConfig's: they were left aside as without effect, or as unknown."""
    of = key.startswith(("stage3", "contiguous", "zero_", "memory"))
    zero = {"stage": 3, **({key: value} if of else {})}
    bf16 = {"enabled": True, **({key: value} if key.startswith("bf16") else {})}
    text = {**DEEPSPEED, key: value, "zero_optimization": zero, "bf16": bf16}
    if of or "bf16" in key:
        del text[key]
    _, told = read(tmp_path, "ds.json", json.dumps(text))
    assert [name.rpartition(".")[2] for name in told] == [key]


def test_what_a_deepspeed_file_turns_off_is_not_told(tmp_path):
    off = {"flops_profiler": {"enabled": False}, "elasticity": {"enabled": False}}
    _, told = read(tmp_path, "ds.json", json.dumps({**DEEPSPEED, **off}))
    assert told == {}


def test_a_launch_whose_configuration_is_not_here(tmp_path):
    """It ran as plain data parallelism, whatever its file is called."""
    command = (
        "accelerate launch --config_file conf/{}.yaml train.py --per_device_train_batch_size 1"
    )
    job, told = read(tmp_path, "run.sh", command.format("deepspeed_zero3"))
    assert "strategy: zero3" in job
    assert "not here" in told["config_file"]
    for name in ("fsdp_qlora", "deepspeed"):
        with pytest.raises(InputError, match=r"run\.sh:1 .*is not here"):
            read(tmp_path, "run.sh", command.format(name))


def test_older_and_newer_keys_that_change_a_run(tmp_path):
    text = "base_model: Qwen/Qwen3-8B\nsequence_len: 8192\nmicro_batch_size: 1\n"
    job, _ = read(tmp_path, "a.yaml", f"{text}sequence_parallel_degree: 4\n")
    assert "context_parallel: 4" in job
    text = "model_name_or_path: Qwen/Qwen3-8B\nstage: sft\ncutoff_len: 2048\n"
    job, _ = read(tmp_path, "l.yaml", f"{text}use_muon: true\nuse_unsloth_gc: true\n")
    assert "optimizer: muon" in job
    assert "offload: true" in job
