"""Power of GPUs by what they do, energy of a job and its carbon: worked by hand."""

import pytest

from sim.inputs import catalogue as shipped
from sim.job.energy import PowerDraw, carbon_intensity, gpu_states, job_energy


def test_power_of_an_h100_by_state():
    states = gpu_states(shipped.gpu("h100-sxm-80gb"))
    assert states["compute"] == pytest.approx(700.0)  # dense products run into the limit
    assert states["idle"] < states["communication"] < states["memory"] < states["compute"]
    assert 0.5 * 700 < states["memory"] < 0.95 * 700


@pytest.mark.parametrize(
    "name", ["rtx-3090-24gb", "a10g-pcie-24gb", "rtx-a6000-48gb", "mi250x-128gb"]
)
def test_products_of_another_chip_draw_its_boards_limit(name):
    """An A100's watts a FLOP made 95 W of an RTX 3090's 350."""
    gpu = shipped.gpu(name)
    states = gpu_states(gpu)
    assert states["compute"] == pytest.approx(gpu.power_limit)
    assert gpu.idle_power < states["memory"] < states["attention"] < states["compute"]


def test_bytes_of_a_chip_with_fewer_flops_draw_what_they_draw():
    """An H20 has 15 % of an H100's FLOPs and quicker memory; PCIe boards have slower memory."""
    states = gpu_states(shipped.gpu("h20-sxm-96gb"))
    assert states["memory"] == pytest.approx(400.0)  # 510 W of an H100 are more than its limit
    assert states["communication"] < states["memory"] <= states["compute"]
    # 60 % of the bytes a second of 450 W, above 48 W at rest
    slower = gpu_states(shipped.gpu("h100-pcie-80gb"))["memory"]
    assert slower == pytest.approx(48 + 0.5 * 630 / 0.82**1.8 * 2000 / 3350)
    # a quicker memory takes no more
    assert gpu_states(shipped.gpu("h200-sxm-141gb"))["memory"] == pytest.approx(
        gpu_states(shipped.gpu("h100-sxm-80gb"))["memory"]
    )


def test_energy_of_a_job_by_hand():
    gpu = shipped.gpu("a100-sxm-80gb")
    compute = gpu_states(gpu)["compute"]
    idle = gpu_states(gpu)["idle"]
    # one node of 8, 100 s of products and 50 s of waiting; 0.4 x 400 W a GPU for the rest; PUE 1.2
    energy = job_energy(
        [PowerDraw(gpu, 8, {"gemm": 1.0})], nodes=1, busy_s=100.0, wall_s=150.0, pue=1.2,
        provider="gcp", region="europe-west4",
    )  # fmt: skip
    gpus = 8 * (100 * compute + 50 * idle)
    assert energy.gpu_energy_j == pytest.approx(gpus)
    assert energy.energy_j == pytest.approx(1.2 * (gpus + 150 * 0.4 * 400 * 8))
    # data/carbon: 236 g/kWh in gcp:europe-west4
    assert energy.co2_kg == pytest.approx(energy.energy_j / 3.6e6 * 0.236)


def test_energy_counts_each_kind_of_gpu():
    """8 A100s at work and 8 H100s that wait: each at its own power, overheads of both limits."""
    a100, h100 = shipped.gpu("a100-sxm-80gb"), shipped.gpu("h100-sxm-80gb")
    energy = job_energy(
        [PowerDraw(a100, 8, {"gemm": 1.0}), PowerDraw(h100, 8, {"exposed_communication": 1.0})],
        nodes=2, busy_s=100.0, wall_s=100.0, pue=1.0,
    )  # fmt: skip
    working, waiting = gpu_states(a100)["compute"], gpu_states(h100)["communication"]
    assert energy.gpu_energy_j == pytest.approx(8 * 100 * (working + waiting))
    assert energy.energy_j - energy.gpu_energy_j == pytest.approx(100 * 0.4 * 8 * (400 + 700))


def test_carbon_by_region_then_country():
    assert carbon_intensity("GCP", "us-central1", "USA") == ("gcp:us-central1", 430.0)
    found = carbon_intensity("AWS", "us-east-1", "USA")
    assert found is not None
    assert found[0] == "USA"
    assert carbon_intensity("nobody", "nowhere", "") is None
