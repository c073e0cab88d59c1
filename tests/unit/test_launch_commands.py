"""What a line of a shell starts: sums in it, recipes after it, DeepSpeed's file, its program."""

import pytest

import sim
from sim.inputs.loader import load
from sim.inputs.python_calls import declared
from tests.imported import mattering

#: what launches have beside what a case is about
OPTIONS = "--model_name_or_path Qwen/Qwen2.5-7B --model_max_length 2048 --bf16"


@pytest.mark.parametrize(
    ("lines", "gpus", "micro_batch"),
    [
        ("torchrun --nnodes 1 --nproc_per_node $((4 * 2)) t.py "
         "--per_device_train_batch_size 2", 8, 2),
        ("G=4\ntorchrun --nnodes=$(( G / 2 )) --nproc_per_node=$G t.py "
         "--per_device_train_batch_size $((32 / (G * 2)))", 8, 4),
        ("G=$(( (1 + 1) * 2 ))\ntorchrun --nnodes 1 --nproc_per_node $G t.py "
         "--per_device_train_batch_size 1", 4, 1),
    ],
)  # fmt: skip
def test_sums_of_a_shell_where_they_are_used(tmp_path, lines, gpus, micro_batch):
    path = tmp_path / "run.sh"
    path.write_text(f"{lines} {OPTIONS}\n")
    found = sim.import_job(path)
    assert (found.gpus, [row for row in found.aside if row["matters"]]) == (gpus, [])
    assert load("dgx-h100", path).workload.micro_batch == micro_batch


@pytest.mark.parametrize("name", ["$(nvidia-smi --list-gpus | wc -l)", "$((1 + x))", "$((1 + ))"])
def test_what_a_shell_alone_knows_is_told_whole(tmp_path, name):
    path = tmp_path / "run.sh"
    path.write_text(f"N={name}\ntorchrun --nproc_per_node $N t.py {OPTIONS}\n")
    (told,) = mattering(path)
    assert (told["theirs"], told["why"]) == ("nproc_per_node", f"{name} is known only at run time")


@pytest.mark.parametrize(
    ("nodes", "gpus", "told"), [("2:2", 16, []), ("1:4", None, ["nnodes"]), ("1", 8, [])]
)
def test_torchrun_words_for_how_many(tmp_path, nodes, gpus, told):
    """A range of nodes is those that come, `gpu` as many processes as a node has GPUs."""
    path = tmp_path / "run.sh"
    path.write_text(f"torchrun --nnodes {nodes} --nproc-per-node 8 t.py {OPTIONS}\n")
    assert sim.import_job(path).gpus == gpus
    assert [row["theirs"] for row in mattering(path)] == told
    path.write_text(f"torchrun --nnodes {nodes} --nproc_per_node gpu t.py {OPTIONS}\n")
    assert sim.import_job(path).gpus is None


@pytest.mark.parametrize(
    ("program", "row", "full"),
    [("run_clm.py --block_size 4096", 4096, True), ("run_clm_no_trainer.py", 1024, True),
     ("sft.py --block_size 4096", 4096, False)],
)  # fmt: skip
def test_an_example_that_joins_texts_has_full_rows(tmp_path, program, row, full):
    """Transformers' run_clm cuts all texts, joined, into blocks: nothing is padded."""
    path = tmp_path / "run.sh"
    more = "--model_name_or_path Qwen/Qwen2.5-7B --per_device_train_batch_size 1 --bf16"
    path.write_text(f"torchrun --nproc_per_node 8 {program} {more}\n")
    job = load("dgx-h100", path).workload
    assert (job.sequence_length, job.data.packing) == (row, full)


def test_a_recipe_is_of_the_line_that_starts_the_training(tmp_path):
    path = tmp_path / "run.sh"
    launch = f"torchrun --nnodes 1 --nproc_per_node 8 \\\n  train.py {OPTIONS}\n"
    path.write_text(f"python preprocess.py data.json\n{launch}")
    assert not mattering(path)
    path.write_text(
        f"python preprocess.py data.json\n{launch.replace('train.py', 'train.py r.yaml')}"
    )
    (told,) = mattering(path)
    assert "r.yaml is not here" in told["why"]


