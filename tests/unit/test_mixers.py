"""Mixers in attention's place: parameters, FLOPs and memory by hand, and as torch records them."""

import json
import math
from itertools import pairwise

import pytest

from sim import simulate
from sim.blocks import delta
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
from sim.inputs.model import Model
from sim.inputs.models import resolve_model
from sim.inputs.workload import Method

SMALL = {
    "name": "small", "layers": 4, "hidden_size": 64, "heads": 4, "kv_heads": 2, "head_dim": 16,
    "ffn_size": 64, "vocab_size": 128, "layer_pattern": ("delta", "delta", "delta", "attention"),
    "mixer_heads": 4, "mixer_groups": 2, "mixer_key_dim": 16, "mixer_head_dim": 32,
}  # fmt: skip
PLAYED = {"delta": delta.delta}


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


@pytest.mark.parametrize("mixer", PLAYED)
def test_kernels_keep_a_fraction(mixer):
    """Without them every step of a chunk is kept in fp32."""
    assert kept(mixer, 512) > 5 * kept(mixer, 512, kernels="fused")
    jobs = (load_workload(job("qwen3.5-4b", mixer_kernels=k)) for k in ("fused", "torch"))
    a, b = (layer_footprint(w, "layer.delta") for w in jobs)
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


@pytest.mark.parametrize("kernels", ["fused", "torch"])
def test_flops_do_not_know_who_runs_them(kernels):
    w = load_workload(job(mixer_kernels=kernels))
    assert token_flops(w) == token_flops(load_workload(job()))


def test_modules_stand_as_registered():
    """`dt_bias` and `A_log` of the mixer itself, then its children, then FFN and norms."""
    names = [m.name for m in build_tree(Model(**SMALL)).layers[0].modules]
    own = ["decay", "conv1d", "in_proj", "ba_proj", "mixer_norm", "out_proj"]
    assert names == [*own, "w1", "w2", "w3", "attention_norm", "ffn_norm"]


# --- time ----------------------------------------------------------------------------------------


def seconds(workload, kind, phase="forward"):
    model = cost_model(load("h100-x1", job(), []).topology.slowest_gpu)
    return math.fsum(model.cost(k).time_s for k in unroll(workload).of(kind, phase))


@pytest.mark.parametrize("kernels", ["fused", "torch"])
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_time_grows_with_the_length(kernels, phase):
    """In proportion with kernels; never less, and faster where slices' gradients are whole."""
    lengths = [4096 << i for i in range(4)]
    jobs = [
        load_workload(job(sequence_length=n, mixer_kernels=kernels, experts="grouped"))
        for n in lengths
    ]
    times = [seconds(w, "layer.delta", phase) for w in jobs]
    assert all(a < b for a, b in pairwise(times))
    if kernels == "fused":
        assert times[-1] / times[0] == pytest.approx(8.0, rel=0.35)
        attended = [seconds(w, "layer", phase) for w in jobs]
        assert attended[-1] / attended[0] > times[-1] / times[0]  # quadratic
    if kernels == "torch" and phase == "backward":
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
        ({"layer_pattern": ["delta"] * 5}, "5 words for 4 layers"),
        ({"layer_pattern": ["delta", "ffn"]}, "one branch"),
        ({"one_branch": True}, "one branch"),
        ({"layer_pattern": ["deltas"]}, "delta"),
        ({"parallel_block": True}, "behind one norm"),
        ({"attention_gate": True, "fused_qkv": True}, "queries alone"),
    ],
)
def test_patterns_that_are_none(keys, says):
    model = {**SMALL, "layer_pattern": list(SMALL["layer_pattern"]), **keys}
    with pytest.raises(InputError, match=says):
        load("h100-x1", job(model), [])


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"parallelism": {"tensor_parallel": 2}}, "heads of a scan"),
        ({"parallelism": {"context_parallel": 2}}, "states of a scan"),
        ({"mixer_kernels": "torch", "compile": True}, "one kernel after another"),
    ],
)
def test_what_is_not_modelled_of_them(keys, says):
    with pytest.raises(InputError, match=says):
        load("dgx-h100", job(**keys), [])


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
