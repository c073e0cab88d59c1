"""Trainers of pairs, scores and embeddings: rows of a sample, and what is said of the rest."""

import pytest

import sim
from sim.inputs.loader import load
from sim.job.basis import job_steps
from tests.imported import mattering

ARGUMENTS = (
    "per_device_train_batch_size=2, gradient_accumulation_steps=8, max_length=2048, bf16=True"
)
SCRIPT = """\
model = AutoModelFor{head}.from_pretrained("Qwen/Qwen2.5-7B", torch_dtype=torch.bfloat16)
args = {kind}Config({arguments})
{kind}Trainer(model=model, args=args).train()
"""
PLAIN = """\
model = AutoModelForSequenceClassification.from_pretrained("Qwen/Qwen2.5-7B", num_labels=2)
args = TrainingArguments(per_device_train_batch_size=2)
Trainer(model=model, args=args, tokenizer=tokenizer(max_length=2048)).train()
"""
EMBEDDINGS = """\
model = SentenceTransformer("Qwen/Qwen3-0.6B")
model.max_seq_length = 2048
args = SentenceTransformerTrainingArguments("out", per_device_train_batch_size=2, bf16=True)
SentenceTransformerTrainer(model=model, args=args, loss=MultipleNegativesRankingLoss(model))
"""
FACTORY = """\
model_name_or_path: Qwen/Qwen2.5-7B
finetuning_type: lora
stage: {}
cutoff_len: 2048
per_device_train_batch_size: 2
bf16: true
"""
AXOLOTL = """\
base_model: Qwen/Qwen2.5-7B
{}
sequence_len: 2048
micro_batch_size: 2
bf16: true
"""
SWIFT = """\
swift rlhf --rlhf_type {} --model Qwen/Qwen2.5-7B --max_length 2048 --train_type lora \\
  --per_device_train_batch_size 2
"""


def script(kind, head="CausalLM"):
    return "run.py", SCRIPT.format(kind=kind, head=head, arguments=ARGUMENTS)


@pytest.mark.parametrize(
    ("name", "text", "rows", "scores", "said"),
    [
        (*script("SFT"), 2, False, ""),
        (*script("DPO"), 4, False, ""),
        (*script("ORPO"), 4, False, ""),
        (*script("CPO"), 4, False, ""),
        (*script("KTO"), 2, False, ""),
        (*script("Reward", "SequenceClassification"), 4, True, "no vocabulary"),
        ("run.py", PLAIN, 2, True, "no vocabulary"),
        ("run.py", EMBEDDINGS, 4, True, "anchor"),
        ("dpo.yaml", FACTORY.format("dpo"), 4, False, ""),
        ("dpo.yaml", FACTORY.format("dpo\npref_loss: simpo"), 4, False, ""),
        ("rm.yaml", FACTORY.format("rm"), 4, True, "no vocabulary"),
        ("ppo.yaml", FACTORY.format("ppo"), 2, False, "rollouts are not read"),
        ("dpo.yaml", AXOLOTL.format("rl: ipo"), 4, False, ""),
        ("rm.yaml", AXOLOTL.format("reward_model: true"), 4, True, "no vocabulary"),
        ("rl.yaml", AXOLOTL.format("rl: grpo"), 2, False, "rollouts are not read"),
        ("run.sh", SWIFT.format("dpo"), 4, False, ""),
        ("run.sh", SWIFT.format("grpo"), 2, False, "rollouts are not read"),
    ],
)
def test_rows_of_a_micro_batch(tmp_path, name, text, rows, scores, said):
    """Two of a pair: half of a step's time was missing, without a word in scripts."""
    path = tmp_path / name
    path.write_text(text)
    told = [row["why"] for row in mattering(path)]
    job = load("dgx-h100", path).workload
    assert (job.micro_batch, job.sequence_length) == (rows, 2048)
    tiled = any(f"{kind}Trainer" in text for kind in ("SFT", "DPO", "KTO"))  # TRL's own loss
    assert (job.loss == "fused-linear") == scores
    assert (job.loss == "tiled") == tiled
    assert any(said in why for why in told) if said else told == []


