"""Words of other tools and people: read as meant, or led to the right key."""

import math
import re

import pytest

from sim import simulate, support
from sim.errors import InputError
from sim.inputs import catalogue
from sim.inputs.arguments import split_inputs
from sim.inputs.catalogue import gpu_names
from sim.inputs.loader import load, load_topology, load_workload, prepare
from sim.inputs.models import catalogue_model, model_names, shape_named
from sim.inputs.spoken import gpu_named
from sim.interop.emit_yaml import topology_yaml
from sim.result.bands import UNSEEN

JOB = {"model": "llama-3.1-8b", "sequence_length": 4096, "steps": 1}


def value(spec, path):
    for key in path.split("."):
        spec = getattr(spec, key)
    return spec


@pytest.mark.parametrize(("setting", "path", "is_"), [
    ("precision=bfloat16", "precision.kind", "bf16"),
    ("precision=float16", "precision.kind", "fp16"),
    ("precision=FP8", "precision.kind", "fp8"),
    ("attention=flash_attention_2", "attention", "flash2"),
    ("attention=FA3", "attention", "flash3"),
    ("optimizer=AdamW", "optimizer", "adamw"),
    ("optimizer=adamw_bnb_8bit", "optimizer", "adamw-8bit"),
    ("parallelism=zero-3", "parallelism.strategy", "zero3"),
    ("parallelism=ZeRO-2", "parallelism.strategy", "zero2"),
    ("parallelism=DDP", "parallelism.strategy", "ddp"),
    ("method=LoRA", "method.kind", "lora"),
    ("sequence_length=8k", "sequence_length", 8192),
    ("sequence_length=128K", "sequence_length", 131072),
    ("sequence_length=1M", "sequence_length", 1048576),
    ("model=meta-llama/Meta-Llama-3.1-8B-Instruct", "model.name", "llama-3.1-8b"),
])  # fmt: skip
def test_words_are_read_as_meant(setting, path, is_):
    assert value(load_workload(JOB, [setting]), path) == is_


@pytest.mark.parametrize(("setting", "says"), [
    ("parallelism=hsdp", "it is fsdp2 with replicate"),
    ("parallelism=fsdp", "write fsdp2 (fully_shard) or fsdp1"),
    ("optimizer=adamw_torch", "optimizer_implementation: foreach"),
    ("tensor_parallel=2", 'did you mean "parallelism.tensor_parallel"?'),
    ("bf16=true", 'did you mean "precision"?'),
    ("parallelism={strategy:fsdp2}", 'a space must follow the colon: "strategy: fsdp2"'),
    ("trainer=trl", "write huggingface, whose trainer it runs"),
    ("trainer=unsloth", "loss: fused-linear"),
    ("node.gpu=A100", 'did you mean "a100-pcie-40gb" or'),
])  # fmt: skip
def test_others_lead_to_the_right_key(setting, says):
    with pytest.raises(InputError) as caught:
        load("dgx-h100", JOB, [setting])
    assert says in str(caught.value)


def test_a_key_of_an_inner_table_is_led_there():
    with pytest.raises(InputError) as caught:
        load_workload({**JOB, "tensor_parallel": 2, "lora_r": 8, "reentrant": True})
    told = str(caught.value)
    for path in (
        "parallelism.tensor_parallel",
        "method.rank",
        "activation_checkpointing.reentrant",
    ):
        assert f'did you mean "{path}"?' in told


