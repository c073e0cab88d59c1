"""FLOPs per token against the published conventions."""

import pytest

from sim import simulate
from sim.blocks.flops import checkpointed_layers, token_flops
from sim.blocks.parameters import count_parameters
from sim.inputs.method import Method
from sim.inputs.models import resolve_model
from sim.inputs.workload import Checkpointing, Workload

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


def flops(model, length, counted="full", **keys):
    model = resolve_model(model) if isinstance(model, str) else model
    workload = Workload(name="w", model=model, sequence_length=length, **keys)
    return token_flops(workload, counted)


def test_torchtitan_formula():
    """6 (N - embedding) + 12 L h hd T; norms multiply nothing, so 6 x 65 x 4096 less."""
    model = resolve_model("llama-3.1-8b")
    n = 8_030_261_248 - 128256 * 4096 - 65 * 4096
    assert flops(model, 8192).model == 6 * n + 12 * 32 * 4096 * 8192


def test_tied_head_multiplies():
    model = resolve_model("llama-3.2-1b")
    n = count_parameters(model).total - 33 * 2048
    assert flops(model, 1).model == 6 * n + 12 * 16 * 2048


def test_causal_halves_attention():
    model = resolve_model("llama-2-7b")
    full = flops(model, 4096)
    causal = flops(model, 4096, "causal")
    assert full.model - causal.model == full.attention / 2


def test_lora_has_no_weight_gradient_of_the_base():
    """Base: 2 forward + 2 backward; adapters 6."""
    model = resolve_model("llama-3.1-8b")
    lora = flops(model, 1, method=Method(kind="lora", rank=16, targets=LINEARS))
    n = 8_030_261_248 - 128256 * 4096 - 65 * 4096
    assert lora.model == 4 * n + 6 * 41_943_040 + 12 * 32 * 4096


def test_recompute():
    """A reentrant checkpoint repeats the layers' forward; the other stops before w2."""
    model = resolve_model("llama-3.1-8b")
    layer = 2 * (218_112_000 - 2 * 4096) + 4 * 4096 * 100
    full = flops(model, 100, activation_checkpointing=Checkpointing(kind="full", reentrant=True))
    assert full.recompute == 32 * layer
    early = flops(model, 100, activation_checkpointing=Checkpointing(kind="full"))
    assert early.recompute == 32 * (layer - 2 * 4096 * 14336)
    assert full.hardware - full.model == full.recompute


def test_mixture_counts_active_experts():
    model = resolve_model("mixtral-8x7b")
    counts = count_parameters(model)
    n = counts.active - counts.embedding - 65 * 4096
    assert flops(model, 1).model == pytest.approx(6 * n + 12 * 32 * 4096, rel=1e-12)


def test_sliding_window_bounds_attention():
    model = resolve_model("mistral-7b")
    assert flops(model, 32768).attention == 32 * 12 * 4096 * 4096


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 16), (0.25, 8), (1.0, 32), (1 / 3, 11)])
def test_fraction_of_blocks(fraction, count):
    c = Checkpointing(kind="selective-blocks", fraction=fraction)
    assert sum(checkpointed_layers(c, 32)) == count


def test_every_other_block():
    c = Checkpointing(kind="selective-blocks", every=2)
    assert checkpointed_layers(c, 4) == (False, True, False, True)


def test_hardware_flops_are_those_that_run():
    """A fused kernel skips what the mask hides, eager attention does not."""
    whole, masked = flops("mpt-7b", 8192), flops("mpt-7b", 8192, "causal")
    assert flops("mpt-7b", 8192, "run", attention="flash2") == masked
    assert flops("mpt-7b", 8192, "run", attention="eager") == whole


@pytest.mark.parametrize("kernel", ["flash2", "cudnn", "eager"])
def test_hfu_is_a_share_at_any_length(kernel):
    """131,072 tokens on A100s: attention counted in full would pass 100 % of the peak."""
    job = {
        "name": "long", "model": "llama-3.1-8b", "sequence_length": 131072, "steps": 10,
        "attention": kernel, "activation_checkpointing": "full", "parallelism": "fsdp2",
    }  # fmt: skip
    rates = simulate("dgx-a100", job, scaling=False, fixes=False).throughput
    assert rates.mfu_causal < rates.hfu < 1
