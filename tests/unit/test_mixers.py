"""Mixers in attention's place: what they keep, as torch records it, what they take, adapters."""

import math
from itertools import pairwise

import pytest

from sim import simulate
from sim.blocks import delta, kda, lightning, mamba, short_conv
from sim.blocks.footprint import layer_footprint
from sim.blocks.parameters import build_tree
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.blocks.unroll import unroll
from sim.cost.kernel_cost import cost_model
from sim.cost.scan import RESIDENT, scan_compute_s
from sim.inputs.loader import load, load_workload
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.modelling import taken
from sim.inputs.models import resolve_model
from tests.mixers import SMALL, STATE, job

PLAYED = {
    "delta": delta.delta, "mamba": mamba.mamba, "conv": short_conv.short_convolution,
    "kda": kda.kimi_delta, "lightning": lightning.lightning,
}  # fmt: skip


def kept(mixer, length, sequences=1, kernels="torch", **keys):
    """Bytes that a mixer alone keeps for its backward."""
    model = Model(**{**SMALL, **keys})
    setting = Setting(
        model, tokens=length * sequences, sequences=sequences, length=length, keys=length,
        mixer_kernels=kernels, fused_norms=True,
    )  # fmt: skip
    t = Tape(setting, False)
    PLAYED[mixer](t, t.tensor(t.size(model.hidden_size)), None)
    return t.described().saved_bytes


# --- what is kept --------------------------------------------------------------------------------

#: bytes of all storages that `saved_tensors_hooks` sees of one mixer in bf16, its parameters left
#: out: transformers 5.24 on torch 2.13, CPU, where no kernels are installed, of `SMALL`'s shape
RECORDED = [
    ("delta", 256, 1, {}, 3_124_448),
    ("delta", 512, 1, {}, 6_243_616),
    ("delta", 100, 1, {}, 1_458_464),  # the second chunk is filled up
    ("delta", 256, 2, {}, 6_244_768),
    ("delta", 256, 1, {"mixer_split": True}, 3_124_448),  # Qwen3.5's
    ("mamba", 256, 1, STATE, 3_278_146),  # Nemotron-H's
    ("mamba", 1024, 1, STATE, 12_986_962),
    ("mamba", 300, 1, STATE, 4_686_528),  # the third chunk is filled up
    ("mamba", 300, 2, STATE, 9_340_224),
    ("mamba", 256, 1, {**STATE, "mixer_groups": 1, "hidden_size": 32}, 3_194_818),  # Granite's
    ("conv", 256, 1, {"mixer_conv": 3}, 229_632),  # LFM2's
    ("conv", 300, 2, {"mixer_conv": 3}, 538_112),
    ("conv", 256, 1, {"mixer_conv": 3, "mixer_bias": True, "mixer_conv_bias": True}, 229_632),
]


@pytest.mark.parametrize(("mixer", "length", "sequences", "keys", "recorded"), RECORDED)
def test_what_torch_keeps(mixer, length, sequences, keys, recorded):
    assert kept(mixer, length, sequences, **keys) == recorded


def test_what_the_delta_rules_kernels_keep():
    """As ``ctx.save_for_backward`` of fla's function has it, and the modules around."""
    n, heads, groups, key, value = 256, 4, 2, 16, 32
    columns = 2 * groups * key + heads * value
    around = 64 + columns + heads * value  # projections' and convolution's inputs, out_proj's
    rule = 2 * groups * key + heads * value + heads * 64 + heads  # q, k, v, inverse, beta
    gate = 2 * heads * value  # the gate and what it is applied to
    # softplus's input and output, sums of decays, the norm's statistics; those of q and k
    fp32 = 2 * heads + heads + heads + 2 * groups
    parameters = 2 * heads  # A's exponential and what is minus that
    expected = n * (2 * (around + rule + gate) + 4 * fp32) + 4 * parameters
    assert kept("delta", n, kernels="fused") == expected


@pytest.mark.parametrize("mixer", ["delta", "kda", "lightning"])
def test_a_row_shorter_than_a_chunk_keeps_its_own_tokens(mixer):
    """fla makes a row of a square for each token (`A` is of B, T, heads and chunk)."""
    sizes = {"mixer_groups": 4, "mixer_key_dim": 16, "mixer_head_dim": 16}
    short, whole = (kept(mixer, n, kernels="fused", **sizes) for n in (16, 64))
    parameters = {"delta": 8.0 * 4}.get(mixer, 0.0)  # A's exponential and what is minus that
    assert 4 * (short - parameters) == whole - parameters


