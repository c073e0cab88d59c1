"""Kernels that Megatron-LM runs where nobody says which, and what its arguments say of them."""

import pytest

import sim
from sim.blocks.from_workload import setting_of
from sim.cost.attention import family
from sim.inputs.catalogue import gpu as gpu_of
from sim.inputs.loader import load, load_workload
from tests.trainer_files import MEGATRON


@pytest.mark.parametrize(
    ("gpu", "columns", "kernel"),
    [("a100-sxm-80gb", 128, "flash2"), ("h100-sxm-80gb", 128, "cudnn"),
     ("b200-sxm-180gb", 64, "cudnn"), ("h100-sxm-80gb", 256, "cudnn"),
     ("h100-sxm-80gb", 264, "flash2"), ("b200-sxm-180gb", 256, "flash2"),
     ("mi300x-192gb", 128, "flash2")],
)  # fmt: skip
def test_transformer_engine_takes_cudnn_from_hopper_on(gpu, columns, kernel):
    assert family("te", gpu_of(gpu), "bf16", columns) == kernel


@pytest.mark.parametrize(
    ("sets", "attention", "fused"),
    [(["parallelism=megatron"], "te", (True, True, True)),
     (["parallelism=megatron", "fused_kernels=norm"], "te", (True, False, False)),
     (["parallelism=megatron", "precision=fp32"], "sdpa", (True, True, True)),
     (["parallelism=megatron", "attention=flash2"], "flash2", (True, True, True)),
     (["parallelism=megatron", "modelling=nanotron", "trainer=nanotron"], "flash2",
      (True, True, False)),
     (["parallelism=fsdp2", "trainer=none"], "flash2", (False, False, False))],
)  # fmt: skip
def test_layers_bring_their_own_kernels(sets, attention, fused):
    """RMSNorm, RoPE and SwiGLU."""
    made = {"model": "llama3-8b", "sequence_length": 4096, "micro_batch": 1, "steps": 1}
    job = load("dgx-h100", made, sets).workload
    found = setting_of(job)
    assert job.attention == attention
    assert (found.fused_norms, found.fused_rope, found.fused_gate) == fused


@pytest.mark.parametrize(
    ("said", "wanted"),
    [("", {}), ("--attention-backend auto", {"attention": "te"}),
     ("--attention-backend fused", {"attention": "cudnn"}),
     ("--transformer-impl local", {"attention": "eager"}),
     ("--transformer-impl local --use-flash-attn", {"attention": "flash2"}),
     ("--transformer-impl transformer_engine --use-flash-attn", {}),
     ("--no-bias-swiglu-fusion", {"fused_kernels": "norm+rope"}),
     ("--no-rope-fusion --no-bias-swiglu-fusion", {"fused_kernels": "norm"}),
     ("--no-gradient-accumulation-fusion", {"parallelism.gradient_accumulation_fusion": False}),
     ("--cross-entropy-loss-fusion --cross-entropy-fusion-impl te", {"loss": "fused"})],
)  # fmt: skip
def test_arguments_of_kernels(said, wanted, tmp_path):
    script = tmp_path / "mega.sh"
    script.write_text(f"{MEGATRON.rstrip()} {said}\n")
    done = sim.import_job(script).to_dict()
    keys = ("attention", "fused_kernels", "loss", "parallelism.gradient_accumulation_fusion")
    took = {row["key"] for row in done["took"]} & {*keys}
    assert took == wanted.keys()
    job = load_workload(script)
    for key, value in wanted.items():
        where = job.parallelism if "." in key else job
        assert getattr(where, key.rpartition(".")[2]) == value
    told = [a["theirs"] for a in done["aside"] if a["matters"]]
    assert told == ["transformer-impl"] * ("local" in said)  # its norms


@pytest.mark.parametrize("said", ["--no-rope-fusion", "--cross-entropy-loss-fusion"])
def test_what_is_taken_otherwise_is_told(said, tmp_path):
    script = tmp_path / "mega.sh"
    script.write_text(f"{MEGATRON.rstrip()} {said}\n")
    told = {a["theirs"] for a in sim.import_job(script).to_dict()["aside"] if a["matters"]}
    assert said.strip("-") in told


@pytest.mark.parametrize(
    ("norm", "said", "told"),
    [("RMSNorm", "--transformer-impl local", 1), ("LayerNorm", "--transformer-impl local", 0),
     ("RMSNorm", "", 0)],
)  # fmt: skip
def test_norms_of_local_layers_are_told_of(norm, said, told, tmp_path):
    script = tmp_path / "mega.sh"
    script.write_text(f"{MEGATRON.rstrip().replace('RMSNorm', norm)} {said}\n")
    aside = sim.import_job(script).to_dict()["aside"]
    assert len([row for row in aside if row["matters"] and "RMSNorm" in row["why"]]) == told
