"""Saved tensors and working sets against PyTorch's own records, size by size."""

import json
from pathlib import Path

import pytest

from sim.blocks.autograd import footprint
from sim.blocks.flops import token_flops
from sim.blocks.footprint import head_footprint, layer_footprint
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.blocks.unroll import unroll
from sim.inputs.method import Method
from sim.inputs.models import resolve_model
from sim.inputs.workload import Precision, Stack, Workload

RECORDS = json.loads((Path(__file__).parents[1] / "data" / "saved_tensors.json").read_text())
NAMES = {"8b": "llama-3.1-8b", "70b": "llama-3.1-70b"}
LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


def workload(name="llama-3.1-8b", length=4096, torch="2.13", **keys):
    keys.setdefault("attention", "sdpa")
    model = resolve_model(name) if isinstance(name, str) else name
    stack = Stack(torch=torch, transformers="4.53")  # repeats heads
    return Workload(name="w", model=model, sequence_length=length, stack=stack, **keys)


@pytest.mark.parametrize("size", ["8b", "70b"])
@pytest.mark.parametrize(("kind", "torch"), [("fused", "2.13"), ("composite", "2.5")])
def test_saved_tensors_one_by_one(kind, torch, size):
    record = RECORDS[kind][size]
    print_of = layer_footprint(workload(NAMES[size], record["length"], torch), "layer")
    assert print_of.saved == record["block"]
    # cos and sin are one entry here and two there; statistics are beside their node here
    ours = sorted(b for n, b in print_of.tensors if n != "positions")
    positions = sum(b for n, b in print_of.tensors if n == "positions")
    theirs = list(record["sizes"])
    for _ in range(2):
        theirs.remove(positions / 2)
    assert ours == theirs


@pytest.mark.parametrize("size", ["8b", "70b"])
def test_head_saves(size):
    """Final norm's input, output and statistics, and the fp32 log-softmax."""
    record = RECORDS["fused"][size]
    head = head_footprint(workload(NAMES[size], record["length"]))
    targets = 8 * record["length"] + 4  # int64 labels and a scalar, which are inputs here
    assert head.saved == sum(record["head"]) - targets


def test_working_set_without_checkpointing():
    """At the gate's product: its three gradients and w2's, while w2's input is gone."""
    p = layer_footprint(workload(), "layer")
    wide = 2 * 4096 * 14336
    assert p.saved - p.backward_saved == wide
    assert p.backward_working == 3 * wide + 2 * 4096 * 14336


def test_full_checkpointing_keeps_the_input():
    p = layer_footprint(workload(), "layer", "full")
    assert p.saved == 4096 * (2 * 4096 + 256)
    # everything else comes back, w2's input replaced by the gate's three gradients
    others = 180_616 - 8192 - 256
    assert p.backward_working == 4096 * (others + 2 * 28672) + 2 * 4096 * 14336


def test_per_op_checkpointing():
    """Kept: input, attention and its statistics, wq, wv, w1, w2 (every second product)."""
    p = layer_footprint(workload(length=8192), "layer", "selective-op")
    kept = 8192 + 8192 + 128 + 8192 + 2048 + 28672 + 8192 + 256
    assert p.saved == 8192 * kept
    assert p.saved - p.backward_saved == 8192 * (8192 + 2048)  # wq and wv were read again


def test_per_op_checkpointing_of_transformer_engine():
    """Kept: input, attention and its statistics; its products run again."""
    fp8 = Precision(kind="fp8", recipe="te-delayed")
    p = layer_footprint(workload(length=8192, precision=fp8), "layer", "selective-op")
    assert p.saved == 8192 * (8192 + 8192 + 128 + 256)


def test_native_groups_save_less():
    repeated = layer_footprint(workload(), "layer").saved
    native = layer_footprint(workload(attention="flash2"), "layer").saved
    assert repeated - native == 4096 * 2 * (8192 - 2048)


def test_compiled_drops_silu_and_fp32_norms():
    eager = layer_footprint(workload(torch="2.5"), "layer").saved
    compiled = layer_footprint(workload(torch="2.5", compile=True), "layer").saved
    assert eager - compiled == 4096 * (2 * 6 * 4096 + 28672)


def test_eager_attention_keeps_scores():
    """fp32 softmax and its cast: 6 bytes a score."""
    flash = layer_footprint(workload(length=512), "layer").saved
    eager = layer_footprint(workload(length=512, attention="eager"), "layer").saved
    assert eager - flash == 6 * 32 * 512 * 512 - 4 * 32 * 512


def test_lora_saves_inputs_of_adapters_alone():
    """Frozen linears need no input. Each adapter keeps dropout's output (2 B) and mask (1 B)."""
    method = Method(kind="lora", rank=16, targets=LINEARS, dropout=0.1)
    p = layer_footprint(workload(method=method), "layer")
    full = layer_footprint(workload(), "layer").saved
    inputs = 6 * 4096 + 14336  # of the seven adapted linears
    linears = 2 * (4096 + 4096 + 14336)  # what only linears kept: norms, gate
    assert p.saved == full - 4096 * linears + 4096 * (3 * inputs + 7 * 2 * 16)


@pytest.mark.parametrize("name", ["gpt2", "mpt-7b", "gemma-2-2b", "mixtral-8x7b", "qwen3-8b"])
@pytest.mark.parametrize("policy", ["none", "full", "full-reentrant", "selective-op"])
def test_every_kind_walks(name, policy):
    p = layer_footprint(workload(name, 256), "layer", policy)
    none = layer_footprint(workload(name, 256), "layer")
    assert 0 < p.saved <= none.saved
    assert p.backward_saved <= p.saved
    assert p.backward_working > 0
    assert p.forward_peak >= p.saved - p.hidden


