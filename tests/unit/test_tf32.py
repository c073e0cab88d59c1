"""FP32 products on tensor cores: how long they take, how it is said, read and written."""

import pytest

import sim
from sim.blocks.kernels import Kernel
from sim.cost.kernel_cost import CostModel
from sim.errors import InputError
from sim.inputs import catalogue
from sim.inputs.loader import load
from sim.interop.emit import texts_of
from sim.result.advice import changes

JOB = "llama3-8b-sft"
SDPA = "attention=sdpa"
HF = """\
model_name_or_path: meta-llama/Llama-3.1-8B
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
block_size: 2048
fsdp: full_shard
"""
AXOLOTL = """\
base_model: meta-llama/Llama-3.1-8B
sequence_len: 2048
micro_batch_size: 2
datasets: x
"""
SCRIPT = """\
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

{}
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B")
args = TrainingArguments(output_dir="x", per_device_train_batch_size=2, fsdp="full_shard")
Trainer(model=model, args=args).train()
"""


def job(*sets, machine="dgx-a100", name=JOB):
    return load(machine, name, list(sets)).workload


def test_a_product_takes_what_pytorch_measured():
    """10,240 cubed on an A100: 16 ms in TF32, 110 ms in FP32.

    Source: PyTorch, "CUDA semantics", TensorFloat-32 on Ampere devices. An FP32 product has bf16's
    share of its peak, which no table measured: a fifth slow.
    """
    model, n = CostModel(catalogue.gpu("a100-sxm-40gb")), 10240
    times = {
        dtype: model.cost(
            Kernel("x", "x", "gemm", 2.0 * n**3, 12.0 * n**2, (n, n, n, 1), dtype)
        ).time_s
        for dtype in ("tf32", "fp32")
    }
    assert times["tf32"] == pytest.approx(16e-3, rel=0.1)
    assert times["fp32"] == pytest.approx(110e-3, rel=0.25)


def test_products_alone_are_faster():
    plain, fast = (
        sim.simulate("dgx-a100", JOB, overrides=[f"precision={p}", SDPA]) for p in ("fp32", "tf32")
    )
    ours, theirs = plain.step.breakdown, fast.step.breakdown
    # CUDA cores have narrower tiles
    assert ours["gemm"] / theirs["gemm"] == pytest.approx(156 / 19.5, rel=0.03)
    assert theirs["attention"] == pytest.approx(ours["attention"], rel=0.01)
    assert (plain.throughput.peak_dtype, fast.throughput.peak_dtype) == ("fp32", "tf32")
    tokens = fast.throughput.tokens_per_s / plain.throughput.tokens_per_s
    assert fast.throughput.mfu / plain.throughput.mfu == pytest.approx(tokens * 19.5 / 156)


@pytest.mark.parametrize(
    "said", ["tf32", "TF32", "{fp32: {tf32: true}}", "{kind: fp32, tf32: true}"]
)
def test_how_it_may_be_written(said):
    found = job(f"precision={said}", SDPA).precision
    assert (found.kind, found.tf32, found.master) == ("fp32", True, "fp32")


def test_beside_bf16_it_is_of_what_is_left_in_fp32():
    machine = "dgx-a100"
    moved = []
    for name, sets in (
        (JOB, []),
        ("mistral-7b-lora", ["method.adapter_dtype=fp32"]),
        (JOB, ["model=nemotron-h-8b", "mixer_kernels=torch", "sequence_length=4096"]),
    ):
        plain, fast = (
            sim.simulate(machine, name, overrides=[*sets, f"precision={{bf16: {{tf32: {on}}}}}"])
            for on in ("false", "true")
        )
        assert fast.throughput.peak_dtype == "bf16"
        moved.append(fast.step.time_s < plain.step.time_s)
    assert moved == [False, True, True]


@pytest.mark.parametrize("gpu", ["v100-sxm-32gb", "T4", "mi250x-128gb"])
def test_gpus_without_it(gpu):
    machine = {"name": "old", "nodes": 1, "node": {"gpu": gpu, "gpus": 1}}
    for precision in ("tf32", "{fp16: {tf32: true}}"):
        with pytest.raises(InputError, match=r"has no TF32; leave it out \[no-tf32"):
            load(machine, JOB, ["parallelism=single", f"precision={precision}", SDPA])


@pytest.mark.parametrize(
    ("text", "kind", "on"),
    [
        (HF + "tf32: true\nbf16: false\n", "fp32", True),
        (HF + "tf32: true\nbf16: true\n", "bf16", True),
        (HF + "tf32: false\nbf16: false\n", "fp32", False),
        (HF + "bf16: false\n", "fp32", False),
        (AXOLOTL + "tf32: true\nbf16: false\n", "fp32", True),
        (AXOLOTL + "tf32: true\nfp8: true\n", "fp8", True),
        (AXOLOTL + "tf32: auto\nbf16: false\n", "fp32", False),
    ],
)
def test_trainers_files(tmp_path, text, kind, on):
    (tmp_path / "job.yaml").write_text(text)
    loaded = load("dgx-h100", tmp_path / "job.yaml")
    found = loaded.workload.precision
    assert (found.kind, found.tf32) == (kind, on)
    told = [w.message for w in loaded.notes.warnings if "tf32" in f"{w.path} {w.message}".lower()]
    assert bool(told) == ("auto" in text)


@pytest.mark.parametrize(
    ("line", "on"),
    [
        ('torch.set_float32_matmul_precision("high")', True),
        ('torch.set_float32_matmul_precision("highest")', False),
        ("torch.backends.cuda.matmul.allow_tf32 = True", True),
        ('torch.backends.cuda.matmul.fp32_precision = "tf32"', True),
        ("torch.backends.cudnn.allow_tf32 = True", False),  # convolutions
        ("", False),
    ],
)
def test_scripts(tmp_path, line, on):
    (tmp_path / "train.py").write_text(SCRIPT.format(line))
    found = load("dgx-a100", tmp_path / "train.py", ["sequence_length=2048"]).workload.precision
    assert (found.kind, found.tf32) == ("fp32", on)


@pytest.mark.parametrize("tool", ["trl", "llamafactory", "axolotl"])
def test_files_say_it(tool):
    for precision, said in (("tf32", True), ("fp32", False)):
        pair = load("dgx-a100", JOB, [f"precision={precision}", SDPA])
        texts = texts_of(pair.topology, pair.workload, tool)
        assert any("tf32: true" in text for text in texts.values()) is said


@pytest.mark.parametrize(
    ("machine", "precision", "advised"),
    [("dgx-a100", "fp32", True), ("dgx-a100", "tf32", False), ("dgx-a100", "bf16", False)],
)
def test_it_is_advised_where_products_are_fp32(machine, precision, advised):
    pair = load(machine, JOB, [f"precision={precision}", SDPA])
    found = [change.settings for change in changes(pair.topology, pair.workload, "faster")]
    assert ({"precision": "tf32"} in found) is advised