@pytest.mark.parametrize(("word", "name"), [
    ("H100", "h100-sxm-80gb"), ("h100", "h100-sxm-80gb"), ("A100 80GB", "a100-sxm-80gb"),
    ("A100 80 GB", "a100-sxm-80gb"), ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
    ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"), ("H100 96GB HBM2e", "h100-hbm2e-96gb"),
    ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
    ("NVIDIA GeForce RTX 4090", "rtx-4090-24gb"), ("4090", "rtx-4090-24gb"),
    ("H200", "h200-sxm-141gb"), ("L40S", "l40s-pcie-48gb"),
    ("Tesla V100-SXM2-16GB", "v100-sxm-16gb"),
    ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada-48gb"), ("RTX A6000", "rtx-a6000-48gb"),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-96gb"),
    ("RTX4090", "rtx-4090-24gb"), ("rtxa6000", "rtx-a6000-48gb"), ("A100-80G", "a100-sxm-80gb"),
    ("A10G", "a10g-pcie-24gb"), ("RTX 3090", "rtx-3090-24gb"), ("3090Ti", "rtx-3090-ti-24gb"),
    ("NVIDIA GeForce RTX 4090 D", "rtx-4090d-24gb"), ("NVIDIA L20", "l20-pcie-48gb"),
    ("NVIDIA A800 80GB PCIe", "a800-pcie-80gb"), ("A800", "a800-sxm-80gb"),
    ("H20", "h20-sxm-96gb"), ("H20 141GB", "h20-3e-141gb"), ("NVIDIA H20-3e", "h20-3e-141gb"),
    ("Tesla V100-PCIE-32GB", "v100-pcie-32gb"), ("NVIDIA GH200 480GB", "gh200-96gb"),
    ("NVIDIA B300 SXM6 AC", "b300-sxm-288gb"), ("RTX 5000 Ada", "rtx-5000-ada-32gb"),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("V100", None),
    ("RTX 2080 SUPER", None), ("RTX 2080 Ti", "rtx-2080-ti-11gb"),
    ("RTX 2080 11GB", "rtx-2080-ti-11gb"),
    ("RTX 5000", None), ("Quadro RTX 5000", None), ("Quadro RTX 5000 32GB", None),
    ("RTX 4000", None), ("RTX 4000 20GB", "rtx-4000-ada-20gb"), ("Quadro RTX 6000", None),
    ("RTX 6000 48GB", "rtx-6000-ada-48gb"), ("Quadro RTX 8000", "rtx-8000-48gb"),
    ("H100 SXM HBM2e", "h100-hbm2e-96gb"), ("H100-SXM5-80GB-HBM2e", None),
    ("NVIDIA H100 HBM2e", "h100-hbm2e-96gb"), ("H100 96GB", "h100-hbm2e-96gb"),
    ("H100 PCIe HBM2e", "h100-pcie-80gb"), ("H100 80GB HBM2e", None), ("H100 96GB HBM3", None),
    ("A100 80GB HBM2e", "a100-sxm-80gb"), ("RTX A6000 Ada", None),
    ("RTX 6000", None), ("A100", None), ("H300", None), ("", None), ("NVIDIA", None),
])  # fmt: skip
def test_gpus_by_what_people_and_drivers_call_them(word, name):
    assert gpu_named(word, gpu_names()) == name


@pytest.mark.parametrize(("word", "names"), [
    ("Tesla V100",
     '"v100-pcie-16gb" or "v100-pcie-32gb" or "v100-sxm-16gb" or "v100-sxm-32gb"'),
    ("NVIDIA GH200 144GB", '"gh200-96gb"'),
    ("NVIDIA H100 96GB HBM3", '"h100-hbm2e-96gb"'), ("RTX 2060", '"rtx-2080-8gb"'),
    ("Quadro RTX 5000", '"rtx-5000-ada-32gb"'),
    ("RTX 6000", '"rtx-6000-ada-48gb" or "rtx-pro-6000-96gb"'),
])  # fmt: skip
def test_a_gpu_that_is_not_quite_in_the_catalogue_is_led_to_its_likes(word, names):
    with pytest.raises(InputError, match=f"did you mean {names}"):
        load_topology(box(word))


BOX = {
    "node": {"gpus": 2, "pcie": {"generation": 4, "lanes": 16},
             "cpu": {"sockets": 1, "memory": "64 GB"}},
}  # fmt: skip


def box(gpu):
    return {**BOX, "node": {**BOX["node"], "gpu": gpu}}


def test_a_gpu_written_out_takes_the_rest_of_its_name():
    spec = load_topology(box({"name": "rtx-3090", "memory": "23 GiB"})).node.gpu
    assert (spec.sms, spec.base, spec.memory) == (82, "rtx-3090-24gb", 23 * 2**30)


def test_a_gpu_of_ones_own_says_what_decides_the_answer(tmp_path):
    with pytest.raises(InputError) as caught:
        load_topology(box({"name": "mine-9000", "memory": "48 GB"}))
    told = str(caught.value)
    assert "does not say architecture, memory_bandwidth, sms, power_limit, peak_bf16 or" in told
    own = {"name": "mine-9000", "architecture": "ada", "memory": "48 GB", "sms": 132,
           "memory_bandwidth": "3.35 TB/s", "power_limit": "300 W", "peak_bf16": "200 TFLOP/s",
           }  # fmt: skip
    spec = load_topology(box(own))
    gpu, lender = spec.node.gpu, catalogue.gpu("l40s-pcie-48gb")
    assert gpu.base == ""
    assert (gpu.boost_clock, gpu.compute_capability) == (lender.boost_clock, 8.9)
    assert (gpu.peak_fp8, gpu.peak_fp16, gpu.nvlink_generation) == (None, None, None)
    assert gpu.borrowed.endswith("compute_capability of l40s-pcie-48gb")
    (tmp_path / "t.yaml").write_text(topology_yaml(spec))
    assert load_topology(tmp_path / "t.yaml") == spec