def test_gpt_block_by_hand():
    """LayerNorm and GELU, fused qkv: x, n, qkv, o, x, n of d, up and act of 4 d, two statistics."""
    p = layer_footprint(workload("gpt2", 256), "layer")
    d = 768
    per_token = 2 * (d + d + 3 * d + d + d + d + 4 * d + 4 * d) + 4 * 12 + 2 * 8
    assert p.saved == 256 * per_token


def test_softcaps_keep_what_tanh_made():
    """Gemma 2: as much as the logits, or the scores of 8 heads, in bf16; no kernel that caps does.

    30 tanh(x / 30) divides (4 B an element), takes tanh (4) and multiplies (4); backward reads
    tanh's output too (4 + 6 + 4).
    """
    tokens, model = 1024, resolve_model("gemma-2-2b")
    plain = model.model_copy(update={"softcaps": ()})
    for loss, more in (("huggingface", 1), ("eager", 1), ("fused", 0), ("fused-linear", 0)):
        kinds = (workload(m, tokens, loss=loss, attention="flash2") for m in (model, plain))
        capped, free = map(head_footprint, kinds)
        size = more * 2 * tokens * 256_000
        assert capped.saved - free.saved == size
        assert capped.forward_peak - free.forward_peak == size
    eager, free = (workload(m, tokens, attention="eager") for m in (model, plain))
    saved = [layer_footprint(w, "layer").saved for w in (eager, free)]
    assert saved[0] - saved[1] == 2 * 8 * tokens**2
    kernels = [
        sum(k.bytes for way in ("forward", "backward") for k in unroll(w).of("layer", way))
        for w in (eager, free)
    ]
    assert kernels[0] - kernels[1] == (12 + 14) * 8 * tokens**2


def test_residual_gradient_is_shared_not_copied():
    """y = x + f(x): one gradient buffer until f's own arrives."""
    tape = Tape(Setting(resolve_model("llama-2-7b")), fused=False)
    x = tape.tensor(100.0)
    f = tape.op("f", (x,), 100.0, (x,))
    tape.op("sum", (x, f), 100.0, passes=True)
    p = footprint(tape.described())
    assert p.saved == 100
    assert p.backward_working == 100  # f's input gradient, added to the shared one afterwards


def test_loss_kinds_rank():
    peaks = [
        head_footprint(workload(loss=k)).backward_peak for k in ("eager", "compiled", "chunked")
    ]
    assert peaks == sorted(peaks, reverse=True)
    fused = head_footprint(workload(loss="fused-linear"))
    assert fused.backward_peak < peaks[1]


def test_a_fused_loss_holds_its_logits_once():
    """bf16 logits in forward, their gradient in the same place in backward."""
    job = workload(loss="fused")
    found = head_footprint(job)
    logits = 2 * job.micro_batch * job.sequence_length * job.model.vocab_size
    assert found.saved - found.norm == found.backward_peak - found.norm == logits


@pytest.mark.parametrize("lora", [True, False])
def test_a_tiled_loss_makes_its_logits_twice(lora):
    """Llama 3's head (4,096 x 128,256) over 8,192 rows in bf16, two tiles by four.

    A product is 2 x 8,192 x 4,096 x 128,256 FLOPs: one in forward, one again in backward, and one
    or two for gradients. Tiles are of 4,096 rows x 32,768 columns in memory (256 MiB); gradients of
    the rows stand there in fp32 and bf16, those of a trained weight too.
    """
    method = {"method": Method(kind="lora", rank=8, targets=("q",))} if lora else {}
    model = resolve_model("llama-3-8b")
    jobs = [workload(model, 8192, loss=loss, **method) for loss in ("tiled", "fused-linear")]
    product = 2.0 * 8192 * 4096 * 128_256
    tiled, liger = (
        sum(k.flops for way in ("forward", "backward") for k in unroll(w).of("head", way))
        for w in jobs
    )
    assert tiled - liger == product
    assert liger == (2 if lora else 3) * product
    counted, other = map(token_flops, jobs)
    assert counted.model == other.model
    assert counted.hardware - other.hardware == product / 8192
    head, rows, weight = head_footprint(jobs[0]), 8192 * 4096, 4096 * 128_256
    tile = 2 * 4096 * 32_768
    assert head.saved == head.norm
    assert head.forward_peak - head.norm == tile + 2 * rows
    assert head.backward_peak - head.norm == tile + 6 * (rows + (0 if lora else weight))


@pytest.mark.parametrize(("compiled", "kept", "peak"), [(True, 2, 2.25), (False, 4, 6.5)])
def test_torchtune_makes_the_logits_of_all_chunks_first(compiled, kept, peak):
    """Compiled: bf16 logits, and a chunk's gradient. Eager: fp32 log-softmax of all chunks.

    Eager has 2 B of logits and the fp32 copy of one chunk of eight beside that.
    """
    found = head_footprint(workload(loss="chunked", trainer="torchtune", compile=compiled))
    entry = 4096 * 128256
    assert found.saved - found.norm == kept * entry
    highest = max(found.forward_peak, found.backward_peak) - found.norm
    assert highest == peak * entry


def test_a_chunked_loss_holds_one_chunk():
    """Two of its logits in bf16 and two in fp32, beside the gradient of the hidden states."""
    job = workload(loss="chunked")
    tokens, model = job.micro_batch * job.sequence_length, job.model
    found = head_footprint(job)
    chunk = 12 * tokens * model.vocab_size / 8
    assert found.backward_peak - found.norm == chunk + 2 * tokens * model.hidden_size
