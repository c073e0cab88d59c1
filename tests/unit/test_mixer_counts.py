"""Parameters and FLOPs of models with mixers in attention's place, by hand."""

import pytest

from sim.blocks.flops import token_flops
from sim.blocks.layer import layer_kinds
from sim.blocks.parameters import build_tree, count_parameters
from sim.inputs.hf import model_from_config
from sim.inputs.loader import load_workload
from sim.inputs.model import Model
from sim.inputs.models import resolve_model
from tests.mixers import SMALL, STATE, job


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
