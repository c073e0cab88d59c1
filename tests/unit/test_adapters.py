"""What LoRA and 4-bit layers run around their products, against the real libraries."""

import json
from pathlib import Path

import pytest

from sim.blocks.adapters import code
from sim.blocks.lowprec import unpacking
from sim.blocks.parameters import build_tree, tree_of
from sim.blocks.setting import Setting
from sim.blocks.unroll import unroll
from sim.errors import InputError
from sim.inputs.dtypes import casts_frozen
from sim.inputs.loader import load
from sim.inputs.method import Method
from sim.inputs.modelling import taken
from sim.inputs.shares import mesh_of
from sim.memory.report import memory
from sim.step.step import step
from sim.strategies import build_plan
from sim.strategies.fsdp1_layout import lay_out
from sim.strategies.units import dtypes

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "adapters.json").read_text())
KIND = {"linear": {"kind": "lora"}, "gptq": {"kind": "qlora", "quantization": "gptq-int4"}}
LORA = {"rank": 16, "targets": "all-linear"}


def setting(kind, **keys):
    method = Method(rank=16, targets=("q",), dropout=0.05, **KIND[kind])
    return Setting(model=None, method=method, **keys)


def job(method, machine="h100-x1", **keys):
    work = {"name": "j", "model": "llama-3.1-8b", "sequence_length": 4096, "micro_batch": 2,
            "parallelism": "ddp", "activation_checkpointing": "full", "steps": 1,
            "method": method, **keys}  # fmt: skip
    return load(machine, work, [])


def plan_of(found):
    w = found.workload
    return build_plan(w, build_tree(w.model, w.method), mesh_of(found.topology, w))


def speed(method, **keys):
    found = job(method, **keys)
    return 1 / step(found.topology, found.workload).breakdown.time_s


@pytest.mark.parametrize("row", RECORDED, ids=lambda r: " ".join(str(v) for v in r.values())[:25])
def test_adapters_move_what_peft_moves(row):
    """Every element-wise operation of PEFT's layers, by its width, in order, byte for byte."""
    short = {"float32": "fp32", "bfloat16": "bf16"}[row["adapters"]]
    how = code(setting(row["layer"], adapter_dtype=short, autocast=row["autocast"]))
    sides = {"forward": (how.into, how.onto), "backward": (how.back_onto, how.back_into)}
    for way, both in sides.items():
        recorded = [(side, size) for _, _, side, size in row[way]]
        order = ("in", "out") if way == "forward" else ("out", "in")
        played = [
            (side, move.read + move.write)
            for side, moves in zip(order, both, strict=True)
            for move in moves
        ]
        assert played == recorded


def test_fused_adapters_add_in_place():
    """fms' LoRA_QKV: dropout, +=; backward X != 0, times that, +=. Nothing is cast or scaled."""
    how = code(setting("linear", adapters="fused", adapter_dtype="fp32"))
    assert [(m.name, m.read + m.write) for m in (*how.into, *how.onto)] == [
        ("dropout", 5), ("add", 6)
    ]  # fmt: skip
    assert [(m.name, m.read + m.write) for m in (*how.back_onto, *how.back_into)] == [
        ("mask", 3), ("dropout", 5), ("add", 6)
    ]  # fmt: skip
    assert how.dtype == "bf16"
    assert not how.scales


def test_a_compiler_leaves_a_kernel_a_chain():
    how = code(setting("linear", adapter_dtype="fp32", compiled=True))
    assert [len(side) for side in (how.into, how.onto, how.back_onto, how.back_into)] == [1] * 4


def test_lora_is_faster_than_full_and_fused_faster_still():
    """One H100: fewer adapters and fewer kernels are faster; adapters of bf16 cast nothing."""
    full = speed("full")
    narrow = speed({"lora": LORA, "adapter_dtype": "as-compute"})
    fused = speed({"lora": {**LORA, "adapters": "fused", "dropout": 0.0}})
    assert full < fused
    assert speed({"lora": LORA}) < narrow < fused
    assert speed({"lora": {**LORA, "targets": ["q", "v"]}}) > full


def test_upcast_activations_cost_what_plain_ones_do_not():
    qlora = {"qlora": LORA}
    assert speed({"qlora": {**LORA, "prepare_kbit": True}}) < 0.9 * speed(qlora)
    wide = unroll(job({"qlora": {**LORA, "prepare_kbit": True}}).workload)
    plain = unroll(job(qlora).workload)

    def products(t):
        return [k.bytes for k in t.of("layer", "forward") if k.kind == "gemm"]

    assert products(wide) == products(plain)


def test_what_is_not_of_4_bits_is_fp32_by_hand():
    """Llama 3.1 8B: 2 (128256 x 4096) and 65 norms of 4096, two bytes each more; the head's copy.

    Casts of 4 and 2 bytes: the head and the final norm once, norms of layers in recompute too.
    """
    table, norms = 128256 * 4096, 65 * 4096
    plain, wide, back = (
        job({"qlora": {**LORA, **more}})
        for more in ({}, {"prepare_kbit": True}, {"prepare_kbit": True, "frozen_dtype": "bf16"})
    )
    at = [memory(j.topology, j.workload).by_moment for j in (plain, wide, back)]
    assert at[1]["init"] - at[2]["init"] == 2 * (2 * table + norms)
    assert at[0]["init"] == at[2]["init"]
    assert at[1]["forward"] - at[2]["forward"] == 2 * (2 * table + norms) + 2 * table
    cast = [
        sum(op.bytes for op in plan_of(j).ops if op.name == "cast") for j in (plain, wide, back)
    ]
    assert cast[0] == cast[2]
    assert cast[1] - cast[0] == 6 * (table + 4096 + 2 * 64 * 4096)


