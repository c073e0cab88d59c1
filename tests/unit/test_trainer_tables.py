"""Keys of torchtitan's and Megatron's files: each is taken, told, or known to be without effect."""

import pytest

from sim.errors import InputError
from sim.inputs.loader import load
from tests.imported import mattering


def at(workload, path):
    for key in path.split("."):
        workload = getattr(workload, key)
    return workload


TITAN = """\
[job]
[model]
name = "llama3"
flavor = "8B"
[training]
seq_len = 4096
"""
PIPED = "local_batch_size = 8\n[parallelism]\npipeline_parallel_degree = 2\n"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (PIPED, {"micro_batch": 1, "gradient_accumulation": 8}),
        (
            PIPED + "pipeline_parallel_microbatch_size = 2\n",
            {"micro_batch": 2, "gradient_accumulation": 4},
        ),
        (
            "local_batch_size = 8\nglobal_batch_size = 64\n[experimental]\n"
            "pipeline_parallel_degree = 2\npipeline_parallel_microbatches = 4\n",
            {"micro_batch": 2, "gradient_accumulation": 8},
        ),
        (
            PIPED + 'pipeline_parallel_schedule = "Interleaved1F1B"\n'
            "pipeline_parallel_layers_per_stage = 5\n",  # 32 layers and both ends are 34: 7 stages
            None,
        ),
        (
            PIPED + 'pipeline_parallel_schedule = "Interleaved1F1B"\n'
            "pipeline_parallel_layers_per_stage = 6\n",
            {"parallelism.virtual_stages": 3},
        ),
        (
            "[optimizer]\nearly_step_in_backward = true\n",
            {"optimizer_in_backward": True, "parallelism.clip_gradients": False},
        ),
        (
            '[quantize.linear.float8]\nrecipe_name = "rowwise_with_gw_hp"\n',
            {"precision.recipe": "rowwise"},
        ),
        ("[training.dataloader]\nnum_workers = 3\n", {"data.workers": 3}),
        ('[activation_checkpoint]\nselective_ac_option = "ops"\n', None),
    ],
)  # fmt: skip
def test_torchtitans_pipelines_and_backwards(tmp_path, text, values):
    """A local batch under a pipeline was one micro-batch, and no schedule ran over it."""
    head = TITAN.replace('"8B"', '"8B"\nconverters = ["float8"]') if "float8" in text else TITAN
    file = tmp_path / "job.toml"
    file.write_text(head + text)
    if values is None:
        with pytest.raises(InputError, match=r"do not divide|neither"):
            load("dgx-h100", file)
        return
    workload = load("dgx-h100", file).workload
    assert {path: at(workload, path) for path in values} == values


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[debug]\ndeterministic = true\nseed = 3\n", ["debug.deterministic"]),
        ("[debug]\ndeterministic = false\n", []),
        ("[profiling]\nenable_profiling = true\n", ["profiling.enable_profiling"]),
        ('[experimental]\ncustom_import = "mine"\n', ["experimental.custom_import"]),
        ('[compile]\nenable = true\nbackend = "aot_eager"\n', ["compile.backend"]),
        ("[fault_tolerance]\nenable = true\n", ["fault_tolerance.enable"]),
        ("[parallelism]\nexpert_tensor_parallel_degree = 1\n", []),
    ],
)  # fmt: skip
def test_torchtitans_keys_that_matter(tmp_path, text, told):
    """Whole tables of it were left aside without a word."""
    file = tmp_path / "job.toml"
    file.write_text(TITAN + text)
    assert [row["theirs"] for row in mattering(file)] == told


