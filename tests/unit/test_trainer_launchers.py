"""Jobs as services and other shells start them: SkyPilot, Modal, Ray, SageMaker, PowerShell."""

import pytest

import sim
from sim.inputs.loader import load
from tests.imported import mattering

SKY = """\
name: sft
resources:
  accelerators: H100:4
num_nodes: 2
run: |
  torchrun --nnodes $SKYPILOT_NUM_NODES --nproc_per_node $SKYPILOT_NUM_GPUS_PER_NODE train.py \\
    --model_name_or_path meta-llama/Llama-3.1-8B --per_device_train_batch_size 2 --bf16 True
"""
TRAIN = """\
    args = SFTConfig(per_device_train_batch_size=2, max_length=4096)
    SFTTrainer(model="Qwen/Qwen3-8B", args=args).train()
"""
MODAL = f'@app.function(gpu="H100:4", image=image)\ndef train():\n{TRAIN}'
RAY = f"""\
def train():
{TRAIN}
TorchTrainer(train, scaling_config=ScalingConfig(num_workers=4, use_gpu=True)).fit()
"""
SAGEMAKER = """\
hyperparameters = {"model_name_or_path": "Qwen/Qwen3-8B", "per_device_train_batch_size": 2,
                   "fsdp": '"full_shard auto_wrap"', "max_seq_length": 4096, "epochs": epochs()}
HuggingFace(entry_point="run.py", instance_type="ml.p4d.24xlarge", instance_count=2,
            hyperparameters=hyperparameters).fit()
"""
WINDOWS = """\
accelerate launch --num_processes 4 {end}
  sft.py {end}
  --model_name_or_path C:\\models\\Qwen2.5-7B-Instruct {end}
  --per_device_train_batch_size 1 --bf16 {end}
  --max_length 2048
"""


@pytest.mark.parametrize(
    ("name", "text", "gpus", "model"),
    [
        ("sky.yaml", SKY, 8, "llama-3.1-8b"),
        ("modal_app.py", MODAL, 4, "qwen3-8b"),
        ("ray_train.py", RAY, 4, "qwen3-8b"),
        ("run.ps1", WINDOWS.format(end="`"), 4, "qwen2.5-7b"),
        ("run.sh", WINDOWS.format(end="\\").replace("C:\\models\\", "/mnt/c/"), 4, "qwen2.5-7b"),
        ("run.bat", WINDOWS.format(end="^"), 4, "qwen2.5-7b"),
    ],
)
def test_gpus_and_models(tmp_path, name, text, gpus, model):
    path = tmp_path / name
    path.write_text(text)
    assert sim.import_job(path).gpus == gpus
    sets = ["sequence_length=1024"] if "max" not in text else []
    assert load("dgx-h100", path, sets).workload.model.name == model


def test_an_estimator_of_sagemaker(tmp_path):
    path = tmp_path / "launch.py"
    path.write_text(SAGEMAKER)
    found = sim.import_job(path)
    assert found.nodes == 2
    job = load("dgx-h100", path, ["nodes=2"]).workload
    assert (job.parallelism.strategy, job.sequence_length) == ("fsdp1", 4096)
    (row,) = [row for row in found.aside if row["matters"]]
    assert (row["theirs"], row["why"]) == ("epochs", "epochs() is known only at run time")


TITAN = """\
def llama3_debugmodel() -> Trainer.Config:
    return Trainer.Config(
        model_spec=model_registry("debugmodel"),
        training=TrainingConfig(local_batch_size=8, seq_len=2048, steps=10),
    )

def llama3_70b() -> Trainer.Config:
    return Trainer.Config(
        hf_assets_path="./assets/hf/Llama-3.1-70B",
        model_spec=model_registry("70B", attn_backend="flex"),
        optimizer=OptimizersContainer.Config(lr=1.5e-4, implementation="foreach"),
        training=TrainingConfig(local_batch_size=4, seq_len=8192, steps=1000),
        parallelism=ParallelismConfig(tensor_parallel_degree=8),
        activation_checkpoint=ActivationCheckpointConfig(mode="full"),
        checkpoint=CheckpointManager.Config(interval=500),
        compile=CompileConfig(enable=True, components=["model", "loss"]),
    )
"""


def test_torchtitans_configurations_in_python(tmp_path):
    path = tmp_path / "config_registry.py"
    path.write_text(TITAN)
    (row,) = mattering(path)
    assert (row["theirs"], "that of line 8 is taken" in row["why"]) == ("Trainer.Config()", True)
    job = load("dgx-h100", path, ["nodes=8"]).workload
    assert (job.model.name, job.micro_batch, job.sequence_length) == ("llama-3.1-70b", 4, 8192)
    assert (job.parallelism.tensor_parallel, job.trainer) == (8, "torchtitan")
    assert (job.activation_checkpointing.kind, job.compile, job.loss) == ("full", True, "compiled")
    assert (job.optimizer_implementation, job.steps) == ("foreach", 1000)


