"""A method's step part by part."""

import json

import pytest
from click.testing import CliRunner

from sim.commands.explain import command
from sim.inputs.loader import load
from sim.result.explain import PARTS, explain
from sim.step.run import run_step


@pytest.fixture(scope="module")
def costs():
    loaded = load("dgx-h100", "llama3-70b-qlora", ["gradient_accumulation=2"])
    return loaded, explain(loaded.topology, loaded.workload).methods


def test_parts_add_up_to_the_simulated_step(costs):
    loaded, found = costs
    assert [c.name for c in found] == ["full", "lora", "qlora"]
    for cost in found:
        assert tuple(cost.parts) == PARTS
        assert sum(cost.parts.values()) == pytest.approx(cost.step_s)
    own = run_step(loaded.topology, loaded.workload).time_s
    assert found[-1].step_s == pytest.approx(own, rel=1e-4)


def test_what_goes_and_what_comes(costs):
    full, lora, qlora = costs[1]
    for cost in (lora, qlora):
        assert cost.parts["weight gradients"] == 0
        assert cost.parts["adapters' products"] > 0
        assert cost.parts["adapters' element-wise"] > cost.parts["adapters' products"]
        for same in ("forward products", "input gradients", "attention"):
            assert cost.parts[same] == pytest.approx(full.parts[same])
    assert full.parts["adapters' products"] == lora.parts["dequantisation"] == 0
    assert qlora.parts["dequantisation"] > 0
    # a weight gradient has the FLOPs of the forward product
    assert full.parts["weight gradients"] == pytest.approx(full.parts["forward products"], rel=0.1)


def test_bytes_on_the_wire(costs):
    """bf16 weights twice a micro-step, in 4 bits for QLoRA's linears; fp32 gradients once."""
    full, lora, qlora = costs[1]
    weights = 2.0 * full.trainable
    root = 2.0 * (2 * 128256 * 8192 + 8192)  # kept from forward to backward
    assert full.gathered_bytes == pytest.approx(2 * (2 * weights - root), rel=1e-3)
    assert full.reduced_bytes == pytest.approx(2 * 4 * full.trainable, rel=1e-3)
    assert lora.gathered_bytes == pytest.approx(full.gathered_bytes, rel=0.01)
    assert lora.reduced_bytes == pytest.approx(2 * 4 * lora.trainable, rel=1e-3)
    assert qlora.gathered_bytes < 0.35 * lora.gathered_bytes


def test_what_does_not_fit_is_said_and_what_the_job_is_warned_of():
    job = ["dgx-h100", "llama3-70b-full", "--set", "network.sharp=true"]
    text = CliRunner().invoke(command, job).output
    assert "full does not fit (156.1 GiB of 79.3 GiB): its times are as if it just ran" in text
    assert text.count("! idle-key network.sharp") == 1
    full, lora = json.loads(CliRunner().invoke(command, [*job, "--json"]).output)["methods"]
    assert (full["verdict"], lora["verdict"]) == ("does not fit", "fits")
    assert full["memory_bytes"] > full["capacity_bytes"] > lora["memory_bytes"]


def test_command():
    text = CliRunner().invoke(command, ["dgx-h100", "llama3-8b-lora"]).output
    assert "weight gradients" in text
    assert "stays: products of the frozen base" in text
    data = json.loads(CliRunner().invoke(command, ["dgx-h100", "llama3-8b-sft", "--json"]).output)
    assert [m["name"] for m in data["methods"]] == ["full", "lora"]
    for form in ("csv", "md"):
        table = CliRunner().invoke(command, ["dgx-h100", "llama3-8b-lora", "--format", form]).output
        assert "adapters' products" in table
