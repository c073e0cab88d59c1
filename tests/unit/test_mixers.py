"""Mixers in attention's place: parameters, FLOPs and memory by hand, and as torch records them."""

import json
import math
from itertools import pairwise

import pytest

from sim import simulate
from sim.blocks import delta, kda, lightning, mamba, short_conv
from sim.blocks.flops import token_flops
from sim.blocks.footprint import layer_footprint
from sim.blocks.layer import layer_kinds
from sim.blocks.parameters import build_tree, count_parameters
from sim.blocks.setting import Setting
from sim.blocks.tape import Tape
from sim.blocks.unroll import unroll
from sim.cost.kernel_cost import cost_model
from sim.cost.scan import RESIDENT, scan_compute_s
from sim.errors import InputError
from sim.inputs.hf import model_from_config
from sim.inputs.loader import load, load_workload
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.inputs.modelling import taken
from sim.inputs.models import resolve_model

SMALL = {
    "name": "small", "layers": 4, "hidden_size": 64, "heads": 4, "kv_heads": 2, "head_dim": 16,
    "ffn_size": 64, "vocab_size": 128, "layer_pattern": ("delta", "delta", "delta", "attention"),
    "mixer_heads": 4, "mixer_groups": 2, "mixer_key_dim": 16, "mixer_head_dim": 32,
}  # fmt: skip
PLAYED = {
    "delta": delta.delta, "mamba": mamba.mamba, "conv": short_conv.short_convolution,
    "kda": kda.kimi_delta, "lightning": lightning.lightning,
}  # fmt: skip
#: sizes that a model with one of them has else
STATE = {"mixer_key_dim": 32, "mixer_head_dim": 16, "mixer_chunk": 128, "mixer_conv_bias": True}


def job(model="qwen3-next-80b-a3b", **keys):
    """A job of a few layers on one GPU."""
    keys = {"sequence_length": 4096, "steps": 10, **keys}
    model = model if isinstance(model, dict) else {"base": model, "layers": 4}
    return {"name": "job", "model": model, **keys}


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


# --- parameters and FLOPs ------------------------------------------------------------------------


def test_qwen3_next_by_hand():
    d, experts, layers = 2048, 512, 48
    delta = d * (2 * 2048 + 2 * 4096) + d * 64 + 4 * (2 * 2048 + 4096) + 2 * 32 + 128 + 4096 * d
    attention = d * 2 * 4096 + 2 * d * 512 + 4096 * d + 2 * 256
    mixture = (experts + 1) * 3 * d * 512 + experts * d + d
    total = 36 * delta + 12 * attention + layers * (mixture + 2 * d) + 2 * 151936 * d + d
    counts = count_parameters(resolve_model("qwen3-next-80b-a3b"))
    assert counts.total == total == 79_674_391_296
    met = (10 + 1) * 3 * d * 512 + experts * d + d
    assert counts.active == total - layers * (mixture - met)
    assert counts.active == pytest.approx(3.9e9, rel=0.01)


def test_flops_of_the_delta_rule():
    """Projections, and 2 (3 C K + 2 C V + 3 K V) a token and head, three times for training."""
    keys = {**SMALL, "layer_pattern": ("delta",), "head_dim": 16}
    w = load_workload(job({**keys, "layer_pattern": ["delta"]}, sequence_length=640))
    d, heads, key, value, chunk = 64, 4, 16, 32, 64
    weights = d * (4 * key + 2 * heads * value) + d * 2 * heads + heads * value * d + 3 * d * 64
    rule = 2 * heads * (3 * chunk * key + 2 * chunk * value + 3 * key * value)
    assert token_flops(w).forward == pytest.approx(4 * (2 * weights + rule) + 2 * 128 * d)
    assert token_flops(w).backward == pytest.approx(2 * token_flops(w).forward)
    assert token_flops(w).attention == 0.0


def test_flops_of_a_state_space():
    """Projections, and 2 (G L N + H (L P + 2 N P)) a token."""
    keys = {**SMALL, **STATE, "layer_pattern": ["mamba"]}
    w = load_workload(job(keys, sequence_length=640))
    d, heads, groups, state, size, chunk = 64, 4, 2, 32, 16, 128
    inner = heads * size
    weights = d * (2 * inner + 2 * groups * state + heads) + inner * d + 3 * d * 64
    rule = 2 * (groups * chunk * state + inner * (chunk + 2 * state))
    assert token_flops(w).forward == pytest.approx(4 * (2 * weights + rule) + 2 * 128 * d)
    assert token_flops(w).backward == pytest.approx(2 * token_flops(w).forward)


