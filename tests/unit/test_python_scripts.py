"""Training scripts and notebooks in Python: read, never run."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.python_calls import from_calls
from tests.imported import mattering

#: as Unsloth's notebooks have it
UNSLOTH = """\
from unsloth import FastLanguageModel, is_bfloat16_supported
max_seq_length = 2048
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name = "unsloth/Meta-Llama-3.1-8B",
    max_seq_length = max_seq_length,
    load_in_4bit = True,
)
model = FastLanguageModel.get_peft_model(
    model,
    r = 16,
    target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    lora_dropout = 0,
    use_gradient_checkpointing = "unsloth",
)
trainer = SFTTrainer(
    model = model,
    args = SFTConfig(
        per_device_train_batch_size = 2,
        gradient_accumulation_steps = 4,
        max_steps = 60,
        fp16 = not is_bfloat16_supported(),
        bf16 = is_bfloat16_supported(),
        optim = "adamw_8bit",
    ),
)
"""
#: Transformers and PEFT, 4 bits; values in a data class, as scripts of TRL's had them in 2023
PEFT = """\
import torch

@dataclass
class ScriptArguments:
    micro: int = field(default=4, metadata={"help": "a GPU's"})
    model_name: str = field(default="mistralai/Mistral-7B-v0.1")

args = HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()[0]
bnb = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)
tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = AutoModelForCausalLM.from_pretrained(
    args.model_name, quantization_config=bnb, device_map="auto",
    attn_implementation="flash_attention_2",
)
model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, LoraConfig(r=64, lora_dropout=0.1, target_modules=["q_proj"]))
rows = data.map(lambda x: tokenizer(x["text"], truncation=True, max_length=512))
OPTIONS = dict(bf16=True, optim="paged_adamw_32bit")
training = TrainingArguments(
    "out", per_device_train_batch_size=args.micro, gradient_accumulation_steps=64 // args.micro,
    num_train_epochs=epochs_of(rows), learning_rate=rate(), **OPTIONS,
)
"""
#: full, sharded
FULL = """\
model = LlamaForCausalLM.from_pretrained(
    pretrained_model_name_or_path="meta-llama/Llama-3.1-8B", torch_dtype=torch.bfloat16
)
config = SFTConfig(
    max_length=4096, packing=True, fsdp="full_shard auto_wrap", bf16=True,
    fsdp_config={"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]},
    gradient_checkpointing=False, per_device_train_batch_size=2,
)
"""


def read(tmp_path, text, name="train.py"):
    """The workload of a script, and what of it changes the run and is not followed."""
    path = tmp_path / name
    path.write_text(text)
    found = sim.import_job(str(path))
    told = {row["theirs"]: (row["place"], row["why"]) for row in found.aside if row["matters"]}
    return load("rtx-4090-x1", path, ["sequence_length=1024"] if found.missing else []), told


def test_unsloth(tmp_path):
    loaded, told = read(tmp_path, UNSLOTH)
    job, method = loaded.workload, loaded.workload.method
    assert told == {}
    assert (job.model.name, job.sequence_length, job.micro_batch) == ("llama-3.1-8b", 2048, 2)
    assert (method.kind, method.rank, method.dropout) == ("qlora", 16, 0.0)
    assert (method.adapters, method.double_quantization, method.prepare_kbit) == (
        "fused", True, False,
    )  # fmt: skip
    assert (job.loss, job.fused_kernels, job.precision.kind) == ("fused-linear", "all", "bf16")
    assert (job.optimizer, job.gradient_accumulation, job.steps) == ("adamw-8bit", 4, 60)
    assert job.activation_checkpointing.kind == "full"
    assert job.activation_checkpointing.offload


def test_a_notebook_is_read_cell_by_cell(tmp_path):
    magic = ["%%capture\n", "!pip install unsloth\n", "if True:\n", "    !pip list"]
    cells = [
        {"cell_type": "markdown", "source": ["# not (Python"]},
        {"cell_type": "code", "source": magic},
        {"cell_type": "code", "source": UNSLOTH.replace("8bit", "9bit").splitlines(True)},
    ]
    (tmp_path / "a.py").write_text(UNSLOTH.replace("8bit", "9bit"))
    text = json.dumps({"cells": cells, "nbformat": 4}, indent=1)
    loaded, told = read(tmp_path, text, "a.ipynb")
    assert loaded.workload == load("rtx-4090-x1", tmp_path / "a.py").workload
    line = 1 + next(i for i, written in enumerate(text.splitlines()) if "9bit" in written)
    assert told["optim"][0].endswith(f"a.ipynb:{line}")


def test_transformers_and_peft(tmp_path):
    loaded, told = read(tmp_path, PEFT)
    job, method = loaded.workload, loaded.workload.method
    assert (job.model.name, job.sequence_length) == ("mistral-7b", 512)
    assert (job.micro_batch, job.gradient_accumulation) == (4, 16)
    assert (method.kind, method.rank, method.targets) == ("qlora", 64, ("q",))
    assert (method.prepare_kbit, method.double_quantization, method.dropout) == (True, True, 0.1)
    assert (job.optimizer, job.optimizer_paged, job.attention) == ("adamw", True, "flash2")
    assert job.activation_checkpointing.kind == "full"  # by prepare_model_for_kbit_training
    assert job.precision.kind == "bf16"
    place, why = told.pop("num_train_epochs")
    assert place.endswith("train.py:21")
    assert why == "epochs_of(rows) is known only at run time"
    assert "spreads layers" in told.pop("device_map: auto")[1]
    assert told == {}  # learning_rate, whatever it is, changes no step


def test_full_and_sharded(tmp_path):
    loaded, told = read(tmp_path, FULL)
    job = loaded.workload
    assert told == {}
    assert (job.model.name, job.sequence_length, job.micro_batch) == ("llama-3.1-8b", 4096, 2)
    assert (job.method.kind, job.parallelism.strategy, job.data.packing) == ("full", "fsdp1", True)
    assert job.activation_checkpointing.kind == "none"


def test_a_model_that_the_trainer_loads(tmp_path):
    """TRL's first example."""
    text = (
        'trainer = SFTTrainer(model="Qwen/Qwen3-0.6B", train_dataset=data, '
        'args=SFTConfig(output_dir="x", packing=True), peft_config=LoraConfig())\n'
    )
    job = read(tmp_path, text)[0].workload
    assert (job.model.name, job.method.kind, job.method.rank) == ("qwen3-0.6b", "lora", 8)
    assert (job.sequence_length, job.micro_batch, job.precision.kind) == (1024, 8, "bf16")
    assert job.activation_checkpointing.kind == "full"  # TRL's defaults
    assert job.method.frozen_dtype == "fp32"  # its `create_model_from_path`, where no dtype is said
    said = 'packing=True, model_init_kwargs={"dtype": "bfloat16"}'
    job = read(tmp_path, text.replace("packing=True", said))[0].workload
    assert job.method.frozen_dtype == "as-compute"
    kwargs = (
        "model_init_kwargs={'attn_implementation': 'flash_attention_2', 'dtype': torch.float32}"
    )
    job = read(tmp_path, text.replace("packing=True", f"packing=True, {kwargs}"))[0].workload
    assert (job.attention, job.method.frozen_dtype) == ("flash2", "fp32")
    assert read(tmp_path, text.replace('"Qwen/Qwen3-0.6B"', "model") + FULL)[0].workload


def test_a_launch_reads_the_program_that_it_starts(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/train.py").write_text(FULL)
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "a.sh").write_text("python helper.py\ntorchrun --nproc_per_node 8 src/train.py\n")
    found = sim.import_job(str(tmp_path / "a.sh"))
    assert found.titles == ("a launch script", "train.py, which it names")
    assert load("dgx-h100", tmp_path / "a.sh", ["nodes=1"]).workload.sequence_length == 4096


def test_arguments_that_the_file_does_not_say_are_told(tmp_path):
    text = UNSLOTH.replace('optim = "adamw_8bit"', "**options_of(yaml)").replace(
        "r = 16,", "r = 16, **x,"
    )
    told = read(tmp_path, text)[1]
    assert {k: v[1] for k, v in told.items()} == {
        "SFTConfig(**)": "options_of(yaml) is known only at run time",
        "get_peft_model(**)": "x is known only at run time",
    }


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.py", "x = 1\n", "is Python, which is not run here, and none of its calls has a trainer's"),
    ("a.py", "print(1)\nx = (\n", r"a\.py:2  is not Python 3.*: '\(' was never closed"),
    ("a.ipynb", "{}", "is no notebook: it has no cells"),
    ("a.py", "x = " + "-" * 100_000 + "1", "nested too deeply"),
])  # fmt: skip
def test_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        sim.import_job(str(tmp_path / name))