def test_what_is_borrowed_does_not_depend_on_what_ran_before():
    """A cost model is shared by jobs on its GPU, which one after another borrow or do not."""
    found = [
        simulate("dgx-a100", JOB, overrides=[f"attention={kind}"], scaling=False, fixes=False)
        for kind in ("flash2", "cudnn", "flash2")
    ]
    taken = "attention cudnn {}: no data on this GPU, flash2 taken"
    assert [f.borrowed for f in found] == [
        (), tuple(taken.format(way) for way in ("forward", "backward")), (),
    ]  # fmt: skip


def test_the_band_of_a_gpu_of_ones_own_is_wider_and_what_is_borrowed_is_named():
    own = {"name": "mine-9000", "architecture": "ampere", "memory": "79 GiB",
           "memory_bandwidth": "2.039 TB/s", "sms": 108, "power_limit": "400 W",
           "peak_bf16": "312 TFLOP/s", "form_factor": "sxm", "nvlink_generation": 3,
           "nvlink_links": 12}  # fmt: skip
    nvlink = "node.nvlink={generation: 3, links_per_gpu: 12, fabric: nvswitch}"  # no board says it
    found, known = (
        simulate(box(gpu), JOB, overrides=[nvlink], scaling=False, fixes=False)
        for gpu in (own, "a100-sxm-80gb")
    )
    assert found.step.time_s == pytest.approx(known.step.time_s, rel=0.01)
    wide, narrow = (
        math.log(r.uncertainty.step_time_s.high / r.step.time_s) for r in (found, known)
    )
    assert wide == pytest.approx(math.hypot(narrow, UNSEEN["generation"]), rel=0.01)
    assert found.uncertainty.beyond_data == ("a GPU that is not of the catalogue",)
    assert any("what mine-9000 does not say: boost_clock" in text for text in found.borrowed)
    assert known.borrowed == ()
    told = {a.about: a for a in support(box(own), JOB).aspects}
    assert told["GPU of one's own"].status == "modelled"


def test_a_gpu_so_named_stands_among_the_assumptions():
    loaded = load("dgx-h100", JOB, ["node.gpu=H100"])
    assert loaded.topology.node.gpu.name == "h100-sxm-80gb"
    assert "topology.node.gpu = h100-sxm-80gb" in loaded.notes.assumptions()


@pytest.mark.parametrize(("word", "name"), [
    ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
    ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
    ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "llama-3.1-8b"),
    ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"), ("google/gemma-2-9b-it", "gemma-2-9b"),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b"), ("Llama 2 70B", "llama-2-70b"),
    ("mine/llama-3.1-8b-wider", None), ("meta-llama/Llama-3.1-9B", None), ("x/", None),
])  # fmt: skip
def test_models_by_their_repository(word, name):
    assert shape_named(word) == name


def test_every_name_of_the_catalogue_is_itself():
    for name in model_names():
        assert shape_named(name) == name
        assert catalogue_model(name).name == name


def test_global_batch_can_be_set_on_a_job_that_says_its_accumulation():
    """What is set wins: the other follows; said both, they must agree."""
    shipped = load("dgx-h100", "llama3-8b-sft", ["global_batch=128"]).workload
    assert (shipped.gradient_accumulation, shipped.global_batch) == (8, 128)
    whole = {**JOB, "global_batch": 64}
    assert load("dgx-h100", whole, ["gradient_accumulation=2"]).workload.gradient_accumulation == 2
    with pytest.raises(InputError, match="4 x 16 sequences are not 128"):
        load("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=4", "global_batch=128"])