def test_minimax_by_hand():
    """70 layers of lightning attention, 10 of softmax attention: 456B, and 45.9B of a token."""
    d, inner, f = 6144, 64 * 128, 9216
    fast, full = 5 * d * inner + inner, 2 * d * inner + 2 * d * 8 * 128
    ends = 2 * 200064 * d
    rest = 70 * fast + 10 * full + 80 * (32 * d + 2 * d) + d
    model = resolve_model("MiniMaxAI/MiniMax-M1-80k")
    counts = count_parameters(model)
    assert counts.total == ends + rest + 80 * 32 * 3 * d * f == 456_089_655_296
    assert counts.active - ends == rest + 80 * 2 * 3 * d * f == pytest.approx(45.9e9, rel=0.002)
    chunk, dim = 64, 128
    w = load_workload(job("minimax-text-01", sequence_length=8192))
    weights = 4 * (5 * d * inner + 32 * d + 2 * 3 * d * f)
    rule = 4 * 64 * (2 * chunk * dim + 2 * dim * dim)
    assert token_flops(w).forward == pytest.approx(2 * (weights + rule + 200064 * d))


def test_minimax_files():
    """A list of numbers, or transformers' words; a kind of its own, or transformers'."""
    shape = {"hidden_size": 6144, "num_hidden_layers": 80, "num_attention_heads": 64,
             "head_dim": 128, "intermediate_size": 9216, "num_local_experts": 32,
             "vocab_size": 200064, "rotary_dim": 64}  # fmt: skip
    fast, full = "linear_attention", "full_attention"
    words = {"model_type": "minimax", "layer_types": ([fast] * 7 + [full]) * 10}
    numbers = {"attn_type_list": ([0] * 7 + [1]) * 10}
    for config in (words, *({**numbers, "model_type": f"minimax_{k}"} for k in ("text_01", "m1"))):
        found = model_from_config(shape | config)
        assert count_parameters(found).total == 456_089_655_296
        assert found.rope_fraction == 0.5
        assert found.layer_pattern == resolve_model("minimax-text-01").layer_pattern


@pytest.mark.parametrize("name", ["qwen3-next-80b-a3b", "nemotron-h-8b", "lfm2-1.2b"])
def test_flops_do_not_know_who_runs_them(name):
    torch = load_workload(job(name, mixer_kernels="torch"))
    assert token_flops(torch) == token_flops(load_workload(job(name)))


def test_nemotron_h_by_hand():
    """24 layers of Mamba-2, 24 FFNs and 4 of attention: each of one branch, with one norm."""
    d, heads, size, groups, state, f = 4096, 128, 64, 8, 128, 21504
    inner = heads * size
    columns = inner + 2 * groups * state
    mamba = d * (inner + columns + heads) + 5 * columns + 3 * heads + inner + inner * d
    attention = d * (32 + 2 * 8) * 128 + 32 * 128 * d
    total = 24 * (mamba + 2 * d * f) + 4 * attention + 52 * d + 2 * 131072 * d + d
    assert count_parameters(resolve_model("nemotron-h-8b")).total == total == 8_100_852_736
    kinds = layer_kinds(resolve_model("nemotron-h-8b"))
    assert [k.key for k in kinds[6:9]] == ["layer.mamba", "layer", "layer.ffn"]
    assert [k.network for k in kinds[6:9]] == [False, False, True]


def test_experts_of_one_branch():
    """Nemotron 3 Nano: its 23 layers of experts, and nothing else of its layers, are mixtures."""
    model = resolve_model("nemotron-3-nano-30b-a3b")
    assert sum(k.mixture for k in layer_kinds(model)) == 23
    assert not any(k.mixture and k.mixer != "ffn" for k in layer_kinds(model))
    assert count_parameters(model).active == pytest.approx(3.6e9, rel=0.01)  # its card: 3.6B