def test_what_kimi_deltas_kernels_keep():
    """As ``ctx.save_for_backward`` of fla's function has it; decays in fp32, one a column."""
    n, heads, dim = 256, 4, 16
    inner = heads * dim
    # projections' input, the two latents, the convolution's input, beta, the gate, its norm, o_proj
    around = 64 + 2 * dim + 3 * inner + 2 * inner + inner
    rule = 3 * inner + 2 * heads * 64 + heads  # q, k, v, two squares of a chunk, beta
    fp32 = 2 * inner + 3 * heads  # decays and their sums, statistics of q, k and the norm
    written_out = 13 * inner  # softplus by its parts, and a mask
    expected = n * (2 * (around + rule) + 4 * fp32 + written_out)
    sizes = {"mixer_groups": heads, "mixer_key_dim": dim, "mixer_head_dim": dim}
    assert kept("kda", n, kernels="fused", **sizes) == expected


def test_what_lightning_attentions_kernels_keep():
    """As ``ctx.save_for_backward`` of fla's function has it: q, k and v; decays are constants."""
    n, heads, dim = 256, 4, 16
    inner = heads * dim
    # projections' input, SiLU's, q, k and v, the norm's input, what is gated, the gate, out_proj's
    around = 64 + 3 * inner + 3 * inner + inner + 2 * inner + inner
    sizes = {"mixer_groups": heads, "mixer_key_dim": dim, "mixer_head_dim": dim}
    assert kept("lightning", n, kernels="fused", **sizes) == n * (2 * around + 4)


def test_what_mambas_function_keeps():
    """What it read and what the scan made, and the norm's statistics: no product of theirs."""
    n, heads, groups, state, size = 256, 4, 2, 32, 16
    inner = heads * size
    read = 2 * inner + 2 * groups * state + heads
    expected = n * (2 * (64 + read + inner) + 4 * groups)
    assert kept("mamba", n, kernels="fused", **STATE) == expected
    without = kept("mamba", n, kernels="fused", **STATE, mixer_norm=False)
    assert without == expected - 4 * n * groups


@pytest.mark.parametrize("mixer", ["delta", "mamba"])
def test_kernels_keep_a_fraction(mixer):
    """Without them every step of a chunk is kept in fp32."""
    assert kept(mixer, 512) > 5 * kept(mixer, 512, kernels="fused")
    name = {"delta": "qwen3.5-4b", "mamba": "nemotron-h-8b"}[mixer]
    jobs = (load_workload(job(name, mixer_kernels=k)) for k in ("fused", "torch"))
    a, b = (layer_footprint(w, f"layer.{mixer}") for w in jobs)
    assert b.saved > 2 * a.saved


# --- time ----------------------------------------------------------------------------------------