def test_torchtitans_unknown_keys(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text(
        TITAN
        + "[metrics]\nlog_freq = 1\n[optimizer]\nlr = 1.0\n[comm]\nmoed = 1\n[paralelism]\nx = 1\n"
    )
    (told,) = [w.message for w in load("dgx-h100", file).notes.warnings if w.code == "not-read"]
    assert told.startswith("job.toml: comm.moed (line 12), paralelism.x (line 14): no keys")


MEGATRON = (
    "torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 16 --hidden-size 4096 "
    "--num-attention-heads 32 --vocab-size 32000 --seq-length 1024 --micro-batch-size 1 "
    "--global-batch-size 64 --bf16 --max-position-embeddings 4096 --swiglu "
)
MIXTURE = MEGATRON + "--num-experts 8 --moe-ffn-hidden-size 1024 --ffn-hidden-size 8192 "
LATENT = "--multi-latent-attention --kv-lora-rank 512 --q-lora-rank 1536 "


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (MEGATRON + "--clip-grad 0.0", {"parallelism.clip_gradients": False}),
        (MEGATRON + "--clip-grad 1.0", {"parallelism.clip_gradients": True}),
        (MEGATRON + "--rotary-percent 0.5", {"model.rope_fraction": 0.5}),
        (
            MEGATRON + "--window-size 127,0 --window-attn-skip-freq 4",
            {"model.sliding_window": 128, "model.sliding_window_pattern": 4},
        ),
        (MEGATRON + "--softmax-type learnable", {"model.attention_sinks": True}),
        (
            MEGATRON + LATENT,
            {
                "model.head_dim": 192, "model.rope_head_dim": 64, "model.kv_lora_rank": 512,
                "model.q_lora_rank": 1536, "model.v_head_dim": 128,
            },
        ),
        (MIXTURE + '--moe-layer-freq "([0]*3+[1]*13)"', {"model.dense_layers": 3}),
        (MIXTURE + "--moe-layer-freq 2", {"model.mixture_every": 2}),
        (
            MIXTURE + "--moe-shared-expert-intermediate-size 1024 --moe-shared-expert-gate",
            {"model.shared_experts": 1, "model.shared_expert_gate": True},
        ),
    ],
)  # fmt: skip
def test_what_megatron_says_is_taken(tmp_path, line, values):
    """Latent attention was read as plain heads, a share of RoPE as all."""
    path = tmp_path / "job.sh"
    path.write_text(line + "\n")
    workload = load("dgx-h100", path).workload
    assert {path: at(workload, path) for path in values} == values


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("--mtp-num-layers 1", ["mtp-num-layers"]),
        ("--grad-reduce-in-bf16", ["grad-reduce-in-bf16"]),
        ("--rampup-batch-size 16", ["rampup-batch-size"]),
        ("--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params",
         ["data-parallel-sharding-strategy", "use-megatron-fsdp"]),
        ("--window-size 128,128", ["window-size"]),
        ("--attention-backend fastest", ["attention-backend"]),
        ("--fp8-margin 0 --no-check-for-nan-in-loss-and-grad --eval-iters 3", []),
        ("--moe-permute-fusion --moe-router-dtype fp32 --async-save --use-dist-ckpt", []),
    ],
)  # fmt: skip
def test_what_is_not_followed_of_megatron_is_told(tmp_path, more, told):
    path = tmp_path / "job.sh"
    path.write_text(f"{MEGATRON} {more}\n")
    assert [row["theirs"] for row in mattering(path)] == told


def test_a_list_of_layers_that_is_not_read_is_told(tmp_path):
    path = tmp_path / "job.sh"
    path.write_text(MIXTURE + '--moe-layer-freq "[0,1]*8"\n')
    assert [row["theirs"] for row in mattering(path)] == ["moe-layer-freq"]
    path.write_text(MEGATRON + "--recompute-granularity some\n")
    with pytest.raises(InputError, match="neither full nor selective"):
        load("dgx-h100", path)


AXOLOTL = "base_model: Qwen/Qwen2.5-7B\nsequence_len: 2048\nmicro_batch_size: 2\nmax_steps: 9\n"


@pytest.mark.parametrize(
    ("word", "kind"),
    [("true", "bf16"), ("full", "bf16"), ("auto", "bf16"), ("no", "fp32"), ("off", "fp32"),
     ("0", "fp32"), ("false", "fp32"), ("", "bf16")],
)  # fmt: skip
def test_words_for_bf16_in_axolotl(tmp_path, word, kind):
    """Of those that mean false, `false` alone did; `full` was refused."""
    path = tmp_path / "job.yml"
    path.write_text(f"{AXOLOTL}bf16: {word}\n")
    assert load("dgx-h100", path).workload.precision.kind == kind


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("job.toml", TITAN.replace("[training]", "[[training]]") + "[metrics]\n", "no mapping"),
        ("job.yml", AXOLOTL + "fsdp_config: FULL_SHARD\nfsdp: [full_shard]\n", "is no mapping"),
        ("job.yml", AXOLOTL.replace("2048", "02000"), "octal"),
        ("ds.json", '{"zero_optimization": 3, "train_batch_size": 2}', "is no mapping"),
    ],
)  # fmt: skip
def test_tables_that_are_none_and_numbers_of_yaml(tmp_path, name, text, said):
    """What stood in a list of tables was passed over; 02000 was 2,000, and is 1,024 to YAML 1.1."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        load("dgx-h100", path, ["model=qwen2.5-7b", "sequence_length=99"] * (name == "ds.json"))
