"""DoRA's lengths and second products, against what PEFT's own layer ran and kept."""

import json
from pathlib import Path

import pytest

from sim.blocks.kernels import Kernel
from sim.blocks.linear import linear
from sim.blocks.parameters import count_parameters
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.method import Method
from sim.interop.emit_axolotl import axolotl_yaml
from sim.interop.emit_llamafactory import llamafactory_yaml
from sim.interop.emit_trl import trl_yaml
from sim.memory.report import memory
from sim.step.step import step

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "dora.json").read_text())
TOKENS, N_IN, N_OUT = 384, 512, 1024
SIZES = {"in": TOKENS * N_IN, "out": TOKENS * N_OUT, "weight": N_IN * N_OUT, "eye": N_IN * N_IN}
LORA = {"rank": 16, "targets": "all-linear", "dropout": 0.0}


def played(row):
    """The layer as the blocks play it, and its input."""
    short = {"float32": "fp32", "bfloat16": "bf16"}[row["adapters"]]
    method = Method(kind="lora", rank=16, targets=("q",), dropout=row["dropout"], dora=True)
    setting = Setting(
        model=None, method=method, tokens=TOKENS, adapter_dtype=short, autocast=row["autocast"]
    )
    t = Tape(setting, False)
    x = t.tensor(2.0 * TOKENS * N_IN)
    linear(t, "wq", x, N_IN, N_OUT, targets=("q",))
    return t, x


def counted(rows):
    """Bytes of kernels that are more than a vector's, and the shapes of products."""
    maps = [r.bytes for r in rows if not isinstance(r, Kernel) and r.bytes > 64 * N_OUT]
    products = [
        (*r.shape[:3], {"bf16": 2, "fp32": 4}[r.dtype]) for r in rows if hasattr(r, "shape")
    ]
    return sorted(maps), sorted(products)


@pytest.mark.parametrize("row", RECORDED, ids=lambda r: " ".join(str(v) for v in r.values())[:25])
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_every_kernel_moves_what_peft_moves(row, way):
    t, _ = played(row)
    found = counted([r for op in t.ops for r in getattr(op, way)])
    ran = row[way]
    moved = sorted(SIZES[of] * size for name, of, size in ran if name != "mm")
    products = sorted((*shape, size) for name, shape, size in ran if name == "mm")
    assert found[0] == pytest.approx(moved, rel=0.01)
    assert found[1] == products


@pytest.mark.parametrize("row", RECORDED, ids=lambda r: " ".join(str(v) for v in r.values())[:25])
def test_autograd_keeps_what_peft_keeps(row):
    t, x = played(row)
    kept = {tensor for op in t.ops for tensor in op.saves} - {x}
    found = sum(t.sizes[tensor] for tensor in kept) + sum(op.extra for op in t.ops)
    assert found == row["kept"]


def job(method, machine="h100-x1", **keys):
    work = {"name": "j", "model": "llama-3.1-8b", "sequence_length": 4096, "micro_batch": 2,
            "parallelism": "single", "activation_checkpointing": "full", "steps": 1,
            "method": method, **keys}  # fmt: skip
    return load(machine, work, [])


def seconds(method, **keys):
    found = job(method, **keys)
    return step(found.topology, found.workload).breakdown.time_s


def test_a_length_of_every_row_is_trained():
    """Llama 3.1 8B: q, o and down 4,096 rows, k and v 1,024, gate and up 14,336, of 32 layers."""
    method = Method(kind="lora", rank=16, targets=("q", "k", "v", "o", "gate", "up", "down"))
    model = job("full").workload.model
    more = count_parameters(model, method.model_copy(update={"dora": True}))
    assert more.trainable - count_parameters(model, method).trainable == 32 * (
        3 * 4096 + 2 * 1024 + 2 * 14336
    )


def test_dora_takes_longer_and_dropout_multiplies_the_base_twice():
    lora, plain = seconds({"lora": LORA}), seconds({"lora": {**LORA, "dora": True}})
    dropped = seconds({"lora": {**LORA, "dora": True, "dropout": 0.05}})
    assert lora < plain < dropped
    flops = [
        k.flops for op in played(RECORDED[1])[0].ops for k in op.forward if hasattr(k, "flops")
    ]
    assert flops.count(2 * TOKENS * N_IN * N_OUT) == 2


@pytest.mark.parametrize("kind", ["lora", "qlora"])
@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp1", "fsdp2", "zero2", "zero3"])
def test_every_strategy_runs_it(kind, strategy):
    machine = "h100-x1" if strategy == "single" else "dgx-h100"
    if kind == "qlora" and strategy == "zero3":
        return
    plain, scaled = (
        job({kind: {**LORA, "dora": on}}, machine, parallelism=strategy) for on in (False, True)
    )
    more, less = (memory(j.topology, j.workload).needed_bytes for j in (scaled, plain))
    assert more > less
    assert step(scaled.topology, scaled.workload).breakdown.time_s > 0


@pytest.mark.parametrize(
    ("method", "keys", "says"),
    [
        ({"lora": {**LORA, "dora": True, "adapters": "fused"}}, {}, "no lengths"),
        ({"qlora": {**LORA, "dora": True, "quantization": "gptq-int4"}}, {}, "DoRA of gptq"),
        ({"lora": {**LORA, "dora": True}}, {"model": "mixtral-8x7b"}, "mixture's experts"),
    ],
)
def test_what_is_not_modelled_is_refused(method, keys, says):
    with pytest.raises(InputError, match=says):
        job(method, **keys)


ADAPTER = {"peft_type": "LORA", "r": 16, "target_modules": ["q_proj"], "use_dora": True,
           "base_model_name_or_path": "meta-llama/Llama-3.1-8B"}  # fmt: skip
FACTORY = """\
model_name_or_path: meta-llama/Llama-3.1-8B
finetuning_type: lora
lora_target: q_proj
use_dora: true
bf16: true
"""


@pytest.mark.parametrize(
    ("name", "text"), [("adapter_config.json", json.dumps(ADAPTER)), ("f.yaml", FACTORY)]
)
def test_trainers_files_say_it(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    found = load("h100-x1", str(path), ["sequence_length=2048"])
    assert found.workload.method.dora


@pytest.mark.parametrize("written", [axolotl_yaml, llamafactory_yaml, trl_yaml])
def test_what_is_written_reads_back(tmp_path, written):
    found = job({"lora": {**LORA, "dora": True}}, "dgx-h100", parallelism="ddp")
    text = written(found.topology, found.workload)
    path = tmp_path / "f.yaml"
    path.write_text(text)
    assert load("dgx-h100", str(path), []).workload.method.dora