ENGINE = """\
import deepspeed
from transformers import AutoModelForCausalLM
args = deepspeed.add_config_arguments(parser).parse_args()
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B")
engine, *_ = deepspeed.initialize(args=args, model=model)
for batch in loader:
    engine.backward(engine(**batch).loss)
    engine.step()
"""


@pytest.mark.parametrize("options", ["", f"{OPTIONS} --per_device_train_batch_size 2"])
def test_deepspeeds_own_way_to_name_its_configuration(tmp_path, options):
    (tmp_path / "ds.json").write_text(
        '{"zero_optimization": {"stage": 3}, "bf16": {"enabled": true}}'
    )
    (tmp_path / "train.py").write_text(ENGINE)
    path = tmp_path / "run.sh"
    path.write_text(
        f"deepspeed --num_gpus 8 train.py --deepspeed --deepspeed_config ds.json {options}\n"
    )
    for beside in ([], ["train.py"], ["ds.json"], ["train.py", "ds.json"]):
        found = sim.import_job(path, *(tmp_path / name for name in beside))
        told = [row for row in found.aside if row["matters"]]
        assert ("strategy: zero3" in found.yaml, "precision: bf16" in found.yaml) == (True, True)
        assert ("trainer: deepspeed" in found.yaml, told) == (True, [])


OWN = """\
{about}
import argparse
from dataclasses import dataclass
parser = argparse.ArgumentParser()
parser.add_argument("-m", "--model", default="Qwen/Qwen2.5-7B")
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--accumulate", default=1)
parser.add_argument("--fp32", action="store_true")
parser.add_argument("--targets", nargs="+", default=["q_proj"])
args = parser.parse_args()
@dataclass
class Rows:
    max_len: int = 1024
rows = Rows()
accelerator = Accelerator(mixed_precision="no" if args.fp32 else "bf16",
                          gradient_accumulation_steps=args.accumulate)
model = AutoModelForCausalLM.from_pretrained(args.model)
batch = tokenizer(texts, max_length=rows.max_len)
loader = DataLoader(train, batch_size=args.batch_size)
accelerator.backward(loss)
"""
GIVEN = "train.py --model Qwen/Qwen2.5-1.5B \\\n  --batch-size 2 --accumulate=4 --max_len 512"


@pytest.mark.parametrize("launch", ["accelerate launch --num_processes 8", "python"])
@pytest.mark.parametrize("named", [False, True])
def test_options_of_a_launch_stand_for_the_scripts_own_defaults(tmp_path, launch, named):
    """Defaults were taken (micro-batch 8), and the options "not known here"; or refused."""
    run, script = tmp_path / "run.sh", tmp_path / "train.py"
    before = "python prepare.py --batch-size 99\n" * (launch != "python")
    run.write_text(f"{before}{launch} {GIVEN} --fp32 --lr 1e-5 --tp-size 4\n")
    script.write_text(OWN.format(about=""))
    files = (run, script) if named else (run,)
    found = sim.import_job(*files)
    job = load("dgx-h100", files if named else run).workload
    assert (job.model.name, job.micro_batch, job.gradient_accumulation) == ("qwen2.5-1.5b", 2, 4)
    assert (job.sequence_length, job.precision.kind) == (512, "fp32")
    why = {row["theirs"]: row["why"] for row in found.aside}
    assert why["batch-size"] == "read by the script that it is given to"
    assert why["lr"] == "no effect on time or memory of a step"
    assert why["tp-size"] == "an argument of a script that is not known here"


def test_an_option_that_only_a_shell_knows_is_no_default(tmp_path):
    (tmp_path / "train.py").write_text(OWN.format(about=""))
    path = tmp_path / "run.sh"
    path.write_text("accelerate launch train.py --batch-size $1 --model Qwen/Qwen2.5-1.5B\n")
    told = {row["theirs"]: row["why"] for row in mattering(path)}
    assert "only at run time" in told["per_device_train_batch_size"]