def test_kimi_linear_by_hand():
    """20 layers of Kimi Delta Attention, 7 of latent attention; one dense FFN, 26 mixtures."""
    d, heads, dim = 2304, 32, 128
    inner = heads * dim
    kda = 3 * d * inner + 4 * 3 * inner + 4 * inner * dim // 2 + 2 * d * dim + d * heads
    kda += inner + heads + dim + inner * d
    latent = d * heads * 192 + d * 576 + 512 + 512 * heads * 256 + heads * dim * d
    mixture = 257 * 3 * d * 1024 + 256 * d
    total = 20 * kda + 7 * latent + 26 * mixture + 3 * d * 9216 + 27 * 2 * d
    model = resolve_model("kimi-linear-48b-a3b")
    total += 2 * 163840 * d + d
    assert count_parameters(model).total == total == 49_122_675_072
    assert [i + 1 for i in range(27) if model.mixer(i) == "attention"] == [4, 8, 12, 16, 20, 24, 27]


def test_side_by_side():
    """Falcon-H1: attention and Mamba-2 read one norm, and their sum is added to the stream."""
    layer = build_tree(resolve_model("falcon-h1-0.5b")).layers[0]
    assert [m.name for m in layer.forward][:3] == ["attention_norm", "in_proj", "conv1d"]
    assert {"wq", "wo", "out_proj", "w2"} <= {m.name for m in layer.forward}
    assert not any(m.name == "mixer_norm" for m in layer.forward)
    w = load_workload(job("falcon-h1-0.5b"))
    assert token_flops(w).attention == 3 * 4 * 4 * 8 * 64 * 4096


def test_modules_stand_as_registered():
    """`dt_bias` and `A_log` of the mixer itself, then its children, then FFN and norms."""
    names = [m.name for m in build_tree(Model(**SMALL)).layers[0].modules]
    own = ["decay", "conv1d", "in_proj", "ba_proj", "mixer_norm", "out_proj"]
    assert names == [*own, "w1", "w2", "w3", "attention_norm", "ffn_norm"]


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


# --- kinds and patterns --------------------------------------------------------------------------


def test_kinds_of_layers():
    kinds = layer_kinds(resolve_model("qwen3-next-80b-a3b"))
    assert [k.key for k in kinds[:5]] == [*["layer.delta"] * 3, "layer", "layer.delta"]
    assert sum(k.mixer == "attention" for k in kinds) == 12
    assert all(k.mixture for k in kinds)


def test_a_pattern_is_told_shortest():
    config = {"model_type": "qwen3_next", "num_hidden_layers": 8}
    types = ["linear_attention", "full_attention"] * 4
    assert model_from_config({**config, "layer_types": types}).layer_pattern == (
        "delta", "attention",
    )  # fmt: skip
    types[5] = "linear_attention"
    odd = model_from_config({**config, "layer_types": types})
    words = {"linear_attention": "delta", "full_attention": "attention"}
    assert [odd.mixer(i) for i in range(8)] == [words[t] for t in types]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"mixer_heads": 0}, "0 is not at least 1, and delta layers need it"),
        ({"mixer_groups": 3}, "4 heads cannot share 3 groups"),
        ({"layer_pattern": ["delta", "ffn"]}, "one branch"),
        ({"one_branch": True}, "one branch"),
        ({"layer_pattern": ["deltas"]}, "delta"),
        ({"mixer_chunk": 1 << 20}, "chunks of 16 to 1,024 tokens, not of 1048576"),
        ({"layer_pattern": ["kda"]}, "2 is not the 4 of mixer_heads, and kda layers have as many"),
        ({"layer_pattern": ["lightning"]}, "16 is not the 32 of mixer_head_dim, and lightning"),
        ({"parallel_block": True}, "behind one norm"),
        ({"attention_gate": True, "fused_qkv": True}, "queries alone"),
    ],
)
def test_patterns_that_are_none(keys, says):
    model = {**SMALL, "layer_pattern": list(SMALL["layer_pattern"]), **keys}
    with pytest.raises(InputError, match=says):
        load("h100-x1", job(model), [])


