"""GaLore and APOLLO: states by rank, products by hand, published memory, files, refusals."""

import pytest

import sim
from sim.blocks.muon import trained
from sim.blocks.optimizer import OPTIMIZERS, projection_of
from sim.blocks.update import optimizer_kernels, shard_of
from sim.inputs.check_optimizer import PROJECTED
from sim.inputs.loader import load
from sim.inputs.method import Method
from sim.interop.emit import texts_of
from sim.interop.roundtrip import read_back
from sim.interop.trainers.words import WRITTEN_OPTIMIZERS
from sim.memory.states import optimizer_bytes, optimizer_temporaries
from tests.imported import mattering

JOB = {"name": "m", "model": "llama-2-7b", "sequence_length": 1024,
       "precision": {"bf16": {"master": "bf16"}}}  # fmt: skip
# Llama 2 7B: 4 of 4096 x 4096, 3 of 4096 x 11008 a layer; two tables; norms
MATRICES, REST = 32 * (4 * 4096**2 + 3 * 4096 * 11008), 2 * 32000 * 4096 + 65 * 4096


def job(*sets, machine="h100-x1", of=JOB):
    return load(machine, of, list(sets)).workload


@pytest.mark.parametrize("rank", [1, 128, 1024, 8192])
@pytest.mark.parametrize("optimizer", ["galore", "apollo"])
def test_states_by_rank(optimizer, rank):
    """Two moments of rank x the longer side, a projector of rank x the shorter; two of the rest."""
    w, r = job(f"optimizer={optimizer}", f"optimizer_rank={rank}"), min(rank, 4096)
    attention = 4 * (2 * r * 4096 + r * 4096)
    ffn = 3 * (2 * r * 11008 + r * 4096)
    counters = 4 * (65 + 2)  # of the fused AdamW that steps norms and tables
    assert optimizer_bytes(w, 1) == 2 * (32 * (attention + ffn) + 2 * REST) + counters


def test_states_of_eight_bits():
    """Moments of a byte and a scale of 4 bytes in 256, projectors in bf16; the rest as well."""
    w = job("optimizer=galore-8bit", "optimizer_rank=1024")
    low = 32 * 1024 * (4 * 4096 + 3 * 11008)
    projectors = 32 * 1024 * 7 * 4096
    each = 1 + 4 / 256
    expected = 2 * each * low + 2 * projectors + 2 * each * REST
    assert optimizer_bytes(w, 1) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("model", "rank", "published"),
    [
        # GaLore, arXiv 2403.03507, table 2: weights and states in bf16, in "G"
        ({"layers": 24, "hidden_size": 1024, "heads": 16, "ffn_size": 2736}, 256, 1.22),
        ({"layers": 24, "hidden_size": 2048, "heads": 32, "ffn_size": 5461}, 512, 4.38),
    ],
)
def test_published_memory(model, rank, published):
    """Within 7 %: it is not said what of the embedding is counted."""
    shape = {**model, "vocab_size": 32000, "name": "llama"}
    w = job("optimizer=galore", f"optimizer_rank={rank}", of={**JOB, "model": shape})
    found = trained(w.model, Method())
    weights = 2 * (found.in_matrices + found.beside)
    assert (weights + optimizer_bytes(w, 1)) / 2**30 == pytest.approx(published, rel=0.07)


def test_products_of_a_step():
    """2 m n r down, and for GaLore as many back up; APOLLO scales the gradient instead."""
    n = float(MATRICES + REST)
    for name, products in (("galore", 2), ("apollo", 1)):
        w = job(f"optimizer={name}", "optimizer_rank=128")
        kernels = optimizer_kernels(w, shard_of(w, n, 291))
        gemms = [k for k in kernels if k.kind == "gemm"]
        assert sum(k.flops for k in gemms) == products * 2 * 128 * MATRICES
        assert {k.dtype for k in gemms} == {"bf16"}
        assert sum(k.launches for k in gemms) == products * 32 * 7


def test_a_step_allocates_its_update_twice_and_an_svd_its_vectors():
    w = job("optimizer=apollo", "optimizer_rank=128")
    step = 6 * 128 * 11008 + 4 * 4096 * 11008
    assert projection_of(w, 2, 2).scratch_bytes(trained(w.model, Method())) == step
    w = job("optimizer=galore", "optimizer_rank=128")
    assert optimizer_temporaries(w, 1) == 4 * (2 * 4096 * 11008 + 4096**2)


def test_a_step_is_told_of_in_the_result():
    """7B in bf16 on one H100, 2,048 tokens: 52 GiB by AdamW, half of the difference is states."""
    plain, galore, apollo = (
        sim.simulate("h100-x1", {**JOB, "sequence_length": 2048}, optimizer=name,
                     activation_checkpointing="full", optimizer_rank=rank)
        for name, rank in (("adamw", 128), ("galore", 256), ("apollo", 256))
    )  # fmt: skip
    saved = plain.memory.needed_bytes - galore.memory.needed_bytes
    assert saved == pytest.approx(22 * 2**30, rel=0.05)
    assert plain.step.time_s < galore.step.time_s < 1.2 * plain.step.time_s
    assert "galore-svd" in [w.code for w in galore.warnings]
    assert "galore-svd" not in [w.code for w in apollo.warnings]


