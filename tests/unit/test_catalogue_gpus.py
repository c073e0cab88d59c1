"""The GPU catalogue and the shipped inputs."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.inputs import catalogue, loader

ROOT = Path(__file__).parents[2]
GPUS = catalogue.gpu_names()
NAMED = [
    "a100-sxm-40gb", "a100-sxm-80gb", "a100-pcie-40gb", "a100-pcie-80gb", "h100-sxm-80gb",
    "h100-pcie-80gb", "h100-nvl-94gb", "h200-sxm-141gb", "a800-sxm-80gb", "h800-sxm-80gb",
    "l40s-pcie-48gb", "a10g-pcie-24gb", "v100-sxm-32gb", "b200-sxm-180gb", "rtx-4090-24gb",
]  # fmt: skip


def test_the_wanted_gpus_are_there():
    assert set(NAMED) <= set(GPUS)
    assert len(GPUS) >= 32


@pytest.mark.parametrize("name", GPUS)
def test_an_entry_is_complete_and_plausible(name):
    gpu = catalogue.gpu(name)
    assert gpu.name == gpu.base == name
    assert gpu.source
    assert gpu.confidence
    written = set(catalogue.gpu_table(name).entries)
    left = set(type(gpu).model_fields) - written  # nothing else is left to a default
    assert {"borrowed"} <= left <= {"borrowed", "bridge"}
    nominal = float(name.split("-")[-1].removesuffix("gb")) * 1e9
    assert 0.93 * nominal < gpu.memory < 1.08 * nominal
    if gpu.peak_bf16 is not None:
        assert gpu.peak_bf16 == gpu.peak_fp16
        if gpu.peak_tf32 is not None:  # AMD's CDNA 2 has none
            assert gpu.peak_tf32 == pytest.approx(gpu.peak_bf16 / 2, rel=0.02)
    if gpu.peak_fp8 is not None:
        assert gpu.peak_fp8 == pytest.approx(2 * gpu.peak_bf16, rel=0.02)
    # of a GeForce FP8 is halved where it adds up in fp32, Blackwell Ultra has half as much again
    assert (gpu.peak_fp4 is not None) == (gpu.architecture == "blackwell")
    if gpu.peak_fp4 is not None:
        assert gpu.peak_fp4 / gpu.peak_fp8 == pytest.approx(
            round(gpu.peak_fp4 / gpu.peak_fp8), rel=0.01
        )
        assert 1.9 < gpu.peak_fp4 / gpu.peak_fp8 < 4.1
    assert (gpu.nvlink_links > 0) == (gpu.nvlink_generation is not None)


def test_peaks_follow_from_clock_and_units():
    # FMA per SM and clock, dense bf16: 1024 on A100, 2048 x 2 on H100; x 2 FLOP
    a100, h100 = catalogue.gpu("a100-sxm-80gb"), catalogue.gpu("h100-sxm-80gb")
    assert a100.peak_bf16 == pytest.approx(108 * 1024 * 2 * 1.41e9, rel=1e-3)
    assert h100.peak_bf16 == pytest.approx(132 * 2048 * 2 * 1.83e9, rel=1e-3)


@pytest.mark.parametrize("name", catalogue.names("topologies"))
def test_shipped_topologies_load(name):
    topology = loader.load_topology(name)
    assert topology.name == name
    assert topology.sources
    assert topology.offer is None or (topology.offer.source and topology.offer.date)


@pytest.mark.parametrize("name", catalogue.names("workloads"))
def test_shipped_workloads_load_and_suit_a_machine(name):
    workload = loader.load_workload(name)
    assert workload.name == name
    loader.load("dgx-h100", name, ["nodes=2"])


def test_what_is_shipped():
    assert {
        "dgx-a100", "dgx-h100", "dgx-h200", "gcp-a2-megagpu-16g", "aws-p4d", "aws-p4de", "aws-p5",
        "gcp-a3-mega", "azure-nd-a100-v4", "azure-nd-h100-v5", "pcie4-a100-8", "pcie4-a100-16",
        "pcie5-h100-8", "workstation-4x4090",
    } <= set(catalogue.names("topologies"))  # fmt: skip
    assert {
        "llama3-8b-sft", "llama3-70b-full", "llama3-70b-full-16gpu", "llama3-70b-lora",
        "llama3-70b-qlora", "mistral-7b-full", "mistral-7b-lora", "mpt-7b-pretrain",
        "mpt-30b-pretrain", "llama3-8b-32k", "llama3-8b-128k", "llama3-8b-sft-fp8",
        "llama3-8b-offload", "llama3-70b-full-offload",
    } <= set(catalogue.names("workloads"))  # fmt: skip


def test_found_in_package_data_and_in_the_checkout(tmp_path, monkeypatch):
    assert catalogue.find("topologies", "dgx-h100") == ROOT / "topologies" / "dgx-h100.yaml"
    (tmp_path / "topologies").mkdir()
    shutil.copy(ROOT / "topologies" / "dgx-h100.yaml", tmp_path / "topologies")
    monkeypatch.setattr(catalogue, "DATA", tmp_path)
    assert catalogue.find("topologies", "dgx-h100") == tmp_path / "topologies" / "dgx-h100.yaml"
    monkeypatch.setattr(catalogue, "CHECKOUT", tmp_path / "site-packages")
    assert catalogue.names("topologies") == ("dgx-h100",)
    assert catalogue.find("topologies", "dgx-a100") is None
    assert catalogue.find("topologies", "../topologies/dgx-h100") is None


def test_the_wheel_carries_the_inputs(tmp_path, monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    from setuptools.command.build_py import build_py

    asked = {}
    monkeypatch.setattr(setuptools, "setup", asked.update)
    runpy.run_path(str(ROOT / "setup.py"))
    monkeypatch.setattr(build_py, "run", lambda self: None)
    command = asked["cmdclass"]["build_py"](setuptools.Distribution())
    command.build_lib, command.editable_mode = str(tmp_path), False
    command.run()
    for kind in ("topologies", "workloads"):
        copied = {p.stem for p in (tmp_path / "sim" / "data" / kind).iterdir()}
        assert copied == {p.stem for p in (ROOT / kind).glob("*.yaml")}


@pytest.mark.parametrize(
    "spec",
    [catalogue.gpu(n) for n in GPUS]
    + [loader.load_topology(n) for n in catalogue.names("topologies")]
    + [loader.load_workload(n) for n in catalogue.names("workloads")],
    ids=lambda spec: spec.name,
)
def test_the_reader_and_the_class_agree(spec):
    # the loader constructs without the class's checks: these must find nothing either
    assert type(spec).model_validate(spec.model_dump()) == spec
    assert json.loads(json.dumps(spec.model_dump()))["name"] == spec.name  # hashes are of its JSON


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("TPU v5e", "neither CUDA nor ROCm"),
        ("Gaudi 3", "neither CUDA nor ROCm"),
        ("Ascend 910B", "neither CUDA nor ROCm"),
        ("Trainium2", "neither CUDA nor ROCm"),
        ("Apple M3 Max", "neither CUDA nor ROCm"),
        ("Arc B580", "neither CUDA nor ROCm"),
        ("DGX Spark", "shares its memory with the host"),
        ("RX 7900 XTX", "AMD's Instinct"),
        ("A100 MIG 3g.20gb", "a slice is a GPU of one's own"),
        ("M40", "known are"),
    ],
)
def test_accelerators_that_are_not_modelled_are_told_why(name, said):
    machine = {"name": "x", "nodes": 1, "node": {"gpu": name, "gpus": 1}}
    with pytest.raises(InputError) as error:
        loader.load_topology(machine)
    assert said in str(error.value)


def test_a_slice_as_the_fault_writes_it():
    """3g.20gb of an A100: 42 of 108 SMs, half of the memory."""
    gpu = {"base": "a100-sxm-40gb", "sms": 42, "peak_bf16": "121 TFLOP/s", "memory": "19.5 GiB",
           "memory_bandwidth": "777 GB/s"}  # fmt: skip
    machine = {"name": "x", "nodes": 1, "node": {"gpu": gpu, "gpus": 1}}
    assert loader.load_topology(machine).first_gpu.sms == 42


@pytest.mark.parametrize(
    ("name", "links"),
    [("rtx-2080-8gb", 1), ("rtx-2080-ti-11gb", 2), ("titan-rtx-24gb", 2), ("rtx-8000-48gb", 2)],
)
def test_bridges_of_turing(name, links):
    """NVIDIA's Turing white paper: TU102 has two x8 links, TU104 one, 25 GB/s each way."""
    gpu = catalogue.gpu(name)
    assert (gpu.nvlink_generation, gpu.nvlink_links, gpu.nvlink_link_rate) == (2, links, 25e9)