def test_a_name_with_two_values_has_none():
    found = from_calls("n = 1\nn = 2\nf(a=n, b=-3, c=not True, d=[1, 'x'], e=1/0)", "a.py")
    values = {k: getattr(v, "value", None) for k, v in found.entries["f"].items[0].entries.items()}
    assert values == {"a": "${n}", "a(name)": "n", "b": -3, "c": False, "d": None, "e": "${1 / 0}"}


@settings(max_examples=100)
@given(st.sampled_from([UNSLOTH, PEFT, FULL]), st.data())
def test_damaged_scripts_are_read_or_refused(text, data):
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(st.sampled_from(["", "(", "**", "=", "\n", "'", "9" * 30])) + (
            text[at + data.draw(st.integers(0, 12)) :]
        )  # fmt: skip
    try:
        found = from_calls(text, "a.py")
    except InputError:
        return
    assert all(isinstance(name, str) for name in found.entries)


@pytest.mark.parametrize(
    ("line", "told"),
    [("setattr(args, 'max_length', 4096)", []),
     ("args = dataclasses.replace(args, max_length=4096)", ["max_length"]),
     ("name = 'a b'.replace('a', 'b')", [])],
)  # fmt: skip
def test_arguments_that_are_set_by_a_call(tmp_path, line, told):
    """They were what the first call said, without a word."""
    path = tmp_path / "train.py"
    path.write_text(
        "from transformers import AutoModelForCausalLM\nfrom trl import SFTConfig, SFTTrainer\n"
        "model = AutoModelForCausalLM.from_pretrained('Qwen/Qwen2.5-7B')\n"
        "args = SFTConfig(max_length=2048, per_device_train_batch_size=1)\n"
        f"{line}\nSFTTrainer(model, args=args).train()\n"
    )
    workload = load("dgx-h100", path, []).workload
    assert workload.sequence_length == (4096 if "setattr" in line else 2048)
    assert [row["theirs"] for row in mattering(path)] == told
