"""Muon: which parameters it steps, what its iterations multiply and move, where it is refused."""

import pytest

from sim import simulate
from sim.blocks.muon import muon_kernels, trained
from sim.blocks.optimizer import FP32
from sim.blocks.parameters import count_parameters
from sim.blocks.update import optimizer_kernels, shard_of
from sim.errors import InputError
from sim.inputs.loader import load, load_workload
from sim.inputs.method import Method
from sim.inputs.models import resolve_model
from sim.memory.states import optimizer_bytes

MODEL = resolve_model("qwen2.5-0.5b")
FULL = Method()
JOB = {"name": "m", "model": "qwen2.5-0.5b", "sequence_length": 1024}


def job(*sets, machine="h100-x1"):
    """A job that Muon steps."""
    return load(machine, JOB, ["optimizer=muon", *sets]).workload


def test_matrices_are_the_layers_and_all_else_is_counted_once():
    """A layer of Qwen2.5-0.5B: q and o, k and v, gate, up and down; biases and norms; one table."""
    found = trained(MODEL, FULL)
    assert dict(found.matrices) == {(896, 896): 48, (128, 896): 48, (896, 4864): 72}
    assert found.vectors == 24 * (896 + 2 * 128 + 2 * 896)
    assert found.ends == 151936 * 896 + 896
    assert found.in_matrices + found.beside == count_parameters(MODEL).total


def test_five_iterations_multiply_what_they_are_made_of():
    """An iteration of an m x n matrix: X X^T, its square, and both on X: 4 m m n + 2 m^3."""
    found = trained(MODEL, FULL)
    products = [k for k in muon_kernels(found, 1.0, 4, 4) if k.kind == "gemm"]
    want = sum(5 * count * (4 * m * m * n + 2 * m**3) for (m, n), count in found.matrices)
    assert sum(k.flops for k in products) == want
    assert {k.launches for k in products} == {5 * 48, 5 * 72}


def test_layers_that_stand_for_more_are_stepped_as_often():
    found = trained(MODEL, FULL)
    twice = found.ends + 2 * (found.in_matrices + found.vectors)
    assert found.layers_over(twice) == 2
    one, two = (
        optimizer_kernels(job(), shard_of(job(), n, 290))
        for n in (float(found.in_matrices + found.beside), float(twice))
    )
    assert sum(k.flops for k in two) == 2 * sum(k.flops for k in one)


def test_states_are_one_of_matrices_and_two_of_the_rest():
    found, counters = trained(MODEL, FULL), FP32 * (24 * 5 + 2)
    assert optimizer_bytes(job(), 1) == FP32 * (found.in_matrices + 2 * found.beside) + counters


def test_adapters_are_matrices_alone():
    found = trained(MODEL, job("method={lora: {rank: 8, targets: [q, v]}}").method)
    assert dict(found.matrices) == {(8, 896): 72, (8, 128): 24}
    assert found.beside == 0


def test_its_products_are_the_optimizers_time_and_grow_with_the_model_not_the_batch():
    def step(*sets):
        found = simulate("h100-x1", JOB, overrides=["parallelism=single", *sets])
        return found.step

    short, long = (step("optimizer=muon", f"micro_batch={n}").optimizer_s for n in (1, 4))
    assert short == pytest.approx(long, rel=1e-9)
    muon, adamw = step("optimizer=muon"), step()
    rest = adamw.compute_s - adamw.optimizer_s
    assert muon.compute_s - muon.optimizer_s == pytest.approx(rest, rel=0.02)
    assert short > 1.5 * adamw.optimizer_s


def test_files_of_trainers_are_followed_where_matrices_are_whole(tmp_path):
    """LLaMA-Factory and axolotl; under FSDP2 it is AdamW, and told."""
    text = "model_name_or_path: Qwen/Qwen2.5-0.5B\ncutoff_len: 1024\nuse_muon: true\n"
    (tmp_path / "l.yaml").write_text(f"{text}finetuning_type: full\noptim: adamw_torch\n")
    assert load_workload(tmp_path / "l.yaml").optimizer == "muon"
    text = "base_model: Qwen/Qwen2.5-0.5B\nsequence_len: 1024\nmicro_batch_size: 1\n"
    (tmp_path / "a.yaml").write_text(f"{text}optimizer: muon\n")
    assert load_workload(tmp_path / "a.yaml").optimizer == "muon"
    for name in ("l.yaml", "a.yaml"):
        assert any("own class" in w.text for w in load("dgx-h100", tmp_path / name).notes.warnings)
    sharded = "fsdp_version: 2\nfsdp_config: {state_dict_type: FULL_STATE_DICT}\n"
    (tmp_path / "f.yaml").write_text(f"{text}optimizer: muon\n{sharded}")
    found = load("dgx-h100", tmp_path / "f.yaml")
    assert found.workload.optimizer == "adamw"
    assert any("gathered for Muon" in w.text for w in found.notes.warnings)
    assert not any("own class" in w.text for w in found.notes.warnings)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["parallelism=fsdp2"], "whole matrices, of which a rank of fsdp2 has parts"),
        (["parallelism=zero1"], "whole matrices"),
        (["optimizer_paged=true", "parallelism=ddp"], "AdamW and Lion, not of muon"),
        (["parallelism={strategy: single, clip_gradients: false}", "optimizer_in_backward=true"],
         "not stepped within backward"),
    ],
)  # fmt: skip
def test_where_it_cannot_run_it_is_refused(sets, said):
    machine = "dgx-h100" if "single" not in sets[0] else "h100-x1"
    with pytest.raises(InputError, match=said):
        job(*sets, machine=machine)