@pytest.mark.parametrize(("frozen", "root"), [("as-compute", 2), ("fp32", 4)])
def test_a_flat_root_that_nothing_trains_is_stored_as_loaded(frozen, root):
    """FSDP1: 32 blocks of 218,112,000 weights and 1,310,720 of adapters in fp32, one dtype each.

    The root's embedding, head and norm hold no adapter: accelerate leaves that flat parameter
    alone, and the schedule, which casts it before it is gathered, and memory say the same of it.
    """
    fsdp1 = {"strategy": "fsdp1", "wrap": "block+root"}
    found = job({"lora": {**LORA, "frozen_dtype": frozen}}, "dgx-h100", parallelism=fsdp1)
    w = found.workload
    outer = root * (2 * 128256 * 4096 + 4096)
    blocks = 4 * 32 * (218_112_000 + 1_310_720)
    assert memory(found.topology, w).by_moment["init"] == (outer + blocks) / 8
    units = lay_out(w, tree_of(w), 8, dtypes(w)).units
    assert sum(unit.master_bytes for unit in units) == outer + blocks
    assert units[0].cast == ((0.0, 0.0) if root == 2 else (outer, outer / 2))


def test_frozen_weights_in_fp32_are_kept_as_cast():
    """Without checkpointing backward finds a bf16 copy of each matrix, of the head's too."""
    flat = {"activation_checkpointing": "none", "sequence_length": 512}
    narrow, wide = (
        job({"lora": {**LORA, "frozen_dtype": dtype}}, **flat) for dtype in ("bf16", "fp32")
    )
    at = [memory(j.topology, j.workload) for j in (narrow, wide)]
    matrices = 32 * (218_112_000 - 8192) + 128256 * 4096
    more = at[1].by_moment["forward"] - at[0].by_moment["forward"]
    assert more == 2 * 8_030_261_248 + 2 * matrices
    shared = job({"lora": {**LORA, "frozen_dtype": "fp32"}}, parallelism="zero3", **flat).workload
    assert not casts_frozen(shared)  # DeepSpeed casts the model


def test_gptq_back_ends_by_hand():
    """Bytes a weight: 16.5 whole-weight in five kernels, and zeros; Triton reads 4 bits once."""
    old = unpacking(setting("gptq", unpacking="cuda-old"))
    whole = [m for m in old.maps("w", 1.0, 2.0) if m.name != "w.zeros"]
    assert len(whole) == 5
    assert sum(m.bytes for m in whole) == 4.5 + 5 + 2 + 2 + 3
    assert old.keeps
    assert old.biased
    triton = unpacking(setting("gptq", unpacking="triton"))
    (one,) = triton.maps("w", 1.0, 2.0)
    assert one.bytes == 0.5 + 2.5 / 128 + 2
    assert not triton.keeps
    again = []
    for kernels in ("cuda-old", "triton"):
        method = {"qlora": {**LORA, "quantization": "gptq-int4", "gptq_kernels": kernels}}
        backward = unroll(job(method).workload).of("layer", "backward")
        again.append(sum(k.name.endswith("dequantise") for k in backward))
    assert again == [0, 7]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"qlora": {**LORA, "quantization": "gptq-int4", "gptq_kernels": "marlin"}},
         "marlin has no backward"),
        ({"qlora": {**LORA, "gptq_kernels": "triton"}}, "unpacks GPTQ weights; these are nf4"),
        ({"lora": {**LORA, "prepare_kbit": True}}, "leaves a model with quantization none"),
        ({"lora": {**LORA, "adapters": "quick"}}, '"quick" is not one of eager, fused'),
        ({"lora": {**LORA, "adapter_dtype": "fp8"}}, '"fp8" is not'),
    ],
)  # fmt: skip
def test_wrong_choices_are_faults(method, message):
    with pytest.raises(InputError, match=message):
        job(method)


def test_what_is_taken_is_said():
    plain = {"method.adapter_dtype": "fp32", "fused_kernels": "none"}
    alone = taken(job({"lora": LORA}, modelling="huggingface").workload)
    assert alone == plain  # nobody to reduce with
    eight = job({"lora": LORA}, machine="dgx-h100", modelling="huggingface").workload
    assert taken(eight) == {**plain, "parallelism.reduce_dtype": "fp32"}
    sharded = job({"qlora": {**LORA, "quantization": "gptq-int4"}}, parallelism="fsdp2").workload
    assert taken(sharded) == {
        "modelling": "torchtitan",
        "fused_kernels": "none",
        "method.adapter_dtype": "bf16",
        "method.gptq_kernels": "cuda-old",
        "parallelism.reduce_dtype": "fp32",
    }
    assert taken(job("full", parallelism="fsdp1").workload) == {
        "modelling": "huggingface",
        "fused_kernels": "none",
        "parallelism.reduce_dtype": "fp32",
    }


def test_rope_by_modelling_code():
    """Bytes an element: halves 10 and 11.5 of bf16, strided; complex 6 + 8 + 6, streamed."""

    def rope(code, phase):
        t = unroll(job("full", modelling=code).workload)
        found = [k for k in t.of("layer", phase) if k.name == "rope.q"]
        return [(k.bytes / t.tokens / 4096, k.launches, k.access) for k in found]

    assert rope("huggingface", "forward") == [(20.0, 5, "strided")]
    assert rope("huggingface", "backward") == [(23.0, 7, "strided")]
    for phase in ("forward", "backward"):
        assert rope("torchtitan", phase) == [(20.0, 3, "stream")]
    assert speed("full", modelling="huggingface") < speed("full", modelling="torchtitan")
    with pytest.raises(InputError, match='"trl" is not one of'):
        job("full", modelling="trl")