KUBERNETES = """\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
spec:
  replicas: {odd}
  containers:
    - command: [python, train.py, --model_name_or_path, Qwen/Qwen3-8B,
                --per_device_train_batch_size, "1"]
"""
LIGHTNING = """\
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-8B")
trainer = L.Trainer(devices="{odd}", strategy="fsdp", max_steps=10)
"""
THREADS = """\
export OMP_NUM_THREADS={odd} NPROC_PER_NODE={odd}
torchrun train.py --model_name_or_path Qwen/Qwen3-8B --per_device_train_batch_size 1
"""


@pytest.mark.parametrize("odd", ["\u00b2", "9" * 5000])
@pytest.mark.parametrize(
    ("name", "text"), [("job.yaml", KUBERNETES), ("fit.py", LIGHTNING), ("run.sh", THREADS)]
)
def test_digits_that_make_no_count_are_no_internal_error(tmp_path, name, text, odd):
    path = tmp_path / name
    path.write_text(text.format(odd=odd), encoding="utf-8")
    found = sim.import_job(path)
    assert (found.gpus, found.nodes) == (None, None)
    told = [row["why"] for row in found.aside if row["theirs"] == "replicas"]
    assert [why.partition(" is no count")[0] for why in told] == [odd[:60]] * (name == "job.yaml")


@pytest.mark.parametrize(
    ("named", "strategy", "offload"),
    [("ds_z2_offload.json", "zero2", "optimizer"), ("zero3_offload_params.json", "zero3", "all"),
     ("zero3_offload_optimizer.json", "zero3", "optimizer"), ("zero0.json", "ddp", "none"),
     ("zero2_offload_params.json", "zero2", "optimizer"),
     ("zero3_nooffload.json", "zero3", "none")],
)  # fmt: skip
def test_a_deepspeed_file_that_is_not_here_says_its_stage_by_name(
    tmp_path, named, strategy, offload
):
    path = tmp_path / "run.sh"
    script = "deepspeed --num_gpus 8 sft.py --deepspeed {} --model_name_or_path Qwen/Qwen3-8B"
    path.write_text(script.format(named) + " --per_device_train_batch_size 1 --max_length 1024\n")
    found = load("dgx-h100", path).workload.parallelism
    assert (found.strategy, found.offload) == (strategy, offload)


@pytest.mark.parametrize(
    ("more", "length"),
    [
        (" --max_length 2048", 2048), (" \\\n  --max_length=2048", 2048),
        ("\ntorchrun train.py --max_length 2048", 1024),
    ],
)  # fmt: skip
def test_an_option_that_stands_twice(tmp_path, more, length):
    """What a command says last counts, as parsers have it, and the first of several commands."""
    path = tmp_path / "job.sh"
    path.write_text(
        "torchrun --nproc_per_node 8 train.py --model_name_or_path Qwen/Qwen2.5-7B "
        f"--per_device_train_batch_size 1 --max_length 1024{more}\n"
    )
    assert load("dgx-h100", path).workload.sequence_length == length


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ("L=1\nL=2048\n", 2048), ("L=20\nL+=48\n", 2048), ("L=1024\nL=$((L * 2))\n", 2048),
        ("L=${L:-2048}\nL=${L:-1}\n", 2048), ("L=1\nunset L\n", None),
        ("L=1\nif [ $1 ]; then\n  L=2\nfi\n", None),
        ("L=2048\nif [ $1 ]; then\n  L=2048\nfi\n", 2048),
        ("torchrun other.py\nL=2048\n", 2048), ("L=2048\ntorchrun other.py\nL=1\n", 2048),
    ],
)  # fmt: skip
def test_a_variable_that_is_set_twice(tmp_path, lines, length):
    """The first setting counted, whatever came after it, or under a condition."""
    path = tmp_path / "job.sh"
    launch = "torchrun --nproc_per_node 8 train.py --model_name_or_path Qwen/Qwen2.5-7B"
    path.write_text(f"{lines}{launch} --per_device_train_batch_size 1 --max_length $L\n")
    told = [row["theirs"] for row in mattering(path)]
    assert told == ([] if length else ["max_length"])
    assert load("dgx-h100", path).workload.sequence_length == (length or 1024)


def test_options_as_scripts_hold_and_spell_them(tmp_path):
    """One option in a variable was a name with a blank; --max-length was no option of TRL's."""
    path = tmp_path / "job.sh"
    path.write_text(
        'A="--max-length 2048"\ntorchrun --nproc_per_node 8 train.py $A --model-name-or-path '
        "Qwen/Qwen2.5-7B --per-device-train-batch-size 3\n"
    )
    workload = load("dgx-h100", path).workload
    assert (workload.sequence_length, workload.micro_batch) == (2048, 3)