@pytest.mark.parametrize(("machine", "job", "told"), [
    ("H100", "llama3-8b-sft", r"is the GPU h100-sxm-80gb, not a machine; machines with it are "
     r'dgx-h100.* and \d more; write how many of it, "8x H100", or one of them$'),
    ("12x H100", "llama3-8b-sft", r"is the GPU h100-sxm-80gb, .* and \d more; 12 of it are no "
     "whole number of nodes of 8$"),
    ("16x RTX 5090", "llama3-8b-sft", "is the GPU rtx-5090-32gb, .* are rtx-5090-x1; nodes of 8 "
     'are "8x rtx-5090-32gb" with --set nodes=2 and their network, as'),
    ("20x MI250X", "llama3-8b-sft", "not a machine; 20 of it are no whole number of nodes of 8$"),
    ("2x8 RTX 4090", "llama3-8b-sft", 'nodes of 8 are "8x rtx-4090-24gb" with --set nodes=2 and'),
    ("a100", "llama3-8b-sft", r'may be any of 4 GPUs, a100-pcie-40gb, .*"8x a100-sxm-80gb"$'),
    ("4x A100", "llama3-8b-sft", "may be any of 4 GPUs, a100-pcie-40gb, "),
    ("MI300X", "llama3-8b-sft", 'not a machine; write how many of it, "8x MI300X"$'),
    ("dgx-h100", "Qwen/Qwen2.5-7B-Instruct", "is the model qwen2.5-7b, not a job; jobs that train "
     "it are qwen2.5-7b-grpo; any other job takes it with --set model=qwen2.5-7b$"),
    ("dgx-h100", "qwen3-8b", "not a job; any other job takes it with --set model=qwen3-8b$"),
    ("dgx-h100", "mine/nothing", "no such file$"),
])  # fmt: skip
def test_a_gpu_or_a_model_leads_to_machines_and_jobs(machine, job, told):
    with pytest.raises(InputError, match=told):
        load(machine, job, [])


@pytest.mark.parametrize(("keys", "told"), [
    ("trainer: {devices: 8}\nexp_manager: {}\nmodel: {micro_batch_size: 4}\n", "a NeMo 1.x conf"),
    ("general: {}\nparallelism: {dp: 8}\nmodel: {}\ntokens: {}\n", "a nanotron configuration"),
    ("general: {}\nparallelism: {dp: 8}\nmodel: {}\noptimizer: {}\ntokens: {}\n",  # torchtitan's
     "a nanotron configuration"),
    ("max_seq_len: 2048\nglobal_train_batch_size: 256\nmodel: {}\n", "an llm-foundry conf"),
    ("checkpoint_dir: x\nprecision: bf16-true\ntrain: {}\n", "a LitGPT configuration"),
])  # fmt: skip
def test_a_file_of_a_tool_that_is_not_read_says_so(tmp_path, keys, told):
    path = tmp_path / "job.yaml"
    path.write_text(keys)
    with pytest.raises(InputError, match=f"job.yaml  is {told}.* not read; write its job as a"):
        load("dgx-h100", path, [])
    with pytest.raises(InputError, match=told):  # not "no workload given"
        split_inputs(["dgx-h100", str(path)])


@pytest.mark.parametrize(("name", "text", "told"), [
    ("job.sh", "NPROC_PER_NODE=8 \\\nmegatron sft \\\n --load q --micro_batch_size 1\n",
     "a command of Megatron-SWIFT"),
    ("job.sh", "#!/bin/bash\nsrun --ntasks=1 litgpt finetune_lora meta-llama/Llama-3.1-8B\n",
     "a command of LitGPT"),
    ("job.sh", "xtuner train internlm2_chat_7b_qlora_e3 --deepspeed deepspeed_zero2\n",
     "a command of XTuner"),
    ("job.sh", "tune run --nproc_per_node 8 full_finetune_distributed --config llama3_1/8B_full\n",
     r"torchtune's command \(the file of its recipe is: tune cp RECIPE FILE\)"),
    ("job.sh", "autotrain llm --train --model m --peft --block-size 1024\n",
     "a command of AutoTrain"),
    ("job.py", "r = llm.llama3_8b.pretrain_recipe(num_nodes=1, num_gpus_per_node=8)\n",
     "a recipe of NeMo 2"),
])  # fmt: skip
def test_a_script_of_a_tool_that_is_not_read_says_so(tmp_path, name, text, told):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=f"is {told}, which is not read; write its job as a"):
        load("dgx-h100", path, [])


@pytest.mark.parametrize(
    "options", ["--checkpoint_dir out --train d.json", "--actor_rollout_ref a"]
)
def test_options_of_a_script_are_no_file_of_such_a_tool(tmp_path, options):
    path = tmp_path / "job.sh"
    path.write_text(
        "torchrun --nproc_per_node 8 train.py --model_name_or_path Qwen/Qwen2.5-7B "
        f"--per_device_train_batch_size 2 --max_seq_length 2048 {options}\n"
    )
    found = load("dgx-h100", path, []).workload
    assert (found.model.name, found.micro_batch) == ("qwen2.5-7b", 2)


