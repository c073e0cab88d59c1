"""A type of attention from one file: what it plays is priced, held, counted and cached."""

import pytest

from sim import simulate
from sim.blocks import layer
from sim.blocks.attention_type import AttentionType
from sim.blocks.flops import token_flops
from sim.blocks.from_workload import setting_of
from sim.blocks.linear import linear
from sim.blocks.modules import Position
from sim.blocks.ops import Map
from sim.blocks.parameters import count_parameters
from sim.blocks.tensor import enter, leave
from sim.inputs.loader import load
from sim.study.generation import cache_bytes_per_token

WIDTH, STATE = 4096, 1024
JOB = {
    "name": "toy", "sequence_length": 2048, "micro_batch": 1, "steps": 10,
    "model": {"name": "toy", "layers": 4, "hidden_size": WIDTH, "heads": 32, "kv_heads": 8,
              "ffn_size": 14336, "vocab_size": 32000},
}  # fmt: skip


def play(t, x, window):
    """A state of so many columns that is read in one pass; no product of queries and keys."""
    x = enter(t, x, "mix_in")
    inner = linear(t, "mix_in", x, WIDTH, STATE, targets=("q",))
    size = t.size(STATE)
    swept = t.op("sweep", (inner,), size, (inner,), [Map("sweep", 2 * size)],
                 [Map("sweep.back", 4 * size)])  # fmt: skip
    return leave(t, linear(t, "mix_out", swept, STATE, WIDTH, Position.OUTPUT, targets=("o",)))


SWEPT = AttentionType(
    takes=lambda model: model.name == "toy",
    play=play,
    registered=("mix_in", "mix_out"),
    cached=lambda model, tensor, slides: float(STATE),
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(layer, "ATTENTIONS", (SWEPT, *layer.ATTENTIONS))
    for cache in (layer.layer_kinds, layer.block_kinds, layer.describe):
        cache.cache_clear()
    yield load("dgx-h100", JOB, []).workload
    for cache in (layer.layer_kinds, layer.block_kinds, layer.describe):
        cache.cache_clear()


def test_all_readings_have_it(toy):
    model = toy.model
    own = 2 * WIDTH * STATE  # its two matrices, instead of four
    mlp, norms, ends = 3 * WIDTH * 14336, 2 * WIDTH, 2 * 32000 * WIDTH + WIDTH
    assert count_parameters(model, toy.method).total == 4 * (own + mlp + norms) + ends
    forward = 2 * (4 * (own + mlp) + 32000 * WIDTH)  # a multiplication and an addition a weight
    assert token_flops(toy).forward == pytest.approx(forward, rel=1e-12)
    assert [m.name for m in layer.describe(setting_of(toy), layer.layer_kinds(model)[0]).modules
            if m.name.startswith("mix")] == ["mix_in", "mix_out"]  # fmt: skip
    assert cache_bytes_per_token(model, 8) == 4 * STATE * 2


def test_a_step_has_its_kernels(toy):
    mine = simulate("dgx-h100", JOB, scaling=False, fixes=False)
    other = JOB | {"model": JOB["model"] | {"name": "plain"}}
    plain = simulate("dgx-h100", other, scaling=False, fixes=False)
    assert mine.step.breakdown.get("attention", 0.0) == 0.0
    assert plain.step.breakdown["attention"] > 0.0
    assert mine.step.time_s < plain.step.time_s
    assert mine.memory.peak_allocated_bytes < plain.memory.peak_allocated_bytes