def seconds(workload, kind, phase="forward"):
    model = cost_model(load("h100-x1", job(), []).topology.slowest_gpu)
    return math.fsum(model.cost(k).time_s for k in unroll(workload).of(kind, phase))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qwen3-next-80b-a3b", "layer.delta"), ("nemotron-h-8b", "layer.mamba"),
        ("lfm2-1.2b", "layer.conv"), ("granite-4.0-h-tiny", "layer.mamba"),
        ("kimi-linear-48b-a3b", "layer.kda"), ("minimax-text-01", "layer.lightning"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kernels", ["fused", "torch"])
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_time_grows_with_the_length(name, kind, kernels, phase):
    """In proportion with kernels; never less, and faster where slices' gradients are whole."""
    if kind in ("layer.kda", "layer.lightning"):
        kernels = "fused"
    lengths = [4096 << i for i in range(4)]
    jobs = [
        load_workload(job({"base": name, "layers": 8}, sequence_length=n, mixer_kernels=kernels))
        for n in lengths
    ]
    times = [seconds(w, kind, phase) for w in jobs]
    assert all(a < b for a, b in pairwise(times))
    if kernels == "fused":
        assert times[-1] / times[0] == pytest.approx(8.0, rel=0.35)
        attended = [seconds(w, "layer", phase) for w in jobs]
        assert attended[-1] / attended[0] > times[-1] / times[0]  # quadratic
    if kernels == "torch" and phase == "backward" and kind == "layer.delta":
        assert times[-1] / times[0] > 16.0


def test_kernels_are_quicker():
    with_, without = (load_workload(job(mixer_kernels=k)) for k in ("fused", "torch"))
    assert seconds(without, "layer.delta") > 2 * seconds(with_, "layer.delta")


def test_seconds_of_a_scan():
    """Blocks fewer than SMs leave the others idle; steps one after another take each their time."""
    assert scan_compute_s(1e9, 100, 1, 1e12, 2e-6, 100) == 1e-3 + 2e-6
    assert scan_compute_s(1e9, 50, 10, 1e12, 2e-6, 100) == 2e-3 + 20e-6
    many = scan_compute_s(1e9, 400, 1, 1e12, 2e-6, 100)
    assert many == pytest.approx(1e-3 + 400 / (RESIDENT * 100) * 2e-6)
    with pytest.raises(ValueError, match="are no kernel"):
        scan_compute_s(1e9, 0, 1, 1e12, 2e-6, 100)


def test_a_step_of_it():
    """Priced, held, counted and told; more layers take longer."""
    few, more = (
        simulate("h100-x1", job({"base": "qwen3.5-4b", "layers": n}), scaling=False, fixes=False)
        for n in (4, 8)
    )
    assert few.step.breakdown["scan"] > 0.0
    assert more.step.time_s > few.step.time_s
    assert more.memory.peak_allocated_bytes > few.memory.peak_allocated_bytes
    assert more.step.breakdown["scan"] == pytest.approx(2 * few.step.breakdown["scan"], rel=0.01)


def test_the_band_of_what_no_run_timed():
    """A scan that takes twice as long is within it, and it says why it is wide."""
    hybrid, plain = (
        simulate("h100-x1", job({"base": "qwen3.5-4b", "layers": 8, **keys}), scaling=False)
        for keys in ({}, {"layer_pattern": []})
    )
    twice = hybrid.step.time_s + hybrid.step.breakdown["scan"]
    assert hybrid.uncertainty.step_time_s.high > twice
    assert any("speed of scans" in name for name in hybrid.uncertainty.beyond_data)
    assert not any("speed of scans" in name for name in plain.uncertainty.beyond_data)


# --- methods -------------------------------------------------------------------------------------


def test_adapters_stand_beside_its_projections():
    method = load_workload(job(method={"lora": {"rank": 8, "targets": "all-linear"}})).method
    assert method.targets[-2:] == ("in_proj", "out_proj")
    layer = build_tree(resolve_model("qwen3.5-4b"), method).layers[0]
    adapted = {m.base for m in layer.modules if m.base}
    assert adapted == {"in_proj", "z_proj", "b_proj", "a_proj", "out_proj", "w1", "w2", "w3"}
    named = job(method={"lora": {"rank": 8, "targets": ["in_proj_qkvz", "q_proj"]}})
    assert load_workload(named).method.targets == ("q", "in_proj")
    plain = job("llama-3-8b", method={"lora": {"rank": 8, "targets": "all-linear"}})
    assert "in_proj" not in load_workload(plain).method.targets


def test_adapters_train_nothing_of_the_mixer():
    model = resolve_model("qwen3.5-4b")
    lora = Method(kind="lora", rank=8, targets=("in_proj", "out_proj"))
    own = {m.name: m for m in build_tree(model, lora).layers[0].modules}
    assert not any(p.trainable for name in ("decay", "conv1d") for p in own[name].parameters)
    kernels = load_workload(job("qwen3.5-4b", method={"lora": {"rank": 8, "targets": ["in_proj"]}}))
    assert layer_footprint(kernels, "layer.delta").saved < (
        layer_footprint(load_workload(job("qwen3.5-4b")), "layer.delta").saved
    )


def test_kernels_of_mixers_are_assumed_where_there_are_mixers():
    assert taken(load_workload(job("lfm2-1.2b")))["mixer_kernels"] == "fused"
    assert "mixer_kernels" not in taken(load_workload(job("lfm2-1.2b", mixer_kernels="torch")))
    assert "mixer_kernels" not in taken(load_workload(job("llama-3.2-1b")))
