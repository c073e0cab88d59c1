"""What launchers are told for themselves is no trainer's, and says how many GPUs there are."""

import pytest

import sim
from sim.inputs.loader import load
from tests.imported import mattering

OPTIONS = (
    "--model_name_or_path Qwen/Qwen2.5-7B --per_device_train_batch_size 2 --bf16 True "
    "--max_length 2048"
)
TORCHRUN = (
    "torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint host:29500 "
    "--rdzv_id 7 --master_port 29500 --max_restarts 3 train.py"
)
ACCELERATE = (
    "accelerate launch --num_machines 2 --num_processes 16 --machine_rank 0 --main_process_ip a "
    "--main_process_port 29500 --num_cpu_threads_per_process 4 --same_network train.py"
)
SRUN = (
    "srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --kill-on-bad-exit=1 torchrun --nnodes 2 "
    "--nproc_per_node 8 --node_rank 0 --master_addr a --master_port 29500 train.py"
)
DEEPSPEED = "deepspeed --num_nodes 2 --num_gpus 8 --hostfile hosts --master_port 29500 train.py"
MEGATRON = (
    "torchrun --nproc_per_node 8 --nnodes 2 --node_rank 0 --master_addr a --master_port 29500 "
    "pretrain_gpt.py --num-layers 32 --hidden-size 4096 --num-attention-heads 32 --seq-length 2048 "
    "--vocab-size 32000 "
    "--micro-batch-size 1 --global-batch-size 16 --bf16 --tensor-model-parallel-size 2"
)


@pytest.mark.parametrize(
    "command",
    [*(f"{start} {OPTIONS}" for start in (TORCHRUN, ACCELERATE, SRUN, DEEPSPEED)), MEGATRON],
)
@pytest.mark.parametrize("script", ["", "from trl import SFTTrainer\nSFTTrainer(args=args)\n"])
def test_what_launchers_take_is_no_warning(tmp_path, command, script):
    """`rdzv_backend, master_port: no keys that this reader of Hugging Face files follows`."""
    path = tmp_path / "run.sh"
    path.write_text(command + "\n")
    if script:
        (tmp_path / "train.py").write_text(script)
    found = sim.import_job(path)
    assert found.gpus == 16
    assert [w.message for w in load("dgx-h100", path, ["nodes=2"]).notes.warnings
            if w.code == "not-read"] == []  # fmt: skip


def test_threads_of_a_launch_are_its_processes(tmp_path):
    path = tmp_path / "run.sh"
    path.write_text(f"{ACCELERATE} {OPTIONS}\n")
    assert load("dgx-h100", path, ["nodes=2"]).workload.stack.omp_num_threads == 4


@pytest.mark.parametrize(
    ("said", "gpus"),
    [
        ("--include localhost:0,1", 2),
        ('--include="worker-0:0,1,2,3@worker-1:4,5,6,7"', 8),
    ],
)
def test_what_deepspeed_includes_is_counted(tmp_path, said, gpus):
    path = tmp_path / "run.sh"
    path.write_text(f"deepspeed {said} train.py {OPTIONS}\n")
    assert sim.import_job(path).gpus == gpus
    assert mattering(path) == []


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("--include worker-0", "include"),
        ("--include a:0,1@b:0", "include"),
        ("--exclude worker-0:3", "exclude"),
        ("--hostfile hosts", "hostfile"),
    ],
)
def test_gpus_that_are_not_known_are_told(tmp_path, said, key):
    path = tmp_path / "run.sh"
    path.write_text(f"deepspeed {said} train.py {OPTIONS}\n")
    assert sim.import_job(path).gpus is None
    assert [row["theirs"] for row in mattering(path)] == [key]


def test_a_module_is_no_option_of_the_trainer(tmp_path):
    path = tmp_path / "run.sh"
    path.write_text(f"deepspeed --num_gpus 8 --module mine.train {OPTIONS}\n")
    warnings = load("dgx-h100", path).notes.warnings
    assert [w.message for w in warnings if w.code == "not-read"] == []