def test_a_script_that_says_how_it_is_started_is_the_script(tmp_path):
    """By the example at its top it was a launch script, and nothing else of it was read."""
    path = tmp_path / "train.py"
    path.write_text(OWN.format(about=f'"""As in:\n\n    accelerate launch {GIVEN}\n"""'))
    assert load("dgx-h100", path).workload.micro_batch == 8


FIRED = """\
def train(base_model: str = "", micro_batch_size: int = 4, batch_size: int = 128,
          cutoff_len: int = 256, use_lora=True):
    model = AutoModelForCausalLM.from_pretrained(base_model)
    if use_lora:
        model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    tokenizer(texts, max_length=cutoff_len)
    args = TrainingArguments("out", per_device_train_batch_size=micro_batch_size, fp16=True,
                             gradient_accumulation_steps=batch_size // micro_batch_size)
    Trainer(model=model, args=args).train()
{start}(train)
"""


@pytest.mark.parametrize("start", ["fire.Fire", "Fire", "typer.run", "tyro.cli"])
def test_parameters_of_a_function_that_is_the_command_line(tmp_path, start):
    """alpaca-lora's form: `--micro_batch_size 8` was an option that is not known here."""
    (tmp_path / "finetune.py").write_text(FIRED.format(start=start))
    path = tmp_path / "run.sh"
    path.write_text(
        "python finetune.py \\\n    --base_model 'huggyllama/llama-7b' \\\n"
        "    --micro_batch_size 8 --cutoff_len 512 --use_lora False\n"
    )
    job = load("dgx-h100", path).workload
    assert (job.model.name, job.micro_batch, job.gradient_accumulation) == ("llama-7b", 8, 16)
    assert (job.sequence_length, job.method.kind) == (512, "full")


#: a script that takes transformers' arguments as options, and settles its model itself
SETTLES = """
from dataclasses import dataclass, field
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, HfArgumentParser, Trainer, TrainingArguments

@dataclass
class ModelArguments:
    model_name_or_path: str = field(default="facebook/opt-125m")

margs, targs = HfArgumentParser((ModelArguments, TrainingArguments)).parse_args_into_dataclasses()
model = AutoModelForCausalLM.from_pretrained(
    margs.model_name_or_path, attn_implementation="flash_attention_2")
{adapters}
{trainer}(model=model, args=targs).train()
"""
ADAPTERS = 'model = get_peft_model(model, LoraConfig(r=32, target_modules=["q_proj", "v_proj"]))'


def test_a_script_beside_its_launch_settles_what_the_options_do_not_say(tmp_path):
    """Adapters and attention in the script were passed over: 8B trained in full."""
    run, script = tmp_path / "run.sh", tmp_path / "t.py"
    given = "--per_device_train_batch_size 2 --gradient_checkpointing True"
    run.write_text(f"torchrun --nproc_per_node 8 t.py {OPTIONS} {given} --fsdp full_shard\n")
    alone = load("dgx-h100", run).workload
    assert (alone.method.kind, alone.attention) == ("full", "sdpa")
    script.write_text(SETTLES.format(adapters=ADAPTERS, trainer="Trainer"))
    job = load("dgx-h100", run).workload
    assert (job.method.kind, job.method.rank, job.method.targets) == ("lora", 32, ("q", "v"))
    assert (job.attention, job.model.name, job.method.dropout) == ("flash2", "qwen2.5-7b", 0.0)
    assert (job.micro_batch, job.activation_checkpointing.kind) == (2, "full")
    # of TRL's trainer its defaults, as before; adapters that only a run decides on are told
    under = f"if margs.adapt:\n    {ADAPTERS}"
    script.write_text(SETTLES.format(adapters=under, trainer="Trainer"))
    told = {row["theirs"]: row["why"] for row in mattering(run)}
    assert told["LoraConfig()"].startswith("made if margs.adapt, which is known only at run")
    assert load("dgx-h100", run).workload.method.kind == "full"
    script.write_text("raise SystemExit(\n")  # no Python: the launch alone
    assert load("dgx-h100", run).workload == alone