def test_fewer_layers_than_words():
    """The first of them; that words are left over is told."""
    notes = load("h100-x1", job("nemotron-h-8b"), []).notes
    assert any("52 words for 4 layers" in w.message for w in notes.warnings)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"parallelism": {"tensor_parallel": 2}}, "heads of a scan"),
        ({"parallelism": {"context_parallel": 2}}, "states of a scan"),
        ({"mixer_kernels": "torch", "compile": True}, "one kernel after another"),
        (
            {"model": {"base": "kimi-linear-48b-a3b", "layers": 4}, "mixer_kernels": "torch"},
            "PyTorch's own scan of Kimi",
        ),
        (
            {"model": {"base": "minimax-text-01", "layers": 8}, "mixer_kernels": "torch"},
            "PyTorch's own scan of lightning",
        ),
        ({"post_training": {"algorithm": "grpo"}}, "generation with delta layers"),
    ],
)
def test_what_is_not_modelled_of_them(keys, says):
    with pytest.raises(InputError, match=says):
        load("dgx-h100", job() | keys, [])


BAD = [
    (
        {"layer_types": ["linear_attention", "wave"] * 24},
        "wave is no list of one of full_attention",
    ),
    ({"layer_types": ["linear_attention"] * 3}, "3 entries, and the model 48"),
    ({"layer_types": "linear_attention"}, "no list"),
    ({"layer_types": []}, "nothing is no list"),
    ({"layer_types": [["linear_attention"]] * 48}, "is no list of one of"),
    ({"full_attention_interval": 0}, "0 is not at least 1"),
    ({"linear_num_key_heads": 12}, "32 heads cannot share 12"),
    ({"shared_expert_intermediate_size": 700}, "no multiple of the 512 columns"),
]


@pytest.mark.parametrize(("keys", "says"), BAD)
def test_files_that_are_refused(keys, says):
    with pytest.raises(InputError, match=says):
        model_from_config({"model_type": "qwen3_next", **keys})


MORE = [
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "MX"}, "'X' in it is no layer: M, "),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": ""}, "nothing is no layer"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": 7}, "7 is no text"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-", "num_hidden_layers": 3},
     "has 2 letters, and the model 3 layers"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-E"}, "dense layers beside"),
    ({"model_type": "nemotron_h", "layers_block_type": ["mamba", "wave"]}, "wave is no list"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "ME", "moe_latent_size": 8},
     "narrower latent"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-", "n_groups": 3},
     "128 heads cannot share 3"),
    ({"model_type": "falcon_h1", "mamba_d_ssm": 1000}, "are not the 1000 of its projections"),
    ({"model_type": "falcon_h1", "projectors_bias": True}, "last projection alone"),
    ({"model_type": "bamba", "attn_layer_indices": [1, "x"]}, "no list of numbers"),
    ({"model_type": "granitemoehybrid", "shared_intermediate_size": 1000}, "no multiple"),
    ({"model_type": "kimi_linear", "linear_attn_config": {"full_attn_layers": [0]}},
     "the first one 1"),
    ({"model_type": "kimi_linear", "linear_attn_config": {"full_attn_layers": 4}}, "4 is no list"),
    ({"model_type": "minimax", "attn_type_list": [0, 2] * 16}, "2 is no list of one of"),
    ({"model_type": "minimax", "attn_type_list": [0, 1]}, "2 entries, and the model 32"),
    ({"model_type": "minimax", "shared_intermediate_size": 64}, "with shared experts"),
    ({"model_type": "lfm2", "full_attn_idxs": 5}, "5 is no list of numbers"),
    ({"model_type": "lfm2", "layer_types": ["conv", "wave"] * 16}, "wave is no list"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "says"), MORE)
def test_other_files_that_are_refused(config, says):
    with pytest.raises(InputError, match=says):
        model_from_config(config)


def test_letters_and_words_say_the_same():
    words = ["mamba", "mlp", "attention", "mlp"]
    one = model_from_config({"model_type": "nemotron_h", "hybrid_override_pattern": "M-*-"})
    two = model_from_config({"model_type": "nemotron_h", "layers_block_type": words})
    assert one == two
    assert one.layer_pattern == ("mamba", "ffn", "attention", "ffn")
    assert one.positions == "none"


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


def test_a_pattern_in_a_file(tmp_path):
    """Written as JSON as a hub has it, and read by name of the file."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3_next", "intermediate_size": 5120}))
    assert count_parameters(resolve_model(path)).total == 79_674_391_296


def test_kernels_of_mixers_are_assumed_where_there_are_mixers():
    assert taken(load_workload(job("lfm2-1.2b")))["mixer_kernels"] == "fused"
    assert "mixer_kernels" not in taken(load_workload(job("lfm2-1.2b", mixer_kernels="torch")))
    assert "mixer_kernels" not in taken(load_workload(job("llama-3.2-1b")))
