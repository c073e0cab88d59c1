"""Trainers of pairs, scores and embeddings: rows of a sample, and what is said of the rest."""

import pytest

import sim
from sim.inputs.loader import load

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
        (*script("DPO"), 4, False, "reference"),
        (*script("ORPO"), 4, False, ""),
        (*script("CPO"), 4, False, ""),
        (*script("KTO"), 2, False, "KL term"),
        (*script("Reward", "SequenceClassification"), 4, True, "no vocabulary"),
        ("run.py", PLAIN, 2, True, "no vocabulary"),
        ("run.py", EMBEDDINGS, 4, True, "anchor"),
        ("dpo.yaml", FACTORY.format("dpo"), 4, False, "reference"),
        ("dpo.yaml", FACTORY.format("dpo\npref_loss: simpo"), 4, False, ""),
        ("rm.yaml", FACTORY.format("rm"), 4, True, "no vocabulary"),
        ("ppo.yaml", FACTORY.format("ppo"), 2, False, "plain step"),
        ("dpo.yaml", AXOLOTL.format("rl: ipo"), 4, False, "reference"),
        ("rm.yaml", AXOLOTL.format("reward_model: true"), 4, True, "no vocabulary"),
        ("rl.yaml", AXOLOTL.format("rl: grpo"), 2, False, "plain step"),
        ("run.sh", SWIFT.format("dpo"), 4, False, "reference"),
        ("run.sh", SWIFT.format("grpo"), 2, False, "plain step"),
    ],
)
def test_rows_of_a_micro_batch(tmp_path, name, text, rows, scores, said):
    """Two of a pair: half of a step's time was missing, without a word in scripts."""
    path = tmp_path / name
    path.write_text(text)
    told = [row["why"] for row in sim.import_job(path).aside if row["matters"]]
    job = load("dgx-h100", path).workload
    assert (job.micro_batch, job.sequence_length) == (rows, 2048)
    assert (job.loss == "fused-linear") == scores
    assert any(said in why for why in told) if said else told == []