def test_what_generates_is_told_once(tmp_path):
    """TRL's GRPO: keys of the engine are known as its own, and so is that it holds memory."""
    path = tmp_path / "grpo.py"
    path.write_text(
        "args = GRPOConfig(num_generations=8, use_vllm=True, vllm_mode='colocate', bf16=True, "
        "vllm_gpu_memory_utilization=0.3, temperature=1.0, per_device_train_batch_size=8)\n"
        'GRPOTrainer(model="Qwen/Qwen2.5-1.5B", args=args, reward_funcs=f).train()\n'
    )
    told = {row["theirs"]: row["why"] for row in mattering(path)}
    assert sorted(told) == ["GRPOConfig()", "use_vllm"]
    assert "holds of a GPU beside the update is not counted" in told["use_vllm"]
    assert "not-read" not in {w.code for w in load("a100-x1", path).notes.warnings}


TUNE = """\
model: {{_component_: torchtune.models.llama3_1.lora_llama3_1_8b, lora_attn_modules: [q_proj]}}
tokenizer: {{max_seq_len: 1024}}
loss: {{_component_: {}}}
dataset: {{_component_: torchtune.datasets.{}}}
batch_size: 2
dtype: bf16
"""


@pytest.mark.parametrize(
    ("loss", "data", "rows", "said"),
    [
        ("torchtune.rlhf.loss.DPOLoss", "stack_exchange_paired_dataset", 4, ""),
        ("torchtune.rlhf.loss.RSOLoss", "my_dataset", 4, ""),
        ("my.loss.Pairwise", "preference_dataset", 4, ""),
        ("torchtune.rlhf.loss.PPOLoss", "text_completion_dataset", 2, "rollouts"),
        ("torchtune.modules.loss.CEWithChunkedOutputLoss", "alpaca_dataset", 2, ""),
    ],
)
def test_pairs_of_torchtune(tmp_path, loss, data, rows, said):
    """Its DPO recipes took a row a sample without a word."""
    held(tmp_path, "lora_dpo.yaml", TUNE.format(loss, data), rows, said)


@pytest.mark.parametrize(
    ("task", "rows", "said"), [("embedding", 4, "anchor"), ("seq_cls", 2, "no vocabulary")]
)
def test_tasks_of_ms_swift(tmp_path, task, rows, said):
    """An embedding's anchor and positive are two rows, as of sentence-transformers."""
    text = SWIFT.format("x").replace("rlhf --rlhf_type x", f"sft --task_type {task}")
    held(tmp_path, "run.sh", text, rows, said)


TRL = """\
model_name_or_path: Qwen/Qwen2.5-7B
per_device_train_batch_size: 2
max_length: 2048
"""
ARGS = "--model_name_or_path Qwen/Qwen2.5-7B --per_device_train_batch_size 2 --max_length 2048"


@pytest.mark.parametrize(
    ("command", "rows", "said"),
    [
        ("trl sft", 2, ""),
        ("trl dpo", 4, ""),
        ("trl kto --beta 0.1", 2, ""),
        ("trl grpo --beta 0.04", 2, "rollouts"),
        ("trl reward", 4, "no vocabulary"),
        ("python -m trl.scripts.dpo", 4, ""),
        ("accelerate launch -m trl.scripts.kto", 2, ""),
        ("accelerate launch examples/scripts/dpo.py", 4, ""),
        ("accelerate launch scripts/run_orpo.py --beta 0.1", 4, ""),
        ("accelerate launch examples/scripts/cpo.py", 4, ""),
        ("accelerate launch examples/scripts/dpo_online.py", 2, "rollouts"),
        ("accelerate launch examples/scripts/gkd.py --beta 0.5", 2, "teacher"),
        ("accelerate launch examples/scripts/reward_modeling.py", 4, "no vocabulary"),
        ("accelerate launch train.py --beta 0.1", 2, "nothing says which"),
        ("# trl dpo\naccelerate launch train.py", 2, ""),
    ],
)
def test_what_is_started_says_the_kind(tmp_path, command, rows, said):
    """TRL's subcommand, its module or a script's name; `beta` made any of them pairs."""
    held(tmp_path, "run.sh", f"{command} {ARGS}\n", rows, said)