def test_variables_and_options_that_share_a_line(tmp_path):
    """As Megatron's own examples have them."""
    script = tmp_path / "train.sh"
    script.write_text(
        "TP=4; PP=2\nexport NNODES=4 GPUS_PER_NODE=8\n"
        'DISTRIBUTED_ARGS="--nproc_per_node $GPUS_PER_NODE --nnodes $NNODES"\n'
        "torchrun $DISTRIBUTED_ARGS pretrain_gpt.py --num-layers 32 --hidden-size 4096"
        " --num-attention-heads 32 --seq-length 4096 --max-position-embeddings 4096 --swiglu"
        " --vocab-size 32000 --bf16 --micro-batch-size 1 --global-batch-size 128"
        " --train-iters 10 --tensor-model-parallel-size $TP --pipeline-model-parallel-size $PP\n"
    )
    p = load("dgx-h100", script, ["nodes=4"]).workload.parallelism
    assert (p.tensor_parallel, p.pipeline_parallel) == (4, 2)
    assert sim.import_job(script).gpus == 32


PARSED = """\
@dataclass
class DataArguments:
    data_path: str = field(default=None)

@dataclass
class Arguments(transformers.TrainingArguments):
    optim: str = field(default="adamw_bnb_8bit")
    gradient_checkpointing: bool = field(default=True)
    model_max_length: int = field(default=4096)

parser = transformers.HfArgumentParser((ModelArguments, DataArguments, Arguments))
model_args, data_args, training_args = parser.parse_args_into_dataclasses()
note(unused="--fsdp")
trainer = Trainer(model=model, args=training_args)
"""
STARTS = """\
torchrun --nproc_per_node 8 train.py --model_name_or_path Qwen/Qwen2.5-7B --data_path a.json \\
  --bf16 True --per_device_train_batch_size 4 --fsdp "full_shard auto_wrap"
"""


@pytest.mark.parametrize("named", [False, True])
def test_a_scripts_own_arguments_have_its_defaults(tmp_path, named):
    """Alpaca's kind: fields of a subclass were unread, and the script beside its launch refused."""
    run, script = tmp_path / "run.sh", tmp_path / "train.py"
    run.write_text(STARTS)
    script.write_text(PARSED)
    files = (run, script) if named else (run,)
    job = load("dgx-h100", files).workload
    assert (job.optimizer, job.activation_checkpointing.kind) == ("adamw-8bit", "full")
    assert (job.sequence_length, job.micro_batch, job.precision.kind) == (4096, 4, "bf16")
    assert job.parallelism.strategy == "fsdp1"
    why = {row["theirs"]: row["why"] for row in sim.import_job(*files).aside}
    assert why == {"data_path": "read by the script that it is given to"}
    run.write_text(STARTS.replace("--bf16", "--optim sgd --model_max_length 512 --bf16"))
    job = load("dgx-h100", files).workload
    assert (job.optimizer, job.sequence_length) == ("sgd", 512)


def test_a_script_without_its_command_line_says_so(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(PARSED)
    (told,) = [row for row in mattering(script) if "command line" in row["why"]]
    assert told["theirs"] == "TrainingArguments"


@pytest.mark.parametrize(
    "text",
    [
        "p.add_argument('-b', '--batch-size')\nprint(other=1)",
        "@click.option('--batch-size', default=1)\ndef main(batch_size): pass",
        "flags.DEFINE_integer('batch_size', 1, 'rows')",
        "def main(batch_size=1): pass\nfire.Fire(main)",
        "class C:\n    batch_size: int = 1\n@draccus.wrap()\ndef main(cfg: C): pass",
        "class A:\n    batch_size: int = 1\nclass B(A):\n    pass\nHfArgumentParser([B])",
    ],
)
def test_options_are_those_that_a_parser_takes(text):
    """Whatever stood before an = or a colon was one."""
    assert declared(text, "x.py") == {"batch_size"}