@pytest.mark.parametrize(
    ("gpu", "says"),
    [
        ("A100-SXM4-64GB", 'did you mean "a100-sxm-40gb" or "a100-sxm-80gb"'),
        ("H100 96GB HBM3", '"h100-hbm2e-96gb"'),
        ("rtx2070", "another is described: {name: ..., base: "),
    ],
)
def test_a_gpu_that_the_catalogue_lacks(gpu, says):
    """Led to its likes by what names its chip, or to how it is described."""
    machine = {"name": "m", "node": {"gpu": gpu, "pcie": {"generation": 4}}}
    with pytest.raises(InputError, match=re.escape(says)):
        load(machine, "llama3-8b-lora")


@pytest.mark.parametrize(("name", "taken", "nodes", "gpus"), [
    ("8x H100", "dgx-h100; aws-p5, ", 1, 8), ("8x A100 40GB", "aws-p4d; gcp-", 1, 8),
    ("1x A100 80GB", "a100-x1", 1, 1), ("h100-sxm-x1", "h100-x1", 1, 1),
    ("RTX 4090 x4", "workstation-4x4090", 1, 4),
    ("2x RTX 4090", "workstation-4x4090 with 2 of its 4 GPUs", 1, 2),
    ("4x4 GB200", "4 nodes of gb200-nvl72, each with 4 of its 72 GPUs", 4, 4),
    ("4090 x2", "workstation-4x4090 with 2", 1, 2), ("8 A100 80GB", "dgx-a100; ", 1, 8),
    ("16x H100", "2 nodes of dgx-h100", 2, 8), ("2x8 H100", "dgx-h100; ", 2, 8),
    ("16x A100 40GB", "gcp-a2-megagpu-16g", 1, 16), ("3x A6000", "a plain node", 1, 3),
    ("2 nodes of 8 H100", "dgx-h100; ", 2, 8), ("8 H100s", "dgx-h100; ", 1, 8),
    ("4x A100 80GB GPUs", "dgx-a100 with 4", 1, 4), ("2x RTX 5090", "a plain node", 1, 2),
    ("8x MI300X", "a plain node", 1, 8), ("8x L40S", "l40s-8; ", 1, 8),
    ("4x L40S", "l40s-8 with 4", 1, 4), ("4 L40S GPUs", "l40s-8 with 4", 1, 4),
    ("4x L40", "a plain node", 1, 4), ("2x L4", "aws-g6-48xlarge with 2", 1, 2),
])  # fmt: skip
def test_gpus_by_their_number_are_a_machine(name, taken, nodes, gpus):
    """They led to names of machines; which one is taken is said."""
    job = ["stack={torch: 2.10, cuda: 12.9, nccl: 2.27}"]
    for pair in ((name, "llama3-8b-lora"), ("llama3-8b-lora", name)):
        machine, _, notes = load(*pair, job)
        assert (machine.node_count, machine.gpus_per_node) == (nodes, gpus)
        told = {note.code: note.message for note in notes.warnings}
        assert told["counted"].startswith(f'"{name}" is taken as {taken}')
    varied = prepare(name, "llama3-8b-lora", job).vary({"node.cpu.cores": 64}).loaded()
    assert "counted" in [note.code for note in varied.notes.warnings]


def test_a_card_that_is_near_one_of_the_catalogue_is_told_how_to_be_described():
    for said, near in (("RTX 4090 48GB", "rtx-4090-24gb"), ("RTX 3060 Ti", "rtx-3060-12gb")):
        with pytest.raises(InputError, match="another is described: .*base: " + near):
            load_topology({"name": "m", "node": {"gpu": said, "gpus": 1}})
    own = {"name": "rtx-4090-48g", "base": "rtx-4090-24gb", "memory": "47.5 GiB"}
    found = load_topology({"name": "m", "node": {"gpu": own, "gpus": 1}}).node.gpu
    assert (found.sms, found.memory) == (128, 47.5 * 2**30)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA GeForce RTX 4070", "rtx-4070-12gb"), ("4070 Ti", "rtx-4070-ti-12gb"),
        ("RTX 4070 SUPER", "rtx-4070-super-12gb"), ("RTX 4080 SUPER", "rtx-4080-super-16gb"),
        ("RTX 3070", "rtx-3070-8gb"), ("3080 Ti", "rtx-3080-ti-12gb"), ("3080", "rtx-3080-10gb"),
        ("RTX 2080", "rtx-2080-8gb"), ("RTX 5070", "rtx-5070-12gb"),
        ("NVIDIA RTX A5500", "rtx-a5500-24gb"), ("RTX 4500 Ada", "rtx-4500-ada-24gb"),
    ],
)  # fmt: skip
def test_cards_that_differ_by_a_word(said, name):
    assert gpu_named(said, gpu_names()) == name