@pytest.mark.parametrize(
    ("keys", "rows", "said"),
    [
        ("beta: 0.1", 2, "nothing says which"),
        ("beta: 0.1\nmax_prompt_length: 512\nmax_completion_length: 1024", 2, "nothing says which"),
        ("beta: 0.1\ndesirable_weight: 1.0", 2, ""),
        ("beta: 0.1\nreward_funcs: [accuracy]", 2, "rollouts"),
        ("beta: 0.1\nnum_generations: 8", 2, "rollouts"),
        ("beta: 0.1\nlmbda: 0.5\nteacher_model_name_or_path: Qwen/Qwen2.5-32B", 2, "teacher"),
        ("beta: 0.1\nrpo_alpha: 1.0", 4, ""),
        ("beta: 0.1\ncpo_alpha: 1.0", 4, ""),
    ],
)
def test_keys_of_one_trainer_alone_say_the_kind(tmp_path, keys, rows, said):
    """`beta` decides nothing: GRPO, KTO and GKD were DPO's pairs by it."""
    held(tmp_path, "job.yaml", f"{TRL}{keys}\n", rows, said)


def held(tmp_path, name, text, rows, said):
    path = tmp_path / name
    path.write_text(text)
    told = [row["why"] for row in mattering(path)]
    assert load("dgx-h100", path).workload.micro_batch == rows
    assert len(told) == bool(said)
    assert all(said in why for why in told)


def test_a_command_decides_what_its_file_leaves_open(tmp_path):
    """`trl dpo --config FILE`, named alone or beside the file."""
    (tmp_path / "job.yaml").write_text(f"{TRL}beta: 0.1\n")
    script = tmp_path / "run.sh"
    script.write_text("trl dpo --config job.yaml\n")
    for files in ([script], [tmp_path / "job.yaml", script]):
        found = sim.import_job(*files)
        assert "micro_batch: 4" in found.yaml
        assert "reference: copy" in found.yaml
        assert not [row for row in found.aside if row["matters"]]


LONG = FACTORY + "gradient_accumulation_steps: 1\nnum_train_epochs: 2\n"
OPEN_RLHF = """\
deepspeed --num_gpus 8 --module openrlhf.cli.train_{} --pretrain Qwen/Qwen2.5-7B \\
  --max_len 2048 --micro_train_batch_size 2 --train_batch_size 16 {}
"""


def steps(tmp_path, text, name="job.yaml", **options):
    path = tmp_path / name
    path.write_text(text)
    loaded = load("dgx-h100", path, **options)
    made = job_steps(loaded.workload, loaded.topology.world_size)
    return made[0], [w.code for w in loaded.notes.warnings]


@pytest.mark.parametrize("kind", ["dpo", "rm", "kto"])
def test_a_job_of_pairs_is_as_many_steps_as_one_of_single_rows(tmp_path, kind):
    """The trainer's 16,000 pairs are 32,000 rows: steps were half as many, and so the whole job."""
    limit = "max_samples: 16000\n"
    found, codes = steps(tmp_path, LONG.format(kind) + limit)
    assert found == steps(tmp_path, LONG.format("sft") + limit)[0] == 2000
    assert "pairs" not in codes
    if kind != "kto":
        script = [OPEN_RLHF.format(k, "--max_samples 1024") for k in (kind, "sft")]
        assert steps(tmp_path, script[0], "a.sh")[0] == steps(tmp_path, script[1], "b.sh")[0] == 64


def test_samples_set_beside_a_file_of_pairs_are_rows(tmp_path):
    """They are taken as they are set, which is said."""
    rows, codes = steps(tmp_path, LONG.format("dpo"), sets=["samples=16000"])
    assert (rows, "pairs" in codes) == (1000, True)
    plain, codes = steps(tmp_path, LONG.format("sft"), sets=["samples=16000"])
    assert (plain, "pairs" in codes) == (2000, False)


def test_two_signs_of_pairs_double_once(tmp_path):
    """A reward model under `rl`: a batch of two pairs is four rows, not eight."""
    path = tmp_path / "a.yaml"
    path.write_text(AXOLOTL.format("rl: dpo\nreward_model: true"))
    assert load("dgx-h100", path).workload.micro_batch == 4


@pytest.mark.parametrize(
    ("command", "rows"), [("trl dpo --config job.yaml", 4), ("trl sft --config job.yaml", 2)]
)
@pytest.mark.parametrize("first", [0, 1])
def test_a_command_decides_whatever_file_is_read_first(tmp_path, command, rows, first):
    """What a file leaves open is told of once all are read, and not if one of them says it."""
    files = [tmp_path / "job.yaml", tmp_path / "run.sh"]
    files[0].write_text(f"{TRL}beta: 0.1\nbf16: true\n")
    files[1].write_text(f"{command}\n")
    found = sim.import_job(files[first], files[1 - first])
    assert load("dgx-h100", tuple(files)).workload.micro_batch == rows
    assert not any("nothing says which" in row["why"] for row in found.aside)
