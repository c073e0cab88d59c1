"""Calls of scripts that cut, shrink or add to a job are told of, one table for all of them."""

import pytest

import sim
from sim.inputs.loader import load

LOOP = """\
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B")
model = DDP(model)
"""
TRAINER = """\
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B")
args = TrainingArguments(per_device_train_batch_size=2)
"""


def told(tmp_path, text):
    path = tmp_path / "train.py"
    path.write_text(text)
    found = sim.import_job(path)
    return {row["theirs"]: row["why"] for row in found.aside if row["matters"]}


@pytest.mark.parametrize(
    ("text", "theirs", "why"),
    [
        ("parallelize_module(layer, mesh['tp'], plan)", "parallelize_module()", "tensor_parallel"),
        ("stage = PipelineStage(model, 0, 2, device)", "PipelineStage()", "pipeline_parallel"),
        ("with context_parallel(mesh, buffers=b):\n    pass", "context_parallel()", "by hand"),
        ("convert_to_float8_training(model)", "convert_to_float8_training()", "precision=fp8"),
        ("ema = AveragedModel(model)", "AveragedModel()", "copy of the weights"),
        ("model.register_comm_hook(None, hook)", "register_comm_hook()", "hook"),
        ("for p in model.head.parameters():\n    p.requires_grad_(False)", "p.requires_grad_",
         "partly frozen"),
        ("for p in model.head.parameters():\n    p.requires_grad = False", "p.requires_grad",
         "partly frozen"),
        ("if freeze:\n    model.requires_grad_(False)", "model.requires_grad_", "(if freeze)"),
        ("for n, p in model.named_parameters():\n    p.requires_grad = 'head' in n",
         "p.requires_grad", "partly frozen"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("script", [LOOP, TRAINER])
def test_a_call_that_is_not_followed(tmp_path, script, text, theirs, why):
    found = told(tmp_path, script + text)
    assert [*found] == [theirs]
    assert why in found[theirs]


def test_what_adapters_freeze_and_what_trains_is_no_news(tmp_path):
    frozen = "model.requires_grad_(False)\nmodel = get_peft_model(model, LoraConfig(r=8))\n"
    assert told(tmp_path, LOOP + frozen) == {}
    assert told(tmp_path, LOOP + "model.requires_grad_()\nmodel.lm_head.requires_grad_(True)") == {}


@pytest.mark.parametrize(
    ("made", "optimizer", "theirs"),
    [
        ("torch.optim.SGD(p, lr=0.1, momentum=0.9)", "sgd", "SGD.momentum"),
        ("torch.optim.SGD(p, lr=0.1)", "sgd", None),
        ("torch.optim.RMSprop(p)", "adamw", "optimizer"),
        ("NAdam(p)", "adamw", "optimizer"),
        ("AdamWScheduleFree(p)", "adamw", "optimizer"),
        ("ZeroRedundancyOptimizer(p, optimizer_class=torch.optim.AdamW)", "adamw",
         "ZeroRedundancyOptimizer()"),
        ("ZeroRedundancyOptimizer(p, SGD)", "sgd", "ZeroRedundancyOptimizer()"),
    ],
)  # fmt: skip
def test_optimizers(tmp_path, made, optimizer, theirs):
    found = told(tmp_path, f"{LOOP}optimizer = {made}")
    assert [*found] == ([theirs] if theirs else [])
    assert f"optimizer: {optimizer}\n" in sim.import_job(tmp_path / "train.py").yaml


def test_a_loop_without_an_optimizer_says_so(tmp_path):
    assert told(tmp_path, LOOP) == {}
    supposed = {row["key"]: row["why"] for row in sim.import_job(tmp_path / "train.py").assumed}
    assert supposed["optimizer"] == "no optimizer that is known is made here"


def test_what_is_frozen_can_be_said_beside_a_script(tmp_path):
    """`method={freeze: ...}` answers what the script leaves open: the warning is gone."""
    path = tmp_path / "train.py"
    frozen = "for p in model.model.layers[:-4].parameters():\n    p.requires_grad = False"
    path.write_text(TRAINER + frozen)
    sets = ["sequence_length=1024", "precision=bf16"]
    open_ = load("dgx-h100", path, sets)
    said = load("dgx-h100", path, [*sets, "method={freeze: {last: 4}}"])
    assert (open_.workload.method.kind, said.workload.method.last) == ("full", 4)
    codes = [[finding.code for finding in each.notes.warnings] for each in (open_, said)]
    assert codes[0].count("not-followed") == codes[1].count("not-followed") + 1


ADAPTER = """\
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM",
    target_modules="all-linear", layers_to_transform=[0, 1], use_rslora=True, rnak=16))
"""


@pytest.mark.parametrize("script", [LOOP, TRAINER])
def test_what_an_adapter_says_beside_its_shape_is_told_as_in_its_file(tmp_path, script):
    path = tmp_path / "train.py"
    path.write_text(script + ADAPTER)
    found = sim.import_job(path)
    why = "adapters on some layers alone are not modelled: taken on all"
    told = {row["theirs"]: row["why"] for row in found.aside if row["matters"]}
    assert told == {"layers_to_transform": why}
    idle = {row["theirs"] for row in found.aside if not row["matters"]}
    assert idle >= {"lora_alpha", "task_type", "use_rslora"}
    sets = ["micro_batch=1", "gradient_accumulation=1", "sequence_length=2048"]
    warnings = load("dgx-h100", path, sets).notes.warnings
    assert ["rnak" in w.message for w in warnings if w.code == "not-read"] == [True]
