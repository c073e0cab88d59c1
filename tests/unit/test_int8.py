"""LoRA beside weights of LLM.int8(): what is stored, kept and run, and whose files ask for it."""

import pytest

from sim.blocks.kernels import Kernel
from sim.blocks.linear import linear
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.cost.kernel_cost import cost_model
from sim.errors import InputError
from sim.inputs import catalogue
from sim.inputs.loader import load
from sim.inputs.method import Method
from sim.inputs.silent import silent_keys
from sim.interop.emit_axolotl import axolotl_yaml
from sim.interop.emit_llamafactory import llamafactory_yaml
from sim.interop.emit_trl import trl_yaml
from sim.memory.report import memory
from sim.step.step import step

LORA = {"rank": 16, "targets": "all-linear"}
INT8 = {**LORA, "quantization": "int8"}


def job(method, machine="h100-x1", **keys):
    work = {"name": "j", "model": "llama-3.1-8b", "sequence_length": 2048, "micro_batch": 2,
            "parallelism": "single", "activation_checkpointing": "full", "steps": 1,
            "method": method, **keys}  # fmt: skip
    return load(machine, work, [])


def test_a_byte_a_weight_and_a_scale_a_row():
    """Llama 3.1 8B: 218,103,808 weights in 43,008 rows of q, k, v, o, gate, up, down, 32 times."""
    wide, packed = (job({"lora": m}) for m in (LORA, INT8))
    at = [memory(j.topology, j.workload).by_moment["init"] for j in (wide, packed)]
    assert at[0] - at[1] == 32 * (218_103_808 - 4 * 43_008)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_layer_multiplies_bytes_forward_and_whole_weights_backward(dtype):
    method = Method(kind="lora", rank=16, targets=("k",), dropout=0.0, quantization="int8")
    t = Tape(Setting(model=None, method=method, tokens=384, dtype=dtype), False)
    x = t.tensor(2.0 * 384 * 512)
    linear(t, "wq", x, 512, 1024, targets=("q",))
    (op,) = (op for op in t.ops if op.name == "wq" and op.makes >= 0)
    assert op.saves == (x,)  # ctx.tensors = (CAt, subA, A)
    ran = [(r.name, r.bytes) for r in op.forward]
    ins, outs = 384 * 512, 384 * 1024
    casts = [("wq.half", 4 * ins)], [("wq.whole", 4 * outs)]
    assert ran == [
        *(casts[0] if dtype == "bf16" else []),
        ("wq.outliers", 8 * ins), ("wq.columns", ins), ("wq.quantise", 3 * ins),
        ("wq", ins + 512 * 1024 + 4 * outs), ("wq.scale", 6 * outs),
        *(casts[1] if dtype == "bf16" else []), ("wq.apart", 4 * outs),
    ]  # fmt: skip
    product = next(r for r in op.forward if isinstance(r, Kernel))
    assert (product.dtype, product.shape) == ("int8", (384, 1024, 512, 1))
    assert [r.dtype for r in op.backward if isinstance(r, Kernel)] == [dtype]
    whole = [r.bytes for op in t.ops for r in op.backward if op.makes < 0]
    assert whole == [3 * 512 * 1024, 4 * 512 * 1024]


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "h100-sxm-80gb", "rtx-3090-24gb"])
def test_its_product_is_faster_than_one_of_16_bits(name):
    model = cost_model(catalogue.gpu(name))
    t = Tape(Setting(model=None), False)
    wide = t.gemm("x", 8192, 8192, 8192)
    assert model.cost(wide._replace(dtype="int8")).time_s < 0.8 * model.cost(wide).time_s


def test_no_warning_calls_it_idle_and_no_published_run_is_like_it():
    found = job({"lora": INT8})
    assert "method.quantization" not in silent_keys(found.workload)
    assert "method.quantization" in silent_keys(job({"lora": LORA}).workload)
    scaled = job({"lora": {**LORA, "dora": True}}).workload.method
    assert (found.workload.method.told, scaled.told) == ("int8", "dora")


def test_memory_is_between_that_of_16_and_of_4_bits():
    found = [job({"lora": LORA}), job({"lora": INT8}), job({"qlora": LORA})]
    most = [memory(j.topology, j.workload).needed_bytes for j in found]
    assert most == sorted(most, reverse=True)
    assert len(set(most)) == 3
    for j in found:
        assert step(j.topology, j.workload).breakdown.time_s > 0


@pytest.mark.parametrize(
    ("method", "keys", "says"),
    [
        ({"lora": INT8}, {"parallelism": "fsdp2"}, "does not shard weights of LLM.int8"),
        ({"lora": INT8}, {"parallelism": "zero3"}, "does not shard weights of LLM.int8"),
        ({"lora": INT8}, {"model": "mixtral-8x7b", "parallelism": "ddp"}, "experts in 8 bits"),
        ({"lora": {**INT8, "adapters": "fused"}}, {"parallelism": "ddp"}, "fused adapters"),
        ({"lora": {**INT8, "dora": True}}, {"parallelism": "ddp"}, "DoRA of int8"),
        ({"qlora": INT8}, {"parallelism": "ddp"}, "a base of 8 bits is lora"),
        ({"lora": {**LORA, "quantization": "nf4"}}, {"parallelism": "ddp"}, "4 bits is qlora"),
    ],
)
def test_what_is_not_modelled_is_refused(method, keys, says):
    with pytest.raises(InputError, match=says):
        job(method, "dgx-h100", **keys)


FACTORY = """\
model_name_or_path: meta-llama/Llama-3.1-8B
finetuning_type: lora
lora_target: q_proj
quantization_bit: 8
bf16: true
"""
AXOLOTL = """\
base_model: meta-llama/Llama-3.1-8B
adapter: lora
load_in_8bit: true
sequence_len: 2048
micro_batch_size: 1
bf16: true
"""


@pytest.mark.parametrize("text", [FACTORY, AXOLOTL])
def test_trainers_files_say_it(tmp_path, text):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    assert load("dgx-h100", str(path), []).workload.method.quantization == "int8"
    sharded = load("dgx-h100", str(path), ["parallelism=fsdp2", "method.quantization=none"])
    assert sharded.workload.method.kind == "lora"


@pytest.mark.parametrize("written", [axolotl_yaml, llamafactory_yaml, trl_yaml])
def test_what_is_written_reads_back(tmp_path, written):
    found = job({"lora": INT8}, "dgx-h100", parallelism="ddp")
    path = tmp_path / "f.yaml"
    path.write_text(written(found.topology, found.workload))
    again = load("dgx-h100", str(path), []).workload.method
    assert (again.kind, again.quantization) == ("lora", "int8")