@pytest.mark.parametrize(
    ("sets", "machine", "code"),
    [
        (["optimizer=galore"], "dgx-h100", "projected"),  # FSDP2
        (["optimizer=apollo", "parallelism.strategy=zero2"], "dgx-h100", "projected"),
        (["optimizer=galore", "method={lora: {rank: 8}}"], "h100-x1", "projected"),
        (["optimizer=galore", "optimizer_in_backward=true", "parallelism.clip_gradients=false"],
         "h100-x1", "projected"),
    ],
)  # fmt: skip
def test_what_is_refused(sets, machine, code):
    with pytest.raises(sim.InputError, match=code):
        load(machine, JOB, sets)
    load(machine, JOB, ["optimizer=galore", "parallelism.strategy=ddp"])


HF = """\
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")
args = TrainingArguments("o", per_device_train_batch_size=2, bf16=True, optim="{}"{})
Trainer(model=model, args=args, tokenizer=tokenizer(max_length=2048)).train()
"""
AXOLOTL = """\
base_model: Qwen/Qwen2.5-0.5B
sequence_len: 2048
optimizer: galore_adamw
{}
"""
FACTORY = """\
model_name_or_path: Qwen/Qwen2.5-0.5B
stage: sft
finetuning_type: full
cutoff_len: 2048
pure_bf16: true
{}
"""


@pytest.mark.parametrize(
    ("name", "text", "optimizer", "rank", "told"),
    [
        ("run.py", HF.format("galore_adamw", ""), "galore", 128, ""),
        ("run.py", HF.format("galore_adamw_8bit", ', optim_args="rank=64, update_proj_gap=100"'),
         "galore-8bit", 64, ""),
        ("run.py", HF.format("apollo_adamw", ', optim_args="rank=1,scale=128.0"'), "apollo", 1, ""),
        ("run.py", HF.format("galore_adamw_layerwise", ""), "galore", 128, "layer by layer"),
        ("run.py", HF.format("galore_adafactor", ""), "adafactor", 128, "not modelled"),
        ("job.yaml", AXOLOTL.format("optim_args: {rank: 64, scale: 0.25}"), "galore", 64, ""),
        ("job.yaml", AXOLOTL.format("optim_target_modules: all_linear"), "galore", 128, ""),
        ("job.yaml", AXOLOTL.format("optim_target_modules: [self_attn, mlp]"), "galore", 128, ""),
        ("job.yaml", AXOLOTL.format("optim_target_modules: ['.*.attn.*', '.*.mlp.*']"), "galore",
         128, "q_proj, k_proj, v_proj, o_proj may have whole states"),
        ("job.yaml", AXOLOTL.format(r"optim_target_modules: ['.*\.self_attn\..*']"), "galore", 128,
         "gate_proj, up_proj, down_proj may"),
        ("job.yaml", FACTORY.format("use_galore: true\ngalore_rank: 256"), "galore", 256, ""),
        ("job.yaml", FACTORY.format("use_galore: true"), "galore", 16, ""),
        ("job.yaml", FACTORY.format("use_apollo: true\napollo_rank: 32"), "apollo", 32, ""),
        ("job.yaml", FACTORY.format("use_galore: true\ngalore_layerwise: true"), "galore", 16,
         "layer by layer"),
    ],
)  # fmt: skip
def test_files_of_trainers(tmp_path, name, text, optimizer, rank, told):
    """They were taken as AdamW, of two states a parameter."""
    path = tmp_path / name
    path.write_text(text)
    w = load("h100-x1", path).workload
    assert (w.optimizer, w.optimizer_rank) == (optimizer, rank)
    said = [row["why"] for row in mattering(path)]
    assert any(told in why for why in said) if told else said == []


def test_a_rank_of_nothing_is_not_taken(tmp_path):
    """GaLore under FSDP is taken as AdamW; `run` warned of a rank that no file has."""
    path = tmp_path / "job.yaml"
    fsdp = "optim_args: {rank: 64}\nfsdp_version: 2\nfsdp_config: {reshard_after_forward: true}"
    path.write_text(AXOLOTL.format(fsdp))
    loaded = load("dgx-h100", path)
    assert (loaded.workload.optimizer, loaded.workload.optimizer_rank) == ("adamw", 128)
    assert "optimizer-rank" not in [w.code for w in loaded.notes.warnings]
    assert "optimizer_rank" not in sim.import_job(path).yaml


def test_names_of_projected_optimizers():
    assert {name for name, how in OPTIMIZERS.items() if how.projected} == set(PROJECTED)
    assert set(WRITTEN_OPTIMIZERS) >= set(PROJECTED)


@pytest.mark.parametrize("optimizer", PROJECTED)
@pytest.mark.parametrize("kind", ["trl", "axolotl", "llamafactory"])
def test_written_and_read_again(optimizer, kind):
    """They were refused, with the two that were just refused named instead."""
    sets = [f"optimizer={optimizer}", "optimizer_rank=64", "parallelism={strategy: ddp}"]
    loaded = load("h100-x1", JOB, [*sets, "trainer=huggingface"])
    texts = texts_of(loaded.topology, loaded.workload, kind)
    read, _ = read_back(texts, loaded.workload)
    assert (read.optimizer, read.optimizer_rank) == (optimizer, 64)
